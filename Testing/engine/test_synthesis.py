"""Images made of label maps alone: they fit their labels, know left from right, and come out the same again."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from AtlasISTNLib.bundle import About, Label
from AtlasISTNLib.configs import NormalisationConfig, TrainConfig
from AtlasISTNLib.datasets import Case, normalised
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.label_maps import MapCase
from AtlasISTNLib.label_table import BACKGROUND, LabelTable
from AtlasISTNLib.prepared import Prepared, prepare
from AtlasISTNLib.synthesis import Synthesiser, codes_grid
from AtlasISTNLib.synthesis_config import SynthesisConfig
from AtlasISTNLib.synthesis_fields import (
    blurred_channels,
    coarser,
    diffeomorphism,
    finer,
    moved_patient,
    ringing,
    robust_ends,
)
from AtlasISTNLib.training import run_training
from AtlasISTNLib.volume import Volume

CPU = torch.device("cpu")
PERCENTILE = NormalisationConfig("percentile")
#: Left and right kidney are segmented; the body around them and the skull around it are only drawn.
STRUCTURES = (BACKGROUND, Label(5, "left kidney"), Label(6, "right kidney"))
TABLE = LabelTable(STRUCTURES, ((5, 6),), kept=(5, 6, 20))
STILL = SynthesisConfig(**{f.name: 1 if f.type == "int" else 0 for f in fields(SynthesisConfig)})
GRIDS = {2: Grid.centered((24, 32), (2.0, 2.0)), 3: Grid.centered((16, 16, 24), (2.0, 2.0, 2.0))}


def label_map(ndim: int, shift: float = 0.0) -> Volume:
    """A body (20) in a skull (30), a large kidney (5) on the left (x > 0 in LPS) and a small one (6) on the right."""
    grid = Grid.centered((50, 64) if ndim == 2 else (34, 36, 52), (1.0,) * ndim)
    points = grid.points() - np.array([shift, *(0.0,) * (ndim - 1)])
    radius = np.linalg.norm(points * np.array([0.8, *(1.2,) * (ndim - 1)]), axis=-1)
    codes = np.where(radius < 19, 30, 0)
    codes[radius < 16] = 20
    for value, x, size in ((5, 8.0, 7.0), (6, -9.0, 4.5)):
        codes[np.linalg.norm(points - np.array([x, *(0.0,) * (ndim - 1)]), axis=-1) < size] = value
    return Volume.from_array(codes.astype(np.int16), grid, "map")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function that makes a synthesiser of two maps, the second one moved by 2 mm."""

    def made(
        ndim: int = 3,
        config: SynthesisConfig = STILL,
        table: LabelTable = TABLE,
        kind: str = "percentile",
        **settings: float,
    ) -> Synthesiser:
        train = TrainConfig(**settings)
        cases = [
            MapCase(f"map{n}", label_map(ndim, shift), label_map(ndim, shift), table) for n, shift in ((0, 0), (1, 2))
        ]
        values = [label.value for label in table.structures]
        folder, grid = tmp_path_factory.mktemp("cache"), GRIDS[ndim]
        data = prepare(cases, values, grid, PERCENTILE, train, False, folder, codes_on=codes_grid(grid, config))
        return Synthesiser(data, table, grid, NormalisationConfig(kind), config, train)

    return made


def only(**settings: float) -> SynthesisConfig:
    return replace(STILL, **settings)


def along_x(image: torch.Tensor, x: float) -> torch.Tensor:
    """The value of an image (1, 1, *shape) at x mm from the grid's middle."""
    line = image[0, 0][tuple(n // 2 for n in image.shape[2:-1])]
    return line[round(x / 2 + (len(line) - 1) / 2)]


both_dimensions = pytest.mark.parametrize("ndim", [2, 3])


class TestImages:
    @both_dimensions
    def test_all_of_it_is_finite_in_range_and_varied(self, make, ndim):
        maker = make(ndim, SynthesisConfig())
        images, labels = maker.batch(torch.arange(2).repeat(12), 1, CPU)
        images = torch.cat([images, *(maker.batch(torch.arange(2), epoch, CPU)[0] for epoch in range(2, 14))])
        assert images.shape[1:] == (1, *GRIDS[ndim].shape)
        assert labels.shape[1:] == (3, *GRIDS[ndim].shape)
        assert torch.isfinite(images).all()
        assert images.abs().max() <= 1
        assert (images.flatten(1).std(dim=1) > 0.02).all()
        torch.testing.assert_close(labels.sum(dim=1), torch.ones_like(labels[:, 0]), atol=1e-5, rtol=0)
        assert labels.min() >= 0

    @both_dimensions
    def test_the_same_seed_epoch_and_case_give_the_same_bits_in_any_batch(self, make, ndim):
        maker, again = make(ndim, SynthesisConfig()), make(ndim, SynthesisConfig())
        images, labels = maker.batch(torch.tensor([0, 1, 3]), 7, CPU)
        for place, index in enumerate((0, 1, 3)):
            one, soft = again.batch(torch.tensor([index]), 7, CPU)
            assert torch.equal(one[0], images[place])
            assert torch.equal(soft[0], labels[place])
        others = [maker.batch(torch.tensor([2]), 7, CPU), maker.batch(torch.tensor([0]), 8, CPU)]
        others.append(make(ndim, SynthesisConfig(), seed=1).batch(torch.tensor([0]), 7, CPU))
        for image, _ in others:  # another draw of the map, another epoch, another seed
            assert not torch.equal(image[0], images[0])

    @both_dimensions
    def test_edges_of_the_image_are_where_the_labels_have_theirs(self, make, ndim):
        """With one grey value for each tissue, half a voxel of kidney and half of body has the grey between them."""
        maker = make(
            ndim, only(rotation=30, translation=4, scale=0.2, elastic=4, flips=0.5), kind="z-score", label_blur=0.0
        )
        gaps, edges = [], 0
        for epoch in range(1, 7):
            image, labels = maker.batch(torch.tensor([0]), epoch, CPU)
            for kidney in labels[0, 1:]:
                pure, edge = image[0, 0][kidney == 1], image[0, 0][kidney == 0.5]
                edges += edge.numel()
                if not (edge.numel() and pure.numel()):
                    continue
                assert float(pure.max() - pure.min()) < 1e-3
                assert float(edge.max() - edge.min()) < 1e-3
                beside = (blurred_channels(kidney[None], 0.6)[0] > 0.02) & (kidney == 0)
                body = image[0, 0][beside].median()
                assert float(edge.mean()) == pytest.approx(float(pure.mean() + body) / 2, abs=1e-3)
                gaps.append(abs(float(pure.mean() - body)))
        assert max(gaps) > 0.5
        assert edges > 40

    def test_labels_come_back_as_soft_labels_of_the_map(self, make):
        """Nothing deformed: the volume of each structure is that of the map."""
        _, labels = make().batch(torch.tensor([0]), 1, CPU)
        codes = label_map(3).array[0]
        for channel, value in ((1, 5), (2, 6)):
            assert float(labels[0, channel].sum()) * 8 == pytest.approx((codes == value).sum(), rel=0.06)

    @both_dimensions
    def test_every_tissue_gets_its_own_value_also_those_that_are_not_segmented(self, make, ndim):
        maker, seen = make(ndim), []
        for epoch in range(1, 13):
            image, _ = maker.batch(torch.tensor([0]), epoch, CPU)
            air = float(image[0, 0].flatten()[0])
            seen.append([air, *(float(along_x(image, x)) for x in (21, 0, 8))])  # air, skull, body, left kidney
        assert np.ptp(np.array(seen), axis=0).min() > 0.3
        assert (np.abs(np.diff(np.array(seen), axis=1)).max(axis=0) > 0.2).all()

    def test_alike_images_have_the_tables_contrast_or_its_negative(self, make):
        greys = replace(TABLE, greys=((0, 0.0), (5, 0.9), (6, 0.9), (20, 0.5), (30, 0.2)))
        maker, signs = make(3, only(alike=1), greys), []
        for epoch in range(1, 41):
            image, _ = maker.batch(torch.tensor([0]), epoch, CPU)
            seen = [float(along_x(image, x)) for x in (21, 0, 8)]  # skull, body, left kidney
            assert seen in (sorted(seen), sorted(seen)[::-1])
            signs.append(seen[0] < seen[2])
        assert 0.5 < np.mean(signs) < 0.95

    def test_partners_look_alike_and_classes_do(self, make):
        alike = make(2, STILL, replace(TABLE, classes=((5, 20),)))
        apart = make(2, STILL)
        for maker, same in ((alike, True), (apart, False)):
            gaps = []
            for epoch in range(1, 6):
                image, labels = maker.batch(torch.tensor([0]), epoch, CPU)
                left, right = (image[0, 0][labels[0, k] > 0.999].mean() for k in (1, 2))
                assert float(left) == pytest.approx(float(right), abs=1e-4)
                gaps.append(abs(float(left - along_x(image, 0))))
            assert (max(gaps) < 1e-4) == same

    def test_the_background_is_of_several_tissues_where_wanted(self, make):
        counts = {}
        for clusters in (1, 6):
            maker = make(2, only(clusters=clusters))
            images = [maker.batch(torch.tensor([0]), epoch, CPU)[0][0, 0, :3, :3] for epoch in range(1, 20)]
            counts[clusters] = sum(float(corner.std()) > 1e-3 for corner in images)
        assert counts[1] == 0
        assert counts[6] > 3

    @both_dimensions
    def test_stripped_images_hold_nothing_but_what_is_kept(self, make, ndim):
        for share, stripped in ((1.0, True), (0.0, False)):
            maker = make(ndim, only(stripped=share))
            gaps = []
            for epoch in range(1, 6):
                image, labels = maker.batch(torch.tensor([0]), epoch, CPU)
                gaps.append(float((along_x(image, 21) - image[0, 0].flatten()[0]).abs()))
                assert float(image.max() - image.min()) > 0.1
                assert float(labels[0, 1].max()) == pytest.approx(1, abs=1e-4)
            assert (max(gaps) < 1e-4) == stripped  # air and skull are one, or not

    def test_fringe_is_left_only_sometimes(self, make):
        maker = make(2, only(stripped=1), replace(TABLE, fringe=(30,)))
        gaps = []
        for epoch in range(1, 17):
            image = maker.batch(torch.tensor([0]), epoch, CPU)[0]
            gaps.append(float((along_x(image, 21) - image[0, 0, 0, 0]).abs()))
        assert 0 < sum(gap < 1e-4 for gap in gaps) < 16


class TestLeftAndRight:
    @both_dimensions
    def test_in_the_mirror_the_labels_are_swapped(self, make, ndim):
        straight = make(ndim, only(flips=0)).batch(torch.tensor([0]), 1, CPU)[1][0]
        mirrored = make(ndim, only(flips=1)).batch(torch.tensor([0]), 1, CPU)[1][0]
        # The large kidney was the left one; it is now on the right, and is called right.
        torch.testing.assert_close(mirrored[2], straight[1].flip(-1), atol=0.26, rtol=0)
        assert float((mirrored[2] - straight[1].flip(-1)).abs().mean()) < 0.01
        x = torch.arange(straight.shape[-1]) - (straight.shape[-1] - 1) / 2
        for labels in (straight, mirrored):
            assert float((labels[1] * x).sum()) > 0  # left is left: x grows to the left in LPS
            assert float((labels[2] * x).sum()) < 0
        assert straight[1].sum() > 2 * straight[2].sum()
        assert mirrored[2].sum() > 2 * mirrored[1].sum()

    def test_without_partners_nothing_is_mirrored(self, make):
        table = LabelTable((BACKGROUND, Label(5, "kidney"), Label(6, "cyst")))
        straight, asked = (make(2, only(flips=f), table).batch(torch.tensor([0]), 1, CPU)[1] for f in (0, 1))
        assert torch.equal(straight, asked)


class TestSteps:
    def test_deformations_do_not_fold(self):
        reach = torch.tensor([23.0, 15.0, 15.0])
        for seed in range(6):
            control = (2 * torch.rand((3, 9, 9, 9), generator=torch.Generator().manual_seed(seed)) - 1) * 6
            field = diffeomorphism(control, (16, 16, 24), reach)
            steps = [torch.stack(torch.gradient(field[axis], dim=(2, 1, 0))) for axis in range(3)]
            jacobian = torch.stack(steps).movedim((0, 1), (-2, -1)) / 2.0 + torch.eye(3)
            assert float(torch.linalg.det(jacobian).min()) > 0
            assert float(field.abs().max()) < 6 * 1.2

    def test_resampling_keeps_places_and_sums(self):
        line = torch.zeros(1, 40)
        line[0, 20:30] = 1
        back = finer(coarser(line, (1, 13), (0, 1.2)), line.shape)
        place = torch.arange(40.0)
        assert float((back[0] * place).sum() / back.sum()) == pytest.approx(24.5, abs=0.15)
        assert float(back.sum()) == pytest.approx(10, rel=0.03)
        flat = torch.full((7, 9, 11), 3.0)
        torch.testing.assert_close(finer(coarser(flat, (3, 5, 11), (1, 2, 0.5)), flat.shape), flat)

    def test_blur_of_channels_is_a_gaussian_with_continued_borders(self):
        values = torch.zeros(2, 1, 31)
        values[0, 0, 15], values[1, 0, :16] = 1, 1
        seen = blurred_channels(values, 1.5)
        expected = torch.exp(-0.5 * ((torch.arange(31) - 15) / 1.5) ** 2)
        torch.testing.assert_close(seen[0, 0], expected / expected.sum(), atol=2e-3, rtol=0)
        assert float(seen[1, 0, 0]) == pytest.approx(1, abs=1e-5)
        assert seen.shape == values.shape

    def test_artefacts_leave_the_anatomy_in_its_place(self):
        image = torch.zeros(24, 40)
        image[:, 12:28] = 1
        place = torch.arange(40.0)
        for spoilt in (ringing(image, 1, 0.5), moved_patient(image, 1, 0.2, 0.5, 2.0)):
            assert float((spoilt - image).abs().max()) > 0.02
            assert float((spoilt * place).sum() / spoilt.sum()) == pytest.approx(19.5, abs=0.3)
            assert float(spoilt.sum()) == pytest.approx(float(image.sum()), rel=1e-4)

    def test_the_range_is_that_of_whole_images(self):
        values = np.random.default_rng(0).gamma(2, 50, (30, 30, 30))
        values[:10] = 0
        grid = Grid.centered(values.shape, (1, 1, 1))
        low, high = robust_ends(torch.from_numpy(values), (1, 99))
        seen = normalised(Volume.from_array(values, grid), grid, PERCENTILE).array[0]
        np.testing.assert_allclose(np.clip((2 * values - low - high) / (high - low), -1, 1), seen, atol=0.01)


def toys(count: int = 3) -> list[Case]:
    return [Case(f"toy{n}", label_map(2, n), label_map(2, n)) for n in range(count)]


def trained(synthesis: SynthesisConfig | None = None, epochs: int = 2, cases: int = 3, **more):
    config = TrainConfig(epochs=epochs, batch_size=2, learning_rate=3e-3, **more.pop("settings", {}))
    synthesis = synthesis or SynthesisConfig(draws=2, translation=2, elastic=2)
    return run_training(
        toys(cases),
        config,
        labels=STRUCTURES,
        grid=GRIDS[2],
        about=About("toy"),
        synthesis=synthesis,
        device="cpu",
        **more,
    )


class TestTraining:
    def test_the_record_and_the_atlas(self):
        found = trained(table=TABLE)
        assert found.bundle.training["synthesis"]["draws"] == 2
        assert found.bundle.training["synthesis"]["table"]["kept"] == [5, 6, 20]
        assert found.bundle.normalisation.kind == "percentile"
        image, labels = found.initial_atlas
        kidneys = labels.array[1] > 0.9
        assert kidneys.any()
        # All of the fixed rendering shows in the atlas's image: kidney, body and skull have greys of their own.
        shades = [image.array[0][kidneys].mean(), image.array[0, 12, 15], image.array[0, 12, 5]]
        assert np.diff(np.sort(shades)).min() > 0.3
        assert image.array[0, 0, 0] == image.array.min()

    def test_a_training_goes_on_as_if_it_had_not_been_stopped(self, tmp_path):
        path = tmp_path / "checkpoint"
        whole = trained(epochs=3)
        trained(epochs=1, checkpoint=path)
        gone_on = trained(epochs=3, checkpoint=path)
        state, other = whole.bundle.model.state_dict(), gone_on.bundle.model.state_dict()
        assert all(torch.equal(state[key], other[key]) for key in state)
        assert np.array_equal(whole.bundle.atlas_labels.array, gone_on.bundle.atlas_labels.array)
        with pytest.raises(Exception, match="different: synthesis"):
            trained(SynthesisConfig(draws=2, translation=2, elastic=3), epochs=3, checkpoint=path)

    def test_held_out_maps_are_watched_on_the_same_images(self):
        found = trained(cases=6, epochs=2, settings={"validation": 0.2})
        assert len(found.validation) == 1
        assert all(0 <= entry["dice_itn"] <= 1 for entry in found.history)

    def test_it_learns(self):
        synthesis = SynthesisConfig(draws=6, translation=2, elastic=1, artefacts=0, crop=0, noise=0.03, thickness=0)
        settings = {"validation": 0.2, "segmentation_loss": "cross-entropy-dice", "part": "itn"}
        found = trained(synthesis, epochs=6, cases=6, settings=settings)
        assert found.history[-1]["dice_itn"] > 0.3
        assert found.history[-1]["segmentation"] < 0.7 * found.history[0]["segmentation"]

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"settings": {"rotation": 5.0}}, "not augmented by rotation"),
            ({"normalisation": NormalisationConfig("window", 50, 400)}, "no units"),
        ],
    )
    def test_settings_that_make_no_sense_together(self, more, message):
        with pytest.raises(ConfigError, match=message):
            trained(**more)


def test_settings_are_checked():
    for settings in ({"rotation": 90}, {"draws": 0}, {"clusters": 2.5}, {"noise": float("nan")}, {"flips": -0.1}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            SynthesisConfig(**settings)


def test_data_prepared_without_label_values_are_refused():
    data = Prepared(np.zeros((1, 1, 24, 32), np.float32), np.zeros((1, 3, 24, 32), np.float16), 0, ("a",))
    with pytest.raises(ConfigError, match="without their label values"):
        Synthesiser(data, TABLE, GRIDS[2], PERCENTILE, STILL, TrainConfig())

"""Training: it learns, it goes on as if it had not been stopped, and the atlas is the mean that it should be."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage

from AtlasISTNLib import training
from AtlasISTNLib.atlas_updates import RunningMean, update_atlas
from AtlasISTNLib.augmentation import on_grid
from AtlasISTNLib.bundle import About, Bundle, Label, half_extent, load_bundle, save_bundle
from AtlasISTNLib.configs import (
    DIRECTIONS,
    ModelConfig,
    NormalisationConfig,
    PlacementConfig,
    RefineConfig,
    TrainConfig,
)
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.distributed import processes
from AtlasISTNLib.errors import BundleError, Cancelled, ConfigError, DivergenceError, VolumeError
from AtlasISTNLib.geometry import WORLD, Grid
from AtlasISTNLib.model import AtlasISTN
from AtlasISTNLib.objective import joint_loss
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.prepared import Prepared
from AtlasISTNLib.prepared import prepare as prepare_in
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.splits import split_cases
from AtlasISTNLib.training import train

GRID = Grid.centered((24, 20), (5.0, 6.0), (64.0, 64.0))
LABELS = (Label(0, "background"), Label(1, "letter B"))
ABOUT = About("letters")
QUICK = TrainConfig(epochs=2, batch_size=2, learning_rate=3e-3, strength=10.0, eta=0.2, validation=0.0, seed=3)


@pytest.fixture(scope="module")
def letters() -> list[Case]:
    return [Case(f"letter {seed}", letter_b(seed).image, letter_b(seed).labels) for seed in range(6)]


def run(cases: list[Case], config: TrainConfig = QUICK, **options) -> tuple[Bundle, list[dict[str, float]]]:
    """A training and the figures of its epochs."""
    history: list[dict[str, float]] = []
    report = options.pop("report", lambda p: None)

    def keep(progress) -> None:
        if progress.stage == "train":
            history.append(dict(progress.values))
        report(progress)

    options = {"labels": LABELS, "grid": GRID, "about": ABOUT, "device": "cpu", **options}
    return train(cases, config, report=keep, **options), history


def prepared(cases: list[Case], config: TrainConfig, folder, on_labels: bool = False) -> Prepared:
    return prepare_in(cases, [0, 1], GRID, NormalisationConfig(), config, on_labels, folder)


def timeless(history) -> list[dict[str, float]]:
    """Figures of epochs without the seconds that they took."""
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in history]


def tensors_of(bundle: Bundle) -> dict[str, np.ndarray]:
    model = bundle.model
    both = {"atlas_image": model.atlas_image, "atlas_labels": model.atlas_labels}
    return {name: value.numpy() for name, value in {**model.state_dict(), **both}.items()}


def assert_same_model(one: Bundle, other: Bundle) -> None:
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def differ(one: Bundle, other: Bundle) -> bool:
    first, second = tensors_of(one), tensors_of(other)
    return any(not np.array_equal(value, second[name]) for name, value in first.items())


class TestLearning:
    def test_epochs_lower_the_loss(self, letters):
        bundle, history = run(letters, replace(QUICK, epochs=6))
        assert len(history) == 6
        for name in ("loss", "segmentation"):
            assert history[1][name] < history[0][name], name
            assert history[-1][name] < 0.9 * history[0][name], name
        for values in history:
            total = values["segmentation"] + values["a2s"] + values["s2a"] + 10 * values["reg"]
            assert values["loss"] == pytest.approx(total, rel=1e-5)
        assert bundle.training["epochs"] == 6
        assert bundle.training["last"] == history[-1]

    def test_what_comes_out_segments_and_can_be_saved(self, letters, tmp_path):
        bundle, _ = run(letters, replace(QUICK, epochs=1))
        again = load_bundle(save_bundle(bundle, tmp_path / "letters"), "cpu")
        assert_same_model(again, bundle)
        assert again.training["cases"] == 6
        assert again.refinement.strength == QUICK.strength
        result = segment(again, letters[0].image)
        assert result.labels.grid == letters[0].image.grid
        assert not any(p.requires_grad for p in bundle.model.parameters())

    def test_seeds_decide_everything(self, letters):
        config = replace(QUICK, epochs=1, rotation=10.0, translation=5.0, scale=0.1, intensity=0.1, noise=0.1)
        one, two = run(letters, config)[0], run(letters, config)[0]
        assert_same_model(one, two)
        assert differ(one, run(letters, replace(config, seed=4))[0])

    def test_the_atlas_starts_as_the_mean(self, letters, tmp_path):
        seen = []
        config = replace(QUICK, epochs=1, eta=0.0)
        bundle, _ = run(letters, config, report=lambda p: seen.append(p.preview()) if p.preview else None)
        data = prepared(letters, config, tmp_path)
        np.testing.assert_allclose(bundle.model.atlas_image, data.images.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(bundle.model.atlas_labels, data.labels.astype(float).mean(axis=0), atol=1e-5)
        np.testing.assert_array_equal(seen[0][1], bundle.model.atlas_labels)

    def test_validation_cases_are_held_out(self, letters, tmp_path):
        bundle, history = run(letters, replace(QUICK, epochs=1, eta=0.0, validation=0.34))
        assert {"dice_itn", "dice_one_pass"} <= set(history[0])
        assert all(0 <= history[0][name] <= 1 for name in ("dice_itn", "dice_one_pass"))
        data = prepared(letters, QUICK, tmp_path)
        training, held_out = split_cases(6, replace(QUICK, validation=0.34))
        assert (len(training), len(held_out)) == (4, 2)
        assert bundle.training["validation"] == [f"letter {i}" for i in held_out]
        np.testing.assert_allclose(bundle.model.atlas_image, data.images[training].mean(axis=0), atol=1e-5)
        assert "dice_itn" not in run(letters, replace(QUICK, epochs=1))[1][0]


class TestAtlasUpdate:
    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_against_a_plain_loop(self, direction, letters, tmp_path):
        """atlas ← (1 − η) atlas + η mean(z∘Φ), with numpy's own sampling and the weights at the end of the epoch."""
        config = replace(QUICK, epochs=1, eta=0.3, atlas_update="separate")
        model_config = ModelConfig(labels=2, shape=GRID.shape, direction=direction)
        bundle, _ = run(letters, config, model_config=model_config)
        data = prepared(letters, config, tmp_path)
        images, labels = np.array(data.images), data.labels.astype(np.float32)
        start = AtlasISTN(
            model_config,
            half_extent(GRID),
            torch.from_numpy(images.mean(axis=0)),
            torch.from_numpy(labels.mean(axis=0)),
        )
        start.load_state_dict(bundle.model.state_dict())
        mean_image, mean_labels = np.zeros_like(images[0]), np.zeros_like(labels[0])
        moved = 0.0
        for image, label in zip(images, labels, strict=True):
            with torch.no_grad():
                warp = start.register_atlas(start.itn(torch.from_numpy(image)[None]))
                points = warp.image_from_atlas()[0].numpy()
            index = (points[..., ::-1] + 1) / 2 * (np.array(GRID.shape) - 1)
            moved = max(moved, np.abs(index - np.moveaxis(np.indices(GRID.shape), 0, -1)).max())
            for total, values in ((mean_image, image), (mean_labels, label)):
                for channel, value in zip(total, values, strict=True):
                    channel += ndimage.map_coordinates(value, index.transpose(2, 0, 1), order=1, mode="nearest") / 6
        assert moved > 0.1  # voxels: not the identity
        for name, old, mean in (("atlas_image", images, mean_image), ("atlas_labels", labels, mean_labels)):
            expected = 0.7 * old.mean(axis=0) + 0.3 * mean
            np.testing.assert_allclose(getattr(bundle.model, name), expected, atol=1e-4)

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_while_running_as_in_a_pass_of_its_own(self, direction, letters, tmp_path):
        """With weights that stand still, the mean of the steps is that of a separate pass."""
        model_config = ModelConfig(labels=2, shape=GRID.shape, direction=direction)
        trained, _ = run(letters, replace(QUICK, epochs=2), model_config=model_config)
        data = prepared(letters, QUICK, tmp_path)
        models = [copy.deepcopy(trained.model) for _ in range(2)]
        first = trained.model.atlas_labels.clone()
        cases = torch.arange(len(letters))
        with processes(torch.device("cpu")) as group:
            update_atlas(models[0], data, cases, 4, group, 0.5, False)
            mean = RunningMean(models[1])
            for index in cases.split(4):
                image, labels = on_grid(data, index, torch.device("cpu"))
                add = functools.partial(mean.add, image, labels)
                joint_loss(models[1], image, labels, 1.0, 40.0, QUICK, warped=add)
            mean.move(models[1], len(cases), group, 0.5)
        assert (models[0].atlas_labels - first).abs().max() > 0.01
        for name in ("atlas_image", "atlas_labels"):
            torch.testing.assert_close(getattr(models[0], name), getattr(models[1], name), atol=1e-5, rtol=0)

    def test_augmented_cases_are_never_the_atlas(self, letters):
        """A mean of turned and noisy cases would blur the atlas: the cases themselves are passed through again."""
        config = replace(QUICK, epochs=1, eta=0.3, noise=0.5, rotation=20.0)
        one, two = (run(letters, replace(config, atlas_update=way))[0] for way in ("running", "separate"))
        assert_same_model(one, two)
        assert differ(run(letters, replace(QUICK, epochs=1, eta=0.3))[0], one)


class TestVariants:
    """What a baseline or an ablation of the paper needs of a training."""

    def test_the_itn_alone_leaves_stn_and_atlas(self, letters):
        bundle, history = run(letters, replace(QUICK, part="itn", epochs=3))
        assert history[-1]["segmentation"] < history[0]["segmentation"]
        assert [history[-1][name] for name in ("a2s", "s2a", "reg")] == [0, 0, 0]
        other, _ = run(letters, replace(QUICK, part="itn", epochs=1, eta=0.0))
        for name, value in tensors_of(bundle).items():
            assert np.array_equal(value, tensors_of(other)[name]) == (not name.startswith("itn.")), name
        assert not np.array_equal(segment(bundle, letters[0].image).soft_prediction.array[1], 0)

    def test_stn_and_atlas_take_part_from_a_later_epoch_on(self, letters):
        config = replace(QUICK, epochs=3, joint_from=3, eta=0.5)
        bundle, history = run(letters, config)
        assert [entry["a2s"] > 0 for entry in history] == [False, False, True]
        alone, _ = run(letters, replace(config, epochs=2))
        untrained, _ = run(letters, replace(QUICK, part="itn", epochs=1))
        for name, value in tensors_of(alone).items():
            if not name.startswith("itn."):
                np.testing.assert_array_equal(value, tensors_of(untrained)[name])
                assert not np.array_equal(value, tensors_of(bundle)[name]), name

    def test_the_stn_begins_at_its_own_rate(self, letters):
        """At the ITN's, which has come down to nothing, it would stay what it was."""
        config = replace(QUICK, epochs=3, joint_from=3, eta=0.5, halve_every=1, learning_rate=1e-3)
        assert config.rates(3) == (2.5e-4, 2.5e-4)
        own = replace(config, joint_learning_rate=1e-3, joint_halve_every=2)
        assert own.rates(3) == (2.5e-4, 1e-3)
        assert own.rates(5) == (6.25e-5, 5e-4)
        start, _ = run(letters, replace(config, epochs=2))
        slow, fast = (tensors_of(run(letters, settings)[0]) for settings in (config, own))
        names = [name for name in slow if name.startswith("stn.")]
        step = [np.mean([np.abs(t[n] - tensors_of(start)[n]).mean() for n in names]) for t in (slow, fast)]
        assert step[1] > 2 * step[0]

    def test_last_rounds_sharpen_the_atlas(self, letters):
        """The STN hardly aligns the letters; registered by their labels they leave fewer voxels in doubt."""
        config = replace(QUICK, eta=0.5)
        plain, _ = run(letters, config)
        stages = []
        watched = {"report": lambda progress: stages.append((progress.stage, progress.step, progress.total))}
        sharp, _ = run(letters, replace(config, atlas_rounds=2), **watched)
        assert [entry for entry in stages if entry[0] == "atlas"] == [("atlas", n, 12) for n in range(12)]
        before, after = (tensors_of(b)["atlas_labels"][1] for b in (plain, sharp))
        doubtful = [np.mean((a > 0.1) & (a < 0.9)) for a in (before, after)]
        assert doubtful[1] < 0.9 * doubtful[0]
        sizes = [(case.labels.array > 0).sum() * np.prod(case.labels.grid.spacing) for case in letters]
        assert after.sum() * np.prod(GRID.spacing) == pytest.approx(np.mean(sizes), rel=0.15)
        weights = [{n: v for n, v in tensors_of(b).items() if not n.startswith("atlas")} for b in (plain, sharp)]
        assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_batch_normalisation_is_gone_when_the_training_is_over(self, letters, tmp_path):
        """The model's ITN does what the normalised one did on held-out cases, and a training with it goes on."""
        config = replace(QUICK, epochs=3, validation=0.34, segmentation_loss="cross-entropy-dice", clip=1.0)
        options = {"model_config": ModelConfig(2, GRID.shape, itn_output="softmax", itn_norm="batch")}
        whole, history = run(letters, config, **options)
        assert whole.config.itn_norm == "none"
        scores = []
        for case in letters:
            if case.name in whole.training["validation"]:
                result = segment(whole, case.image, PlacementConfig("center"))
                found = result.soft_prediction.array.argmax(axis=0)
                truth = case.labels.resampled(GRID, "nearest").array[0]
                scores.append(2 * (found * truth).sum() / (found.sum() + truth.sum()))
        assert np.mean(scores) == pytest.approx(history[-1]["dice_itn"], abs=0.05)
        run(letters, replace(config, epochs=1), checkpoint=tmp_path / "c.ckpt", **options)
        resumed, _ = run(letters, config, checkpoint=tmp_path / "c.ckpt", **options)
        assert_same_model(resumed, whole)

    def test_the_joint_phase_sees_the_normalisation_of_the_finished_model(self, letters, tmp_path):
        config = replace(QUICK, joint_from=3, segmentation_loss="cross-entropy-dice")
        options = {"model_config": ModelConfig(2, GRID.shape, itn_output="softmax", itn_norm="batch")}
        statistics = []
        for epochs in (1, 2, 3):
            run(letters, replace(config, epochs=epochs), checkpoint=tmp_path / "c.ckpt", **options)
            with safe_open(tmp_path / "c.ckpt", "np") as file:
                keys = [key for key in file.keys() if "running_" in key]  # noqa: SIM118 (not a mapping)
                statistics.append(np.concatenate([file.get_tensor(key).ravel() for key in keys]))
        assert not np.allclose(statistics[0], statistics[1])
        np.testing.assert_array_equal(statistics[1], statistics[2])

    def test_clipped_gradients(self, letters):
        """Adam's steps do not depend on the gradients' size, but for its ε = 1e-8: far below it nothing moves."""
        norms = []
        for clip in (0.0, 1e-12):
            bundle, _ = run(letters, replace(QUICK, epochs=1, clip=clip))
            begun, _ = run(letters, replace(QUICK, epochs=1, learning_rate=1e-12))
            moved = [
                np.abs(a - b).max()
                for a, b in zip(tensors_of(bundle).values(), tensors_of(begun).values(), strict=True)
            ]
            norms.append(max(moved))
        assert norms[1] < 0.01 * norms[0]

    def test_images_are_registered_without_an_itn(self, letters):
        config = ModelConfig(labels=2, shape=GRID.shape, stn_input="image")
        bundle, history = run(letters, replace(QUICK, epochs=4, eta=0.0), model_config=config)
        assert history[-1]["segmentation"] == 0
        assert history[-1]["a2s"] + history[-1]["s2a"] < history[0]["a2s"] + history[0]["s2a"]
        result = segment(bundle, letters[0].image)
        np.testing.assert_allclose(np.mean(result.prediction.array != result.labels.array), 0, atol=0.03)
        with pytest.raises(ConfigError, match="predicts no labels"):
            refine(bundle, result, RefineConfig(3))
        with pytest.raises(ConfigError, match="no ITN to train alone"):
            run(letters, replace(QUICK, part="itn"), model_config=config)

    def test_without_the_segmentation_loss(self, letters):
        _, history = run(letters, replace(QUICK, segmentation_weight=0.0, epochs=2))
        for values in history:
            assert values["loss"] == pytest.approx(values["a2s"] + values["s2a"] + 10 * values["reg"], rel=1e-5)

    @pytest.mark.parametrize("without", ["affine", "nonrigid"])
    def test_half_a_transformation(self, letters, without):
        config = ModelConfig(labels=2, shape=GRID.shape, **{without: False})
        bundle, history = run(letters, replace(QUICK, epochs=2), model_config=config)
        assert history[1]["a2s"] + history[1]["s2a"] < history[0]["a2s"] + history[0]["s2a"]
        assert segment(bundle, letters[0].image).labels.grid == letters[0].image.grid

    def test_cross_entropy_gives_probabilities(self, letters):
        bundle, history = run(letters, replace(QUICK, segmentation_loss="cross-entropy-dice", epochs=3))
        assert bundle.config.itn_output == "softmax"
        assert history[-1]["segmentation"] < history[0]["segmentation"]
        soft = segment(bundle, letters[0].image).soft_prediction.array
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)
        assert soft.min() >= 0
        with pytest.raises(ConfigError, match="softmax"):
            run(
                letters,
                replace(QUICK, segmentation_loss="cross-entropy-dice"),
                model_config=ModelConfig(labels=2, shape=GRID.shape),
            )

    @pytest.mark.parametrize("direction", DIRECTIONS)
    def test_centring_moves_the_atlas_along_the_mean_velocity(self, letters, direction):
        """The cases, re-registered to the moved atlas by φ with v − ηv̄, must land where they were."""
        model_config = ModelConfig(labels=2, shape=GRID.shape, direction=direction, affine=False)
        config = replace(QUICK, epochs=6, eta=0.5, atlas_update="separate")
        plain, _ = run(letters, config, model_config=model_config)
        velocities = []
        for case in letters:
            velocities.append(segment(plain, case.image).state.velocity)
        moved = float(torch.cat(velocities).mean(dim=0).abs().mean())
        centred, _ = run(letters, replace(config, center_atlas=True), model_config=model_config)
        velocities = [segment(centred, case.image).state.velocity for case in letters]
        assert float(torch.cat(velocities).mean(dim=0).abs().mean()) < 0.9 * moved

    def test_the_best_epoch_is_kept(self, letters, tmp_path):
        config = replace(QUICK, epochs=5, validation=0.34, keep="best", learning_rate=2e-2, seed=1)
        bundle, history = run(letters, config, checkpoint=tmp_path / "whole.ckpt")
        scores = [entry["dice_itn"] + entry["dice_one_pass"] for entry in history]
        best = int(np.argmax(scores)) + 1
        assert bundle.training["best_epoch"] == best
        assert_same_model(bundle, run(letters, replace(config, epochs=best, keep="last"))[0])
        # It survives a stop after a later epoch.
        run(letters, replace(config, epochs=4), checkpoint=tmp_path / "part.ckpt")
        assert_same_model(run(letters, config, checkpoint=tmp_path / "part.ckpt")[0], bundle)

    def test_patience(self, letters):
        config = replace(QUICK, epochs=30, validation=0.34, patience=2, learning_rate=1e-9, eta=0.0)
        _, history = run(letters, config)
        assert len(history) == 3  # the first one stays the best

    def test_the_atlas_changes_faster_late(self, letters):
        config = replace(QUICK, epochs=2, eta=0.0, late_eta=0.5, late_epoch=3)
        still = run(letters, config)[0].model.atlas_labels
        np.testing.assert_array_equal(still, run(letters, replace(config, epochs=1))[0].model.atlas_labels)
        late = run(letters, replace(config, late_epoch=2))[0].model.atlas_labels
        assert (late - still).abs().max() > 0.01


class TestStoppingAndGoingOn:
    CONFIG = replace(QUICK, epochs=3, rotation=8.0, noise=0.05, halve_every=2, validation=0.2)

    def test_a_checkpoint_goes_on_bit_by_bit(self, letters, tmp_path):
        whole, history = run(letters, self.CONFIG)
        path = tmp_path / "state.ckpt"
        part, first = run(letters, replace(self.CONFIG, epochs=1), checkpoint=path)
        assert differ(part, whole)
        resumed, rest = run(letters, self.CONFIG, checkpoint=path)
        assert timeless(first + rest) == timeless(history)
        assert_same_model(resumed, whole)
        assert [p.name for p in tmp_path.iterdir()] == ["state.ckpt"]
        # Nothing is left to do.
        finished, none = run(letters, self.CONFIG, checkpoint=path)
        assert none == []
        assert_same_model(finished, whole)

    def test_cancelling_gives_what_the_last_epoch_gave(self, letters, tmp_path):
        one_epoch, _ = run(letters, replace(self.CONFIG, epochs=1))
        for steps_into_the_second in (0, 1, 2):
            calls = iter(range(1000))
            start = 6 + 3 + steps_into_the_second  # asked before each case, then before each of 3 steps
            path = tmp_path / f"{steps_into_the_second}.ckpt"
            stopped, history = run(letters, self.CONFIG, checkpoint=path, cancel=lambda c=calls, s=start: next(c) >= s)
            assert len(history) == 1
            assert_same_model(stopped, one_epoch)
            assert stopped.training["epochs"] == 1
        resumed, _ = run(letters, self.CONFIG, checkpoint=path)
        assert_same_model(resumed, run(letters, self.CONFIG)[0])

    @pytest.mark.parametrize("calls", [0, 3, 6, 7])
    def test_cancelling_before_the_first_epoch_ends(self, letters, calls, tmp_path):
        count = iter(range(1000))
        with pytest.raises(Cancelled):
            run(letters, QUICK, checkpoint=tmp_path / "c", cancel=lambda: next(count) == calls)
        assert list(tmp_path.iterdir()) == []

    def test_checkpoints_of_another_training_are_refused(self, letters, tmp_path):
        path = tmp_path / "state.ckpt"
        run(letters, replace(QUICK, epochs=1), checkpoint=path)
        before = path.read_bytes()
        finer = Grid.centered(GRID.shape, (4.0, 6.0), GRID.center)
        small = ModelConfig(labels=2, shape=GRID.shape, itn_channels=(4, 8, 16, 32))
        other_way = ModelConfig(labels=2, shape=GRID.shape, direction="image_from_atlas")
        for message, cases, config, options in (
            ("learning_rate", letters, replace(QUICK, learning_rate=1e-4), {}),
            ("seed", letters, replace(QUICK, seed=9), {}),
            ("cases", letters[:5], QUICK, {}),
            ("cases", letters[::-1], QUICK, {}),
            ("model", letters, QUICK, {"model_config": small}),
            ("model", letters, QUICK, {"model_config": other_way}),
            ("grid", letters, QUICK, {"grid": finer}),
            ("normalisation", letters, QUICK, {"normalisation": NormalisationConfig("none")}),
            ("place_on_labels", letters, QUICK, {"place_on_labels": True}),
        ):
            with pytest.raises(BundleError, match=f"another training .*{message}"):
                run(cases, config, checkpoint=path, **options)
        assert path.read_bytes() == before

    def test_damaged_and_foreign_checkpoints(self, letters, tmp_path):
        path = tmp_path / "state.ckpt"
        for data in (b"", b"junk" * 100):
            path.write_bytes(data)
            with pytest.raises(BundleError, match="cannot be read"):
                run(letters, QUICK, checkpoint=path)
        path.unlink()
        save_file({"x": torch.zeros(3)}, path)
        with pytest.raises(BundleError, match="not a checkpoint"):
            run(letters, QUICK, checkpoint=path)


class TestDivergence:
    def test_a_loss_that_is_not_finite_keeps_the_checkpoint(self, letters, tmp_path, monkeypatch):
        path = tmp_path / "state.ckpt"
        run(letters, replace(QUICK, epochs=1), checkpoint=path)
        before = path.read_bytes()

        def poisoned(*args):
            loss, terms = joint_loss(*args)
            return loss * float("nan"), terms

        monkeypatch.setattr(training, "joint_loss", poisoned)
        with pytest.raises(DivergenceError, match="epoch 2"):
            run(letters, QUICK, checkpoint=path)
        assert path.read_bytes() == before
        monkeypatch.undo()
        assert_same_model(run(letters, QUICK, checkpoint=path)[0], run(letters, QUICK)[0])

    def test_weights_that_are_not_finite_never_reach_a_checkpoint(self, letters, tmp_path, monkeypatch):
        """The last step of an epoch may spoil the weights without any loss being asked again."""
        path = tmp_path / "state.ckpt"
        run(letters, replace(QUICK, epochs=1), checkpoint=path)
        before = path.read_bytes()
        real, steps = torch.optim.Adam.step, []

        def spoiling(self, *args):
            real(self, *args)
            steps.append(1)
            if len(steps) == 3:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].fill_(float("nan"))

        monkeypatch.setattr(torch.optim.Adam, "step", spoiling)
        with pytest.raises(DivergenceError, match="after epoch 2"):
            run(letters, QUICK, checkpoint=path)
        assert path.read_bytes() == before

    def test_a_huge_learning_rate_diverges_cleanly(self, letters, tmp_path):
        path = tmp_path / "state.ckpt"
        with pytest.raises(DivergenceError, match="epoch 1"):
            run(letters, replace(QUICK, learning_rate=1e30), checkpoint=path)
        assert not path.exists()


class TestPrepare:
    def test_cases_lie_on_the_grid(self, letters, tmp_path):
        data = prepared(letters, QUICK, tmp_path)
        assert data.images.shape == (6, 1, 24, 20)
        assert data.labels.shape == (6, 2, 24, 20)
        assert data.names == tuple(f"letter {i}" for i in range(6))
        np.testing.assert_allclose(data.labels.astype(float).sum(axis=1), 1, atol=2e-3)

    def test_labels_or_image_in_the_middle(self, letters, tmp_path):
        config = replace(QUICK, label_blur=0.0)
        points = GRID.points()
        for on_labels in (True, False):
            data = prepared(letters, config, tmp_path, on_labels)
            offsets = []
            for soft, case in zip(data.labels.astype(np.float32), letters, strict=True):
                weight = soft[1] / soft[1].sum()
                here = (points * weight[..., None]).sum(axis=(0, 1)) - GRID.center
                index = np.argwhere(case.labels.array[0])[:, ::-1].mean(axis=0)
                truth = case.labels.grid.transform_points(index, WORLD, "voxel")
                offsets.append(here - (0 if on_labels else truth - np.array(case.image.grid.center)))
            np.testing.assert_allclose(offsets, 0, atol=0.5)

    def test_unusable_cases_are_named(self, letters):
        with pytest.raises(ConfigError, match="two cases, not 1"):
            run(letters[:1])
        empty = letters[2].labels.with_array(np.zeros_like(letters[2].labels.array))
        for on_labels, message in ((False, "letter 2: none of its labels"), (True, "none of the labels")):
            with pytest.raises(VolumeError, match=message):
                run([*letters[:2], replace(letters[2], labels=empty)], place_on_labels=on_labels)
        with pytest.raises(ConfigError, match="labels and shape must agree"):
            run(letters, model_config=ModelConfig(labels=3, shape=GRID.shape))


def test_checkpoints_hold_the_optimiser_and_the_atlas(letters, tmp_path):
    path = tmp_path / "state.ckpt"
    bundle, _ = run(letters, replace(QUICK, epochs=1), checkpoint=path)
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        np.testing.assert_array_equal(file.get_tensor("atlas_labels"), bundle.model.atlas_labels)
    assert {f"model.{name}" for name in bundle.model.state_dict()} <= names
    count = len(list(bundle.model.parameters()))
    assert {f"optimizer.{i}.exp_avg" for i in range(count)} <= names

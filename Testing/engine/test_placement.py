"""Placing the model grid: at the anatomy in a large image, past islands that are not it, and where the user says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from AtlasISTNLib import placement as placement_room
from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.configs import NormalisationConfig, PlacementConfig
from AtlasISTNLib.errors import Cancelled, ConfigError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.placement import foreground_mass, larger, place, touching
from AtlasISTNLib.volume import Volume

TURN = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, -2]]))[0]


@pytest.fixture(scope="module")
def large_grid() -> Grid:
    """An oblique image several times as large as the model grid."""
    return Grid.centered((25, 27, 29), (2.3, 2.5, 2.4), (100.0, -50.0, 20.0), TURN)


def with_islands(image: Volume, *centers: tuple[float, ...], radius: float = 4.5) -> Volume:
    """Bright balls of the foreground's grey value at WORLD points."""
    values = image.array.copy()
    for center in centers:
        near = np.linalg.norm(image.grid.points() - center, axis=-1) < radius
        assert near.any()
        values[0, near] = 50
    return image.with_array(values)


class TestAuto:
    @pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (12.0, -10.0, 8.0), (-13.0, 9.0, -14.0)])
    def test_it_finds_the_anatomy(self, shift, large_grid, a_small_bundle, make_image):
        center = tuple(np.add(large_grid.center, shift))
        placed = place(a_small_bundle, make_image(large_grid, center), PlacementConfig())
        assert placed.how == "auto"
        assert placed.warnings == ()
        assert np.linalg.norm(np.subtract(placed.grid.center, center)) < 1.5
        assert placed.grid.spacing == a_small_bundle.grid.spacing
        assert placed.grid.direction == a_small_bundle.grid.direction

    @pytest.mark.parametrize(("gain", "level"), [(1.0, 0.0), (0.004, -3.0), (900.0, 2e5)])
    def test_it_finds_the_anatomy_in_any_units_by_percentiles(self, gain, level, a_small_bundle, make_image):
        bundle = replace(a_small_bundle, normalisation=NormalisationConfig("percentile"))
        grid = Grid.centered((14, 16, 18), (2.3, 2.5, 2.4), (100.0, -50.0, 20.0), TURN)
        center = tuple(np.add(grid.center, (4.0, -3.0, 3.0)))
        image = make_image(grid, center)
        noisy = image.array + np.random.default_rng(1).normal(0, 2, image.array.shape)
        placed = place(bundle, image.with_array(gain * noisy + level), PlacementConfig())
        assert placed.how == "auto"
        assert np.linalg.norm(np.subtract(placed.grid.center, center)) < 2

    def test_islands_elsewhere_do_not_pull(self, large_grid, a_small_bundle, make_image):
        center = tuple(np.add(large_grid.center, (12.0, 8.0, -9.0)))
        image = make_image(large_grid, center)
        islands = [np.subtract(large_grid.center, offset) for offset in [(14.0, 16, 12), (20, -8, 5), (5, 14, 16)]]
        disturbed = with_islands(image, *islands)
        assert (foreground_mass(a_small_bundle, disturbed).array > 0).sum() > (
            1.3 * (foreground_mass(a_small_bundle, image).array > 0).sum()
        )
        placed = place(a_small_bundle, disturbed, PlacementConfig())
        assert np.linalg.norm(np.subtract(placed.grid.center, center)) < 1.5

    def test_what_looks_alike_and_is_larger_does_not_win(self):
        """A disk that the network takes for a letter has more mass than the letter; the atlas explains the letter."""
        bundle, letter = load_bundle("letter-b", "cpu"), letter_b(7).image.array[0].astype(np.float32)
        values = np.full((256, 256), np.median(letter), dtype=np.float32)
        values[:128, :128] = letter
        y, x = np.mgrid[:256, :256]
        values[(y - 180) ** 2 + (x - 180) ** 2 < 45**2] = letter.max()
        image = Volume.from_array(values, Grid.centered((256, 256), (1.0, 1.0)))
        mass = foreground_mass(bundle, image).array[0]
        assert mass[mass.shape[0] // 2 :].sum() > 1.2 * mass[: mass.shape[0] // 2].sum()
        placed = place(bundle, image, PlacementConfig())
        assert np.linalg.norm(np.subtract(placed.grid.center, (-64.0, -64.0))) < 15

    def test_an_atlas_off_its_grids_middle_is_matched_to_the_anatomy(self, large_grid, make_bundle, make_image):
        """The grid goes where the atlas then lies on the anatomy, not the grid's middle."""
        bundle = make_bundle(3)
        offset = torch.roll(bundle.model.atlas_labels, shifts=(2, -2), dims=(1, 2))
        moved = replace(bundle, model=make_bundle(3).model)
        moved.model.atlas_labels.copy_(offset)
        center = tuple(np.add(large_grid.center, (12.0, 8.0, -9.0)))
        image = make_image(large_grid, center)
        one, two = (np.array(place(b, image, PlacementConfig()).grid.center) for b in (bundle, moved))
        # The atlas lies 2 voxels further along z, 2 back along y; the grid goes the other way.
        np.testing.assert_allclose(two - one, [0, 2 * bundle.grid.spacing[1], -2 * bundle.grid.spacing[2]], atol=0.5)

    def test_anatomy_at_the_images_border(self, large_grid, a_small_bundle, make_image):
        corner = large_grid.transform_points(np.array(large_grid.size) - 4.0, "world", "voxel")
        placed = place(a_small_bundle, make_image(large_grid, tuple(corner)), PlacementConfig())
        assert placed.how == "auto"
        assert np.linalg.norm(placed.grid.center - corner) < 6

    def test_2d(self, a_flat_bundle, make_image):
        grid = Grid.centered((80, 90), (1.2, 0.9), (30.0, 40.0), [[0.8, 0.6], [0.6, -0.8]])
        placed = place(a_flat_bundle, make_image(grid, (15.0, 60.0)), PlacementConfig())
        assert np.linalg.norm(np.subtract(placed.grid.center, (15.0, 60.0))) < 1.5

    def test_nothing_to_find_is_said(self, large_grid, a_small_bundle):
        noise = np.random.default_rng(0).normal(-20, 5, large_grid.shape)
        placed = place(a_small_bundle, Volume.from_array(noise, large_grid), PlacementConfig())
        assert placed.how == "center"
        assert "not found" in placed.warnings[0]
        np.testing.assert_allclose(placed.grid.center, large_grid.center, atol=1e-6)

    def test_images_of_the_grids_size_are_taken_as_they_are(self, a_small_bundle, make_image):
        grid = Grid.centered((15, 30, 30), (0.6, 0.8, 2.1), (7.0, 8.0, 9.0))
        assert not larger(grid, a_small_bundle.grid)
        placed = place(a_small_bundle, make_image(grid, (9.0, 8.0, 9.0)), PlacementConfig())
        assert placed.how == "center"
        np.testing.assert_allclose(placed.grid.center, (7, 8, 9), atol=1e-9)

    def test_larger_along_any_of_the_models_directions(self, a_small_bundle):
        grid = a_small_bundle.grid
        for axis in range(3):
            size = list(grid.size)
            size[axis] += 3
            assert larger(Grid.centered(size[::-1], grid.spacing, (0, 0, 0)), grid)
        assert not larger(Grid.centered([n + 1 for n in grid.shape], grid.spacing, (0, 0, 0)), grid)
        assert larger(Grid.centered(grid.shape, grid.spacing, (0, 0, 0), TURN), grid)

    def test_it_can_be_stopped_and_tells_where_it_is(self, a_flat_bundle, make_image, monkeypatch):
        monkeypatch.setattr(placement_room, "_SLAB_VOXELS", 1)
        image, seen = make_image(Grid.centered((80, 90), (1.2, 0.9)), (5.0, 6.0)), []
        place(a_flat_bundle, image, PlacementConfig(), seen.append)
        assert {p.stage for p in seen} == {"place"}
        assert len(seen) > 3
        assert seen[-1].step == seen[-1].total
        with pytest.raises(Cancelled):
            place(a_flat_bundle, image, PlacementConfig(), cancel=lambda: True)

    def test_slabs_give_what_the_whole_image_gives(self, make_bundle, monkeypatch):
        """The overlap of the slabs covers all that the ITN sees; a random U-net sees far."""
        bundle = make_bundle(2, reads_grey_values=False)
        grid = Grid.centered((230, 40), bundle.grid.spacing, (0.0, 0.0))
        image = Volume.from_array(np.random.default_rng(0).normal(0, 60, grid.shape), grid)
        with torch.no_grad():
            seen = bundle.model.itn(torch.from_numpy(image.array / 100).float().unsqueeze(0))[0]
            middle, spread = seen.mean(dim=(1, 2)), seen.std(dim=(1, 2))
            leave = bundle.model.itn.leave
            leave.weight.div_(8 * spread.reshape(3, 1, 1, 1))
            leave.bias.copy_(0.45 + (leave.bias - middle) / (8 * spread))
        whole = foreground_mass(bundle, image)
        assert 0.05 < (whole.array > 0).mean() < 0.95
        monkeypatch.setattr(placement_room, "_SLAB_VOXELS", 1)
        slabs = foreground_mass(bundle, image)
        np.testing.assert_allclose(slabs.array, whole.array, atol=1e-5)


class TestGiven:
    def test_centre(self, large_grid, a_small_bundle, make_image):
        image = make_image(large_grid, large_grid.center)
        placed = place(a_small_bundle, image, PlacementConfig("given", center=(95.0, -45.0, 22.0)))
        assert placed.how == "given"
        np.testing.assert_allclose(placed.grid.center, (95, -45, 22), atol=1e-9)
        assert placed.grid.shape == a_small_bundle.grid.shape

    def test_image_centre(self, large_grid, a_small_bundle, make_image):
        image = make_image(large_grid, tuple(np.add(large_grid.center, (12.0, 8.0, -9.0))))
        placed = place(a_small_bundle, image, PlacementConfig("center"))
        np.testing.assert_allclose(placed.grid.center, large_grid.center, atol=1e-9)

    def test_box_and_a_warning_where_it_is_too_large(self, large_grid, a_small_bundle, make_image):
        image = make_image(large_grid, large_grid.center)
        placed = place(a_small_bundle, image, PlacementConfig("given", box=(90, 100, -60, -50, 15, 25)))
        np.testing.assert_allclose(placed.grid.center, (95, -55, 20), atol=1e-9)
        assert placed.warnings == ()
        placed = place(a_small_bundle, image, PlacementConfig("given", box=(80, 110, -60, -50, 15, 25)))
        assert "larger than the model grid (18 x 24 x 32 mm)" in placed.warnings[0]

    def test_places_outside_and_of_other_dimensions(self, large_grid, a_small_bundle, make_image):
        image = make_image(large_grid, large_grid.center)
        for config in (
            PlacementConfig("given", center=(300.0, -45.0, 22.0)),
            PlacementConfig("given", box=(300, 310, -50, -40, 10, 20)),
        ):
            with pytest.raises(ConfigError, match="outside the image") as error:
                place(a_small_bundle, image, config)
            assert "LPS" in error.value.hint
        for config in (PlacementConfig("given", center=(95.0, -45.0)), PlacementConfig("given", box=(0, 1, 0, 1))):
            with pytest.raises(ConfigError, match="3D model"):
                place(a_small_bundle, image, config)

    @pytest.mark.parametrize(
        "values",
        [
            {"how": "given"},
            {"how": "auto", "center": (1.0, 2.0, 3.0)},
            {"how": "given", "center": (1.0, 2.0, 3.0), "box": (0, 1, 0, 1, 0, 1)},
            {"how": "given", "center": (1.0, float("nan"), 3.0)},
            {"how": "given", "box": (0, 1, 5, 4, 0, 1)},
            {"how": "given", "box": (0, 1, 0, 1, 0)},
            {"how": "somewhere"},
        ],
    )
    def test_impossible_placements(self, values):
        with pytest.raises(ConfigError):
            PlacementConfig(**values)


def test_touching_names_what_lies_in_the_outermost_voxels():
    labels = np.zeros((6, 7, 8), dtype=int)
    labels[2:4, 2:4, 2:4] = 3
    names = {3: "shell", 7: "core", 9: "absent"}
    assert touching(labels, names) == []
    for place_of_7 in ((0, 3, 3), (3, 6, 3), (3, 3, 7)):
        touched = labels.copy()
        touched[place_of_7] = 7
        assert touching(touched, names) == ["core"]


def test_islands_at_the_border_are_no_reason_to_warn():
    labels = np.zeros((12, 12), dtype=np.uint8)
    labels[3:9, 3:9] = 1
    labels[0, 0] = 1
    labels[4:, 9:11] = 2
    assert touching(labels, {1: "inner", 2: "outer"}) == ["outer"]

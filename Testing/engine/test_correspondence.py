"""Which point is which, in millimetres: against the model's own maps, against ITK, and there and back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from AtlasISTNLib.configs import DIRECTIONS, ModelConfig
from AtlasISTNLib.correspondence import (
    ATLAS_FROM_IMAGE,
    IMAGE_FROM_ATLAS,
    INVERSE_TOLERANCE_MM,
    Correspondence,
    part_around,
    place_of,
)
from AtlasISTNLib.errors import ConfigError, GeometryError, OutputError
from AtlasISTNLib.geometry import CUBE, VOXEL, WORLD, Grid, Plane, transform_points
from AtlasISTNLib.segmentation import segment
from AtlasISTNLib.volume import Volume
from AtlasISTNLib.warp import Transformation, metric_affine, sample

BOTH = (ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS)


def a_warp(shape: tuple[int, ...], direction: str, size: float = 0.6) -> Transformation:
    """An affine and a smooth velocity of about `size` voxels; displacements reach five times that in mm."""
    rng = np.random.default_rng(0)
    half = tuple(-(-n // 16) * 8 for n in shape)
    noise = ndimage.gaussian_filter(rng.normal(size=(1, len(shape), *half)), (0, 0, *[3.0] * len(shape)))
    parameters = torch.from_numpy(rng.normal(scale=0.12, size=(1, 5 if len(shape) == 2 else 9)))
    theta = metric_affine(parameters, [20.0, 24.0, 30.0][: len(shape)])
    config = ModelConfig(labels=2, shape=shape, direction=direction)
    return Transformation(theta, torch.from_numpy(size * noise / noise.std()), config)


def grids(shape: tuple[int, ...]) -> tuple[Grid, Grid]:
    """A model grid placed on an image and the same in atlas space: oblique, left-handed, far apart."""
    if len(shape) == 2:
        turn = np.array([[0.8, 0.6], [0.6, -0.8]])
        spacing = (1.5, 2.2)
    else:
        turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, -2]]))[0]
        turn[:, 2] *= -np.sign(np.linalg.det(turn))
        spacing = (1.5, 2.2, 2.8)
    d = len(shape)
    return Grid.centered(shape, spacing, [90.0, -40, 15][:d], turn), Grid.centered(
        shape, spacing, [0.0, 5, 10][:d], turn
    )


def built(warp: Transformation, fine: bool = True) -> Correspondence:
    image, atlas = grids(warp.config.shape)
    fields = [warp.displacement(sign)[0].numpy() for sign in (1, -1)]
    return Correspondence.build(warp.config.direction, warp.theta[0].numpy(), *fields, image, atlas, fine)


either_way = pytest.mark.parametrize("direction", DIRECTIONS)
either_shape = pytest.mark.parametrize("shape", [(22, 30), (18, 20, 16)], ids=["2D", "3D"])


class TestMaps:
    @either_way
    @either_shape
    def test_labels_come_onto_the_image_as_the_model_warps_them(self, direction, shape):
        warp = a_warp(shape, direction)
        one = built(warp, fine=False)
        atlas_points = one.atlas_grid.transform_points(warp.atlas_from_image()[0].numpy(), WORLD, CUBE)
        np.testing.assert_allclose(one.atlas_from_image(one.image_grid.points()), atlas_points, atol=1e-6)
        # The other map is the model's, too, but for the discretisation that is mended.
        image_points = one.image_grid.transform_points(warp.image_from_atlas()[0].numpy(), WORLD, CUBE)
        away = np.linalg.norm(one.image_from_atlas(one.atlas_grid.points()) - image_points, axis=-1)
        assert np.median(away) < 0.3

    @either_way
    @either_shape
    def test_there_and_back(self, direction, shape):
        one = built(a_warp(shape, direction))
        for first, second, grid in (
            (one.atlas_from_image, one.image_from_atlas, one.image_grid),
            (one.image_from_atlas, one.atlas_from_image, one.atlas_grid),
        ):
            points = grid.points()
            assert np.linalg.norm(first(points) - points, axis=-1).max() > 2
            assert np.linalg.norm(second(first(points)) - points, axis=-1).max() < 0.1

    @either_way
    @either_shape
    def test_the_map_that_is_not_kept_is_mended(self, direction, shape):
        """Both undo each other, at the field's nodes and between them, where exp(v) and exp(−v) as computed do not."""
        warp = a_warp(shape, direction, size=1.2)
        one = built(warp)
        nodes = one.displacement.grid.points()
        start = nodes if direction == "atlas_from_image" else transform_points(np.linalg.inv(one.theta), nodes)
        back = one.atlas_from_image(one.image_from_atlas(start))
        stretch = np.linalg.norm(np.linalg.inv(one.theta[:-1, :-1]), 2)
        assert np.linalg.norm(back - start, axis=-1).max() < 0.04 * max(1, stretch)
        coarse = built(warp, fine=False)
        nodes = coarse.displacement.grid.points()
        start = nodes if direction == "atlas_from_image" else transform_points(np.linalg.inv(coarse.theta), nodes)
        back = coarse.atlas_from_image(coarse.image_from_atlas(start))
        assert np.linalg.norm(back - start, axis=-1).max() < max(1, stretch) * INVERSE_TOLERANCE_MM

        kept, other = (1, -1) if direction == "atlas_from_image" else (-1, 1)
        still = one.image_grid.points(CUBE)
        moved = still + np.moveaxis(warp.displacement(other)[0].numpy(), 0, -1)
        again = sample(warp.displacement(kept), torch.from_numpy(moved).unsqueeze(0))[0].numpy()
        away = (moved + np.moveaxis(again, 0, -1) - still) * (np.array(one.image_grid.extent) / 2)
        assert np.linalg.norm(away, axis=-1).max() > 50 * INVERSE_TOLERANCE_MM

    @either_way
    @either_shape
    def test_a_fine_field_goes_through_the_nodes_of_the_coarse_one_and_undoes_itself_better(self, direction, shape):
        warp = a_warp(shape, direction, size=1.2)
        coarse, fine = built(warp, fine=False), built(warp)
        kept = "displacement" if direction == "atlas_from_image" else "displacement_back"
        every = (slice(None), *(slice(None, None, 4 if len(shape) == 2 else 2) for _ in shape))
        np.testing.assert_allclose(getattr(fine, kept).array[every], getattr(coarse, kept).array, atol=1e-9)
        points = fine.image_grid.box([2] * len(shape), [n - 2 for n in shape]).with_spacing([1.0] * len(shape)).points()
        away = [
            np.linalg.norm(c.image_from_atlas(c.atlas_from_image(points)) - points, axis=-1) for c in (coarse, fine)
        ]
        assert np.percentile(away[1], 99) < 0.3 * np.percentile(away[0], 99)

    @either_way
    @either_shape
    def test_itk_maps_points_to_the_same_places(self, direction, shape):
        one = built(a_warp(shape, direction))
        points = one.image_grid.points().reshape(-1, len(shape))[::7]
        # Where θ leads out of the field, ITK takes no displacement; all that ends in the atlas lies in the field.
        ends_in_atlas = one.atlas_grid.contains(one.atlas_from_image(points))
        outside = points[~ends_in_atlas].tolist()
        there = np.array([one.transform(ATLAS_FROM_IMAGE).TransformPoint(p) for p in outside])
        assert not one.atlas_grid.contains(there).any()
        points = points[ends_in_atlas]
        assert len(points) > 50
        for which in BOTH:
            start = points if which == ATLAS_FROM_IMAGE else one.atlas_from_image(points)
            expected = getattr(one, which)(start)
            transform = one.transform(which)
            found = np.array([transform.TransformPoint(p) for p in start.tolist()])
            np.testing.assert_allclose(found, expected, atol=1e-6)

    @either_shape
    def test_the_field_reaches_as_far_as_anything_is_carried(self, shape):
        """Image points far beyond the model grid that end in the atlas: for ITK, too."""
        image, atlas = grids(shape)
        shift = np.full((len(shape), *shape), 0.0)
        shift[0] = -2 * 7 / (shape[-1] - 1)  # seven voxels along x
        one = Correspondence.build("atlas_from_image", np.eye(len(shape), len(shape) + 1), shift, -shift, image, atlas)
        beyond = image.transform_points([image.size[0] + 5.0, *np.array(image.size[1:]) / 2], WORLD, VOXEL)
        assert not image.contains(beyond)
        there = one.atlas_from_image(beyond)
        assert atlas.contains(there)
        found = one.transform(ATLAS_FROM_IMAGE).TransformPoint(beyond.tolist())
        np.testing.assert_allclose(found, there, atol=1e-9)

    @either_way
    @either_shape
    @pytest.mark.parametrize("ending", ["h5", "tfm"])
    def test_files_hold_the_same_maps(self, direction, shape, ending, tmp_path):
        one = built(a_warp(shape, direction))
        point = one.image_grid.transform_points(np.full(len(shape), 0.3), WORLD, CUBE)
        for which in BOTH:
            path = one.write(which, tmp_path / f"{which}.{ending}")
            start = point if which == ATLAS_FROM_IMAGE else one.atlas_from_image(point)
            found = sitk.ReadTransform(str(path)).TransformPoint(start.tolist())
            np.testing.assert_allclose(found, getattr(one, which)(start), atol=1e-4)
        assert len(list(tmp_path.iterdir())) == 2

    @either_way
    @either_shape
    def test_field_is_target_minus_source(self, direction, shape):
        one = built(a_warp(shape, direction))
        grid = Grid.centered([6] * len(shape), [3.0] * len(shape), one.image_grid.center)
        field = one.field(ATLAS_FROM_IMAGE, grid)
        assert field.grid == grid
        found = grid.points() + np.moveaxis(field.array, 0, -1)
        np.testing.assert_allclose(found, one.atlas_from_image(grid.points()), atol=1e-9)

    @pytest.mark.parametrize("shape", [(22, 30), (18, 20, 16)], ids=["2D", "3D"])
    def test_without_a_nonrigid_part_the_maps_are_affine(self, shape):
        warp = a_warp(shape, "atlas_from_image")
        image, atlas = grids(shape)
        one = Correspondence.build("atlas_from_image", warp.theta[0].numpy(), None, None, image, atlas)
        points = np.random.default_rng(0).uniform(-300, 300, (40, len(shape)))
        np.testing.assert_allclose(one.image_from_atlas(one.atlas_from_image(points)), points, atol=1e-9)
        middle = one.atlas_from_image(points.mean(axis=0))
        np.testing.assert_allclose(one.atlas_from_image(points).mean(axis=0), middle, atol=1e-9)

    def test_folded_fields_end(self):
        """Where the displacement folds there is no inverse; building ends all the same, with finite numbers."""
        image, atlas = grids((22, 30))
        rng = np.random.default_rng(0)
        fold = rng.normal(scale=0.3, size=(2, 22, 30))
        one = Correspondence.build("atlas_from_image", np.eye(2, 3), fold, -fold, image, atlas)
        assert np.isfinite(one.image_from_atlas(atlas.points())).all()

    def test_wrong_names_and_points(self, tmp_path):
        one = built(a_warp((22, 30), "atlas_from_image"))
        for call in (one.transform, lambda which: one.field(which, one.image_grid)):
            with pytest.raises(ConfigError, match="forward"):
                call("forward")
        with pytest.raises(ConfigError, match="inverse"):
            Correspondence.build("inverse", np.eye(2, 3), None, None, one.image_grid, one.atlas_grid)
        with pytest.raises(GeometryError, match="2 components"):
            one.atlas_from_image(np.zeros((5, 3)))
        with pytest.raises(OutputError):
            one.write(ATLAS_FROM_IMAGE, tmp_path / "warp.docx")
        assert list(tmp_path.iterdir()) == []


class TestParts:
    def test_part_around_holds_points_and_margin(self, oblique_grid):
        points = oblique_grid.transform_points([[8.0, 9, 7], [12, 11, 9]], WORLD, VOXEL)
        part = part_around(oblique_grid, points, 2.9)
        place = place_of(part, oblique_grid)
        np.testing.assert_allclose(oblique_grid.points()[place], part.points(), atol=1e-9)
        low = [s.start for s in place][::-1]
        high = [s.stop - 1 for s in place][::-1]
        assert low == [int(np.floor(i - 2.9 / s)) for i, s in zip((8, 9, 7), oblique_grid.spacing, strict=True)]
        assert high == [int(np.ceil(i + 2.9 / s)) for i, s in zip((12, 11, 9), oblique_grid.spacing, strict=True)]

    def test_nothing_is_around_points_far_away(self, oblique_grid):
        assert part_around(oblique_grid, np.full((1, 3), 1e4), 5.0) is None
        whole = part_around(oblique_grid, oblique_grid.points().reshape(-1, 3), 50.0)
        assert whole.same_as(oblique_grid)


def sampled_by_hand(soft: Volume, points: np.ndarray) -> np.ndarray:
    """Soft labels (K, …) at WORLD points, linear; background beyond the volume's voxels."""
    index = np.moveaxis(soft.grid.transform_points(points, VOXEL, WORLD)[..., ::-1], -1, 0)
    weights = np.stack([ndimage.map_coordinates(c, index, order=1, mode="nearest") for c in soft.array.astype(float)])
    outside = ~soft.grid.contains(points)
    weights[0, outside], weights[1:, outside] = 1, 0
    return weights


class TestResults:
    @pytest.mark.parametrize("ndim", [2, 3])
    @either_way
    def test_labels_are_the_atlas_sampled_at_the_images_own_voxels(
        self, ndim, direction, make_bundle, an_image, a_flat_image
    ):
        image = an_image if ndim == 3 else a_flat_image
        result = segment(make_bundle(ndim, direction=direction), image)
        assert result.labels.grid == image.grid
        weights = sampled_by_hand(result.soft_atlas, result.correspondence.atlas_from_image(image.grid.points()))
        by_hand = np.array([0, 3, 7])[weights.argmax(axis=0)]
        top = np.sort(weights, axis=0)
        clear = top[-1] - top[-2] > 1e-4
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(result.labels.array[0][clear], by_hand[clear])
        assert {3, 7} <= set(np.unique(by_hand))
        weights = sampled_by_hand(result.soft_prediction, image.grid.points())
        top = np.sort(weights, axis=0)
        clear = top[-1] - top[-2] > 1e-4
        expected = np.array([0, 3, 7])[weights.argmax(axis=0)]
        np.testing.assert_array_equal(result.prediction.array[0][clear], expected[clear])

    @pytest.mark.parametrize("ndim", [2, 3])
    @either_way
    def test_itk_brings_the_atlas_onto_the_image(self, ndim, direction, make_bundle, an_image, a_flat_image, tmp_path):
        image = an_image if ndim == 3 else a_flat_image
        result = segment(make_bundle(ndim, direction=direction), image)
        path = result.correspondence.write(ATLAS_FROM_IMAGE, tmp_path / "warp.h5")
        seen = sitk.Resample(
            result.atlas.to_sitk(), image.to_sitk(), sitk.ReadTransform(str(path)), sitk.sitkLinear, 0.0
        )
        np.testing.assert_allclose(sitk.GetArrayFromImage(seen), result.atlas_image.array[0], atol=1e-3)
        assert result.atlas_image.array.max() > 0.8

    def test_labels_do_not_depend_on_how_the_voxels_are_stored(self, a_small_bundle, an_image):
        """The same voxels with axes swapped and turned round, right- or left-handed, are the same image."""
        expected = segment(a_small_bundle, an_image)
        grid, values = an_image.grid, an_image.array[0]
        axes = np.array(grid.direction)
        stored = np.flip(values.transpose(2, 0, 1), axis=1)  # array axes x, −z, y
        origin = grid.transform_points([0, 0, grid.size[2] - 1], WORLD, VOXEL)
        order = [1, 2, 0]  # index axes y, z, x
        other = Grid(
            stored.shape,
            [grid.spacing[i] for i in order],
            origin,
            np.stack([axes[:, 1], -axes[:, 2], axes[:, 0]], axis=1),
        )
        result = segment(a_small_bundle, Volume.from_array(np.ascontiguousarray(stored), other))
        for name in ("labels", "prediction"):
            back = np.flip(getattr(result, name).array[0], axis=1).transpose(1, 2, 0)
            assert (back == getattr(expected, name).array[0]).mean() > 0.9995
        points = grid.points()
        np.testing.assert_allclose(
            result.correspondence.atlas_from_image(points), expected.correspondence.atlas_from_image(points), atol=1e-3
        )

    def test_nothing_of_the_atlas_reaches_a_far_image(self, a_result, make_image):
        """All labels are background when the atlas lies outside of the image."""
        far = Grid.centered((6, 6, 6), (1, 1, 1), (900.0, 0, 0))
        moved = replace(a_result, image=make_image(far, far.center))
        assert set(np.unique(moved.labels.array)) == {0}
        assert not moved.atlas_image.array.any()


class TestLifted:
    @pytest.fixture
    def slices(self, oblique_flat_grid, make_image):
        """A single slice, oblique in 3D, that shows the same picture as a 2D image."""
        flat = make_image(oblique_flat_grid, tuple(np.add(oblique_flat_grid.center, [1.0, -1.5])), 1.1)
        turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
        plane = Grid.centered((1, *flat.grid.shape), (*flat.grid.spacing, 3.0), (50, 60, -70), turn)
        return flat, Volume.from_array(flat.array, plane, "slice")

    @either_way
    def test_maps_of_a_slice_lie_in_3d(self, slices, make_bundle, direction):
        _, slab = slices
        result = segment(make_bundle(2, direction=direction), slab)
        one = result.correspondence
        points = slab.grid.points()
        atlas = one.atlas_from_image(points)
        np.testing.assert_allclose(atlas[..., 2], 0, atol=1e-9)
        np.testing.assert_allclose(one.image_from_atlas(atlas), points, atol=0.1)
        assert np.ptp(atlas[..., 0]) > 10
        # In the plane: no point leaves it.
        there = one.image_from_atlas(one.atlas_grid.points())
        normal = np.array(slab.grid.direction)[:, 2]
        np.testing.assert_allclose((there - slab.grid.origin) @ normal, 0, atol=1e-9)

    @either_way
    def test_itk_resamples_the_atlas_onto_the_slice(self, slices, make_bundle, direction, tmp_path):
        _, slab = slices
        result = segment(make_bundle(2, direction=direction), slab)
        transform = sitk.ReadTransform(str(result.correspondence.write(ATLAS_FROM_IMAGE, tmp_path / "slice.h5")))
        seen = sitk.Resample(result.atlas.to_sitk(), slab.to_sitk(), transform, sitk.sitkLinear, 0.0)
        np.testing.assert_allclose(sitk.GetArrayFromImage(seen), result.atlas_image.array[0], atol=1e-3)
        assert result.atlas_image.array.max() > 0.8

    def test_lifting_keeps_the_2d_map(self):
        flat = built(a_warp((22, 30), "image_from_atlas"))
        turn = np.linalg.qr(np.array([[2.0, 1, 0.5], [-1, 2, 1], [0.3, -0.8, 2]]))[0]
        plane = Plane.of(Grid.centered((1, 40, 50), (1, 1, 3), (5, 6, 7), turn))
        deep = flat.lifted(plane)
        points = np.random.default_rng(0).uniform(-30, 30, (20, 2))
        world = np.c_[points, np.zeros(20)] @ plane.world_from_plane[:3, :3].T + plane.world_from_plane[:3, 3]
        atlas = flat.atlas_from_image(points)
        np.testing.assert_allclose(deep.atlas_from_image(world), np.c_[atlas, np.zeros(20)], atol=1e-9)
        back = flat.image_from_atlas(atlas)
        expected = np.c_[back, np.zeros(20)] @ plane.world_from_plane[:3, :3].T + plane.world_from_plane[:3, 3]
        np.testing.assert_allclose(deep.image_from_atlas(np.c_[atlas, np.zeros(20)]), expected, atol=1e-9)

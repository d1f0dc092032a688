"""Phantoms: one seed is one anatomy on any grid, every structure is in one piece, artefacts spare the labels."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from AtlasISTNLib.errors import Cancelled, ConfigError, GeometryError, OutputError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.heart_phantom import Anatomy, solids
from AtlasISTNLib.phantoms import (
    HEART_LABELS,
    LETTER_GRID,
    HeartArtefacts,
    Phantom,
    heart,
    heart_center,
    letter_b,
    write_phantoms,
)
from AtlasISTNLib.progress import Progress
from AtlasISTNLib.volume import Volume

LVM, LV, RV, RA, LA = (s.value for s in HEART_LABELS)
SMALL = Grid.centered((10, 12, 14), (8, 8, 8))


@lru_cache(maxsize=64)
def a_heart(seed: int, artefacts: HeartArtefacts | None = None, noise_hu: float | None = None) -> Phantom:
    """A crop round the heart as models are trained on."""
    return heart(seed, Grid.centered((64, 64, 64), (2.5, 2.5, 2.5), heart_center(seed)), artefacts, noise_hu)


def its_labels(seed: int) -> np.ndarray:
    """The labels of the same crop without the time that a chest takes."""
    grid = Grid.centered((64, 64, 64), (2.5, 2.5, 2.5), heart_center(seed))
    x, y, z = np.moveaxis(grid.points(), -1, 0).astype(np.float32)
    anatomy = Anatomy.random(seed, 1.0)
    return solids(anatomy, anatomy.heart_from_warped(anatomy.warped((x, y, z)))).labels()


def euler(mask: np.ndarray) -> int:
    """Vertices - edges + faces - cells of the union of closed voxels: 1 for a ball, 0 for a ring, 2 for a shell."""
    cells = np.pad(mask, 1).astype(bool)
    total = 0
    for open_axes in np.ndindex(*(2,) * mask.ndim):
        # An element that is open along an axis lies in one layer of voxels there, otherwise between two.
        touched = cells
        for axis, is_open in enumerate(open_axes):
            if not is_open:
                low = np.take(touched, range(touched.shape[axis] - 1), axis)
                touched = low | np.take(touched, range(1, touched.shape[axis]), axis)
        total += (-1) ** sum(open_axes) * int(touched.sum())
    return total


def test_the_euler_number_of_this_test_knows_a_ball_a_ring_and_a_shell() -> None:
    ball = np.ones((3, 3, 3), bool)
    ring, shell = ball.copy(), ball.copy()
    ring[:, 1, 1] = False
    shell[1, 1, 1] = False
    assert [euler(ball), euler(ring), euler(shell)] == [1, 0, 2]


def test_the_same_seed_gives_the_same_arrays_and_another_seed_another_heart() -> None:
    first, again, other = heart(3, SMALL), heart(3, SMALL), heart(4, SMALL)
    assert np.array_equal(first.image.array, again.image.array)
    assert np.array_equal(first.labels.array, again.labels.array)
    assert not np.array_equal(first.labels.array, other.labels.array)
    assert not np.allclose(first.center, other.center, atol=1)


def test_types_shapes_and_labels_are_as_promised() -> None:
    case = a_heart(0)
    assert case.image.array.dtype == np.int16
    assert case.labels.array.dtype == np.uint8
    assert case.image.grid == case.labels.grid
    assert set(np.unique(case.labels.array)) == {0, LVM, LV, RV, RA, LA}


@pytest.mark.parametrize("seed", range(25))
def test_every_structure_of_the_heart_is_one_ball(seed: int) -> None:
    labels = its_labels(seed)
    for value in (LVM, LV, RV, RA, LA):
        mask = labels == value
        assert ndimage.label(mask)[1] == 1, value
        assert euler(mask) == 1, value


def test_the_shortcut_of_this_test_gives_the_labels_of_the_phantom() -> None:
    assert np.mean(its_labels(0) != a_heart(0).labels.array[0]) < 1e-5  # points are rounded to float32 in two ways


def test_the_myocardium_is_a_cup_without_holes_that_is_open_towards_the_atrium() -> None:
    labels = a_heart(2).labels.array[0]
    inside = labels == LV
    beside = ndimage.binary_dilation(inside, iterations=1) & ~inside
    wall = (labels == LVM)[beside].mean()
    assert 0.7 < wall < 0.98
    # Whatever of the surface of the cavity is not wall is one opening.
    opening = beside & (labels != LVM)
    assert ndimage.label(opening, np.ones((3, 3, 3)))[1] == 1
    assert (labels[opening] == LA).any()


def test_anatomy_does_not_depend_on_the_grid() -> None:
    seed = 5
    straight = Grid.centered((72, 72, 72), (2, 2, 2), heart_center(seed))
    turn = Rotation.from_euler("xyz", [25, -35, 50], degrees=True).as_matrix() @ np.diag([1, 1, -1])
    middle = np.add(heart_center(seed), (0.7, -0.4, 0.9))
    oblique = Grid.centered((95, 170, 120), (1.2, 0.9, 1.5), middle, turn)
    reference = heart(seed, straight, noise_hu=0).labels
    moved = heart(seed, oblique, noise_hu=0).labels.resampled(straight, "nearest")
    inside = oblique.contains(straight.points())
    for value in (LVM, LV, RV, RA, LA):
        a, b = (reference.array[0] == value) & inside, moved.array[0] == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95, value


def test_the_image_does_not_depend_on_the_grid_but_for_noise_and_partial_volume() -> None:
    fine = Grid.centered((41, 61, 61), (2, 2, 2), heart_center(6))
    coarse = Grid.centered((21, 31, 31), (4, 4, 4), heart_center(6))
    a = heart(6, fine, noise_hu=0).image.resampled(coarse, antialias=True).array[0]
    b = heart(6, coarse, noise_hu=0).image.array[0]
    core = ndimage.binary_erosion(heart(6, coarse, noise_hu=0).labels.array[0] == LV)
    assert core.sum() > 20
    assert np.abs(a - b)[core].mean() < 15
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98


def test_the_center_is_the_middle_of_the_labels() -> None:
    for seed in range(8):
        case = a_heart(seed)
        assert case.center == heart_center(seed)
        places = case.labels.grid.points()[case.labels.array[0] > 0]
        middle = (places.min(axis=0) + places.max(axis=0)) / 2
        assert np.abs(middle - case.center).max() < 15


def test_a_point_of_the_heart_goes_to_the_world_and_back() -> None:
    anatomy = Anatomy.random(9, 1.0)
    points = np.random.default_rng(0).uniform(-60, 60, (50, 3))
    x, y, z = anatomy.world_from_heart(points).T.astype(np.float32)
    back = np.stack(anatomy.heart_from_warped(anatomy.warped((x, y, z))), axis=-1)
    assert np.abs(back - points).max() < 0.02


def test_sizes_are_those_of_adults() -> None:
    volumes = np.array([[(a_heart(s).labels.array == v).sum() * 2.5**3 / 1000 for v in range(1, 6)] for s in range(12)])
    low, high = np.array([50, 40, 60, 35, 35]), np.array([200, 200, 260, 160, 180])  # ml
    assert (volumes > low).all()
    assert (volumes < high).all()
    assert (volumes.std(axis=0) / volumes.mean(axis=0) > 0.1).all(), "hearts differ"


@pytest.mark.parametrize("seed", range(6))
def test_the_chambers_lie_where_they_lie_in_a_chest(seed: int) -> None:
    case = a_heart(seed)
    points = case.labels.grid.points()
    x, y, z = np.stack([points[case.labels.array[0] == v].mean(axis=0) for v in range(1, 6)]).T
    lvm, rv, ra, la = 0, 2, 3, 4
    assert x[ra] < x[rv] < x[lvm], "right atrium on the right, left ventricle on the left"
    assert y[rv] < y[lvm] < y[la], "right ventricle in front, left atrium behind"
    assert z[la] > z[lvm], "atria above"


@pytest.mark.parametrize("seed", range(6))
def test_contrast_is_that_of_a_coronary_ct(seed: int) -> None:
    case = a_heart(seed)
    image, labels = case.image.array[0], case.labels.array[0]
    mean = {v: np.median(image[ndimage.binary_erosion(labels == v)]) for v in (LVM, LV, RV, RA, LA)}
    assert 60 < mean[LVM] < 150
    assert 280 < mean[LV] < 440
    assert abs(mean[LV] - mean[LA]) < 40
    assert 120 < mean[RA] < 340
    assert mean[LVM] + 20 < mean[RV] < mean[LV] + 20


def test_round_the_heart_there_is_a_chest() -> None:
    case = heart(1, Grid.centered((16, 160, 176), (2, 2, 2.5)), noise_hu=0)
    image, labels = case.image.array[0], case.labels.array[0]
    assert (image[:, 0, 0] == -1000).all(), "air in the corner"
    shares = {
        "air": (-1001, -950, 0.2),
        "lung": (-900, -750, 0.08),
        "fat": (-130, -60, 0.03),
        "muscle": (10, 110, 0.05),
    }
    for tissue, (low, high, share) in {**shares, "bone": (450, 700, 0.001)}.items():
        assert ((image > low) & (image < high) & (labels == 0)).mean() > share, tissue


def test_noise_has_the_strength_asked_for_and_neighbours_agree() -> None:
    clean, noisy = (a_heart(4, noise_hu=n).image.array[0].astype(float) for n in (0.0, 30.0))
    noise = (noisy - clean)[20:40]
    assert abs(noise.std() - 30) < 1.5
    assert 0.15 < (noise[..., 1:] * noise[..., :-1]).mean() / noise.var() < 0.8


def test_without_variation_every_seed_has_the_average_anatomy() -> None:
    assert np.array_equal(heart(1, SMALL, variation=0).labels.array, heart(2, SMALL, variation=0).labels.array)


@pytest.mark.parametrize("name", ["implant", "streaks", "dropout"])
def test_each_artefact_changes_the_image_and_never_the_labels(name: str) -> None:
    clean, disturbed = a_heart(3), a_heart(3, HeartArtefacts(**{name: 1.0}))
    assert np.array_equal(clean.labels.array, disturbed.labels.array)
    change = disturbed.image.array[0].astype(int) - clean.image.array[0]
    assert (np.abs(change) > 50).sum() > 100
    if name == "implant":
        assert disturbed.image.array.max() > 2000
    if name == "dropout":
        assert change.max() < 5, "contrast is only lost"
        assert (change[clean.labels.array[0] == LVM] > -120).all(), "muscle stays"


def test_typical_artefacts_are_those_of_the_seed() -> None:
    assert HeartArtefacts.typical(5) == HeartArtefacts.typical(5)
    assert HeartArtefacts.typical(5) != HeartArtefacts.typical(6)


@pytest.mark.parametrize("corrupted", [False, True])
def test_the_letter_is_one_piece_with_two_holes(corrupted: bool) -> None:
    for seed in range(50):
        letter = letter_b(seed, corrupted=corrupted).labels.array[0] > 0
        assert ndimage.label(letter)[1] == 1, seed
        assert euler(letter) == -1, seed
        assert not letter[[0, -1]].any(), seed
        assert not letter[:, [0, -1]].any(), seed


def test_letters_are_reproducible_different_and_brighter_than_their_paper() -> None:
    first, again, other = letter_b(1), letter_b(1), letter_b(2)
    assert first.image.array.dtype == np.uint8
    assert np.array_equal(first.image.array, again.image.array)
    assert not np.array_equal(first.labels.array, other.labels.array)
    image, letter = first.image.array[0].astype(float), first.labels.array[0] > 0
    assert 35 < image[letter].mean() - image[~letter].mean() < 65
    assert 20 < image[~letter].std() < 31


def test_corruption_adds_blobs_and_breaks_strokes_but_spares_the_labels() -> None:
    spilt = broken = 0.0
    for seed in range(10):
        clean, corrupted = letter_b(seed), letter_b(seed, corrupted=True)
        assert np.array_equal(clean.labels.array, corrupted.labels.array)
        change = corrupted.image.array[0].astype(float) - clean.image.array[0]
        letter = clean.labels.array[0] > 0
        spilt += (change[~letter] > 30).mean() / 10
        broken += (change[letter] < -30).mean() / 10
    assert spilt > 0.01
    assert broken > 0.03


def test_a_letter_does_not_depend_on_its_grid() -> None:
    fine = Grid((256, 256), (0.5, 0.5), (-0.25, -0.25), ((1.0, 0.0), (0.0, 1.0)))
    a = letter_b(7).labels.array[0] > 0
    b = letter_b(7, fine).labels.resampled(LETTER_GRID, "nearest").array[0] > 0
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


@pytest.mark.parametrize(("kind", "grid"), [("heart", SMALL), ("letter-b", None)])
def test_written_phantoms_are_read_back_the_same(tmp_path: Path, kind: str, grid: Grid | None) -> None:
    steps: list[Progress] = []
    written = write_phantoms(kind, 2, tmp_path, seed=5, grid=grid, report=steps.append)
    assert [s.step for s in steps] == [1, 2]
    case = heart(6, SMALL) if kind == "heart" else letter_b(6)
    image, labels = (Volume.read(path) for path in written[1])
    assert np.array_equal(image.array, case.image.array)
    assert np.array_equal(labels.array, case.labels.array)
    assert image.grid.same_as(case.image.grid)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == sorted(
        p.name for p in (tmp_path / "labels").iterdir()
    )


def test_files_that_are_there_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_phantoms("letter-b", 1, tmp_path, seed=1)
    before = (tmp_path / "images" / "letter-b-0001.png").read_bytes()
    with pytest.raises(OutputError, match=r"letter-b-0001\.png"):
        write_phantoms("letter-b", 2, tmp_path, seed=0, artefacts=True)
    assert not (tmp_path / "images" / "letter-b-0000.png").exists()
    assert (tmp_path / "images" / "letter-b-0001.png").read_bytes() == before
    write_phantoms("letter-b", 2, tmp_path, seed=0, artefacts=True, overwrite=True)
    assert (tmp_path / "images" / "letter-b-0001.png").read_bytes() != before


def test_bad_values_are_refused_with_their_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        heart(-1)
    with pytest.raises(ConfigError, match="variation"):
        letter_b(0, variation=3)
    with pytest.raises(ConfigError, match="noise_hu"):
        heart(0, SMALL, noise_hu=float("nan"))
    with pytest.raises(GeometryError, match="3D"):
        heart(0, LETTER_GRID)
    with pytest.raises(ConfigError, match="streaks"):
        HeartArtefacts(streaks=2)
    with pytest.raises(ConfigError, match="brain"):
        write_phantoms("brain", 1, tmp_path)
    with pytest.raises(ConfigError, match="count"):
        write_phantoms("heart", 0, tmp_path)
    with pytest.raises(Cancelled):
        write_phantoms("letter-b", 1, tmp_path, cancel=lambda: True)
    assert not list(tmp_path.iterdir())

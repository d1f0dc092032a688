"""The bundled model of the brain's deep grey structures, on pictures of its own atlas: any contrast, place and axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk

from AtlasISTNLib.bundle import Bundle, load_bundle
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.folding import atlas_map_folding
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import evaluate
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.topology import topology
from AtlasISTNLib.volume import Volume

#: ml of each side, from small heads (nothing holds the atlas's size in its training, and it came out small) to old ones
#: with wide ventricles.
VOLUMES = {
    "lateral ventricle": (3, 40),
    "thalamus": (4, 10),
    "caudate nucleus": (2, 5.5),
    "putamen": (2.5, 8),
    "globus pallidus": (0.8, 2.6),
    "hippocampus": (2, 6),
    "amygdala": (0.8, 2.6),
    "nucleus accumbens": (0.25, 1.2),
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("brain-deep-grey", "cpu")


@dataclass(frozen=True)
class Scan:
    """The atlas as a scan, with what is known of it."""

    image: Volume
    labels: Volume


def scan(bundle: Bundle, turn: float = 0.0, away: tuple[float, float, float] = (0, 0, 0)) -> Scan:
    """The atlas's picture, turned about x (degrees) and moved (mm), in a field of view twice as large, with noise."""
    values = np.array([label.value for label in bundle.labels])
    hard = bundle.atlas_labels.with_array(values[bundle.atlas_labels.array.argmax(axis=0)].astype(np.int16))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    center = np.array(bundle.grid.center)
    origin = matrix @ (np.array(bundle.grid.origin) - center) + center + np.array(away)
    lies = Grid(bundle.grid.shape, bundle.grid.spacing, tuple(origin), tuple(map(tuple, matrix)))
    image, labels = (Volume.from_array(v.array, lies, "scan") for v in (bundle.atlas_image, hard))
    view = Grid.centered((90, 110, 80), (2.0, 2.0, 2.0), bundle.grid.center)
    seen = image.resampled(view, outside="minimum")
    noisy = seen.array + np.random.default_rng(1).normal(0, 0.05, seen.array.shape).astype(np.float32)
    return Scan(seen.with_array(noisy), labels.resampled(view, "nearest"))


def test_structures_have_names_codes_colours_and_sides(bundle):
    structures = bundle.labels[1:]
    assert len(structures) == 17
    assert all(label.snomed_code and label.snomed_meaning for label in structures)
    left, right = (
        {label.name.removeprefix(side) for label in structures if label.name.startswith(side)}
        for side in ("left ", "right ")
    )
    assert left == right == set(VOLUMES)
    assert "brain stem" in bundle.names.values()


def test_the_atlas_is_anatomy(bundle):
    """Each structure in one piece, of a human volume, left as large as right, and left on the left."""
    atlas = scan(bundle).labels
    assert all(found.components == 1 for value, found in topology(atlas).items() if value)
    soft = bundle.atlas_labels.array.reshape(len(bundle.labels), -1).sum(axis=1) * 8e-3  # ml in voxels of 2 mm
    ml = dict(zip((label.name for label in bundle.labels), soft.tolist(), strict=True))
    points = atlas.grid.points()
    for name, (low, high) in VOLUMES.items():
        left, right = ml[f"left {name}"], ml[f"right {name}"]
        assert low <= left <= high, (name, left)
        assert abs(left - right) < 0.2 * (left + right) / 2, (name, left, right)
    where = {label.name: points[atlas.array[0] == label.value].mean(axis=0)[0] for label in bundle.labels[1:]}
    assert all(where[f"left {name}"] > 5 and where[f"right {name}"] < -5 for name in VOLUMES)  # LPS: left is +x


@pytest.mark.parametrize("inverted", [False, True], ids=["as it is", "inverted"])
def test_it_is_found_whatever_its_contrast_and_place(bundle, inverted):
    case = scan(bundle, 15.0, (14.0, -20.0, 12.0))
    image = case.image.with_array(-case.image.array) if inverted else case.image
    result = segment(bundle, image)
    away = np.array(result.placement.grid.center) - np.array(bundle.grid.center) - (14.0, -20.0, 12.0)
    assert np.linalg.norm(away) < 8
    assert evaluate(result.prediction, case.labels).mean("dice") > 0.6


def test_axes_do_not_matter(bundle):
    case = scan(bundle)
    stored = [Volume.from_sitk(sitk.DICOMOrient(case.image.to_sitk(), order)) for order in ("LPS", "SAR")]
    one, other = (segment(bundle, image).prediction for image in stored)
    back = other.resampled(one.grid, "nearest")
    assert (one.array == back.array).mean() > 0.9995


def test_refined_it_is_whole_and_does_not_fold(bundle):
    case = scan(bundle, 10.0)
    first = segment(bundle, case.image)
    result = refine(bundle, first, RefineConfig(15, mode="field"))
    assert all(found.components == 1 for value, found in topology(result.labels).items() if value)
    assert atlas_map_folding(result.correspondence).percent == 0
    dice = [evaluate(found.labels, case.labels).mean("dice") for found in (first, result)]
    assert dice[1] > dice[0]
    assert dice[1] > 0.7

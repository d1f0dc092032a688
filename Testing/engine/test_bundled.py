"""The bundled models on the bundled samples, end to end: what a user sees on the first day."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from AtlasISTNLib.bundle import Bundle, load_bundle
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS
from AtlasISTNLib.folding import folding
from AtlasISTNLib.geometry import VOXEL, WORLD
from AtlasISTNLib.metrics import Scores, evaluate
from AtlasISTNLib.resources import samples_folder
from AtlasISTNLib.result import Result
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.topology import topology
from AtlasISTNLib.volume import Volume

#: Model, image and label map.
CASES = {
    "clean heart": ("phantom-heart", "phantom-heart-clean.nrrd", "phantom-heart-clean-labels.nrrd"),
    "corrupted heart": ("phantom-heart", "phantom-heart-corrupted.nrrd", "phantom-heart-corrupted-labels.nrrd"),
    "letter B": ("letter-b", "letter-b.png", "letter-b-labels.png"),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> tuple[str, Bundle, Result, Volume]:
    """A sample, quickly refined, and its true labels."""
    model, image, labels = CASES[request.param]
    bundle = load_bundle(model, "cpu")
    result = segment(bundle, Volume.read(samples_folder() / image))
    result = refine(bundle, result, RefineConfig(12, 500.0, mode="field"))
    return request.param, bundle, result, Volume.read(samples_folder() / labels)


@pytest.fixture(scope="module")
def scores(case) -> dict[str, Scores]:
    _, _, result, truth = case
    return {"itn": evaluate(result.prediction, truth), "refined": evaluate(result.labels, truth)}


def test_the_anatomy_is_found(case):
    name, _, result, _ = case
    assert result.placement.how == ("center" if name == "letter B" else "auto")
    assert result.placement.warnings == ()


def test_the_result_is_near_the_truth(case, scores):
    least = {"clean heart": 0.9, "corrupted heart": 0.8, "letter B": 0.9}
    assert scores["refined"].mean("dice") > least[case[0]]


def test_corruption_harms_the_network_more_than_the_atlas(case, scores):
    itn, refined = scores["itn"], scores["refined"]
    if case[0] != "corrupted heart":  # where the network errs little, the atlas follows it
        assert refined.mean("dice") > itn.mean("dice") - 0.03
        assert refined.mean("hd") < itn.mean("hd") + 1
        return
    assert refined.mean("hd") < 0.7 * itn.mean("hd")
    assert refined.mean("assd") < 0.9 * itn.mean("assd")


def test_every_structure_has_the_topology_of_the_atlas(case):
    _, bundle, result, _ = case
    values = np.array(result.values)
    atlas = Volume.from_array(values[bundle.atlas_labels.array.argmax(axis=0)], bundle.grid)
    assert topology(result.labels) == topology(atlas)


def test_nothing_folds(case):
    correspondence = case[2].correspondence
    points = correspondence.atlas_from_image(correspondence.image_grid.points(WORLD))
    assert folding(correspondence.atlas_grid.transform_points(points, VOXEL, WORLD)).volume == 0


def test_written_transforms_lead_there_and_back(case, tmp_path):
    _, _, result, _ = case
    inside = result.labels.grid.points()[result.labels.array[0] != result.values[0]]
    transforms = [
        sitk.ReadTransform(str(result.correspondence.write(which, tmp_path / f"{which}.h5")))
        for which in (ATLAS_FROM_IMAGE, IMAGE_FROM_ATLAS)
    ]
    for point in inside[:: max(1, len(inside) // 4000)]:
        there = transforms[0].TransformPoint(point.tolist())
        assert np.linalg.norm(np.array(transforms[1].TransformPoint(there)) - point) < 0.1


def test_itk_carries_the_atlas_to_the_same_place(case, tmp_path):
    _, bundle, result, _ = case
    path = result.correspondence.write(ATLAS_FROM_IMAGE, tmp_path / "atlas-from-image.h5")
    image = result.image.to_sitk()
    carried = sitk.Resample(bundle.atlas_image.to_sitk(), image, sitk.ReadTransform(str(path)), sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(carried), result.atlas_image.array[0], atol=1e-5)

"""Sample scans: those that came along, and a real head that another package carries."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK as sitk
import slicer

NAME = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@pytest.fixture
def nilearn(tmp_path, monkeypatch):
    """A folder in which Python finds nilearn, whose import would fail."""
    data = tmp_path / "nilearn" / "datasets" / "data"
    data.mkdir(parents=True)
    (tmp_path / "nilearn" / "__init__.py").write_text("raise ImportError('nobody asked for it')")
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    sitk.WriteImage(image, str(data / NAME))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nilearn", raising=False)
    return data


def names(samples) -> list[str]:
    return [sample.name for sample in samples.samples()]


def test_a_real_head_where_nilearn_and_its_model_are(scene, nilearn, monkeypatch):
    from AtlasISTNHost import samples

    models = {"phantom-heart": None, "letter-b": None}
    monkeypatch.setattr(samples, "available_models", lambda: models)
    assert "ICBM152 T1" not in names(samples)
    models["brain-deep-grey"] = None
    assert names(samples)[-2:] == ["ICBM152 T1", "Letter B"]
    (nilearn / NAME).rename(nilearn / "moved.nii.gz")
    assert "ICBM152 T1" not in names(samples)


def test_loaded_it_is_not_bound_to_the_package(scene, nilearn, monkeypatch):
    from AtlasISTNHost import samples

    monkeypatch.setattr(samples, "available_models", lambda: {"brain-deep-grey": None})
    monkeypatch.setattr(slicer.util, "loadVolume", lambda path, _properties: _volume(path), raising=False)
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", lambda **_: None, raising=False)
    (sample,) = samples.samples()
    node = samples.load(sample)
    assert node.GetStorageNode() is None
    assert node.GetImageData().GetDimensions() == (5, 4, 3)


def _volume(path: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(path)
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.ReadData(node)
    return node


def test_those_that_came_along_have_their_models(scene):
    from AtlasISTNHost import samples

    assert {"Phantom heart", "Phantom heart with artefacts", "Letter B"} <= set(names(samples))

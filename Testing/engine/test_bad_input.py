"""Bad input on the command line: one line with a hint, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from AtlasISTNLib import batch
from AtlasISTNLib.bundle import MANIFEST, save_bundle
from AtlasISTNLib.cli import main

SHAPE = (12, 14, 16)
NIFTI_WIDTHS, NIFTI_OFFSET = 80, 352  # bytes of pixdim[1] and of the first voxel in a header without extensions


@pytest.fixture(scope="module")
def models(tmp_path_factory, a_small_bundle, a_flat_bundle) -> Path:
    """A folder with a 3D and a 2D model, and with some that are none."""
    folder = tmp_path_factory.mktemp("models")
    save_bundle(a_small_bundle, folder / "solid")
    save_bundle(a_flat_bundle, folder / "flat")
    for name in ("damaged", "future", "foreign"):
        save_bundle(a_small_bundle, folder / name)
    with open(folder / "damaged" / "weights.safetensors", "r+b") as file:
        file.seek(2000)
        file.write(b"\xff" * 16)
    _change_manifest(folder / "future", schema=99)
    _change_manifest(folder / "foreign", format="something else")
    (folder / "no-model").mkdir()
    (folder / "no-model" / "notes.txt").write_text("nothing here")
    (folder / "text.zip").write_text("not a zip")
    return folder


def _change_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}), encoding="utf-8")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with good.nii.gz, flat.png, and others that no model can segment."""
    folder = tmp_path_factory.mktemp("images")
    values = np.random.default_rng(0).normal(50, 20, SHAPE).astype(np.float32)

    def write(name: str, array: np.ndarray, vector: bool = False) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(folder / name))

    write("good.nii.gz", values)
    write("flat.png", values[0].astype(np.uint8))
    write("four.nii.gz", np.stack([values, values]))
    write("vector.nrrd", np.stack([values] * 3, axis=-1), vector=True)
    write("colour.png", np.stack([values[0]] * 3, axis=-1).astype(np.uint8), vector=True)
    write("complex.nii.gz", values.astype(np.complex64))
    write("constant.nii.gz", np.full(SHAPE, 7.0, np.float32))
    write("thin.nii.gz", values[:1])
    for name, number in (("nan", np.nan), ("infinite", np.inf)):
        spoilt = values.copy()
        spoilt[3, 4, 5] = number
        write(f"{name}.nii.gz", spoilt)
        write(f"{name}.nrrd", spoilt)
    header = bytearray(gzip.decompress((folder / "good.nii.gz").read_bytes()))
    header[NIFTI_WIDTHS : NIFTI_WIDTHS + 4] = struct.pack("<f", 0.0)
    (folder / "zero-spacing.nii.gz").write_bytes(gzip.compress(bytes(header)))
    (folder / "text.nii.gz").write_text("these are words")
    (folder / "text.nrrd").write_text("these are words")
    (folder / "empty.nii.gz").write_bytes(b"")
    whole = (folder / "good.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.nii").write_bytes(gzip.decompress(whole)[: NIFTI_OFFSET + 500])
    (folder / "folder").mkdir()
    (folder / "with-images").mkdir()
    write("with-images/scan.nii.gz", values)
    return folder


Refused = Callable[..., str]


@pytest.fixture
def refused(capfd) -> Refused:
    """A function that runs a command line which must be refused as it should be; gives the line."""

    def call(*words: object) -> str:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        message, dash, hint = err.partition(" — ")
        assert dash, f"no hint: {err}"
        assert len(hint.strip()) > 8
        assert len(message) > len("error: ") + 10
        return err

    return call


@pytest.fixture
def segmenting(refused, models, images, tmp_path) -> Refused:
    """A function that runs `segment` into a place that must stay as empty as it was; gives the line."""

    def call(image: str, *words: object, model: str = "solid") -> str:
        output = tmp_path / "out"
        line = refused(
            "segment",
            images / image,
            "--model",
            models / model,
            "--output",
            output,
            "--refine",
            1,
            "--no-picture",
            *words,
        )
        assert not output.exists()
        assert list(tmp_path.iterdir()) == []
        return line

    return call


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("missing.nii.gz", "does not exist"),
        ("text.nii.gz", "cannot be read as an image"),
        ("text.nrrd", "cannot be read as an image"),
        ("empty.nii.gz", "empty"),
        ("cut.nii.gz", "ends too early"),
        ("cut.nii", "ends too early"),
        ("four.nii.gz", "4 dimensions"),
        ("vector.nrrd", "3 values per voxel"),
        ("colour.png", "3 values per voxel"),
        ("complex.nii.gz", "complex"),
        ("constant.nii.gz", "same value 7 everywhere"),
        ("nan.nii.gz", "NaN"),
        ("nan.nrrd", "NaN"),
        ("infinite.nii.gz", "infinite"),
        ("infinite.nrrd", "infinite"),
        ("thin.nii.gz", "single slice"),
        ("flat.png", "2D"),
        ("zero-spacing.nii.gz", "spacing of zero"),
        ("folder", "without DICOM"),
        ("with-images", "scan.nii.gz"),
    ],
)
def test_images_for_a_3d_model(segmenting, image, says):
    line = segmenting(image)
    assert says in line
    assert image in line


@pytest.mark.parametrize(("image", "says"), [("good.nii.gz", "2D"), ("colour.png", "3 values")])
def test_images_for_a_2d_model(segmenting, image, says):
    line = segmenting(image, model="flat")
    assert says in line
    assert image in line


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nobody", "there is no model"),
        ("no-model", "manifest.json"),
        ("damaged", "damaged"),
        ("future", "schema 99"),
        ("foreign", "not an Atlas-ISTN model"),
        ("text.zip", "neither a folder nor a zip"),
    ],
)
def test_models(segmenting, model, says):
    line = segmenting("good.nii.gz", model=model)
    assert says in line
    assert model in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--strength", "-1"], "-1"),
        (["--strength=-1"], "-1"),
        (["--strength", "-1e3"], "-1000"),
        (["--strength", "nan"], "nan"),
        (["--strength", "-inf"], "inf"),
        (["--strength", "strong"], "'strong' is not a number"),
        (["--strength"], "--strength"),
        (["--refine", "-5"], "-5"),
        (["--refine", "x"], "'x' is not a whole number"),
        (["--refine", "2.5"], "'2.5' is not a whole number"),
        (["--beta", "0"], "both zero"),
        (["--gamma", "-0.5"], "-0.5"),
        (["--learning-rate", "0"], "0"),
        (["--mode", "magic"], "magic"),
        (["--format", "jpg"], "jpg"),
        (["--placement", "left"], "left"),
        (["--box", "0,10,0,10"], "--box needs 6 numbers"),
        (["--box", "10,0,0,10,0,10"], "x0 < x1"),
        (["--box", "a,b,c,d,e,f"], "'a' is not a number"),
        (["--center", "1,2"], "--center needs 3 numbers"),
        (["--center", "1,,3"], "is not a number"),
        (["--center", "nan,0,0"], "nan"),
        (["--center", "-500,20,5"], "lies outside the image"),
        (["--center", "1,2,3", "--box", "0,9,0,9,0,9"], "not allowed with"),
        (["--center", "1,2,3", "--placement", "auto"], "not allowed with"),
        (["--threads", "0"], "--threads"),
        (["--device", "toaster"], "toaster"),
        (["--resolution", "3"], "unknown option --resolution"),
        (["--overwrit"], "unknown option --overwrit"),
        (["--reference", "a.nrrd", "b.nrrd"], "1 images but 2 references"),
        (["--reference", "nowhere.nrrd"], "nowhere.nrrd does not exist"),
    ],
)
def test_options(segmenting, words, says):
    assert says in segmenting("good.nii.gz", *words)


def test_settings_are_refused_before_anything_is_read(refused, images, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("something was read")

    monkeypatch.setattr(batch, "load_bundle", fail)
    monkeypatch.setattr(batch.Volume, "read", fail)
    words = ("segment", images / "good.nii.gz", "--model", "any", "--output", tmp_path / "out")
    for bad in (("--strength", "-1"), ("--refine", "-1"), ("--box", "1,0,1,0,1,0"), ("--gamma", "nan")):
        refused(*words, *bad)
    refused(*words, images / "good.nii.gz")  # twice the same name


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_an_absent_gpu(segmenting, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    line = segmenting("good.nii.gz", "--device", device)
    assert f"'{device}' is not on this machine" in line


def test_two_images_of_one_name(refused, models, images, tmp_path):
    other = images / "with-images" / "scan.nii.gz"
    same = images / "folder" / "scan.nrrd"
    line = refused("segment", other, same, "--model", models / "solid", "--output", tmp_path / "out")
    assert str(other) in line
    assert str(same) in line
    assert not (tmp_path / "out").exists()


def test_a_reference_on_another_grid(refused, models, images, tmp_path):
    labels = sitk.GetImageFromArray(np.ones((5, 6, 7), np.uint8))
    sitk.WriteImage(labels, str(tmp_path / "labels.nrrd"))
    words = ("--model", models / "solid", "--output", tmp_path / "out", "--reference", tmp_path / "labels.nrrd")
    assert "grid" in refused("segment", images / "good.nii.gz", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_output_in_the_place_of_a_file(refused, models, images, tmp_path, words):
    (tmp_path / "out").write_text("mine")
    line = refused("segment", images / "good.nii.gz", "--model", models / "solid", "--output", tmp_path / "out", *words)
    assert str(tmp_path / "out") in line
    assert (tmp_path / "out").read_text() == "mine"


def test_output_that_is_there(refused, models, images, tmp_path):
    case = tmp_path / "out" / "good"
    case.mkdir(parents=True)
    (case / "labels.nii.gz").write_text("older")
    words = ("segment", images / "good.nii.gz", "--model", models / "solid", "--output", tmp_path / "out")
    assert "overwrit" in refused(*words)
    (case / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refused(*words, "--overwrite")
    assert sorted(p.name for p in case.iterdir()) == ["labels.nii.gz", "thesis.txt"]
    assert (case / "labels.nii.gz").read_text() == "older"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no command"),
        (["paint"], "paint"),
        (["segment"], "IMAGE, --model, --output"),
        (["models", "nobody"], "there is no model"),
        (["models", "a", "b"], "unexpected argument 'b'"),
        (["evaluate", "a.nrrd", "b.nrrd"], "a.nrrd does not exist"),
        (["phantom", "liver", "--output", "OUT"], "liver"),
        (["phantom", "letter-b", "--output", "OUT", "--count", "0"], "count"),
        (["phantom", "letter-b", "--output", "OUT", "--seed", "-1"], "seed"),
        (["import-reference", "nowhere", "OUT"], "config.json"),
        (["train", "--images", "nowhere", "--labels", "nowhere", "--output", "OUT", "--name", "n"], "does not exist"),
        (["train", "--images", "i", "--labels", "l", "--output", "OUT", "--name", "n", "--epochs", "0"], "epochs"),
        (["train", "--images", "i", "--labels", "l", "--output", "OUT", "--name", "n", "--label", "0=x"], "VALUE=NAME"),
        (["train", "--images", "i", "--labels", "l", "--output", "OUT", "--name", "n", "--window", "40"], "--window"),
        (["train", "--output", "OUT", "--name", "n"], "one folder, or images and labels"),
        (["train", "--data", "nowhere", "--output", "OUT", "--name", "n"], "nowhere is not a folder"),
        (["train", "--data", ".", "--output", "OUT", "--name", "n"], "no dataset.json"),
        (["train", "--data", ".", "--output", "OUT", "--name", "n", "--pattern", "x", "{case}"], "'x'"),
    ],
)
def test_other_commands(refused, tmp_path, words, says):
    assert says in refused(*(tmp_path / "out" if word == "OUT" else word for word in words))
    assert not (tmp_path / "out").exists()


def test_training_cases_that_do_not_fit(refused, images, tmp_path):
    folders = [tmp_path / "images", tmp_path / "labels"]
    for folder in folders:
        folder.mkdir()
    words = ("train", "--images", folders[0], "--labels", folders[1], "--output", tmp_path / "out", "--name", "n")
    assert "no images" in refused(*words)
    for name, values in (("a", np.ones(SHAPE, np.uint8)), ("b", np.zeros(SHAPE, np.uint8))):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folders[1] / f"{name}.nrrd"))
    image = sitk.ReadImage(str(images / "good.nii.gz"))
    sitk.WriteImage(image, str(folders[0] / "a.nii.gz"))
    sitk.WriteImage(image + 1, str(folders[0] / "b.nii.gz"))
    line = refused(*words)
    assert line.startswith("error: b: ")
    assert "no label but the background" in line
    (folders[1] / "b.nrrd").unlink()
    assert "no label map for b" in refused(*words)
    assert not (tmp_path / "out").exists()

"""The other commands: models, evaluate, import-reference and the demo."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib import batch, demo, manifest
from AtlasISTNLib.bundle import load_bundle, save_bundle
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.volume import Volume


@pytest.fixture(scope="module")
def data(tmp_path_factory, a_small_bundle, a_flat_bundle) -> Path:
    """A folder with a 3D and a 2D model."""
    folder = tmp_path_factory.mktemp("models")
    save_bundle(a_small_bundle, folder / "small.zip")
    save_bundle(a_flat_bundle, folder / "flat")
    return folder


def test_models_lists_and_describes(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "models_folder", lambda: data)
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert out.count("3 shell, 7 core") == 2
    assert "Apache-2.0" in out
    code, out, _ = run("models", "--json")
    assert code == 0
    listed = json.loads(out)["models"]
    assert sorted(entry["dimension"] for entry in listed) == [2, 3]
    code, out, _ = run("models", data / "small.zip")
    assert code == 0
    assert "8 iterations, λ* 20" in out


def test_models_shows_the_others_when_one_is_damaged(run, data, tmp_path, monkeypatch):
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    (tmp_path / "good.zip").write_bytes((data / "small.zip").read_bytes())
    monkeypatch.setattr(manifest, "models_folder", lambda: tmp_path)
    code, out, err = run("models")
    assert code == 2
    assert "3 shell" in out
    assert err.startswith("error: ")
    assert "broken.zip" in err


def test_evaluate_text_json_and_csv(run, tmp_path, data):
    grid = Grid.centered((6, 8, 10), (2.0, 1.0, 1.0))
    first, second = np.zeros((2, *grid.shape), np.uint8)
    first[1:5, 2:6, 2:6] = 7
    second[1:5, 2:6, 3:7] = 7  # moved by one voxel of 2 mm: three quarters in common
    paths = [Volume.from_array(a, grid).write(tmp_path / f"{n}.nrrd") for a, n in ((first, "a"), (second, "b"))]
    code, out, _ = run("evaluate", *paths, "--names", data / "small.zip")
    assert code == 0
    assert "core" in out
    assert "0.750" in out
    code, out, _ = run("evaluate", *paths, "--json")
    (entry,) = json.loads(out)["labels"]
    assert (entry["dice"], entry["hd"]) == (pytest.approx(0.75), pytest.approx(2))
    assert run("evaluate", *paths, "--csv", tmp_path / "t.csv")[0] == 0
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["label"], float(row["dice"])) == ("7", pytest.approx(0.75))
    assert run("evaluate", *paths, "--csv", tmp_path / "t.csv")[0] == 2
    assert run("evaluate", *paths, "--csv", tmp_path / "t.csv", "--overwrite")[0] == 0


def test_import_reference(run, tmp_path, shared_data):
    source = next(path.parent for path in sorted((shared_data / "reference-models").rglob("itn.pt")))
    code, _, err = run("import-reference", source, tmp_path / "m.zip", "--name", "old")
    assert code == 0, err
    bundle = load_bundle(tmp_path / "m.zip", "cpu")
    assert (bundle.about.name, bundle.config.convention) == ("old", "reference")
    assert run("import-reference", source, tmp_path / "m.zip")[0] == 2


def test_demo_segments_measures_and_may_be_repeated(run, data, tmp_path, monkeypatch, an_image, a_flat_image):
    samples, models = tmp_path / "samples", tmp_path / "models"
    models.mkdir()
    for name, source in (("phantom-heart", "small.zip"), ("letter-b", "flat")):
        save_bundle(load_bundle(data / source, "cpu"), models / f"{name}.zip")
    for _, image, labels in demo.SAMPLES:
        volume = an_image if "heart" in image else a_flat_image
        truth = np.digitize(volume.array[0], [20, 75]).astype(np.uint8)
        volume.with_array(np.clip(volume.array, 0, 255).astype(np.uint8)).write(samples / image)
        volume.with_array(np.array([0, 3, 7], np.uint8)[truth]).write(samples / labels)
    monkeypatch.setattr(manifest, "models_folder", lambda: models)
    monkeypatch.setattr(demo, "samples_folder", lambda: samples)
    all_samples = demo.SAMPLES
    monkeypatch.setattr(demo, "SAMPLES", all_samples[-1:])
    code, out, err = run("demo", "--output", tmp_path / "out")
    assert code == 0, err
    picture = tmp_path / "out" / "letter-b" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in out

    # Again and all of them, over what is there, in less time.
    settings = batch.Settings(RefineConfig(iterations=2), overwrite=True, picture=False)
    monkeypatch.setattr(demo, "SAMPLES", all_samples)
    monkeypatch.setattr(demo, "Settings", lambda overwrite: settings)
    code, out, err = run("demo", "--output", tmp_path / "out")
    assert code == 0, err
    names = ["letter-b", "phantom-heart-clean", "phantom-heart-corrupted"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    table = out[out.index("Means over the structures") :]
    assert [table.count(word) for word in ("ITN", "one pass", "refined")] == [3, 3, 3]
    # The samples' truth is the image cut at two grey values, as the network reads it: it is right where it is asked.
    heart = next(line.split() for line in table.splitlines() if line.startswith("phantom-heart-clean"))
    assert float(heart[2]) > 0.5


def test_demo_without_samples_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "samples_folder", lambda: tmp_path / "none")
    code, _, err = run("demo", "--output", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()

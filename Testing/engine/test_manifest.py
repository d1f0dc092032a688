"""Manifests without torch: the panel sees of a model what the engine sees of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.bundle import load_bundle, save_bundle
from AtlasISTNLib.errors import BundleError
from AtlasISTNLib.manifest import (
    FILES,
    MANIFEST,
    available_models,
    find_model,
    load_atlas,
    load_manifest,
    open_folder,
    read_manifest,
)

either_form = pytest.mark.parametrize("name", ["model", "model.zip"])


@either_form
@pytest.mark.parametrize("which", ["a_small_bundle", "a_flat_bundle"])
def test_it_is_what_the_bundle_says(name, which, request, tmp_path):
    bundle = request.getfixturevalue(which)
    path = save_bundle(bundle, tmp_path / name)
    manifest = load_manifest(path)
    for key in ("about", "labels", "grid", "normalisation", "refinement", "names"):
        assert getattr(manifest, key) == getattr(bundle, key), key
    assert manifest.architecture == bundle.config
    assert dict(manifest.training) == dict(bundle.training)
    image, soft = load_atlas(path)
    np.testing.assert_array_equal(image.array, bundle.atlas_image.array)
    np.testing.assert_array_equal(soft.array, bundle.atlas_labels.array)
    assert image.grid.same_as(bundle.grid)
    assert soft.grid.same_as(bundle.grid)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_bundled_models_by_name():
    for name, place in available_models().items():
        assert find_model(name) == place
        manifest, (image, soft) = load_manifest(name), load_atlas(name)
        assert manifest.about.name == name
        assert soft.array.shape == (len(manifest.labels), *manifest.grid.shape)
        assert image.array.shape == (1, *manifest.grid.shape)


def test_neither_needs_torch(a_flat_bundle, tmp_path):
    path = save_bundle(a_flat_bundle, tmp_path / "model.zip")
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "safetensors", "matplotlib", "tqdm"))
    code = f"import sys\n{blocked}from AtlasISTNLib.manifest import load_atlas, load_manifest\n"
    code += f"load_manifest({str(path)!r}), load_atlas({str(path)!r})"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("load", [load_manifest, load_atlas, lambda path: load_bundle(path, "cpu")])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / FILES[0]).unlink(), "lacks"),
        (lambda f: (f / FILES[1]).write_bytes(b"x"), "damaged or was changed"),
        (lambda f: (f / MANIFEST).write_text("{"), "manifest .*damaged"),
        (lambda f: (f / MANIFEST).unlink(), f"has no {MANIFEST}"),
        (lambda f: shutil.rmtree(f), "no model"),
        (lambda f: edited(f, schema=99), "schema 99"),
        (lambda f: edited(f, labels=[]), "inconsistent"),
        (lambda f: edited(f, grid={}), "inconsistent"),
        (lambda f: edited(f, about={"name": "x", "price": 5}), "inconsistent"),
    ],
)
def test_it_refuses_what_the_bundle_refuses(load, change, message, a_flat_bundle, tmp_path):
    change(save_bundle(a_flat_bundle, tmp_path / "model"))
    with pytest.raises(BundleError, match=message):
        load(tmp_path / "model")


def edited(folder: Path, **values: object) -> None:
    manifest = {**json.loads((folder / MANIFEST).read_text(encoding="utf-8")), **values}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_an_unpacked_zip_is_gone_afterwards(a_flat_bundle, tmp_path):
    path = save_bundle(a_flat_bundle, tmp_path / "model.zip")
    with open_folder(path) as folder:
        assert read_manifest(folder, path)["about"]["name"] == "small"
        assert folder != path
    assert not folder.exists()

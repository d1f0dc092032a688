"""Models on disk: what is saved is what is loaded, and every kind of damage is refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import stat
import zipfile
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from AtlasISTNLib import bundle as bundle_room
from AtlasISTNLib import manifest as manifest_room
from AtlasISTNLib.bundle import (
    FILES,
    MANIFEST,
    WEIGHTS,
    available_models,
    find_device,
    load_bundle,
    on_device,
    save_bundle,
)
from AtlasISTNLib.configs import MODES, RefineConfig
from AtlasISTNLib.errors import BundleError, DeviceError, OutputError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.segmentation import refine, segment

either_form = pytest.mark.parametrize("name", ["model", "model.zip"])


@pytest.fixture
def saved(a_flat_bundle, tmp_path) -> Path:
    """A bundle's folder."""
    return save_bundle(a_flat_bundle, tmp_path / "model")


def fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in [*model.state_dict().items(), ("image", model.atlas_image), ("labels", model.atlas_labels)]:
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, prefix + path.name)
    return target


def rewrite_manifest(folder: Path, change, hashes: bool = True) -> None:
    """Change the manifest by a function, with the hashes of the files as they are now."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if hashes:
        manifest["hashes"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


class TestRoundTrip:
    @either_form
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_everything_comes_back(self, ndim, name, a_small_bundle, a_flat_bundle, tmp_path):
        old = a_small_bundle if ndim == 3 else a_flat_bundle
        new = load_bundle(save_bundle(old, tmp_path / name), "cpu")
        assert [p.name for p in tmp_path.iterdir()] == [name]
        for field in ("about", "labels", "grid", "normalisation", "refinement", "config", "names"):
            assert getattr(new, field) == getattr(old, field), field
        assert dict(new.training) == dict(old.training)
        assert fingerprint(new.model) == fingerprint(old.model)

    @either_form
    def test_results_are_identical(self, name, a_flat_bundle, a_flat_image, a_flat_result, tmp_path):
        new = load_bundle(save_bundle(a_flat_bundle, tmp_path / name), "cpu")
        result = segment(new, a_flat_image)
        np.testing.assert_array_equal(result.soft_prediction.array, a_flat_result.soft_prediction.array)
        np.testing.assert_array_equal(result.labels.array, a_flat_result.labels.array)
        one, two = (refine(b, a_flat_result, RefineConfig(3)).trace.steps for b in (new, a_flat_bundle))
        assert one == two

    @either_form
    @pytest.mark.parametrize("ndim", [2, 3])
    def test_a_compact_one_is_a_quarter_as_large_and_all_but_the_same(
        self, ndim, name, a_small_bundle, a_flat_bundle, tmp_path
    ):
        """No weight is off by more than half a step, a 254th of its channel's largest; no atlas label by a 510th."""
        old = a_small_bundle if ndim == 3 else a_flat_bundle
        new = load_bundle(save_bundle(old, tmp_path / name, compact=True), "cpu")
        weights = new.model.state_dict()
        for key, value in old.model.state_dict().items():
            if value.ndim < 2:
                assert torch.equal(weights[key], value), key
                continue
            largest = value.flatten(1).abs().amax(dim=1)
            assert weights[key].dtype == value.dtype
            assert ((weights[key] - value).abs().flatten(1).amax(dim=1) <= largest / 253).all(), key
        assert (new.model.atlas_labels - old.model.atlas_labels).abs().max() < 1 / 500
        assert (new.model.atlas_image - old.model.atlas_image).abs().max() <= 1 / 256
        np.testing.assert_array_equal(manifest_room.load_atlas(tmp_path / name)[1].array, new.atlas_labels.array)
        again = load_bundle(save_bundle(new, tmp_path / f"again-{name}", compact=True), "cpu")
        for key, value in weights.items():
            torch.testing.assert_close(again.model.state_dict()[key], value, rtol=1e-5, atol=0)
        if name == "model":
            plain = save_bundle(old, tmp_path / "plain")
            assert (tmp_path / name / WEIGHTS).stat().st_size < 0.4 * (plain / WEIGHTS).stat().st_size

    def test_a_compact_one_without_its_steps_is_refused(self, a_flat_bundle, tmp_path):
        place = save_bundle(a_flat_bundle, tmp_path / "model", compact=True)
        tensors = load_file(place / WEIGHTS)
        gone = next(key for key in tensors if key.endswith(":steps"))
        save_file({key: value for key, value in tensors.items() if key != gone}, place / WEIGHTS)
        rewrite_manifest(place, lambda manifest: None)
        with pytest.raises(BundleError, match="lack their steps"):
            load_bundle(place, "cpu")

    def test_a_grid_that_is_turned_comes_back(self, make_bundle, tmp_path):
        turn = [[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]]
        grid = Grid.centered((16, 16, 18), (1.23456789012345, 2.2, 1 / 3), (1e3 / 7, -5, 1e-3), turn)
        old = make_bundle(3, grid=grid)
        new = load_bundle(save_bundle(old, tmp_path / "turned"), "cpu")
        assert new.grid == grid
        assert new.model.half_extent == old.model.half_extent

    def test_a_zip_of_the_folder_itself(self, saved, a_flat_bundle, tmp_path):
        packed = zipped(saved, tmp_path / "sent.zip", "model/")
        assert fingerprint(load_bundle(packed, "cpu").model) == fingerprint(a_flat_bundle.model)

    def test_bundles_are_read_by_others(self, saved):
        """What is saved is as open as the user's other files, though it was put together in a private folder."""
        beside = saved.parent / "beside"
        beside.mkdir()
        (beside / "file").touch()
        assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(beside.stat().st_mode)
        for path in saved.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((beside / "file").stat().st_mode), path.name

    def test_segmenting_and_refining_change_nothing(self, a_flat_bundle, a_flat_image):
        before = fingerprint(a_flat_bundle.model)
        for mode in MODES:
            refine(a_flat_bundle, segment(a_flat_bundle, a_flat_image), RefineConfig(3, mode=mode))
        assert fingerprint(a_flat_bundle.model) == before
        with pytest.raises(FrozenInstanceError):
            a_flat_bundle.grid = None

    def test_loading_needs_no_network_and_no_pickle(self, saved, monkeypatch):
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("nobody should ask for this")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(torch, "load", refuse)
        monkeypatch.setattr("pickle.Unpickler", refuse)
        assert load_bundle(saved, "cpu").about.name == "small"

    def test_a_loaded_model_waits_for_work(self, saved):
        model = load_bundle(saved, "cpu").model
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


class TestDamage:
    def refused(self, path: Path | str, message: str) -> None:
        with pytest.raises(BundleError, match=message) as error:
            load_bundle(path, "cpu")
        assert Path(path).name in error.value.message
        assert error.value.hint

    @pytest.mark.parametrize("file", FILES)
    @pytest.mark.parametrize("where", [0.1, 0.9])
    def test_a_flipped_byte(self, saved, file, where):
        data = bytearray((saved / file).read_bytes())
        data[int(len(data) * where)] ^= 1
        (saved / file).write_bytes(data)
        self.refused(saved, f"{file} .*damaged or was changed")

    @pytest.mark.parametrize("file", FILES)
    def test_a_missing_file(self, saved, file):
        (saved / file).unlink()
        self.refused(saved, f"lacks {file}")

    def test_what_is_no_model_at_all(self, tmp_path):
        with pytest.raises(BundleError, match="no model 'nowhere'"):
            load_bundle("nowhere", "cpu")
        (tmp_path / "empty").mkdir()
        self.refused(tmp_path / "empty", f"has no {MANIFEST}")
        (tmp_path / "notes.txt").write_text("hello")
        self.refused(tmp_path / "notes.txt", "neither a folder nor a zip")
        zipped(tmp_path / "empty", tmp_path / "empty.zip")
        self.refused(tmp_path / "empty.zip", f"has no {MANIFEST}")

    @pytest.mark.parametrize("text", ["", "{", "nonsense", b"\xff\xfe\x00"])
    def test_a_manifest_that_is_not_json(self, saved, text):
        (saved / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
        self.refused(saved, "manifest .*damaged")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(format="nnU-Net"), "not an Atlas-ISTN model"),
            (lambda m: m.pop("format"), "not an Atlas-ISTN model"),
            (lambda m: m.update(schema=2), "schema 2; this release knows up to 1"),
            (lambda m: m.update(schema="1"), "no schema version"),
            (lambda m: m.update(schema=0), "no schema version"),
            (lambda m: m.pop("hashes"), "no hashes"),
            (lambda m: m.update(hashes=[]), "no hashes"),
            (lambda m: m["hashes"].clear(), "damaged or was changed"),
            (lambda m: m.pop("architecture"), "inconsistent"),
            (lambda m: m.update(architecture=[]), "inconsistent"),
            (lambda m: m["architecture"].update(labels=2), "inconsistent"),
            (lambda m: m["architecture"].update(labels="three"), "inconsistent"),
            (lambda m: m["architecture"].update(stn_channels=[16, 32, 9]), "inconsistent"),
            (lambda m: m["architecture"].update(convention="other"), "inconsistent.*convention"),
            (lambda m: m["architecture"].update(code="import os"), "inconsistent.*code"),
            (lambda m: m["grid"].update(shape=[20, 29]), "inconsistent"),
            (lambda m: m["grid"].update(shape=[float("inf"), 28]), "inconsistent"),
            (lambda m: m["grid"].update(spacing=[1.5, 1.2]), "inconsistent.*model grid"),
            (lambda m: m["grid"].update(origin=[0, 0]), "inconsistent.*model grid"),
            (lambda m: m["grid"].update(direction=[[1, 1], [0, 1]]), "inconsistent.*orthonormal"),
            (lambda m: m["labels"].pop(), "inconsistent"),
            (lambda m: m.update(labels=[1, 2, 3]), "inconsistent"),
            (lambda m: m["labels"][1].update(shape="round"), "inconsistent"),
            (lambda m: m.update(about="a model"), "inconsistent"),
            (lambda m: m.pop("normalisation"), "inconsistent"),
            (lambda m: m["normalisation"].update(width=-1), "inconsistent"),
            (lambda m: m["refinement"].update(iterations=-1), "inconsistent"),
            (lambda m: m.update(training=7), "inconsistent"),
        ],
    )
    def test_manifests_that_say_something_else(self, saved, change, message):
        rewrite_manifest(saved, change)
        self.refused(saved, message)

    def test_a_manifest_that_is_a_list(self, saved):
        (saved / MANIFEST).write_text("[]")
        self.refused(saved, "not an Atlas-ISTN model")

    def test_weights_of_another_kind(self, saved, a_flat_bundle):
        weights = dict(a_flat_bundle.model.state_dict())
        for change in (
            lambda w: w.pop("itn.leave.bias"),
            lambda w: w.update(extra=torch.zeros(1)),
            lambda w: w.update({"itn.leave.bias": torch.zeros(4)}),
        ):
            changed = dict(weights)
            change(changed)
            save_file({k: v.contiguous() for k, v in changed.items()}, saved / FILES[0])
            rewrite_manifest(saved, lambda m: None)
            self.refused(saved, "inconsistent")
        (saved / FILES[0]).write_bytes(b"not a tensor in it")
        rewrite_manifest(saved, lambda m: None)
        self.refused(saved, "inconsistent")

    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\\\host\\evil"])
    def test_zips_that_write_elsewhere(self, saved, tmp_path, name):
        packed = zipped(saved, tmp_path / "evil.zip")
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(name, "x")
        before = sorted(tmp_path.rglob("*"))
        self.refused(packed, "outside its folder")
        assert sorted(tmp_path.rglob("*")) == before

    def test_zips_that_are_damaged(self, saved, tmp_path):
        data = zipped(saved, tmp_path / "whole.zip").read_bytes()
        for share in (0.3, 0.999):
            (tmp_path / "short.zip").write_bytes(data[: int(len(data) * share)])
            self.refused(tmp_path / "short.zip", "neither a folder nor a zip|damaged")
        with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
            start = archive.getinfo(FILES[0]).header_offset
        flipped = bytearray(data)
        flipped[start + 2000] ^= 0xFF
        (tmp_path / "flipped.zip").write_bytes(flipped)
        self.refused(tmp_path / "flipped.zip", "damaged")

    def test_zips_that_unpack_to_too_much(self, saved, tmp_path, monkeypatch):
        monkeypatch.setattr(manifest_room, "LARGEST_BYTES", 10_000)
        self.refused(zipped(saved, tmp_path / "bomb.zip"), "unpacks to more")


class TestSaving:
    @either_form
    def test_nothing_is_overwritten_unasked(self, name, a_flat_bundle, make_bundle, tmp_path):
        path = save_bundle(a_flat_bundle, tmp_path / name)
        with pytest.raises(OutputError, match="exists"):
            save_bundle(a_flat_bundle, path)
        other = make_bundle(2, seed=1)
        save_bundle(other, path, overwrite=True)
        assert fingerprint(load_bundle(path, "cpu").model) == fingerprint(other.model)
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_folders_of_others_stay(self, a_flat_bundle, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.png").touch()
        with pytest.raises(OutputError, match="not a model"):
            save_bundle(a_flat_bundle, tmp_path / "photos", overwrite=True)
        assert (tmp_path / "photos" / "cat.png").exists()

    @either_form
    def test_failure_leaves_the_old_model_and_nothing_else(self, name, a_flat_bundle, tmp_path, monkeypatch):
        path = save_bundle(a_flat_bundle, tmp_path / name)

        def fail(*args: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(bundle_room, "save_file", fail)
        with pytest.raises(OutputError, match="no space left"):
            save_bundle(a_flat_bundle, path, overwrite=True)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert load_bundle(path, "cpu").about.name == "small"

    def test_a_file_in_the_way(self, a_flat_bundle, tmp_path):
        (tmp_path / "file").touch()
        for path in (tmp_path / "file" / "model", tmp_path / "file" / "model.zip"):
            with pytest.raises(OutputError, match="cannot write"):
                save_bundle(a_flat_bundle, path)


class TestPlaces:
    def test_bundled_models_go_by_name(self, a_flat_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(manifest_room, "models_folder", lambda: tmp_path / "models")
        assert available_models() == {}
        save_bundle(a_flat_bundle, tmp_path / "models" / "one")
        save_bundle(a_flat_bundle, tmp_path / "models" / "two.zip")
        (tmp_path / "models" / "drafts").mkdir()
        assert sorted(available_models()) == ["one", "two"]
        for name in available_models():
            assert load_bundle(name, "cpu").about.name == "small"
        with pytest.raises(BundleError) as error:
            load_bundle("three", "cpu")
        assert "one, two" in error.value.hint

    def test_devices(self):
        assert find_device("cpu") == torch.device("cpu")
        assert find_device("auto").type in ("cpu", "cuda", "mps")
        for name in ("gpu", "", "cuda:99", "cpu:7", "meta", "cuda:x"):
            with pytest.raises(DeviceError, match=name or "no device"):
                find_device(name)

    def test_on_device_is_a_copy(self, a_flat_bundle):
        copy = on_device(a_flat_bundle, "cpu")
        assert fingerprint(copy.model) == fingerprint(a_flat_bundle.model)
        with torch.no_grad():
            next(copy.model.parameters()).add_(1)
            copy.model.atlas_labels.add_(1)
        assert fingerprint(copy.model) != fingerprint(a_flat_bundle.model)
        assert a_flat_bundle.model.atlas_labels.max() <= 1
        assert replace(copy, model=a_flat_bundle.model).about == a_flat_bundle.about


def test_saved_folders_can_be_moved(saved, tmp_path):
    shutil.move(saved, tmp_path / "elsewhere")
    assert load_bundle(tmp_path / "elsewhere", "cpu").names == {3: "shell", 7: "core"}

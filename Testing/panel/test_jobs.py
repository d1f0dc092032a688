"""Job folders: what requests keep on disk goes away, and nothing else does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import standin

standin.start()
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AtlasISTN"))

from AtlasISTNHost import jobs  # noqa: E402

from AtlasISTNLib.errors import OutputError  # noqa: E402
from AtlasISTNLib.exchange import volume_from_files  # noqa: E402
from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402


@pytest.fixture
def volume() -> Volume:
    array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    return Volume(array, Grid((2, 3, 4), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), np.eye(3)), "scan")


def test_volume_comes_through_a_job_folder_and_nothing_stays(tmp_path: Path, volume: Volume) -> None:
    folders = jobs.JobFolders(tmp_path)
    first, second = folders.new(), folders.new()
    assert first != second
    entry = jobs.save_volume(volume, first)
    again = volume_from_files(entry, entry["folder"])
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.grid == volume.grid
    folders.remove(first)
    assert not first.exists()
    assert second.exists()
    folders.remove(first)
    folders.close()
    assert list(tmp_path.iterdir()) == []
    assert folders.new().is_dir(), "a panel that is opened again"
    folders.close()


def test_folders_of_others_are_never_removed(tmp_path: Path) -> None:
    folders = jobs.JobFolders(tmp_path / "slicer")
    folders.new()
    own = tmp_path / "results"
    own.mkdir()
    with pytest.raises(ValueError, match="no job folder"):
        folders.remove(own)
    assert own.is_dir()
    folders.close()


def test_folders_of_dead_processes_go_after_an_hour(tmp_path: Path) -> None:
    dead = 2**22 + 1  # beyond Linux's largest pid
    old, fresh = tmp_path / f"AtlasISTN-{dead}-old", tmp_path / f"AtlasISTN-{dead}-fresh"
    living, foreign = tmp_path / f"AtlasISTN-{os.getppid()}-old", tmp_path / "AtlasISTN-results"
    for folder in (old, fresh, living, foreign):
        folder.mkdir()
        (folder / "image.npy").touch()
        if folder is not fresh:
            os.utime(folder, (time.time() - 4000, time.time() - 4000))
    linked = tmp_path / f"AtlasISTN-{dead}-link"
    linked.symlink_to(foreign)
    jobs.JobFolders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (fresh, living, foreign, linked)
    )
    assert (foreign / "image.npy").exists()


def test_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda _place: type("Usage", (), {"free": 10})())
    with pytest.raises(OutputError, match="no room for scan") as caught:
        jobs.save_volume(volume, tmp_path)
    assert "temporary folder" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folders = jobs.JobFolders(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="No folder can be made"):
        folders.new()

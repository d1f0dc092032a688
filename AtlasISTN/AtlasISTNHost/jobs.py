"""Job folders: where requests and the engine's answers lie on disk while they are needed, and not longer."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.errors import OutputError
from AtlasISTNLib.exchange import volume_to_files
from AtlasISTNLib.volume import Volume

#: Seconds that a dead process's folders are left alone: its worker may still be ending.
GRACE = 3600.0
_NAME = re.compile(r"AtlasISTN-(\d+)-\w+")
_STILL_ACTIVE = 259  # Windows' exit code of a process that has none
_QUERY_LIMITED_INFORMATION = 0x1000


class JobFolders:
    """One folder for each request, in one folder of this process below Slicer's temporary folder.

    What processes that are gone have left there is removed when one of these is made.

    Args:
        parent: in place of Slicer's temporary folder.
    """

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        self._parent = Path(slicer.app.temporaryPath if parent is None else parent)
        self._root: Path | None = None
        self._count = 0
        remove_stale(self._parent)

    def new(self, name: str = "job") -> Path:
        """A new, empty folder.

        Raises:
            OutputError: it cannot be made.
        """
        self._count += 1
        try:
            if self._root is None or not self._root.is_dir():  # another program may have tidied up
                self._parent.mkdir(parents=True, exist_ok=True)
                self._root = Path(tempfile.mkdtemp(prefix=f"AtlasISTN-{os.getpid()}-", dir=self._parent))
            folder = self._root / f"{self._count}-{name}"
            folder.mkdir()
        except OSError as error:
            raise OutputError(
                _("No folder can be made in {place}: {reason}").format(place=self._parent, reason=error.strerror),
                _room_hint(),
            ) from error
        return folder

    def remove(self, folder: str | os.PathLike[str]) -> None:
        """Remove a folder that `new` gave, and what is in it; nothing where it is gone.

        A file that Windows still holds open stays until `close`.

        Raises:
            ValueError: it is no folder of these.
        """
        folder = Path(folder)
        if self._root is None or folder.parent != self._root:
            if folder.exists():
                raise ValueError(f"{folder} is no job folder")
            return
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None


def save_volume(volume: Volume, folder: str | os.PathLike[str], stem: str = "image") -> dict[str, Any]:
    """Write a volume's voxels into a job folder.

    Returns:
        The field of a request that names it: a volume entry with its "folder".

    Raises:
        OutputError: there is no room for it, or the folder cannot be written to.
    """
    folder = Path(folder)
    needed = volume.array.nbytes
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                _("There is no room for {name} in {place}: {needed:.0f} MB are needed, {free:.0f} MB are free").format(
                    name=volume.name or stem, place=folder.parent, needed=needed / 1e6, free=free / 1e6
                ),
                _room_hint(),
            )
        return {**volume_to_files(volume, folder, stem), "folder": str(folder)}
    except OSError as error:
        raise OutputError(
            _("{place} cannot be written to: {reason}").format(place=folder, reason=error.strerror), _room_hint()
        ) from error
    except OutputError as error:
        raise OutputError(error.message, _room_hint()) from error


def remove_stale(parent: Path, grace: float = GRACE) -> None:
    """Remove the job folders of processes that are gone, `grace` seconds after their last change."""
    try:
        folders = [path for path in parent.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return
    for folder in folders:
        match = _NAME.fullmatch(folder.name)
        if match and not folder.is_symlink() and not is_alive(int(match.group(1))) and _age(folder) > grace:
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number, of whomever."""
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_alive_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) is no question there: it sends Ctrl+C
    kernel = ctypes.windll.kernel32
    handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
    if not handle:
        return kernel.GetLastError() == 5  # access denied: somebody else's
    code = ctypes.c_ulong()
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(known) and code.value == _STILL_ACTIVE


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _room_hint() -> str:
    return _("make room there, or choose another temporary folder in Slicer's settings (Application Settings, Modules)")

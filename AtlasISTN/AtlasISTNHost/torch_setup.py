"""PyTorch: whether it is there, and how it comes. Never imports it into Slicer's own process to find out.

Everything is judged by what lies on disk, in a few milliseconds, so that the panel appears whatever state the
installation is in. Only the engine's process imports torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from .messages import Failure
from .worker_process import PYTHON_VARIABLE

#: What the engine needs besides what Slicer brings.
TORCH, SAFETENSORS, MATPLOTLIB = "torch>=2.2", "safetensors>=0.4", "matplotlib>=3.8"
#: Packages of Slicer that no installation may replace: others have them loaded, and Slicer has its own builds of some.
KEPT = ("numpy", "scipy", "SimpleITK", "requests", "vtk", "torch", "torchvision")

_log = logging.getLogger(__name__)
_INSTALLER_ERRORS = (
    *(subprocess.SubprocessError, RuntimeError, ImportError, OSError),
    *(ValueError, TypeError, AttributeError, LookupError),
)


@dataclass(frozen=True)
class TorchState:
    """Whether the engine can work.

    Attributes:
        name: "ready"; "no-extension", where PyTorch is absent and Slicer's extension that installs it too;
            "not-installed"; "broken", where something is there but not all of it, or too old.
        text: what that means and what to do, for people.
        download: what installing would download; "" where there is nothing to install.
        missing: the requirements that are not met.
    """

    name: str
    text: str = ""
    download: str = ""
    missing: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the engine can be started."""
        return self.name == "ready"

    @property
    def can_install(self) -> bool:
        """Whether `install` can do something about it."""
        return self.name in ("not-installed", "broken") and bool(self.download)


def state(path: Sequence[str] | None = None) -> TorchState:
    """Whether PyTorch and what else the engine needs is installed.

    Args:
        path: where to look, in place of sys.path.
    """
    if os.environ.get(PYTHON_VARIABLE, "").strip():
        return TorchState("ready")  # another Python works for us; what it lacks it will say itself
    problem = _torch_problem(path)
    missing = tuple(need for need in (TORCH, SAFETENSORS) if not _meets(need, path))
    if not problem and not missing:
        return TorchState("ready")
    needs_torch = bool(problem) or TORCH in missing
    if needs_torch and not _has_extension():
        return TorchState("no-extension", f"{problem} {_extension_text()}".strip(), missing=missing or (TORCH,))
    if needs_torch:
        download = _(
            "PyTorch: about 0.2 GB for a computer without an NVIDIA graphics card, about 3 GB with one (twice as much"
            " on the disk). Slicer does not answer while it is installed."
        )
    else:
        download = _("safetensors: less than 1 MB")
    if problem:
        text = problem + " " + _("Install it again. If that fails, restart Slicer and install before anything else.")
        return TorchState("broken", text, download, missing or (TORCH,))
    text = _("PyTorch is needed to segment and is not installed yet.") if needs_torch else _("safetensors is missing.")
    return TorchState("not-installed", text, download, missing)


def install(on_done: Callable[[Failure | None], Any]) -> None:
    """Install what is missing, PyTorch by way of its extension. Slicer waits while pip works.

    Args:
        on_done: called at the end with None, or with what went wrong.
    """
    on_done(_install())


def ensure_matplotlib() -> Failure | None:
    """Have matplotlib, which draws the report; ask the user where it has to be installed first.

    Returns:
        None when it is there; otherwise why it is not.
    """
    return None if os.environ.get(PYTHON_VARIABLE, "").strip() else _ensure(MATPLOTLIB, "PackageMissing", ask=True)


# ------------------------------------------------------------------------------------------------------------ looking


def _torch_problem(path: Sequence[str] | None) -> str:
    """What is wrong with the torch that is there; "" where nothing is, or where none is there."""
    version = _version("torch", path)
    found = importlib.machinery.PathFinder.find_spec("torch", path)
    folder = Path(found.origin).parent if found is not None and found.origin else None
    if version is None and folder is None:
        return ""  # a mere folder called torch, as in the working directory, is nothing
    if folder is None:
        return _("PyTorch {version} is installed only in part: its files are missing.").format(version=version)
    if version is None:
        return _("PyTorch is installed only in part: nothing says of which version it is.")
    if not (folder / "version.py").is_file() or not any(folder.glob("_C*")):
        return _("PyTorch {version} is installed only in part.").format(version=version)
    if not _meets(TORCH, path):
        return _("PyTorch {version} is too old: {need} is needed.").format(version=version, need=TORCH)
    return ""


def _meets(requirement: str, path: Sequence[str] | None = None) -> bool:
    name, lowest = requirement.split(">=")
    version = _version(name, path)
    return version is not None and _numbers(version) >= _numbers(lowest)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: "2.5.1+cpu" is (2, 5, 1)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _version(name: str, path: Sequence[str] | None = None) -> str | None:
    """The version of an installed package; None where none is installed, or its record is damaged."""
    where = {} if path is None else {"path": list(path)}
    for found in importlib.metadata.distributions(name=name, **where):
        try:
            version = found.version
        except (KeyError, OSError, UnicodeDecodeError):
            version = None
        if version:
            return str(version)
    return None


def _has_extension() -> bool:
    if hasattr(slicer.modules, "pytorchutils") or "PyTorchUtils" in sys.modules:
        return True
    return importlib.util.find_spec("PyTorchUtils") is not None


def _extension_text() -> str:
    return _(
        "PyTorch is needed to segment. Install Slicer's extension “PyTorch” (Extensions Manager, Install Extensions)"
        " and restart Slicer; then it can be installed here."
    )


# --------------------------------------------------------------------------------------------------------- installing


def _install() -> Failure | None:
    now = state()
    if now.ready:
        return None
    if not now.can_install:
        return Failure("NoExtension", _("PyTorch cannot be installed from here"), now.text)
    if now.name == "broken" or TORCH in now.missing:
        failure = _install_torch()
        if failure is not None:
            return failure
    failure = _ensure(SAFETENSORS, "TorchMissing", ask=False)
    if failure is not None:
        return failure
    after = state()
    return None if after.ready else Failure("TorchMissing", _("PyTorch is still not complete"), after.text)


def _install_torch() -> Failure | None:
    before = _versions()
    try:
        module = importlib.import_module("PyTorchUtils")
        with slicer.util.WaitCursor():
            # The button that led here said what is downloaded; it was the question
            done = module.PyTorchUtilsLogic().installTorch(
                askConfirmation=False, torchVersionRequirement=TORCH.removeprefix("torch")
            )
    except _INSTALLER_ERRORS as error:
        _log.exception("PyTorch was not installed")
        return Failure(
            "TorchMissing",
            _("PyTorch could not be installed: {error}").format(error=_reason(error)),
            _(
                "check the internet connection and the room on the disk, restart Slicer and try again; the Python"
                " console has the details"
            ),
        )
    importlib.invalidate_caches()
    if done is None and not _meets(TORCH):
        return Failure("TorchMissing", _("PyTorch was not installed"), _("try again when you like"))
    changed = [name for name, version in _versions().items() if before.get(name, version) != version]
    if set(changed) - {"torch", "torchvision"}:
        return Failure(
            "RestartNeeded",
            _("PyTorch is installed; with it came other versions of {names}").format(names=", ".join(changed)),
            _("restart Slicer before you go on"),
        )
    return None


def _ensure(requirement: str, kind: str, ask: bool) -> Failure | None:
    """Have a small package, whose installation replaces nothing that others use."""
    if _meets(requirement):
        return None
    name = requirement.split(">=")[0]
    try:
        with _constraints() as pinned:
            _pip_install(requirement, pinned, ask)
    except _INSTALLER_ERRORS as error:
        return Failure(
            kind,
            _("{name} could not be installed: {error}").format(name=name, error=_reason(error)),
            _("check the internet connection and try again"),
        )
    importlib.invalidate_caches()
    if _meets(requirement):
        return None
    return Failure(kind, _("{name} was not installed").format(name=name), _("try again when you like"))


def _pip_install(requirement: str, pinned: str, ask: bool) -> None:
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ImportError:  # Slicer 5.10
        question = _("{name} has to be installed first. Install it now?").format(name=requirement.split(">=")[0])
        if ask and not slicer.util.confirmOkCancelDisplay(question):
            raise RuntimeError(_("it was declined")) from None
        with slicer.util.WaitCursor():
            slicer.util.pip_install([requirement, "-c", pinned])
    else:
        packaging.pip_ensure(
            requirement, constraints=pinned, prompt_install=ask, prompt_restart=False, requester="Atlas-ISTN"
        )


@contextlib.contextmanager
def _constraints() -> Iterator[str]:
    """A file that holds pip to the versions that are installed of what it must not replace."""
    with tempfile.TemporaryDirectory(prefix="AtlasISTN-pip-", dir=slicer.app.temporaryPath) as folder:
        file = Path(folder, "constraints.txt")
        lines = [f"{name}=={version}\n" for name, version in _versions().items()]
        file.write_text("".join(lines), encoding="utf-8")
        yield str(file)


def _versions() -> dict[str, str]:
    found = {name: _version(name) for name in KEPT}
    return {name: version for name, version in found.items() if version}


def _reason(error: BaseException) -> str:
    """The last line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

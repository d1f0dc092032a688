"""Installing Python packages without installing any: slicer.packaging and the PyTorch extension's PyTorchUtils.

`installed` lists what was asked for. `pytorch(…)` gives the states of torch that users have: installed, absent, or
half installed so that importing it fails, and no PyTorch extension at all.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import slicer


@dataclass(frozen=True)
class Request:
    """One call: by which function, with what requirements, for whom."""

    function: str
    requirements: tuple[str, ...]
    requester: str = ""


@dataclass
class Packages:
    """What is there and what is refused.

    present: names that pip_check finds; failing: whether pip fails; asked: the calls so far
    """

    present: set[str] = field(default_factory=set)
    failing: bool = False
    asked: list[Request] = field(default_factory=list)


packages = Packages()


def _listed(requirements: Any) -> tuple[str, ...]:
    if isinstance(requirements, str):
        return tuple(requirements.split())
    return tuple(str(each) for each in (requirements if isinstance(requirements, list | tuple) else [requirements]))


def _name(requirement: str) -> str:
    return requirement.split("[")[0].split("=")[0].strip("<>!~ ").split(">")[0].split("<")[0].split("~")[0].lower()


def pip_check(requirements: Any) -> bool:
    return all(_name(each) in packages.present for each in _listed(requirements))


def pip_install(requirements: Any, requester: str | None = None, **keywords: Any) -> None:
    wanted = _listed(requirements)
    packages.asked.append(Request("pip_install", wanted, requester or ""))
    if packages.failing:
        raise subprocess.CalledProcessError(1, f"pip install {' '.join(wanted)}")
    packages.present.update(_name(each) for each in wanted)


def pip_uninstall(requirements: Any, **keywords: Any) -> None:
    wanted = _listed(requirements)
    packages.asked.append(Request("pip_uninstall", wanted))
    packages.present.difference_update(_name(each) for each in wanted)


def pip_ensure(
    requirements: Any,
    constraints: Any = None,
    skip_packages: Any = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """What is missing is asked for and installed; RuntimeError where the user declines, nothing in testing mode."""
    missing = [each for each in _listed(requirements) if not pip_check(each)]
    packages.asked.append(Request("pip_ensure", _listed(requirements), requester or ""))
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    question = f"{len(missing)} Python packages need to be installed.\n\nThis will modify Slicer's Python environment."
    if prompt_install and not slicer.util.confirmOkCancelDisplay(question, requester, detailedText="\n".join(missing)):
        raise RuntimeError("User declined package installation")
    pip_install(missing, requester=requester)


def install() -> None:
    """Set slicer.packaging, and slicer.util's pip functions."""
    module = ModuleType("slicer.packaging")
    for function in (pip_check, pip_install, pip_uninstall, pip_ensure):
        setattr(module, function.__name__, function)
    slicer.packaging = sys.modules["slicer.packaging"] = module
    slicer.util.pip_install, slicer.util.pip_uninstall = pip_install, pip_uninstall


def forget() -> None:
    """For the start of a test: nothing present, nothing asked."""
    packages.present.clear()
    packages.asked.clear()
    packages.failing = False


# --- PyTorchUtils -----------------------------------------------------------------------------------------------------


def _torch(version: str, cuda: bool) -> Any:
    """As much of torch as the PyTorch extension shows; the panel must not need more."""
    return SimpleNamespace(
        __version__=version,
        cuda=SimpleNamespace(is_available=lambda: cuda),
        device=lambda name: name,
    )


class PyTorchUtilsLogic:
    """The extension's logic, its state set by `pytorch`."""

    state = "absent"
    installs = True
    version = "2.7.1"
    cuda = False

    @classmethod
    def torchInstalled(cls) -> bool:
        if cls.state == "half":
            raise OSError("libtorch_cpu.so: cannot open shared object file: No such file or directory")
        return cls.state == "installed"

    @property
    def torch(self) -> Any:
        """As there: torch is installed by being asked for."""
        return _torch(self.version, self.cuda) if self.torchInstalled() else self.installTorch()

    def installTorch(
        self,
        askConfirmation=False,
        forceComputationBackend=None,
        torchVersionRequirement=None,
        torchvisionVersionRequirement=None,
    ) -> Any:
        cls = type(self)
        wanted = (f"torch{torchVersionRequirement or ''}", f"torchvision{torchvisionVersionRequirement or ''}")
        packages.asked.append(Request(f"installTorch {forceComputationBackend or 'automatic'}", wanted))
        question = "PyTorch will be downloaded and installed using light-the-torch. This might take some minutes."
        asked = askConfirmation and not slicer.app.testingEnabled()
        if asked and not slicer.util.confirmOkCancelDisplay(question):
            return None
        if not cls.installs:
            raise subprocess.CalledProcessError(1, "light_the_torch", "No space left on device")
        cls.state = "installed"
        return _torch(self.version, self.cuda)

    def uninstallTorch(self, askConfirmation=False, forceComputationBackend=None) -> None:
        packages.asked.append(Request("uninstallTorch", ("torch", "torchvision")))
        type(self).state = "absent"

    def getDevice(self) -> str:
        return "cuda" if self.cuda else "cpu"


@contextmanager
def pytorch(state: str, *, installs: bool = True, cuda: bool = False) -> Iterator[type[PyTorchUtilsLogic]]:
    """Within the block torch is "installed", "absent" or "half" installed; "no extension": PyTorchUtils is missing.

    installs: whether installing succeeds.
    """
    before = sys.modules.get("PyTorchUtils")
    logic = type("PyTorchUtilsLogic", (PyTorchUtilsLogic,), {"state": state, "installs": installs, "cuda": cuda})
    module = ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = logic
    sys.modules["PyTorchUtils"] = None if state == "no extension" else module  # type: ignore[assignment]
    try:
        yield logic
    finally:
        if before is None:
            sys.modules.pop("PyTorchUtils", None)
        else:
            sys.modules["PyTorchUtils"] = before

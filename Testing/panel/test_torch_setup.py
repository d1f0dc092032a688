"""PyTorch in Slicer: what is there is told without importing it, and installing it fails with words."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standin

standin.start()
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AtlasISTN"))

import slicer  # noqa: E402
from AtlasISTNHost import messages, torch_setup  # noqa: E402
from AtlasISTNHost.messages import Failure  # noqa: E402
from AtlasISTNHost.worker_process import PYTHON_VARIABLE  # noqa: E402


class Site:
    """A folder of installed packages, the only one that is looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, version: str, *files: str) -> None:
        record = self.folder / f"{name}-{version}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        for file in files:
            path = self.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whoever imports it fails the test
            path.write_text("raise AssertionError('imported')\n", encoding="utf-8")

    def add_torch(self, version: str = "2.5.1+cu121") -> None:
        self.add("torch", version, "__init__.py", "version.py", "_C.cpython-312-x86_64-linux-gnu.so")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An installation of our own in which every look ends, with the PyTorch extension but without torch."""
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    found = Site(tmp_path / "site-packages")
    found.folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(found.folder)])
    importlib.invalidate_caches()
    extension = types.ModuleType("PyTorchUtils")
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    yield found
    importlib.invalidate_caches()


@pytest.fixture
def install_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Gives the extension an installer, and what it was called with."""

    def make(installer: Callable[[], Any]) -> dict[str, Any]:
        called: dict[str, Any] = {}

        class PyTorchUtilsLogic:
            def installTorch(
                self,
                askConfirmation: bool = False,
                forceComputationBackend: str | None = None,
                torchVersionRequirement: str | None = None,
                torchvisionVersionRequirement: str | None = None,
            ) -> Any:
                called.update(askConfirmation=askConfirmation, torchVersionRequirement=torchVersionRequirement)
                return installer()

        monkeypatch.setattr(sys.modules["PyTorchUtils"], "PyTorchUtilsLogic", PyTorchUtilsLogic, raising=False)
        return called

    return make


@pytest.fixture
def packaging(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Slicer 5.12's installer of packages; `pip_ensure` is for the test to set."""
    module = types.ModuleType("slicer.packaging")
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    return module


@pytest.fixture
def slicer_5_10(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Slicer without slicer.packaging; the calls of its pip_install."""
    calls: list[list[str]] = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", calls.append)
    return calls


def installed() -> Failure | None:
    told: list[Failure | None] = []
    torch_setup.install(told.append)
    (failure,) = told
    return failure


# ------------------------------------------------------------------------------------------------------------- looking


def test_nothing_installed(site: Site) -> None:
    state = torch_setup.state()
    assert (state.name, state.ready, state.can_install) == ("not-installed", False, True)
    assert "GB" in state.download


def test_complete_installation_is_ready_and_is_not_imported(site: Site) -> None:
    site.add_torch()
    site.add("safetensors", "0.5.2", "__init__.py")
    state = torch_setup.state()
    assert (state.name, state.ready, state.can_install) == ("ready", True, False)


def test_without_the_extension_the_text_names_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "PyTorchUtils")
    state = torch_setup.state()
    assert (state.name, state.can_install) == ("no-extension", False)
    assert "Extensions Manager" in state.text
    (site.folder / "PyTorchUtils.py").touch()
    importlib.invalidate_caches()
    assert torch_setup.state().name == "not-installed"


def test_only_the_small_package_is_missing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "PyTorchUtils")
    site.add_torch()
    state = torch_setup.state()
    assert (state.name, state.can_install) == ("not-installed", True)
    assert "GB" not in state.download
    assert state.missing == (torch_setup.SAFETENSORS,)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ((), "2.5.1"),
        (("__init__.py",), "2.5.1"),
        (("__init__.py", "version.py"), "2.5.1"),
        (("__init__.py", "_C.so"), "2.5.1"),
        (("__init__.py", "version.py", "_C.so"), "2.1.2"),
    ],
)
def test_part_of_an_installation_or_an_old_one_is_broken(site: Site, files: tuple[str, ...], version: str) -> None:
    site.add("torch", version, *files)
    site.add("safetensors", "0.5.2", "__init__.py")
    state = torch_setup.state()
    assert (state.name, state.ready, state.can_install) == ("broken", False, True)
    assert version in state.text


def test_files_without_a_record_are_broken(site: Site) -> None:
    site.add_torch()
    record = site.folder / "torch-2.5.1+cu121.dist-info"
    (record / "METADATA").unlink()
    assert torch_setup.state().name == "broken"
    record.rmdir()
    importlib.invalidate_caches()
    assert torch_setup.state().name == "broken"


def test_mere_folder_called_torch_is_no_installation(site: Site) -> None:
    (site.folder / "torch" / "data").mkdir(parents=True)
    assert torch_setup.state().name == "not-installed"


def test_another_python_is_not_judged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/venv/bin/python")
    assert torch_setup.state().ready
    assert torch_setup.ensure_matplotlib() is None


def test_looking_takes_no_time() -> None:
    """In the environment of this test, which has hundreds of packages."""
    torch_setup.state()
    started = time.perf_counter()
    for _ in range(10):
        torch_setup.state()
    assert (time.perf_counter() - started) / 10 < 0.05


# ----------------------------------------------------------------------------------------------------------- installing


def test_torch_by_its_extension_and_the_small_package_by_slicer(
    site: Site, install_torch: Any, packaging: types.ModuleType
) -> None:
    site.add("numpy", "2.0.2", "__init__.py")
    pinned: list[str] = []

    def pip_ensure(requirement: str, constraints: str, prompt_install: bool, **_more: Any) -> None:
        assert not prompt_install, "the button was the question"
        pinned.extend(Path(constraints).read_text(encoding="utf-8").split())
        site.add(requirement.split(">=")[0], "0.5.2", "__init__.py")

    packaging.pip_ensure = pip_ensure
    called = install_torch(lambda: (site.add_torch(), "the module")[1])
    assert installed() is None
    assert torch_setup.state().ready
    assert called == {"askConfirmation": False, "torchVersionRequirement": ">=2.2"}
    assert pinned == ["numpy==2.0.2", "torch==2.5.1+cu121"]


def test_slicer_5_10(site: Site, install_torch: Any, slicer_5_10: list[list[str]]) -> None:
    install_torch(lambda: (site.add_torch(), "the module")[1])
    failure = installed()
    assert slicer_5_10[0][:2] == ["safetensors>=0.4", "-c"]
    assert failure is not None, "pip did nothing"
    assert "safetensors" in failure.message


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["pip"]),
        ImportError("No module named 'light_the_torch'"),
        RuntimeError("PythonSlicer executable not found"),
        OSError(28, "No space left on device"),
        TypeError("installTorch() got an unexpected keyword argument"),
    ],
)
def test_failed_installation_is_a_message(site: Site, install_torch: Any, error: Exception) -> None:
    def fail() -> None:
        raise error

    install_torch(fail)
    failure = installed()
    assert failure is not None
    assert str(error).splitlines()[-1] in failure.message
    assert messages.message(failure).action == "install"
    assert not torch_setup.state().ready


def test_declined_installation(site: Site, install_torch: Any) -> None:
    install_torch(lambda: None)
    failure = installed()
    assert failure is not None
    assert "not installed" in failure.message


def test_installation_that_left_half_of_it(site: Site, install_torch: Any, packaging: types.ModuleType) -> None:
    packaging.pip_ensure = lambda requirement, **_more: site.add("safetensors", "0.5.2", "__init__.py")
    install_torch(lambda: (site.add("torch", "2.5.1", "__init__.py"), "the module")[1])
    failure = installed()
    assert failure is not None
    assert "in part" in failure.hint


def test_numpy_that_was_replaced_on_the_way_is_told(
    site: Site, install_torch: Any, packaging: types.ModuleType
) -> None:
    site.add("numpy", "2.0.2")

    def replace() -> str:
        (site.folder / "numpy-2.0.2.dist-info").rename(site.folder / "gone")
        site.add("numpy", "2.4.0")
        site.add_torch()
        return "the module"

    install_torch(replace)
    failure = installed()
    assert failure is not None
    assert "numpy" in failure.message
    assert "restart" in failure.hint
    assert messages.message(failure).action == ""


def test_no_extension_has_no_button_that_cannot_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "PyTorchUtils")
    failure = installed()
    assert failure is not None
    assert "Extensions Manager" in failure.hint
    assert messages.message(failure).action == ""


def test_what_is_there_is_not_installed_again(site: Site, install_torch: Any) -> None:
    site.add_torch()
    site.add("safetensors", "0.5.2")
    called = install_torch(lambda: None)
    assert installed() is None
    assert called == {}


def test_matplotlib_is_asked_for_when_it_is_needed(site: Site, packaging: types.ModuleType) -> None:
    asked: list[bool] = []

    def decline(_requirement: str, prompt_install: bool, **_more: Any) -> None:
        asked.append(prompt_install)
        raise RuntimeError("User declined package installation")

    packaging.pip_ensure = decline
    failure = torch_setup.ensure_matplotlib()
    assert failure is not None
    assert "declined" in failure.message
    assert messages.message(failure).action == ""
    assert asked == [True]
    site.add("matplotlib", "3.9.0")
    importlib.invalidate_caches()
    assert torch_setup.ensure_matplotlib() is None
    assert asked == [True]

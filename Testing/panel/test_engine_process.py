"""The engine's process: how it is found and started, and the real one, with torch, from its start to its end."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import standin

standin.start()
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AtlasISTN"))

from AtlasISTNHost import jobs, worker_process  # noqa: E402
from AtlasISTNHost.engine import Engine  # noqa: E402
from heard import Heard, ask, gone, processes_of, wait  # noqa: E402

from AtlasISTNLib.errors import WorkerError  # noqa: E402
from AtlasISTNLib.resources import samples_folder  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_default_command_runs_the_worker_of_this_very_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(worker_process.PYTHON_VARIABLE, raising=False)
    assert worker_process.worker_command()[1:4] == ["-m", "AtlasISTNLib", "worker"]
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    monkeypatch.setenv("USERS_OWN", "kept")
    environment = worker_process.worker_environment({"EXTRA": "1"})
    first, *others = environment.value("PYTHONPATH").split(os.pathsep)
    assert (Path(first) / "AtlasISTNLib" / "__main__.py").is_file()
    assert others == ["/somewhere/else"]
    assert (environment.value("USERS_OWN"), environment.value("EXTRA")) == ("kept", "1")


def test_slicer_itself_is_never_started_in_place_of_its_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(worker_process.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/Slicer/bin/SlicerApp-real")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkerError, match="PythonSlicer"):
        worker_process.python_path()
    launcher = tmp_path / "PythonSlicer"
    launcher.touch(0o755)
    assert worker_process.python_path() == str(launcher)
    monkeypatch.setenv(worker_process.PYTHON_VARIABLE, "/venv/bin/python")
    assert worker_process.python_path() == "/venv/bin/python"


def test_missing_python_is_a_failure_like_any_other(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(worker_process.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setenv("PATH", "")
    engine = Engine(on_state=heard.on_state)
    ask(engine, heard, "double", value=1)
    assert heard.failures[0].kind == "FailedToStart"
    assert "PythonSlicer" in heard.failures[0].message
    assert engine.state == "off"


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_real_worker_segments_falls_in_mid_refinement_and_is_replaced(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(worker_process.PYTHON_VARIABLE, sys.executable)
    folders = jobs.JobFolders(tmp_path)
    image = jobs.save_volume(Volume.read(samples_folder() / "letter-b.png"), folders.new())
    fields = {"model": "letter-b", "device": "cpu", "threads": 1, "low_memory": False, "placement": None}
    fields |= {"case": "B", "image": image, "folder": str(folders.new())}
    refinement = {**fields, "config": {"iterations": 2000, "strength": 800.0}, "preview_seconds": 0.1}
    engine = Engine(on_state=heard.on_state, environment={"OMP_NUM_THREADS": "1"})

    ask(engine, heard, "segment", **fields)
    assert heard.of("result")[0]["case"] == "B"
    assert engine.devices[0]["name"] == "cpu"
    pids = processes_of(engine)

    heard.told.clear()
    assert engine.request("refine", refinement, **heard.callbacks())
    wait(lambda: heard.of("preview"))
    os.kill(engine.pid, signal.SIGKILL)
    wait(lambda: heard.over)
    assert [failure.kind for failure in heard.failures] == ["Crashed"]

    heard.told.clear()
    assert engine.request("refine", refinement, **heard.callbacks())
    wait(lambda: heard.of("preview"))
    pids += processes_of(engine)
    engine.cancel()
    wait(lambda: heard.over)
    assert heard.of("result")[0]["trace"]["stopped"] == "cancelled"

    started = time.monotonic()
    engine.stop(wait_ms=3000)
    assert time.monotonic() - started < 4.0
    assert gone(pids)
    folders.close()
    assert list(tmp_path.iterdir()) == []

"""The worker's process: how it ends, whatever it is doing, and what it does without its neighbours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from worker_client import LONG, WORKER, running

# --------------------------------------------------------------------------------------------------------- how it ends


def test_the_end_of_its_input_ends_it_in_mid_work(start_worker, scan):
    worker = start_worker()
    worker.ready()
    number = worker.ask("refine", **scan, config=LONG)
    worker.step(number, "refine", 2)
    worker.process.stdin.close()
    assert worker.over() == 0


def test_quit_ends_it_even_where_nothing_listens(start_worker, scan):
    """A computation that never asks whether it should stop."""
    deaf = "from AtlasISTNLib import worker_cases\nimport time\n"
    deaf += "worker_cases.segment = lambda *_: [time.sleep(0.01) for _ in range(10_000)]"
    worker = start_worker(running(deaf))
    worker.ready()
    worker.step(worker.ask("segment", **scan), "load", 1)
    before = time.monotonic()
    worker.ask("quit")
    assert worker.over() == 0
    assert time.monotonic() - before < 6


@pytest.mark.skipif(not hasattr(os, "getppid") or sys.platform == "win32", reason="a parent's death is seen on POSIX")
def test_it_does_not_outlive_its_parent(start_worker):
    """The parent is killed while somebody else holds the pipes open."""
    between = f"import subprocess\nraise SystemExit(subprocess.run({list(WORKER)!r}).returncode)"
    worker = start_worker((sys.executable, "-c", between))
    pid = worker.ready()["pid"]
    assert pid != worker.process.pid
    worker.process.kill()
    worker.process.wait()
    until = time.monotonic() + 15
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("stage", ["load", "refine", "write"])
def test_killed_at_any_stage_it_leaves_no_half_files(start_worker, scan, tmp_path, stage):
    worker = start_worker()
    worker.ready()
    config = LONG if stage == "refine" else {"iterations": 1, "mode": "field"}
    worker.step(worker.ask("refine", **scan, config=config, preview_seconds=0.02), stage)
    worker.process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    worker.over()
    for path in tmp_path.glob("r1-*.npy"):
        assert np.load(path).ndim >= 4  # whole


# ------------------------------------------------------------------------------------------------------ bad neighbours


def test_only_events_reach_its_output(start_worker):
    noisy = "import os\nfrom AtlasISTNLib import worker\nabout = worker._about\n"
    noisy += "def noise():\n    os.write(1, b'noise')\n    os.system('echo louder')\n    return about()\n"
    noisy += "worker._about = noise"
    worker = start_worker(running(noisy), subprocess.PIPE)
    worker.ready()
    worker.ask("quit")
    _, err = worker.process.communicate()
    assert b"noise" in err
    assert b"louder" in err


def test_without_torch_it_says_so_and_ends(start_worker):
    worker = start_worker(running("import sys\nsys.modules['torch'] = None"))
    event = worker.hear(lambda e: e["event"] != "alive")
    assert (event["event"], event["kind"]) == ("error", "ImportError")
    assert "torch" in event["message"]
    assert worker.over() == 1


def test_without_safetensors_it_says_so_and_lives(start_worker, scan):
    worker = start_worker(running("import sys\nsys.modules['safetensors'] = None"))
    assert worker.ready()["missing"] == ["safetensors"]
    for _ in range(2):
        event = worker.error("segment", **scan)
        assert event["kind"] == "ImportError"
        assert "safetensors is not installed" in event["message"]


def test_pictures_alone_need_matplotlib(start_worker, scan, tmp_path):
    worker = start_worker(running("import sys\nsys.modules['matplotlib'] = sys.modules['tqdm'] = None"))
    assert worker.ready()["missing"] == ["matplotlib"]
    worker.result("refine", **scan, config={"iterations": 2, "mode": "field"})
    event = worker.result("export", case="scan", folder=str(tmp_path / "out"))
    assert "matplotlib" in event["warnings"][0]
    assert (tmp_path / "out" / "labels.nii.gz").exists()
    for do, more in (("report", {"path": str(tmp_path / "r.png")}), ("export", {"folder": "x", "picture": True})):
        more = {key: str(tmp_path / value) if value == "x" else value for key, value in more.items()}
        event = worker.error(do, case="scan", **more)
        assert (event["kind"], event["message"]) == ("ImportError", "the package matplotlib is not installed")
    assert not (tmp_path / "r.png").exists()
    assert not (tmp_path / "x").exists()


def test_memory_that_ran_out_is_let_go(start_worker, scan):
    short = "from AtlasISTNLib import worker_cases\nimport torch\nrefine = worker_cases.refine\n"
    short += "def fail(bundle, result, *rest):\n    worker_cases.refine = refine\n"
    short += "    raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')\n"
    short += "worker_cases.refine = fail"
    worker = start_worker(running(short))
    worker.ready()
    worker.result("segment", **scan)
    config = {"iterations": 2, "mode": "field"}
    event = worker.error("refine", **scan, config=config)
    assert event["out_of_memory"] is True
    assert event["hint"]
    number = worker.ask("refine", **scan, config=config, low_memory=True)
    assert worker.answer(number)["event"] == "result"
    assert "predict" in worker.stages(number), "all that was kept had been let go"

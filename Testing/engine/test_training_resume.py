"""Trainings as processes: killed, short of room on the disk, robbed of a case, and several of them in step."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from AtlasISTNLib import training_command
from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.cli import main
from AtlasISTNLib.phantoms import write_phantoms
from AtlasISTNLib.training import run_training

resource = pytest.importorskip("resource", reason="processes are killed and limited as POSIX does it")
REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS = 16
KILLS = 3
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")

#: The command, killed by itself when half of the n-th checkpoint is on the disk.
KILLED_WHILE_WRITING = """
import os, signal, sys
import safetensors.torch
whole, count = safetensors.torch.save_file, [0]

def half(tensors, path, *more, **named):
    whole(tensors, path, *more, **named)
    count[0] += 1
    if count[0] == {number}:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = half
from AtlasISTNLib.cli import main
main(sys.argv[1:])
"""


def _benchmark() -> ModuleType:
    """The room that kills trainings, which is also a program of its own."""
    path = REPOSITORY / "Testing" / "benchmarks" / "resume.py"
    spec = importlib.util.spec_from_file_location("resume_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


killing = _benchmark()


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """A folder of 8 letters, in the folders images and labels."""
    folder = tmp_path_factory.mktemp("letters")
    write_phantoms("letter-b", 8, folder)
    return folder


@pytest.fixture(scope="module")
def whole(letters, tmp_path_factory) -> Path:
    """What a training in one go gives."""
    output = tmp_path_factory.mktemp("whole") / "letters.zip"
    assert main(killing.training_words(letters, output, EPOCHS, "--quiet")) == 0
    return output


@pytest.fixture
def begun(letters, tmp_path) -> Path:
    """The checkpoint of a training that has finished two epochs, in a folder with nothing else."""
    checkpoint = tmp_path / "work" / "letters.ckpt"
    words = killing.training_words(letters, tmp_path / "two.zip", 2, "--checkpoint", checkpoint, "--quiet")
    assert main(words) == 0
    assert len(killing.history_of(checkpoint)) == 2
    return checkpoint


class TestKills:
    def test_killed_trainings_end_as_if_they_had_not_been(self, letters, whole, tmp_path):
        kills, output, checkpoint = killing.kills_and_ends(letters, tmp_path, EPOCHS, KILLS, seed=4)
        assert len(kills) == KILLS
        assert all(0 < kill.epoch < EPOCHS for kill in kills)
        assert killing.differences(whole, output) == []
        assert len(killing.history_of(checkpoint)) == EPOCHS
        assert killing.litter(checkpoint, output) == []

    def test_killed_in_the_middle_of_writing_a_checkpoint(self, letters, whole, tmp_path):
        checkpoint, output = tmp_path / "letters.ckpt", tmp_path / "letters.zip"
        words = killing.training_words(letters, output, EPOCHS, "--checkpoint", checkpoint, "--quiet")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        program = [sys.executable, "-c", KILLED_WHILE_WRITING.format(number=3), *words]
        ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert len(killing.history_of(checkpoint)) == 2
        assert main(words) == 0
        assert killing.differences(whole, output) == []
        assert killing.litter(checkpoint, output) == []


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """This process cannot write more bytes into a file, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_a_checkpoint_that_cannot_be_written(self, run, letters, whole, begun, tmp_path):
        before = begun.read_bytes()
        output = tmp_path / "letters.zip"
        words = killing.training_words(letters, output, EPOCHS, "--checkpoint", begun, "--quiet")
        with no_file_larger_than(len(before) // 2):
            code, _, errors = run(*words)
        assert code == 2, errors
        assert len(errors.strip().splitlines()) == 1
        assert errors.startswith("error: ")
        assert begun.name in errors
        assert begun.read_bytes() == before
        assert [path.name for path in begun.parent.iterdir()] == [begun.name]
        assert not output.exists()
        assert main(words) == 0
        assert killing.differences(whole, output) == []

    def test_a_model_that_cannot_be_written(self, run, letters, tmp_path):
        output = tmp_path / "letters.zip"
        with no_file_larger_than(200_000):  # enough for the prepared cases
            code, _, errors = run(*killing.training_words(letters, output, 1, "--quiet"))
        assert code == 2, errors
        assert len(errors.strip().splitlines()) == 1
        assert errors.startswith(f"error: cannot write {output}")
        assert list(tmp_path.iterdir()) == []

    def test_prepared_cases_that_find_no_room(self, letters, tmp_path):
        """On a file system that is really full, which a limit of the process is not."""
        room = tmp_path / "room"
        room.mkdir()
        cache = ("--cache", room / "cache", "--quiet")
        words = killing.training_words(letters, tmp_path / "letters.zip", 2, *cache)
        # The mount goes with the process.
        steps = (
            f'mount -t tmpfs -o size=16k none "{room}" || exit 77',
            '"$@"',
            "code=$?",
            f'ls -A "{room}/cache" 2>/dev/null',
            "exit $code",
        )
        program = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            "; ".join(steps),
            "sh",
            sys.executable,
            "-m",
            "AtlasISTNLib",
            *words,
        ]
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare")
        ended = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
        if ended.returncode == 77 or "unshare" in ended.stderr:
            pytest.skip("this user may not mount a small file system")
        assert ended.returncode == 2, ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
        assert "cache" in ended.stderr
        assert ended.stdout == ""
        assert not (tmp_path / "letters.zip").exists()


class TestLostCases:
    @pytest.fixture
    def own_letters(self, letters, tmp_path) -> Path:
        """Letters that a test may spoil."""
        return Path(shutil.copytree(letters, tmp_path / "letters"))

    @pytest.mark.parametrize("which", ["images", "labels"])
    def test_a_training_does_not_go_on_without_one_of_its_cases(self, run, which, own_letters, begun, tmp_path):
        before = begun.read_bytes()
        (own_letters / which / "letter-b-0003.png").write_bytes(b"junk" * 50)
        words = killing.training_words(own_letters, tmp_path / "o.zip", EPOCHS, "--checkpoint", begun, "--quiet")
        code, _, errors = run(*words)
        assert code == 2
        assert "letter-b-0003" in errors
        assert len(errors.strip().splitlines()) == 1
        assert begun.read_bytes() == before
        assert not (tmp_path / "o.zip").exists()

    def test_a_case_that_is_lost_on_the_way_was_prepared_before(self, own_letters, whole, tmp_path, monkeypatch):
        lost: list[Path] = []

        def disturbed(*cases, report, **named):
            def reporting(progress):
                report(progress)
                if progress.stage == "train" and not lost:
                    lost.extend(own_letters / which / "letter-b-0003.png" for which in ("images", "labels"))
                    for path in lost:
                        path.write_bytes(b"junk" * 50)

            return run_training(*cases, report=reporting, **named)

        monkeypatch.setattr(training_command, "run_training", disturbed)
        output = tmp_path / "letters.zip"
        assert main(killing.training_words(own_letters, output, EPOCHS, "--quiet")) == 0
        assert len(lost) == 2
        assert killing.differences(whole, output) == []


def children_of(process: int) -> list[int]:
    """Processes that a process has started, by number."""
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


class TestManyProcesses:
    def test_two_processes_train_the_same_model_as_one(self, letters, tmp_path):
        one, two = tmp_path / "one.zip", tmp_path / "two"
        two.mkdir()
        assert main(killing.training_words(letters, one, 3, "--quiet")) == 0
        # Three cases in a batch: the shares of two processes are not equal.
        words = killing.training_words(letters, two / "letters.zip", 3, "--checkpoint", two / "letters.ckpt")
        process = killing.started(words, TORCHRUN)
        said, errors = process.communicate(timeout=killing.PATIENCE)
        assert process.returncode == 0, errors
        assert said.count("written after 3 epochs") == 1
        assert {path.name for path in two.iterdir()} == {"letters.zip", "letters.ckpt"}
        alone, together = load_bundle(one, "cpu"), load_bundle(two / "letters.zip", "cpu")
        for name, value in alone.model.state_dict().items():
            np.testing.assert_allclose(together.model.state_dict()[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        for name in ("atlas_image", "atlas_labels"):
            np.testing.assert_allclose(
                getattr(together.model, name), getattr(alone.model, name), rtol=1e-4, atol=1e-5, err_msg=name
            )
        for name, value in alone.training["last"].items():
            if name != "seconds":
                assert together.training["last"][name] == pytest.approx(value, rel=1e-3), name

    @needs_proc
    @pytest.mark.parametrize("end", ["the launcher is told to end", "one process is lost"])
    def test_all_end_together_and_leave_the_checkpoint(self, end, letters, tmp_path):
        checkpoint, output = tmp_path / "letters.ckpt", tmp_path / "letters.zip"
        more = ("--checkpoint", checkpoint, "--quiet")
        process = killing.started(killing.training_words(letters, output, 10000, *more), TORCHRUN)
        killing.wait_for_epoch(process, checkpoint, 2)
        workers = children_of(process.pid)
        try:
            assert len(workers) == 2
            if end == "one process is lost":
                os.kill(workers[1], signal.SIGKILL)
            else:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=killing.PATIENCE)
            assert process.returncode != 0
            until = time.monotonic() + 30
            while any(is_alive(worker) for worker in workers) and time.monotonic() < until:
                time.sleep(0.1)
            assert not any(is_alive(worker) for worker in workers)
        finally:
            for worker in workers:
                if is_alive(worker):
                    os.kill(worker, signal.SIGKILL)
        epochs = len(killing.history_of(checkpoint))
        assert epochs >= 2
        assert not output.exists()
        # One process goes on where two have stopped.
        assert main(killing.training_words(letters, output, epochs + 1, *more)) == 0
        assert load_bundle(output, "cpu").training["epochs"] == epochs + 1
        assert killing.litter(checkpoint, output) == []

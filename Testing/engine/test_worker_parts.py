"""Parts of the worker that need no process: how often it speaks, what it says of errors, and its channel."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from AtlasISTNLib.errors import DeviceError, OutputError
from AtlasISTNLib.progress import Progress
from AtlasISTNLib.worker import failure, is_out_of_memory
from AtlasISTNLib.worker_channel import Channel
from AtlasISTNLib.worker_progress import PREVIEW_SHARE, Reporter


class Course:
    """A run of a stage in a time of its own, and the events that it gave."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.report = Reporter(self.send, clock=lambda: self.now, **settings)

    def send(self, event: str, **values: Any) -> None:
        self.events.append((self.now, event, values))

    def run(self, stage: str, total: int, seconds: float, preview: Callable[[], Any] | None = None) -> None:
        for step in range(total + 1):
            self.report(Progress(stage, step, total, preview=preview))
            self.now += seconds

    def of(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        return [(when, values) for when, event, values in self.events if event == name]


def test_fast_steps_are_thinned_out_but_for_the_ends_of_stages():
    course = Course()
    course.run("refine", 1000, 0.001)
    course.run("write", 3, 0.001)
    told = [(v["stage"], v["step"]) for _, v in course.of("progress")]
    assert told[0] == ("refine", 0)
    assert [t for t in told if t[0] == "refine"][-1] == ("refine", 1000)
    assert [t for t in told if t[0] == "write"] == [("write", 0), ("write", 3)]
    times = [when for when, v in course.of("progress") if v["stage"] == "refine"]
    assert all(b - a > 0.0499 for a, b in pairwise(times[:-1]))
    assert 19 <= len(times) <= 22


def test_every_epoch_of_a_training_is_told():
    course = Course()
    course.run("train", 50, 0.001)
    assert len(course.of("progress")) == 51


def test_the_time_left_is_that_of_the_pace():
    course = Course()
    course.run("refine", 100, 0.5)
    left = [v["seconds_left"] for _, v in course.of("progress")]
    assert left[0] is None
    assert left[1:] == pytest.approx([0.5 * (100 - step) for step in range(1, 101)])


def test_a_training_that_goes_on_counts_from_where_it_was():
    course = Course()
    course.report(Progress("train", 81, 100, {"seconds": 3.0}))
    course.now += 4.0
    course.report(Progress("train", 82, 100, {"seconds": 3.0}))
    assert [v["seconds_left"] for _, v in course.of("progress")] == [57.0, 72.0]


@pytest.mark.parametrize(("every", "cost"), [(1.0, 0.01), (0.1, 2.0), (0.0, 0.3)])
def test_previews_take_no_more_than_their_share(every, cost):
    course: Course

    def show(progress: Progress) -> dict[str, Any]:
        course.now += cost
        return {}

    course = Course(show=show, preview_seconds=every)
    begun = course.now
    course.run("refine", 2000, 0.05, preview=lambda: None)
    times = [when for when, _ in course.of("preview")]
    assert len(times) * cost <= PREVIEW_SHARE * (course.now - begun) + cost
    assert all(b - a >= every for a, b in pairwise(times))
    assert len(times) >= 0.5 * (course.now - begun) / max(every + cost, cost / PREVIEW_SHARE)


def test_the_first_change_is_shown_at_once():
    course = Course(show=lambda _progress: {}, preview_seconds=5.0)
    course.run("refine", 20, 0.5, preview=lambda: None)
    times = [when - course.of("progress")[0][0] for when, _ in course.of("preview")]
    assert times == pytest.approx([0.5, 5.5])


def test_a_full_disk_ends_the_previews_and_nothing_else():
    def show(progress: Progress) -> dict[str, Any]:
        raise OutputError("no space left")

    course = Course(show=show, preview_seconds=0.1)
    course.run("refine", 100, 0.1, preview=lambda: None)
    assert course.of("preview") == []
    assert course.of("progress")[-1][1]["step"] == 100


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "short"),
    [
        (MemoryError(), "MemoryError", True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "MemoryError", True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            "MemoryError",
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "MemoryError", True),
        (RuntimeError("ITK ERROR: Failed to allocate memory for image."), "MemoryError", True),
        (
            caused(DeviceError("cuda:0 ran out of memory"), torch.cuda.OutOfMemoryError("x out of memory")),
            "DeviceError",
            True,
        ),
        (DeviceError("the device 'cuda' is not on this machine", "use cpu"), "DeviceError", False),
        (RuntimeError("shapes differ\nand more"), "Unexpected", False),
        (KeyError("k"), "Unexpected", False),
        (ModuleNotFoundError("No module named 'x'", name="x.y"), "ImportError", False),
        (OSError(errno.ENOENT, "No such file", "/a/b"), "OSError", False),
    ],
)
def test_errors_in_words(error, kind, short):
    told = failure(error)
    assert (told["kind"], told["out_of_memory"]) == (kind, short)
    assert is_out_of_memory(error) is short
    assert told["message"]
    assert "\n" not in told["message"]
    assert ("traceback" in told) == (kind != "DeviceError")
    assert json.loads(json.dumps(told)) == told


def test_no_number_that_is_none_leaves_it():
    end, start = os.pipe()
    channel = Channel(os.dup(0), start)
    channel.send("result", 3, figures={"a": float("nan"), "b": [float("inf"), 1.5]}, name="Ž\n")
    line = os.read(end, 1000)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"id": 3, "event": "result", "figures": {"a": None, "b": [None, 1.5]}, "name": "Ž\n"}
    os.close(end)
    os.close(start)

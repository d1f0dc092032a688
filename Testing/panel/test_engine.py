"""The engine's client: whatever the worker does, the panel hears of it, the next run works and nothing stays behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standin

standin.start()
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AtlasISTN"))

from AtlasISTNHost import messages  # noqa: E402
from AtlasISTNHost.engine import Engine, Limits  # noqa: E402
from AtlasISTNHost.inbox import Inbox  # noqa: E402
from heard import Heard, ask, gone, processes_of, wait  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the worker of these tests sends itself signals")

WORKER = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def make_engine(heard: Heard) -> Iterator[Callable[..., Engine]]:
    """Engines whose workers have to be gone once they were stopped, and whose callbacks must not have raised."""
    made: list[Engine] = []
    standin.slot_errors.clear()

    def make(how: str = "", command: list[str] | None = None, **limits: float) -> Engine:
        engine = Engine(command or [sys.executable, str(WORKER), how], on_state=heard.on_state, limits=Limits(**limits))
        made.append(engine)
        return engine

    yield make
    for engine in made:
        pids = processes_of(engine)
        engine.stop(wait_ms=3000)
        assert engine.state == "off"
        assert gone(pids), "the worker is still there"
    assert standin.slot_errors == []


def works(engine: Engine) -> bool:
    again = Heard()
    wait(lambda: engine.state in ("off", "idle"))
    ask(engine, again, "double", value=21)
    return [event["value"] for event in again.of("result")] == [42]


# -------------------------------------------------------------------------------------------------------------- the day


def test_first_request_starts_the_worker_and_the_next_finds_it_running(make_engine, heard: Heard) -> None:
    engine = make_engine()
    assert engine.state == "off"
    ask(engine, heard, "double", value=4, steps=3)
    assert heard.of("result")[0]["value"] == 8
    assert [event["step"] for event in heard.of("progress") if event["stage"] == "work"] == [0, 1, 2]
    assert [event["step"] for event in heard.of("preview")] == [0, 1, 2]
    assert heard.told[-1][0] == "result"
    assert engine.devices[0]["name"] == "cpu"
    first = engine.pid
    assert works(engine)
    assert engine.pid == first
    wait(lambda: heard.states == ["starting", "busy", "idle", "busy", "idle"])


def test_worker_can_be_started_before_there_is_anything_to_do(make_engine, heard: Heard) -> None:
    engine = make_engine()
    engine.start()
    wait(lambda: engine.state == "idle")
    assert heard.states == ["starting", "idle"]
    assert engine.about["torch"] == "2.0"


def test_only_one_request_at_a_time(make_engine, heard: Heard) -> None:
    engine = make_engine()
    assert engine.request("until cancelled", {}, **heard.callbacks())
    assert engine.request("double", {"value": 1}) == 0, "while the worker starts"
    wait(lambda: engine.state == "busy")
    assert engine.request("double", {"value": 1}) == 0
    engine.cancel()
    engine.cancel()
    wait(lambda: heard.over)
    assert [failure.kind for failure in heard.failures] == ["Cancelled"]
    assert works(engine)


def test_request_that_waits_for_the_worker_can_be_cancelled(make_engine, heard: Heard) -> None:
    engine = make_engine("slow")
    engine.request("double", {"value": 1}, **heard.callbacks())
    engine.cancel()
    assert heard.told == [], "no callback inside of a call"
    wait(lambda: heard.over)
    assert [failure.kind for failure in heard.failures] == ["Cancelled"]
    wait(lambda: engine.state == "idle")
    assert works(engine)


def test_starting_says_how_long_it_takes(make_engine, heard: Heard) -> None:
    ask(make_engine("slow"), heard, "double", value=1)
    first = heard.of("progress")[0]
    assert first["stage"] == "start"
    assert "PyTorch" in first["message"]


def test_callbacks_may_ask_cancel_and_stop(make_engine) -> None:
    engine, values = make_engine(), []

    def on_result(event: Any) -> None:
        values.append(event["value"])
        engine.cancel()  # there is nothing to cancel
        if len(values) < 5:
            assert engine.request("double", {"value": event["value"]}, on_result=on_result)
            assert engine.request("double", {"value": 0}) == 0
        else:
            engine.stop()

    engine.request("double", {"value": 1}, on_result=on_result)
    wait(lambda: engine.state == "off")
    assert values == [2, 4, 8, 16, 32]


def test_no_callback_inside_another_even_if_one_lets_events_run(make_engine) -> None:
    engine, depth, most = make_engine(), 0, 0

    def on_progress(_event: Any) -> None:
        nonlocal depth, most
        depth += 1
        most = max(most, depth)
        standin.process_events(0.05)  # as a dialogue does
        depth -= 1

    heard = Heard()
    engine.request("double", {"value": 1, "steps": 10}, **{**heard.callbacks(), "on_progress": on_progress})
    wait(lambda: heard.over)
    assert most == 1
    assert len(heard.of("preview")) == 10


def test_callback_that_raises_loses_nothing_of_what_follows(make_engine, heard: Heard) -> None:
    engine = make_engine()

    def on_progress(_event: Any) -> None:
        raise RuntimeError("a bug in the panel")

    engine.request("double", {"value": 1, "steps": 3}, **{**heard.callbacks(), "on_progress": on_progress})
    wait(lambda: heard.over)
    assert heard.of("result")[0]["value"] == 2
    assert works(engine)
    assert {str(error) for error in standin.slot_errors} == {"a bug in the panel"}
    standin.slot_errors.clear()


def test_what_waits_is_called_even_after_an_exception() -> None:
    called: list[str] = []
    box = Inbox(lambda: called.append("done"))

    def fail() -> None:
        raise RuntimeError("a bug in the panel")

    box.add(fail)
    box.add(lambda: called.append("second"))
    wait(lambda: "second" in called)
    assert called == ["done", "second", "done"]
    standin.slot_errors.clear()


def test_callbacks_of_an_owner_that_is_gone_are_left_out(make_engine) -> None:
    engine, told = make_engine(), []

    class Owner:
        def on_result(self, event: Any) -> None:
            told.append(event)

    owner = Owner()
    engine.request("double", {"value": 1}, on_result=owner.on_result)
    del owner
    gc.collect()
    wait(lambda: engine.state == "idle")
    assert told == []
    assert works(engine)


def test_fields_that_are_no_plain_values_are_refused_before_anything_happens(make_engine) -> None:
    engine = make_engine()
    with pytest.raises(TypeError):
        engine.request("double", {"value": Path()})
    with pytest.raises(ValueError, match="JSON"):
        engine.request("double", {"value": float("nan")})
    assert engine.state == "off"


# -------------------------------------------------------------------------------------------------- a worker that fails


@pytest.mark.parametrize("do", ["garbage", "print", "half lines", "flood"])
def test_noise_does_no_harm(make_engine, heard: Heard, do: str) -> None:
    engine = make_engine("chatter")
    ask(engine, heard, do, value=3, lines=20000)
    assert len(heard.of("result")) == 1
    assert heard.of("result")[0]["value"] == ("größer – 値" if do == "half lines" else 6)
    assert works(engine)
    if do == "print":
        assert "a library prints this" in engine.log
    if do == "flood":
        wait(lambda: engine.log[-1].startswith("line 19999 "))
        assert len(engine.log) == 200


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_worker_that_crashes_in_mid_request(make_engine, heard: Heard, number: int) -> None:
    engine = make_engine()
    ask(engine, heard, "signal", signal=int(number), model="letter-b")
    (failure,) = heard.failures
    assert failure.kind == "Crashed"
    assert str(int(number)) in failure.message
    assert ("memory" in failure.hint) == (number == signal.SIGKILL)
    assert failure.log[-1] == "about to fall"
    assert (failure.do, failure.asked["model"]) == ("signal", "letter-b")
    assert engine.state == "off"
    assert works(engine)


def test_worker_that_crashes_behind_a_launcher(make_engine, heard: Heard) -> None:
    """PythonSlicer hides the signal: it says on standard error that there was a crash, and exits with code 1."""
    launcher = (
        "import subprocess, sys\n"
        "if subprocess.call([sys.executable, *sys.argv[1:]]) < 0:\n"
        "    sys.exit('error: [python-real] exit abnormally - Report the problem.')\n"
    )
    engine = make_engine(command=[sys.executable, "-c", launcher, str(WORKER)])
    ask(engine, heard, "signal", signal=int(signal.SIGKILL))
    (failure,) = heard.failures
    assert failure.kind == "Crashed"
    assert failure.message == "The engine crashed"
    assert "memory" in failure.hint
    assert "about to fall" in failure.log
    assert works(engine)


@pytest.mark.parametrize("code", [0, 3])
def test_worker_that_exits_in_mid_request(make_engine, heard: Heard, code: int) -> None:
    engine = make_engine()
    ask(engine, heard, "exit", code=code)
    (failure,) = heard.failures
    assert failure.kind == "Crashed"
    assert failure.log[-1] == "an unfinished last word"
    assert works(engine)


def test_worker_killed_from_outside_while_idle_is_replaced_without_a_word(make_engine, heard: Heard) -> None:
    engine = make_engine()
    assert works(engine)
    os.kill(engine.pid, signal.SIGKILL)
    wait(lambda: engine.state == "off")
    assert heard.failures == []
    assert works(engine)


def test_errors_of_the_worker_leave_it_running(make_engine, heard: Heard) -> None:
    engine = make_engine()
    ask(engine, heard, "out of memory", device="cuda:0")
    assert heard.failures[0].out_of_memory
    assert heard.failures[0].kind == "DeviceError"
    first = engine.pid
    ask(engine, heard, "unreadable")
    assert heard.failures[0].message == "no such request"
    assert works(engine)
    assert engine.pid == first


@pytest.mark.parametrize(
    ("start", "kind", "word"),
    [("crash", "Crashed", "signal"), ("exit", "Crashed", "exit code 1"), ("no-torch", "ImportError", "no torch")],
)
def test_worker_that_cannot_start(make_engine, heard: Heard, start: str, kind: str, word: str) -> None:
    engine = make_engine(start)
    ask(engine, heard, "double", value=1)
    (failure,) = heard.failures
    assert failure.kind == kind
    assert word in failure.message
    assert engine.failure is not None
    assert engine.failure.kind == kind
    wait(lambda: engine.state == "off")
    ask(engine, heard, "double", value=1)
    assert [failure.kind for failure in heard.failures] == [kind], "the next request tries again"


def test_program_that_is_not_there(make_engine, heard: Heard) -> None:
    engine = make_engine(command=["/no/such/PythonSlicer", "-m", "AtlasISTNLib", "worker"])
    ask(engine, heard, "double", value=1)
    (failure,) = heard.failures
    assert failure.kind == "FailedToStart"
    assert "/no/such/PythonSlicer" in failure.message
    assert engine.state == "off"


def test_worker_that_is_never_ready(make_engine, heard: Heard) -> None:
    engine = make_engine("never", start=1.0)
    ask(engine, heard, "double", value=1)
    assert heard.failures[0].kind == "FailedToStart"
    wait(lambda: engine.state == "off")


# -------------------------------------------------------------------------------------------------- a worker that hangs


def test_cancel_that_is_not_heard_offers_to_stop_the_engine(make_engine, heard: Heard) -> None:
    engine = make_engine(cancel=1.0, end=1.0)
    engine.request("stubborn", {}, **heard.callbacks())
    wait(lambda: engine.state == "busy")
    pids = processes_of(engine)
    engine.cancel()
    wait(lambda: heard.failures)
    hung = heard.failures[0]
    assert (hung.kind, hung.over, engine.state) == ("Hung", False, "busy")
    assert messages.message(hung).action == "stop-engine"
    started = time.monotonic()
    engine.stop()
    assert time.monotonic() - started < 0.25
    wait(lambda: engine.state == "off")
    assert gone(pids)
    assert [failure.kind for failure in heard.failures] == ["Hung", "Cancelled"]
    assert works(engine)


def test_worker_without_a_sign_of_life(make_engine, heard: Heard) -> None:
    engine = make_engine(silence=1.5)
    engine.request("stop breathing", {"value": 5}, **heard.callbacks())
    wait(lambda: heard.failures)
    assert [failure.kind for failure in heard.failures] == ["Hung"]
    assert not heard.over
    os.kill(engine.pid, signal.SIGCONT)  # it was only slow: its result counts
    wait(lambda: heard.over)
    assert heard.of("result")[0]["value"] == 10
    assert works(engine)


def test_slow_answer_to_a_cancel_still_counts(make_engine, heard: Heard) -> None:
    engine = make_engine(cancel=0.5)
    engine.request("deaf", {"seconds": 2.5, "value": 1}, **heard.callbacks())
    wait(lambda: engine.state == "busy")
    engine.cancel()
    wait(lambda: heard.over)
    assert [name for name, _what in heard.told] == ["progress", "error", "result"][-len(heard.told) :]
    assert works(engine)


def test_slicer_that_was_blocked_does_not_blame_the_worker(make_engine, heard: Heard) -> None:
    engine = make_engine(silence=1.5)
    engine.request("until cancelled", {}, **heard.callbacks())
    wait(lambda: engine.state == "busy")
    time.sleep(3.0)  # as while a large file is loaded
    standin.process_events(0.8)
    assert heard.failures == []
    engine.cancel()
    wait(lambda: heard.over)
    assert [failure.kind for failure in heard.failures] == ["Cancelled"]


# ------------------------------------------------------------------------------------------------------------- stopping


def test_stop_of_an_idle_worker_is_quick_and_clean(make_engine) -> None:
    engine = make_engine()
    assert works(engine)
    pids = processes_of(engine)
    started = time.monotonic()
    engine.stop(wait_ms=3000)
    assert time.monotonic() - started < 2.0
    assert engine.state == "off"
    assert gone(pids)
    engine.stop()
    engine.stop(wait_ms=3000)
    assert works(engine)


@pytest.mark.parametrize("do", ["stop breathing", "stubborn"])
def test_worker_that_will_not_go_is_ended_by_force_in_time(make_engine, heard: Heard, do: str) -> None:
    engine = make_engine()
    engine.request(do, {}, **heard.callbacks())
    wait(lambda: engine.state == "busy")
    standin.process_events(0.3)
    pids = processes_of(engine)
    started = time.monotonic()
    engine.stop(wait_ms=1000)
    assert 0.9 < time.monotonic() - started < 2.0
    assert gone(pids)
    standin.process_events(0.1)
    assert heard.of("error") == [], "whoever waits for the end does not want to hear of it"


def test_worker_that_still_writes_is_given_time(make_engine) -> None:
    engine = make_engine(quit=1.0, end=4.0)
    engine.request("stubborn", {})
    wait(lambda: engine.state == "busy")
    standin.process_events(0.3)
    engine.stop()
    standin.process_events(2.0)
    assert engine.state == "stopping", "it gives signs of life"
    wait(lambda: engine.state == "off")


def test_worker_without_a_sign_of_life_is_not_given_time(make_engine) -> None:
    engine = make_engine(quit=1.0)
    engine.request("stop breathing", {})
    wait(lambda: engine.state == "busy")
    standin.process_events(0.3)
    engine.stop()
    started = time.monotonic()
    wait(lambda: engine.state == "off")
    assert time.monotonic() - started < 3.0


def test_stop_while_starting(make_engine, heard: Heard) -> None:
    engine = make_engine("never")
    engine.request("double", {"value": 1}, **heard.callbacks())
    standin.process_events(0.2)
    pids = processes_of(engine)
    assert pids
    engine.stop()
    assert engine.request("double", {"value": 1}) == 0
    wait(lambda: engine.state == "off")
    assert [failure.kind for failure in heard.failures] == ["Cancelled"]
    assert gone(pids)


def test_worker_behind_a_launcher_is_ended_too(make_engine, heard: Heard, tmp_path: Path) -> None:
    """PythonSlicer starts the worker as a child of its own and does not hand on a kill."""
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n{sys.executable} "$@" <&0\nexit $?\n', encoding="utf-8")
    launcher.chmod(0o755)
    engine = make_engine(command=[str(launcher), str(WORKER)])
    engine.request("stubborn", {}, **heard.callbacks())
    wait(lambda: engine.state == "busy")
    standin.process_events(0.3)
    pids = processes_of(engine)
    assert len(set(pids)) == 2
    engine.stop(wait_ms=500)
    assert gone(pids)
    assert works(engine)

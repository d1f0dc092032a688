"""What the panel says when something goes wrong, and the choices that it keeps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import standin

standin.start()
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "AtlasISTN"))

import qt  # noqa: E402
from AtlasISTNHost import messages, settings  # noqa: E402
from AtlasISTNHost.messages import Failure  # noqa: E402

from AtlasISTNLib.errors import VolumeError  # noqa: E402


def test_message_escapes_what_comes_from_elsewhere() -> None:
    shown = messages.message(Failure("VolumeError", "the file <b>a&b</b> is empty", "choose another"))
    assert "&lt;b&gt;a&amp;b&lt;/b&gt; is empty.<" in shown.html
    assert "Choose another." in shown.html
    assert shown.action == ""


@pytest.mark.parametrize(
    ("asked", "actions"),
    [
        ({"device": "auto"}, ["low-memory", "cpu"]),
        ({"device": "cuda:0", "low_memory": True}, ["cpu"]),
        ({"device": "cpu"}, ["low-memory"]),
        ({"device": "cpu", "low_memory": True}, []),
    ],
)
def test_out_of_memory_proposes_what_was_not_tried(asked: dict[str, Any], actions: list[str]) -> None:
    failure = Failure("DeviceError", "out of memory", out_of_memory=True, asked=asked)
    assert [action.name for action in messages.message(failure).actions] == actions


def test_device_that_cannot_be_used_proposes_the_processor() -> None:
    failure = Failure("DeviceError", "the device 'cuda:7' is not on this machine", asked={"device": "cuda:7"})
    assert [action.name for action in messages.message(failure).actions] == ["cpu"]
    assert messages.message(Failure("DeviceError", "it fails", asked={"device": "cpu"})).actions == ()


def test_missing_torch_proposes_to_install_it() -> None:
    assert messages.message(Failure("ImportError", "no torch")).action == "install"


def test_report_tells_what_a_developer_needs_and_not_who_the_patient_is() -> None:
    grid = {"shape": [2, 3, 4], "spacing": [1, 1, 1], "origin": [-13.5, 0, 0], "direction": []}
    image = {"array": "image.npy", "name": "Jane Doe CT", "grid": grid, "folder": f"{Path.home()}/Jane Doe"}
    reference = {"array": "labels.npy", "name": "Jane Doe labels", "folder": f"{Path.home()}/Jane Doe"}
    asked = {
        "reference": reference,
        "model": "letter-b",
        "device": "cpu",
        "image": image,
        "folder": f"{Path.home()}/Jane Doe",
    }
    engine = SimpleNamespace(about={"torch": "2.0"}, devices=({"name": "cpu", "title": "Processor"},), log=("at last",))
    text = messages.report(Failure("Crashed", "ended", "try again", do="segment", asked=asked), engine)
    for part in (
        "Crashed",
        "segment",
        "letter-b",
        '"device": "cpu"',
        "[2, 3, 4]",
        "torch: 2.0",
        "at last",
        "Processor",
    ):
        assert part in text
    assert "Jane" not in text
    assert "-13.5" not in text


def test_report_has_the_end_of_the_log_and_the_traceback() -> None:
    failure = Failure("Crashed", "x", log=tuple(f"<{i}>" for i in range(100)), trace=f"File {Path.home()}/a.py")
    text = messages.report(failure)
    assert "<59>" not in text
    assert "<60>" in text
    assert "<99>" in text
    assert "File ~/a.py" in text


def test_error_raised_in_slicer_is_shown_alike() -> None:
    failure = messages.failure_of(VolumeError("the volume is empty", "choose another"))
    assert (failure.kind, failure.message, failure.hint) == ("VolumeError", "the volume is empty", "choose another")


@pytest.fixture
def own_settings() -> Iterator[Any]:
    store = qt.QSettings()
    store.remove("AtlasISTN")
    yield store
    store.remove("AtlasISTN")


@pytest.mark.usefixtures("own_settings")
def test_choices_are_kept() -> None:
    assert (settings.device(), settings.threads(), settings.own_models()) == ("auto", 0, ())
    settings.set_device("cuda:1")
    settings.set_threads(3)
    settings.add_own_model("/models/a, b")
    assert settings.own_models() == ("/models/a, b",)
    settings.add_own_model("/models/c")
    settings.add_own_model("/models/a, b")
    settings.set_folder("export", "/out")
    assert (settings.device(), settings.threads()) == ("cuda:1", 3)
    assert settings.own_models() == ("/models/c", "/models/a, b")
    settings.remove_own_model("/models/c")
    settings.remove_own_model("/models/a, b")
    assert settings.own_models() == ()
    assert (settings.folder("export"), settings.folder("batch")) == ("/out", "")


def test_damaged_settings_fall_back(own_settings: Any) -> None:
    own_settings.setValue("AtlasISTN/threads", "many")
    own_settings.setValue("AtlasISTN/models", "[1, 2")
    own_settings.setValue("AtlasISTN/device", "")
    assert (settings.device(), settings.threads(), settings.own_models()) == ("auto", 0, ())
    own_settings.setValue("AtlasISTN/threads", "7")  # an .ini file gives strings back
    assert settings.threads() == 7

"""The panel in a stand-in for Slicer: started once for all tests, with nothing left of one test in the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["QT_QPA_PLATFORM"] = "offscreen"

pytest.importorskip("slicer", reason="the wheel slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

TESTING = Path(__file__).resolve().parents[1]
if str(TESTING) not in sys.path:
    sys.path.insert(0, str(TESTING))

import standin  # noqa: E402

standin.start()  # before any test imports a module that imports qt


@pytest.fixture(scope="session")
def host() -> Any:
    """slicer.app of the stand-in."""
    return standin.start()


@pytest.fixture(autouse=True)
def _no_errors_in_slots() -> Iterator[None]:
    """A test fails where a slot raised (Qt goes on) or a scripted dialog never came."""
    standin.application.forget()
    standin.slot_errors.clear()
    standin.dialogs.clear()
    yield
    errors, unused = list(standin.slot_errors), standin.dialogs.unused()
    standin.slot_errors.clear()
    standin.dialogs.clear()
    assert not errors, f"Slots raised: {errors!r}"
    assert not unused, f"Dialogs that never came: {unused}"

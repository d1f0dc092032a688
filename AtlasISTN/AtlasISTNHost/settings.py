"""Choices that belong to the machine and not to a scene: device, threads, models of one's own, folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import qt
import slicer

_GROUP = "AtlasISTN/"
_AUTO = "auto"
_MOST_THREADS = 1024

T = TypeVar("T")


def device() -> str:
    """What to compute on, as the engine names it; "auto" leaves the choice to it."""
    return _value("device", _AUTO, _text) or _AUTO


def set_device(name: str) -> None:
    """Keep the device."""
    _keep("device", str(name))


def threads() -> int:
    """Threads of the processor; 0 for all."""
    return min(max(_value("threads", 0, int), 0), _MOST_THREADS)


def set_threads(count: int) -> None:
    """Keep the number of threads."""
    _keep("threads", int(count))


def own_models() -> tuple[str, ...]:
    """Paths of models that the user added, the oldest first; some may be gone."""
    return _value("models", (), _texts)


def add_own_model(path: str) -> None:
    """Keep a model's path; one that is there already comes last."""
    _keep_models([*(known for known in own_models() if known != str(path)), str(path)])


def remove_own_model(path: str) -> None:
    """Forget a model's path; the model itself stays where it is."""
    _keep_models([known for known in own_models() if known != str(path)])


def folder(purpose: str) -> str:
    """The folder last used for something ("export", "batch-input", …); "" for none."""
    return _value(f"folders/{purpose}", "", _text)


def set_folder(purpose: str, path: str) -> None:
    """Keep the folder last used for something."""
    _keep(f"folders/{purpose}", str(path))


def _keep(key: str, value: Any) -> None:
    qt.QSettings().setValue(_GROUP + key, value)


def _keep_models(paths: list[str]) -> None:
    # As one text: a list of one comes back from QSettings as a string, an empty one as None
    _keep("models", json.dumps(paths))


def _value(key: str, default: T, converter: Callable[[Any], T]) -> T:
    """A value; the default where there is none or one that makes no sense, as after an edit by hand."""
    try:
        return slicer.util.settingsValue(_GROUP + key, default, converter=converter)
    except (TypeError, ValueError):
        return default


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    values = json.loads(value)
    if not isinstance(values, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(_text(entry) for entry in values)

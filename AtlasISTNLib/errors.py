"""Errors of AtlasISTN.

AtlasISTNError(message, hint)
├── ConfigError       a setting is out of its range or contradicts another
├── GeometryError     a grid is impossible, or two grids disagree
├── VolumeError       an image or label map cannot be read or used
├── BundleError       a model on disk is absent, damaged, foreign or of another version
├── DeviceError       the device is absent or out of memory
├── DivergenceError   an optimisation left the finite numbers; carries the last good result
├── OutputError       a result cannot be written where it was asked for
├── WorkerError       the engine's own process failed
└── Cancelled         the user stopped a run that had nothing to give yet

The message says what was wrong with which input; the hint says what the user can do.
"""

from __future__ import annotations

from typing import Any


class AtlasISTNError(Exception):
    """Base of every error that AtlasISTN raises on purpose.

    Args:
        message: what was wrong with which input (name, shape, value), one sentence without a full stop.
        hint: what the user can do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(AtlasISTNError):
    """A setting is out of its range or contradicts another."""


class GeometryError(AtlasISTNError):
    """A grid is impossible, or two grids that must agree do not."""


class VolumeError(AtlasISTNError):
    """An image or a label map cannot be read or cannot be used."""


class BundleError(AtlasISTNError):
    """A model on disk is absent, damaged, foreign or of a version that this release does not know."""


class DeviceError(AtlasISTNError):
    """The requested device is absent or out of memory."""


class OutputError(AtlasISTNError):
    """A result cannot be written where it was asked for."""


class WorkerError(AtlasISTNError):
    """The engine's own process failed or answered nonsense."""


class Cancelled(AtlasISTNError):
    """The user stopped a run before it had anything to give."""


class DivergenceError(AtlasISTNError):
    """An optimisation left the finite numbers.

    Attributes:
        result: the last good result (a `Result` of the run), or None when there was none.
    """

    def __init__(self, message: str, hint: str = "", result: Any = None) -> None:
        super().__init__(message, hint)
        self.result = result

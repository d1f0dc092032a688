"""Progress of the worker's requests as events: not too many, with the time left, and previews that cost little."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from .errors import OutputError
from .progress import Progress

#: Seconds between two events of one stage, at least; its first and last ones are always sent, and a training's epochs.
LEAST_SECONDS = 0.05
#: Share of the time that previews may take.
PREVIEW_SHARE = 0.2

_log = logging.getLogger(__name__)

Send = Callable[..., None]
Show = Callable[[Progress], Mapping[str, Any]]
Clock = Callable[[], float]


class Reporter:
    """A `report` that sends events "progress" and "preview".

    Args:
        send: called with an event's name and its values.
        show: makes a preview of a step that has one: gives the event's values. Without it there are no previews.
        preview_seconds: between two previews, at least.
        clock: in seconds.
        more: whether events have the further figures that a step can compute.
    """

    def __init__(
        self,
        send: Send,
        show: Show | None = None,
        preview_seconds: float = 0.0,
        clock: Clock = time.monotonic,
        more: bool = False,
    ) -> None:
        self._more = more
        self._send, self._show, self._every, self._clock = send, show, preview_seconds, clock
        self._stage, self._first, self._began, self._sent = "", 0, 0.0, 0.0
        self._next_preview: float | None = None

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        new = progress.stage != self._stage
        last = progress.total > 0 and progress.step >= progress.total
        if new:
            self._stage, self._first, self._began = progress.stage, progress.step, now
        if new or last or progress.stage == "train" or now - self._sent >= LEAST_SECONDS:
            self._sent = now
            self._send(
                "progress",
                stage=progress.stage,
                step=progress.step,
                total=progress.total,
                values={**progress.values, **(progress.more() if self._more and progress.more else {})},
                message=progress.message,
                seconds_left=self._left(progress, now),
            )
        if progress.preview is not None and self._show is not None and not (last and progress.stage == "refine"):
            self._preview(progress)  # of a refinement's last step there is the result itself

    def _left(self, progress: Progress, now: float) -> float | None:
        """Seconds that the stage will still take at its own pace; None before anything is known of it."""
        done, todo = progress.step - self._first, progress.total - progress.step
        if progress.total <= 0:
            return None
        if done > 0:
            return max(0.0, (now - self._began) / done * todo)
        seconds = progress.values.get("seconds", math.nan)  # a training says it with its first epoch
        return seconds * todo if math.isfinite(seconds) else None

    def _preview(self, progress: Progress) -> None:
        start = self._clock()
        if self._next_preview is None:
            if progress.step == self._first:
                return  # of what it began at; the first change is shown at once
            self._next_preview = start
        if start < self._next_preview or self._show is None:
            return
        try:
            values = self._show(progress)
        except OutputError as error:  # a full disk must not end what it was to show
            _log.warning("no more previews: %s", error)
            self._show = None
            return
        self._send("preview", step=progress.step, **values)
        end = self._clock()
        self._next_preview = end + max(self._every, (1 / PREVIEW_SHARE - 1) * (end - start))


__all__ = ["LEAST_SECONDS", "PREVIEW_SHARE", "Reporter"]

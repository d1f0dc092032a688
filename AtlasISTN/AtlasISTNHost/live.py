"""Auto: a refinement that follows whatever steers it, while it is changed. No widgets, but Qt's timer.

A change waits until there was none for a moment, so that dragging a slider does not begin one with every pixel.
The one that goes on then gives way at its next step, and the next one begins where it had got to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import qt

from AtlasISTNLib.errors import AtlasISTNError

from . import messages
from .session import Session

#: Milliseconds without a change after which a refinement begins.
QUIET_MS = 120
#: While changes go on, a refinement that was seen to move gives way after so many.
LONGEST_MS = 300


class Live:
    """Begins refinements after changes.

    Args:
        session: runs them.
        reason: why none can begin now; empty where one can.
        start: begins one where the last one is; may raise AtlasISTNError.
        switch_off: switches Auto off.

    Attributes:
        on: whether Auto is on.
        stale: whether something changed since the last result was asked for.
    """

    def __init__(
        self,
        session: Session,
        reason: Callable[[], str],
        start: Callable[[], None],
        switch_off: Callable[[], None],
    ) -> None:
        self.session, self._reason, self._start, self._switch_off = session, reason, start, switch_off
        self.on = self.stale = False
        self._since: float | None = None  # of the first change that waits
        self._due = False
        self._ran = self._starting = False
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._go)

    @property
    def waiting(self) -> bool:
        """Whether a refinement is about to begin."""
        return self._since is not None or self._due

    def changed(self) -> None:
        """Something that steers a refinement changed."""
        self.stale = True
        if not self.on:
            return
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self.session.previews and 1000 * (now - self._since) >= LONGEST_MS:
            self._go()
        else:
            self._timer.start(QUIET_MS)

    def turn(self, on: bool) -> None:
        """Switch Auto on, which catches up with what changed, or off, which leaves a run that goes on alone."""
        if on != self.on:
            self.on = on
            self._rest()
            if on and self.stale:
                self.changed()

    def asked(self) -> None:
        """A result was asked for with all that is chosen now."""
        self._rest()
        self.stale = False

    def stop(self) -> None:
        """Begin nothing more."""
        self._rest()
        if self.on:
            self._switch_off()

    def update(self) -> None:
        """Follow the session after one of its changes."""
        session = self.session
        if session.busy:
            self._ran = True
            if self._due:
                session.give_way()
            return
        if self._starting:
            return
        if self._ran and session.failure is not None:
            self.stop()  # or it would fail again with every change
        self._ran = False
        if session.engine.state in ("busy", "stopping"):  # with something else
            return
        if self._due:
            self._begin()
        if not session.busy and not self.waiting:
            session.complete()

    def close(self) -> None:
        """Begin nothing more, and forget everything."""
        self._rest()
        self.on = self.stale = False

    def _rest(self) -> None:
        self._timer.stop()
        self._since, self._due = None, False

    def _go(self) -> None:
        self._timer.stop()
        self._since, self._due = None, True
        self.update()

    def _begin(self) -> None:
        self._due = False
        if self._reason():
            return  # it says so beside the button; the next change tries again
        self._starting = True
        try:
            self._start()
            self._ran, self.stale = True, False
        except AtlasISTNError as error:
            self.stop()
            self.stale = True
            self.session.failure = messages.failure_of(error)
        finally:
            self._starting = False
        if not self.session.busy:
            self.session.show_failure(self.session.failure)


__all__ = ["LONGEST_MS", "QUIET_MS", "Live"]

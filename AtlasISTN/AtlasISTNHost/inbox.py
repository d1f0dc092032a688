"""Calls put off until Qt's signals are done with: one after another, never one inside another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import qt

Action = Callable[[], object]


class Inbox:
    """A queue of calls that Qt's event loop empties.

    A dialogue that one of them opens runs Qt's events, and may add calls; they wait until it is closed. An exception is
    Qt's to print, and the calls after it are made all the same.

    Args:
        after: called each time when the queue was emptied.
    """

    def __init__(self, after: Action) -> None:
        self._after = after
        self._actions: deque[Action] = deque()
        self._scheduled = self._working = False

    def add(self, action: Action) -> None:
        """Call it later."""
        self._actions.append(action)
        self._schedule()

    def clear(self) -> None:
        """Forget what was not called yet."""
        self._actions.clear()

    def _schedule(self) -> None:
        if not self._scheduled and not self._working:
            self._scheduled = True
            qt.QTimer.singleShot(0, self._work)

    def _work(self) -> None:
        self._scheduled = False
        self._working = True
        try:
            while self._actions:
                self._actions.popleft()()
        finally:
            self._working = False
            if self._actions:
                self._schedule()
            self._after()

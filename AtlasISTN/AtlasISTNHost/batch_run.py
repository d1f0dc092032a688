"""A batch: many volumes segmented one after another, and a table of what became of each.

`Batch` owns the state and knows no widgets; `batch` shows it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from AtlasISTNLib.configs import RefineConfig, as_dict
from AtlasISTNLib.errors import AtlasISTNError
from AtlasISTNLib.volume import write_atomically

from .batch_sources import Item
from .engine import Failure
from .exports import safe_name
from .jobs import save_volume
from .models import Entry

#: Failures that the next volume would meet as well.
_HOPELESS = frozenset(
    {
        *("BundleError", "ConfigError", "FailedToStart", "ImportError"),
        *("ModuleNotFoundError", "NoExtension", "TorchMissing"),
    }
)
#: So many ends of the engine in a row, and the rest is not tried any more.
_MOST_CRASHES = 2
#: ms until a busy engine is asked again, and how often that is done.
_RETRY_MS, _MOST_RETRIES = 500, 20
#: What a volume that cannot be read or written raises.
_EXPECTED = (AtlasISTNError, OSError, RuntimeError, ValueError, MemoryError)
TABLE = "batch.csv"


class State(Enum):
    """Where a volume is."""

    WAITING = "waiting"
    READING = "reading"
    SEGMENTING = "segmenting"
    REFINING = "refining"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Structure:
    """The size of one structure: mL of a volume, mm² of a single slice."""

    name: str
    volume: float
    unit: str


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: of the volume.
        state: where it is.
        step, total: of the refinement.
        reason: why it failed or was skipped.
        seconds: it took; None before it has ended.
        structures: what was found.
        folder: where its files are; None where there are none.
    """

    name: str
    state: State = State.WAITING
    step: int = 0
    total: int = 0
    reason: str = ""
    seconds: float | None = None
    structures: tuple[Structure, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Settings:
    """What all volumes of a batch have in common; `refinement` is None for one pass."""

    model: Entry
    device: str = "auto"
    threads: int = 0
    low_memory: bool = False
    refinement: RefineConfig | None = None


def planned(items: Sequence[Item], output: Path | None) -> tuple[Row, ...]:
    """The table before a batch starts: what has results already is skipped, so that nothing is overwritten.

    Args:
        items: the volumes.
        output: where their files go, one folder each; None for none.
    """
    rows: list[Row] = []
    used: set[str] = set()
    for item in items:
        folder = None if output is None else output / _folder_name(item.name, used)
        row = Row(item.name, folder=folder)
        if item.there:
            row = replace(row, state=State.SKIPPED, reason=_("results are in the scene"), folder=None)
        elif folder is not None and _taken(folder):
            row = replace(row, state=State.SKIPPED, reason=_("results are in {folder}").format(folder=folder))
        rows.append(row)
    return tuple(rows)


class Batch:
    """Owner of a batch's state; runs one volume after another through the engine.

    Args:
        engine: the engine's client.
        jobs: where requests keep their files.
        on_change: told after every change of `rows`.
        later: calls a function after some ms, in the same thread (a timer).
        clock: seconds.

    Attributes:
        rows: the table.
        running: whether volumes are being worked on.
        failure: what ended the batch before its end; None otherwise.
        table: the CSV of the last batch; None where it has none.
    """

    def __init__(
        self,
        engine: Any,
        jobs: Any,
        on_change: Callable[[], None],
        later: Callable[[int, Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.jobs = engine, jobs
        self._changed, self._later, self._clock = on_change, later, clock
        self.rows: tuple[Row, ...] = ()
        self.running = False
        self.failure: Failure | None = None
        self.table: Path | None = None
        self._items: tuple[Item, ...] = ()
        self._settings: Settings | None = None
        self._at, self._started = -1, 0.0
        self._job: Path | None = None
        self._hung: Failure | None = None
        self._stopping, self._crashes, self._retries = False, 0, 0

    def plan(self, items: Sequence[Item], output: Path | None) -> None:
        """Show what a batch of these volumes would do."""
        if not self.running:
            self._items, self.rows, self.failure = tuple(items), planned(items, output), None
            self._changed()

    def start(self, settings: Settings, output: Path | None) -> None:
        """Work on all planned volumes that wait.

        Args:
            settings: for all of them.
            output: folder of the results and of the table; None for none.
        """
        if self.running or not any(row.state is State.WAITING for row in self.rows):
            return
        self._settings, self.failure = settings, None
        self.table = None if output is None else _free(output / TABLE)
        self.running, self._stopping, self._crashes, self._at = True, False, 0, -1
        self._changed()
        self._later(0, self._next)

    def stop(self) -> None:
        """Stop; what is done is kept, and the volume that is worked on can be segmented later."""
        if self.running and not self._stopping:
            self._stopping = True
            if self._at >= 0 and self.rows[self._at].state in (State.SEGMENTING, State.REFINING):
                self.engine.cancel()
            self._changed()

    @property
    def stopping(self) -> bool:
        """Whether it was stopped but has not ended yet."""
        return self.running and self._stopping

    # One volume

    def _next(self) -> None:
        waiting = [index for index, row in enumerate(self.rows) if row.state is State.WAITING]
        if self._stopping or not waiting:
            self._end()
            return
        self._at, self._started, self._retries = waiting[0], self._clock(), 0
        row = self.rows[self._at]
        if row.folder is not None and _taken(row.folder):  # it came to be since the plan was made
            reason = _("results are in {folder}").format(folder=row.folder)
            self._finish(State.SKIPPED, reason=reason)
            return
        self._set(state=State.READING)
        self._later(0, self._read)  # the table is drawn before reading begins

    def _read(self) -> None:
        try:
            self._job = self.jobs.new("batch")
            volume = self._items[self._at].read()
            fields = self._fields(save_volume(volume, self._job), self._job)
        except _EXPECTED as error:
            self._finish(State.FAILED, reason=_reason(error))
            return
        self._segment(fields)

    def _fields(self, image: dict[str, Any], folder: Path) -> dict[str, Any]:
        settings = self._settings
        assert settings is not None  # set by start
        fields = {
            "model": str(settings.model.path),
            "device": settings.device,
            "threads": settings.threads,
            "low_memory": settings.low_memory,
            "image": image,
            "placement": None,
            "folder": str(folder),
            "case": folder.name,
        }
        if settings.refinement is not None:
            fields |= {"config": as_dict(settings.refinement), "preview_seconds": 0}
        return fields

    def _segment(self, fields: dict[str, Any]) -> None:
        if self._stopping:
            self._finish(State.STOPPED)
            return
        do = "refine" if "config" in fields else "segment"
        self._set(state=State.SEGMENTING)
        self._ask(do, fields, self._on_result, self._on_progress)

    def _ask(
        self, do: str, fields: dict[str, Any], on_result: Any, on_progress: Any = None, on_error: Any = None
    ) -> None:
        told = {"on_progress": on_progress, "on_result": on_result, "on_error": on_error or self._on_error}
        taken = self.engine.request(do, fields, **told)
        if taken:
            return
        self._retries += 1
        if self._stopping:
            self._finish(State.STOPPED)
        elif self._retries > _MOST_RETRIES:
            self._finish(State.FAILED, reason=_("the engine is busy with something else"))
        else:
            self._later(_RETRY_MS, lambda: self._ask(do, fields, on_result, on_progress, on_error))

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        if self._at < 0:
            return
        if event.get("stage") == "refine":
            self._set(state=State.REFINING, step=int(event.get("step") or 0), total=int(event.get("total") or 0))
        elif self.rows[self._at].state is State.REFINING and event.get("stage") == "write":
            self._set(state=State.WRITING)

    def _on_result(self, event: Mapping[str, Any]) -> None:
        if self._stopping and (event.get("trace") or {}).get("stopped") == "cancelled":
            self._finish(State.STOPPED)
            return
        self._crashes = 0
        self._set(state=State.WRITING, structures=structures_of(event.get("figures") or {}))
        keep, folder, case = self._items[self._at].keep, self.rows[self._at].folder, str(event.get("case"))
        try:
            if keep is not None:
                keep(event, folder)
        except _EXPECTED as error:
            self._finish(State.FAILED, reason=_reason(error))
            return
        if folder is None or keep is not None:
            self._forget(case)
        else:
            self._ask("export", {"case": case, "folder": str(folder)}, lambda _event: self._forget(case))

    def _forget(self, case: str) -> None:
        """Let the engine drop the case: it would keep it for a refinement that never comes."""

        def done(_answer: Any) -> None:
            self._finish(State.DONE)

        self._ask("forget", {"case": case}, done, on_error=done)

    def _on_error(self, failure: Failure) -> None:
        if not failure.over:  # it hangs; nobody may be there to see it, and the others want their turn
            self._hung = failure
            self.engine.stop()
            return
        if failure.kind == "Cancelled" and self._hung is None:
            self._stopping = True  # whoever stopped the engine does not want it started again
            self._finish(State.STOPPED)
            return
        failure, self._hung = self._hung or failure, None
        self._crashes = self._crashes + 1 if failure.kind in ("Crashed", "Hung") else 0
        absent = failure.kind == "DeviceError" and not failure.out_of_memory
        if absent or failure.kind in _HOPELESS or self._crashes >= _MOST_CRASHES:
            self.failure, self._stopping = failure, True
        hint = f" ({failure.hint})" if failure.hint and failure.kind != "Hung" else ""
        self._finish(State.FAILED, reason=failure.message + hint)

    def _set(self, **changes: Any) -> None:
        rows = list(self.rows)
        rows[self._at] = replace(rows[self._at], **changes)
        self.rows = tuple(rows)
        self._changed()

    def _finish(self, state: State, reason: str = "") -> None:
        """The volume has ended; go on with the next one."""
        if self._job is not None:
            self.jobs.remove(self._job)
            self._job = None
        seconds = self._clock() - self._started if state in (State.DONE, State.FAILED) else None
        self._set(state=state, reason=reason, seconds=seconds)
        if self.table is not None:
            self._write_table()
        self._later(0, self._next)

    def _write_table(self) -> None:
        text = table_csv(self.rows)
        try:
            write_atomically(self.table, lambda partial: partial.write_text(text, encoding="utf-8"))
        except AtlasISTNError as error:
            self.failure, self.table = Failure(type(error).__name__, error.message, error.hint), None

    def _end(self) -> None:
        self.running, self._at = False, -1
        self._changed()


def structures_of(figures: Mapping[str, Any]) -> tuple[Structure, ...]:
    """The sizes in a result's figures."""
    return tuple(
        Structure(str(entry["name"]), float(entry["volume"]["final"]), str(entry["volume"]["unit"]))
        for entry in figures.get("structures") or ()
    )


def table_csv(rows: Sequence[Row]) -> str:
    """The table as CSV: one line for each volume, one column for each structure's size."""
    columns = list(dict.fromkeys(f"{s.name} ({s.unit})" for row in rows for s in row.structures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["volume", "outcome", "reason", "seconds", *columns, "folder"])
    for row in rows:
        sizes = {f"{s.name} ({s.unit})": f"{s.volume:.6g}" for s in row.structures}
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        figures = [sizes.get(column, "") for column in columns]
        folder = str(row.folder) if row.folder is not None and row.state is State.DONE else ""
        writer.writerow([row.name, row.state.value, row.reason, seconds, *figures, folder])
    return text.getvalue()


def _folder_name(name: str, used: set[str]) -> str:
    """A name for a volume's folder that no other of the batch has, also where A is a."""
    plain = safe = safe_name(name, "unnamed")
    count = 1
    while plain.casefold() in used:
        count += 1
        plain = f"{safe} ({count})"
    used.add(plain.casefold())
    return plain


def _taken(folder: Path) -> bool:
    """Whether something is there that a result would overwrite."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _free(path: Path) -> Path:
    """The path, or one with a number where there is a file already."""
    count, free = 1, path
    while free.exists():
        count += 1
        free = path.with_name(f"{path.stem}-{count}{path.suffix}")
    return free


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return _("there is not enough memory to read it")
    return str(error) or type(error).__name__


__all__ = ["TABLE", "Batch", "Row", "Settings", "State", "Structure", "planned", "structures_of", "table_csv"]

"""What the section Train says: findings in a data set, how far a training is, what a checkpoint holds. No widgets."""

from __future__ import annotations

import html
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

#: Findings of one kind that are shown one by one.
_MOST_SHOWN = 100
#: A header of tensors is not longer than this; what claims to be is no checkpoint.
_LARGEST_HEADER = 100 << 20
#: What makes a folder one of nnU-Net's.
_DATASET = "dataset.json"
_NAME = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Checkpoint:
    """How far a training that was stopped had come.

    Attributes:
        history: figures of each epoch, from the first.
        config: all settings of the training, by the names of TrainConfig.
    """

    history: tuple[Mapping[str, float], ...]
    config: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """That the training was to have."""
        return int(self.config["epochs"])

    @property
    def strength(self) -> float:
        """Its λ."""
        return float(self.config["strength"])


def read_checkpoint(path: Path) -> Checkpoint | None:
    """What the header of a checkpoint tells; None where there is none that can be read.

    The header of a safetensors file is JSON after its length in 8 bytes; the tensors are left alone.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                return None
            header = json.loads(file.read(length))
        training = json.loads(header["__metadata__"]["training"])
        found = Checkpoint(tuple(training["history"]), training["config"])
        return found if found.epochs and found.strength >= 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def data_fields(folder: Path) -> dict[str, str] | None:
    """How the engine is told of the data in a folder; None where they are laid out in neither way that it knows."""
    if (folder / _DATASET).is_file():
        return {"data": str(folder)}
    parts = {part: folder / part for part in ("images", "labels")}
    return {part: str(path) for part, path in parts.items()} if all(p.is_dir() for p in parts.values()) else None


def is_name(text: str) -> bool:
    """Whether a model can be called so."""
    return _NAME.fullmatch(text) is not None


def suggested_name(data: Path) -> str:
    """A name for a model made of the data in a folder, such as "heart" for "Dataset003_Heart"."""
    plain = re.sub(r"^(Dataset|Task)\d+_", "", data.name)
    return "-".join(re.findall(r"[a-z0-9]+", plain.lower()))


def check_html(found: Mapping[str, Any]) -> str:
    """The findings in a data set, problems first, as rich text.

    Args:
        found: the engine's answer: "problems" and "notes" (each with "message", "hint"), "cases", "labels" (each with
            "value", "name", "cases"), "grid".
    """
    parts = []
    problems, notes = list(found.get("problems") or ()), list(found.get("notes") or ())
    if problems:
        title = _("1 problem") if len(problems) == 1 else _("{count} problems").format(count=len(problems))
        parts.append(f'<p><b style="color:#d1495b">{html.escape(title)}</b></p>' + _list(problems))
    else:
        good = html.escape(_("The data can be trained on."))
        parts.append(f'<p><b style="color:#2a9d76">{good}</b></p>')
    parts.append(_facts(found))
    if notes:
        parts.append(f"<p><b>{html.escape(_('Good to know'))}</b></p>" + _list(notes))
    return "".join(parts)


def _facts(found: Mapping[str, Any]) -> str:
    lines = [_("{count} cases").format(count=found.get("cases", 0))]
    grid = grid_text(found.get("grid"))
    if grid:
        lines.append(_("Suggested model grid: {grid}").format(grid=grid))
    if found.get("cut"):
        names = ", ".join(str(name) for name in found["cut"])
        lines.append(_("This grid cuts the labels of {cases} off").format(cases=names))
    text = "<p>" + "<br>".join(html.escape(line) for line in lines) + "</p>"
    labels = found.get("labels") or ()
    if not labels:
        return text
    head = "".join(f'<th align="left">{html.escape(t)}&nbsp;&nbsp;</th>' for t in (_("Value"), _("Label"), _("Cases")))
    rows = "".join(
        f"<tr><td>{entry['value']}</td><td>{html.escape(str(entry['name']))}&nbsp;&nbsp;</td>"
        f"<td>{entry.get('cases', '')}</td></tr>"
        for entry in labels
    )
    return text + f'<table cellspacing="2"><tr>{head}</tr>{rows}</table>'


def grid_text(grid: Mapping[str, Any] | None) -> str:
    """A grid in words: "64 × 64 × 64 voxels of 2 × 2 × 2 mm"; x first."""
    if not grid:
        return ""
    size = " × ".join(str(n) for n in reversed(grid["shape"]))
    spacing = " × ".join(f"{s:g}" for s in grid["spacing"])
    return _("{size} voxels of {spacing} mm").format(size=size, spacing=spacing)


def _list(findings: Sequence[Any]) -> str:
    items = [_finding(finding) for finding in findings[:_MOST_SHOWN]]
    if len(findings) > _MOST_SHOWN:
        items.append(html.escape(_("and {count} more").format(count=len(findings) - _MOST_SHOWN)))
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _finding(finding: Any) -> str:
    if not isinstance(finding, Mapping):
        return html.escape(str(finding))
    hint = f"<br><i>{html.escape(str(finding['hint']))}</i>" if finding.get("hint") else ""
    return html.escape(str(finding["message"])) + hint


def progress_text(event: Mapping[str, Any]) -> str:
    """One line about where a check or a training is."""
    stage, step, total = str(event.get("stage")), int(event.get("step") or 0), int(event.get("total") or 0)
    if stage == "train":
        return _("Epoch {step} of {total}").format(step=step, total=total) + figures_text(event) + _left(event)
    text = {
        "check": _("Reading case {step} of {total}"),
        "prepare": _("Preparing case {step} of {total}"),
        "atlas": _("Making the atlas anew: case {step} of {total}"),
    }.get(stage)
    if text is None or not total:
        return str(event.get("message") or _("Starting the engine…"))
    return text.format(step=step, total=total) + _left(event)


def figures_text(event: Mapping[str, Any]) -> str:
    """The figures of an epoch that people look at first."""
    values, text = event.get("values") or {}, ""
    if values.get("loss") is not None:
        text += _(", loss {loss:.4g}").format(loss=float(values["loss"]))
    if values.get("dice_one_pass") is not None:
        text += _(", Dice {dice:.3f}").format(dice=float(values["dice_one_pass"]))
    return text


def _left(event: Mapping[str, Any]) -> str:
    seconds = event.get("seconds_left")
    if seconds is None or float(seconds) < 1:
        return ""
    return _(", {time} left").format(time=rough_time(float(seconds)))


def rough_time(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return _("{seconds:.0f} s").format(seconds=seconds)
    minutes = round(seconds / 60)
    if minutes < 100:
        return _("{minutes} min").format(minutes=minutes)
    return _("{hours} h {minutes:02d} min").format(hours=minutes // 60, minutes=minutes % 60)


__all__ = [
    "Checkpoint",
    "check_html",
    "data_fields",
    "figures_text",
    "grid_text",
    "is_name",
    "progress_text",
    "read_checkpoint",
    "rough_time",
    "suggested_name",
]

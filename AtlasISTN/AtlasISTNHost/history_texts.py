"""Texts of the history: what the list says of an entry, short in its cells and whole in its tooltip."""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from slicer.i18n import tr as _

from .history_entries import Entry


def settings_text(entry: Entry) -> str:
    """The settings of a refinement in one line; of one pass there are none."""
    config = entry.config
    if not config:
        return _("no refinement")
    parts = [_("λ* {value:.4g}").format(value=float(config["strength"] or 0))]
    if float(config["beta"]) != 1:
        parts.append(_("β* {value:.3g}").format(value=float(config["beta"])))
    if float(config["gamma"]) != 0:
        parts.append(_("γ* {value:.3g}").format(value=float(config["gamma"])))
    parts.append(_("{count} steps").format(count=entry.best))
    parts.append(str(config["mode"]))
    return ", ".join(parts)


def steering_text(entry: Entry) -> str:
    """What steered a refinement, in one line; empty where nothing did."""
    parts = []
    if entry.steering.get("target"):
        parts.append(_("target {name}").format(name=entry.steering["target"]))
    if entry.landmarks:
        parts.append(_("1 point") if entry.landmarks == 1 else _("{count} points").format(count=entry.landmarks))
    if entry.steering.get("ignore"):
        parts.append(_("region ignored"))
    if entry.steering.get("label_weights"):
        parts.append(_("weights"))
    if entry.steering.get("certainty"):
        parts.append(_("certainty"))
    return ", ".join(parts)


def time_text(entry: Entry, now: datetime | None = None) -> str:
    """When an entry was made: the time, and the day where it was another one."""
    try:
        made = datetime.fromisoformat(entry.time)
    except ValueError:
        return ""
    today = made.date() == (now or datetime.now()).date()
    return made.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def what_text(entry: Entry) -> str:
    """The cell that says what an entry is: its name, how it was made, and what else there is to say."""
    more = [time_text(entry)]
    if entry.pinned:
        more.append(_("pinned"))
    if entry.stopped == "cancelled":
        more.append(_("stopped"))
    if entry.stopped == "diverged":
        more.append(_("diverged"))
    steered = steering_text(entry)
    if steered:
        more.append(_("steered"))
    return "\n".join((entry.title, settings_text(entry), ", ".join(part for part in more if part)))


def figures_text(entry: Entry) -> str:
    """The cell with what came of it: loss, folding, topology."""
    lines = []
    if entry.losses:
        lines.append(_("loss {value:.4g}").format(value=entry.losses["total"]))
    percent = entry.folding[0]
    lines.append(_("{percent:.2g} % folded").format(percent=percent) if percent > 0 else _("no folding"))
    whole = _("as the atlas")
    others = sum(structure.topology != whole for structure in entry.structures)
    if others:
        lines.append(_("topology: {count} differ").format(count=others))
    else:
        lines.append(_("topology kept"))
    return "\n".join(lines)


def tip(entry: Entry, shown: bool) -> str:
    """All that is known of an entry, as rich text."""
    head = [f"<b>{html.escape(entry.title)}</b>", html.escape(entry.time.replace("T", " "))]
    head += [html.escape(text) for text in (settings_text(entry), _steering_line(entry)) if text]
    if entry.losses:
        head.append(html.escape(_losses_text(entry.losses)))
    head.append(html.escape(entry.folding[1]))
    head += [html.escape(note) for note in entry.notes]
    rows = "".join(
        f"<tr><td>{html.escape(s.name)}&nbsp;</td><td align='right'>&nbsp;{s.volume:.2f}&nbsp;{entry.unit}&nbsp;</td>"
        f"<td>&nbsp;{html.escape(s.topology)}</td></tr>"
        for s in entry.structures
    )
    foot = _("This is what is shown now") if shown else _("Click to return to it; nothing is lost by that")
    return f"{'<br>'.join(part for part in head if part)}<table>{rows}</table><i>{html.escape(foot)}</i>"


def _steering_line(entry: Entry) -> str:
    text = steering_text(entry)
    return _("Steered by: {what}").format(what=text) if text else ""


def _losses_text(losses: Mapping[str, Any]) -> str:
    return _("Loss {total:.4g}: atlas to scan {a2s:.4g}, scan to atlas {s2a:.4g}, smoothness {reg:.4g}").format(
        **losses
    )


__all__ = ["figures_text", "settings_text", "steering_text", "time_text", "tip", "what_text"]

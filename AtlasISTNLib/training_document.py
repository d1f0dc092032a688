"""What a training report says: the document of a training, made of facts, curves, pictures and tables."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from math import isnan
from statistics import median
from typing import Any

import torch

from . import __version__
from . import training_figures as figures
from .bundle import Bundle
from .case_scores import ITN, ONE_PASS, REFINED, STAGE_TITLES, CohortScores
from .configs import ModelConfig, NormalisationConfig, TrainConfig, as_dict, from_dict
from .document import (
    Block,
    Document,
    Facts,
    Headline,
    Notes,
    Picture,
    Pictures,
    Section,
    Tables,
    Text,
)
from .score_tables import case_table, listed, plural, score_tables, spread_text
from .segmentation import resolved
from .tables import Cell, Group, Row, Table
from .training import Trained, best_epoch

#: Fewer cases than this say little of the next one.
_FEW = 10
#: Share of the epochs at the end of which a best score says that more of them would help.
_LATE = 0.05
#: Mean Dice by which the refined atlas falls behind the ITN before it is worth a word.
_BEHIND = 0.02
_METHOD = (
    "Method: Sinclair et al., Atlas-ISTN: Joint segmentation, registration and atlas construction with "
    "image-and-spatial transformer networks, Medical Image Analysis 78 (2022) 102383, doi:10.1016/j.media.2022.102383."
)


def training_document(
    trained: Trained, scores: CohortScores, worst: Mapping[str, bytes], remarks: Sequence[str] = ()
) -> Document:
    """The document of a training.

    Args:
        trained: from `run_training`.
        scores: of its held-out cases, or of its training cases if there are none.
        worst: pictures (PNG) of cases by name, worst first.
        remarks: what has to be said besides.
    """
    about = trained.bundle.about
    date = datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC")
    notes = _notes(trained, scores, remarks)
    sections = [
        Section("", (Headline(_headline(trained, scores)),)),
        *([Section("To bear in mind", (Notes(tuple(notes)),))] if notes else []),
        Section("What was trained", (Facts(_facts(trained, scores)), *_settings(trained.bundle))),
        Section("Course of the training", _course(trained)),
        Section("The atlas", _atlas(trained)),
    ]
    if scores.cases:
        kind = "held-out" if trained.validation else "training"
        sections.append(Section(f"Scores of the {kind} cases", _score_blocks(trained.bundle, scores)))
    if worst:
        sections.append(Section("The cases with the lowest Dice", _worst(trained.bundle, scores, worst)))
    software = f"AtlasISTN {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return Document(
        f"Training of {about.title or about.name}",
        f"Version {about.version} · {date}",
        tuple(sections),
        (about.intended_use, f"Written by {software}.", _METHOD),
    )


def _headline(trained: Trained, scores: CohortScores) -> tuple[tuple[str, str], ...]:
    found = []
    if scores.cases:
        last = scores.stages[-1]
        who = plural(len(scores.cases), f"{'held-out' if trained.validation else 'training'} case")
        found = [
            (spread_text(scores.spread(s, "dice"), 3), f"mean Dice, {STAGE_TITLES[s]}, {who}")
            for s in scores.stages[::-1]
        ]
        found = [pair for pair in found if not pair[1].startswith(f"mean Dice, {STAGE_TITLES[ONE_PASS]}")] or found
        found.append(
            (spread_text(scores.spread(last, "assd"), 2) + " mm", f"mean surface distance, {STAGE_TITLES[last]}")
        )
    seconds = _seconds(trained)
    epochs = f"{len(trained.history)} epochs"
    return (*found, (duration(sum(seconds)), f"training, {epochs}") if seconds else (epochs, "of training"))


def _notes(trained: Trained, scores: CohortScores, remarks: Sequence[str]) -> list[str]:
    """What a reader has to know before believing the figures."""
    config, history = _config(trained.bundle), trained.history
    notes = []
    if not trained.validation:
        notes.append(
            "No cases were held out. All scores here are of cases that the model was trained on and are therefore too "
            "good; they say nothing of new images."
        )
    elif len(trained.validation) < _FEW:
        held_out = "case was" if len(trained.validation) == 1 else "cases were"
        notes.append(f"Only {len(trained.validation)} {held_out} held out: others may score quite differently.")
    if trained.validation and (config.keep == "best" or config.patience):
        notes.append("The held-out cases chose the epoch that was kept, so that their scores are a little too good.")
    if len(history) < config.epochs:
        early = config.patience and len(history) - best_epoch(history, config) >= config.patience
        why = f"no epoch was better in {config.patience} epochs" if early else "it was stopped"
        notes.append(f"The training ended after epoch {len(history)} of {config.epochs}: {why}.")
    elif trained.validation and len(history) > 1 / _LATE and best_epoch(history, config) > (1 - _LATE) * len(history):
        notes.append("The held-out cases' Dice was still rising at the end: more epochs may give a better model.")
    if config.part == "itn":
        notes.append(
            "Only the ITN was trained: the registration network has its first weights, and the atlas is the mean."
        )
    notes += remarks
    if scores.cancelled:
        notes.append(f"The scoring was stopped after {plural(len(scores.cases), 'case')}.")
    notes += [f"{name} could not be scored: {why}." for name, why in scores.failed.items()]
    return notes + _refinement_notes(scores) + _case_notes(trained.bundle, scores)


def _refinement_notes(scores: CohortScores) -> list[str]:
    if not {ITN, REFINED} <= set(scores.stages):
        return []
    itn, refined = (scores.spread(stage, "dice").mean for stage in (ITN, REFINED))
    if not refined < itn - _BEHIND:
        return []
    return [
        f"Refined, the atlas has a lower Dice than the ITN's prediction that it is fitted to ({refined:.3f} against "
        f"{itn:.3f}): more epochs, more iterations or a lower strength λ* may bring it closer."
    ]


def _case_notes(bundle: Bundle, scores: CohortScores) -> list[str]:
    """Labels that cases lack or that a stage did not find, and what segmenting them warned of."""
    absent: dict[tuple[str, ...], list[str]] = {}
    lost: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    warned: dict[str, list[str]] = {}
    for value, name in bundle.names.items():
        if without := tuple(case.name for case in scores.cases if value in case.absent):
            absent.setdefault(without, []).append(name)
        for stage in scores.stages:
            if found := tuple(case.name for case in scores.cases if case.value(stage, value, "volume") == 0):
                lost.setdefault((STAGE_TITLES[stage], found), []).append(name)
    for case in scores.cases:
        for warning in case.warnings:
            warned.setdefault(warning.rstrip("."), []).append(case.name)
    return [
        *(f"The truth of {listed(cases)} has no {listed(names)}: not scored there." for cases, names in absent.items()),
        *(
            f"Stage {stage}: no {listed(names)} found in {listed(cases)}; Dice is 0 there, and no distances exist."
            for (stage, cases), names in lost.items()
        ),
        *(f"{listed(names)}: {warning}." for warning, names in warned.items()),
    ]


def _facts(trained: Trained, scores: CohortScores) -> tuple[tuple[str, str], ...]:
    bundle, seconds = trained.bundle, _seconds(trained)
    grid = bundle.grid
    extent = " × ".join(f"{length:.4g}" for length in grid.extent)
    size, spacing = (" × ".join(f"{n:.4g}" for n in values) for values in (grid.size, grid.spacing))
    itn, stn = (sum(p.numel() for p in part.parameters()) for part in (bundle.model.itn, bundle.model.stn))
    kept = f"{len(trained.history)} of {_config(bundle).epochs} epochs; the model is that of epoch {trained.best_epoch}"
    pairs = [
        ("Model", bundle.about.name),
        ("Structures", ", ".join(f"{label.value} {label.name}" for label in bundle.labels[1:])),
        ("Trained on", f"{plural(len(trained.training), 'case')}: {listed(trained.training)}"),
        (
            "Held out",
            f"{plural(len(trained.validation), 'case')}: {listed(trained.validation)}"
            if trained.validation
            else "none",
        ),
        ("Model grid", f"{size} voxels of {spacing} mm, {extent} mm in all"),
        ("Intensities", _normalisation(bundle.normalisation)),
        ("Networks", f"ITN {itn:,} weights, STN {stn:,} weights"),
        ("Epochs", kept),
    ]
    if seconds:
        pairs.append(("Time", f"{duration(sum(seconds))} in all, {duration(median(seconds))} per epoch (median)"))
    if REFINED in scores.stages:
        own = resolved(bundle.refinement, bundle)
        pairs.append(
            (
                "Refinement",
                f"{own.iterations} iterations of mode {own.mode}, λ* = {own.strength:.4g}, β* = {own.beta:g}, "
                f"γ* = {own.gamma:g}, learning rate {own.learning_rate:g}",
            )
        )
    return tuple(pairs)


def _normalisation(config: NormalisationConfig) -> str:
    if config.kind == "window":
        low, high = config.center - config.width / 2, config.center + config.width / 2
        return f"window from {low:g} to {high:g}, mapped to −1 to 1".replace("-", "−")
    kinds = {"z-score": "z-scores of each image", "percentile": "1st to 99th percentile of each image to −1 to 1"}
    return kinds.get(config.kind, "as they are")


def _settings(bundle: Bundle) -> tuple[Block, ...]:
    """The settings that are not the defaults."""
    known: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        (dict(bundle.training.get("config", {})), as_dict(TrainConfig())),
        (as_dict(bundle.config), as_dict(ModelConfig(bundle.config.labels, bundle.config.shape))),
    ]
    rows = [
        Row(name.replace("_", " "), None, (Cell(_value(value)), Cell(_value(defaults.get(name)))))
        for values, defaults in known
        for name, value in values.items()
        if value != defaults.get(name)
    ]
    if not rows:
        return (Text("All settings are the defaults."),)
    return (Tables((Table("Changed settings", (Group("", ("here", "default")),), tuple(rows)),)),)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(part) for part in value)
    return "–" if value is None else f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _course(trained: Trained) -> tuple[Block, ...]:
    history, config = trained.history, _config(trained.bundle)
    strength = config.strength_on(trained.bundle.grid.shape)
    right = []
    if any("dice_itn" in entry or "dice_one_pass" in entry for entry in history):
        drawn = [figures.dice_curves(history, trained.best_epoch, theme) for theme in figures.THEMES]
        text = "Mean Dice over the structures of the held-out cases, on the model grid and without refinement."
        right.append(Picture("dice", "Validation Dice by epoch", text, *drawn))
    rates = [sorted({entry[name] for entry in history if name in entry}) for name in ("omega", "learning_rate")]
    change = any(len(values) > 1 for values in rates)
    if change:
        drawn = [figures.schedules(history, theme) for theme in figures.THEMES]
        text = "Weight ω of the registration terms, and the learning rate."
        right.append(Picture("schedule", "ω and learning rate by epoch", text, *drawn))
    loss = Picture(
        "loss",
        "Training loss and its terms by epoch",
        "Loss of the training cases and its terms, each with its weight, so that they add up to the total. Mean of "
        "each epoch; logarithmic axis; terms of less than a ten-thousandth are left out.",
        *(figures.losses(history, config, strength, theme, len(right) > 1) for theme in figures.THEMES),
    )
    curves = Pictures(((loss,), tuple(right)) if right else ((loss,),))
    if change or not all(rates):
        return (curves,)
    return (curves, Text(f"ω was {rates[0][0]:g} and the learning rate {rates[1][0]:g} throughout."))


def _atlas(trained: Trained) -> tuple[Block, ...]:
    bundle = trained.bundle
    image, soft = trained.initial_atlas
    planes = ", in planes through the middle of its structures" if bundle.grid.ndim == 3 else ""
    images = Picture(
        "atlas-image",
        "Atlas image at the start and at the end",
        f"Atlas image before the first epoch, the mean of the training images, and at the end{planes}. The grey scale "
        "is the same.",
        figures.atlas_images(image, bundle.atlas_image, bundle.atlas_labels),
    )
    labels = Picture(
        "atlas-labels",
        "Atlas labels at the start and at the end",
        "Soft atlas labels in the same planes. Colours fade and mix where the training cases disagree.",
        figures.atlas_labels(soft, bundle.atlas_labels, bundle.labels),
    )
    return (Pictures(((images,), (labels,))),)


def _score_blocks(bundle: Bundle, scores: CohortScores) -> tuple[Block, ...]:
    tables = Tables(
        score_tables(bundle.labels, scores),
        f"Mean ± standard deviation over {plural(len(scores.cases), 'case')}, on the images' own grids; the mean row "
        "is over the cases' means. Bold: the best of a row, where all stages have the figure in equally many cases (n "
        "says where it is fewer). ASSD: average symmetric surface distance; HD: Hausdorff distance, HD95 its 95th "
        "percentile. Components: mean number of connected pieces, and that of the truth in brackets.",
    )
    drawn = [figures.dice_points(scores, bundle.labels, theme) for theme in figures.THEMES]
    points = Picture("scores", "Dice by structure and stage", "Dice of each case; the bars are medians.", *drawn)
    by_case = Tables(
        (case_table(scores),),
        f"Sorted by the mean Dice of the {STAGE_TITLES[scores.stages[-1]]} stage, lowest first. Time of segmentation "
        f"and refinement on {bundle.device}.",
    )
    return (tables, Pictures(((points,),)), by_case)


def _worst(bundle: Bundle, scores: CohortScores, worst: Mapping[str, bytes]) -> tuple[Block, ...]:
    found = []
    for number, (name, png) in enumerate(worst.items(), 1):
        case = next(case for case in scores.cases if case.name == name)
        by_label = ", ".join(
            f"{label} {value:.3f}"
            for code, label in bundle.names.items()
            if not isnan(value := case.value(scores.stages[-1], code, "dice"))
        )
        text = f"{name}. Dice of the {STAGE_TITLES[scores.stages[-1]]} stage: {by_label}."
        found.append(Picture(f"worst-{number}", f"Slices of {name} with outlines", text, png))
    intro = Text("Outlines in the structures' colours; the truth is the thin white line.")
    return (intro, *(Pictures(((picture,),)) for picture in found))


def _config(bundle: Bundle) -> TrainConfig:
    return from_dict(TrainConfig, bundle.training.get("config", {}))


def _seconds(trained: Trained) -> list[float]:
    return [entry["seconds"] for entry in trained.history if "seconds" in entry]


def duration(seconds: float) -> str:
    """A time for people: "0.8 s", "42 s", "3 min 20 s", "5 h 10 min", "2 d 3 h"."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    high, low, whole, rest = "d", "h", *divmod(hours, 24)
    if round(seconds) < 3600:
        high, low, whole, rest = "min", "s", *divmod(round(seconds), 60)
    elif minutes < 24 * 60:
        high, low, whole, rest = "h", "min", *divmod(minutes, 60)
    return f"{whole} {high} {rest} {low}" if rest else f"{whole} {high}"


__all__ = ["training_document"]

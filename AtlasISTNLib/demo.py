"""The command `demo`: the samples that come along, segmented, refined and measured."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .batch import TITLES, Job, Settings, run_job
from .bundle import load_bundle
from .errors import VolumeError
from .outputs import PICTURE, REPORT, check_output
from .progress import Cancel
from .report import STAGES
from .resources import samples_folder
from .terminal import FINE, INTERRUPTED, Console, figure, table
from .volume import case_name

#: Model, image and label map of each sample.
SAMPLES = (
    ("phantom-heart", "phantom-heart-clean.nrrd", "phantom-heart-clean-labels.nrrd"),
    ("phantom-heart", "phantom-heart-corrupted.nrrd", "phantom-heart-corrupted-labels.nrrd"),
    ("letter-b", "letter-b.png", "letter-b-labels.png"),
)


def run_demo(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn demo`; gives the exit code. What an earlier demo left in the same place is replaced."""
    jobs = [(model, _job(image, labels, options.output)) for model, image, labels in SAMPLES]
    for _, job in jobs:
        check_output(job.folder, overwrite=True)
    bundles = {model: load_bundle(model, options.device) for model in dict.fromkeys(model for model, _ in jobs)}
    settings = Settings(overwrite=True)
    codes, done = [], []
    for model, job in jobs:
        codes.append(run_job(bundles[model], job, settings, console, cancel))
        if codes[-1] == FINE:
            done.append(job)
    if done:
        console.say("Means over the structures; components of all structures together, (those of the truth)")
        console.say(comparison({job.title: json.loads((job.folder / REPORT).read_text("utf-8")) for job in done}))
        console.say()
        console.say("\n".join(f"picture  {job.folder / PICTURE}" for job in done))
    return INTERRUPTED if cancel() else max(codes)


def _job(image: str, labels: str, output: Path) -> Job:
    paths = [samples_folder() / name for name in (image, labels)]
    for path in paths:
        if not path.is_file():
            raise VolumeError(
                f"the sample {path.name} is not in {path.parent}", "install AtlasISTN with its samples, or use segment"
            )
    return Job(paths[0], output / case_name(paths[0]), paths[1])


def comparison(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the stages of several reports side by side, means over the structures."""
    rows = []
    for title, figures in reports.items():
        for stage in STAGES:
            scores = figures["scores"][stage]
            counts = [sum(entry[key] for entry in scores["labels"]) for key in ("components", "reference_components")]
            means = [figure(scores["mean"][measure], digits) for measure, digits in _MEASURES]
            rows.append([title if stage == STAGES[0] else "", TITLES[stage], *means, f"{counts[0]} ({counts[1]})"])
    return table(["sample", "", "Dice", "ASSD mm", "HD mm", "components"], rows, left=2)


_MEASURES = (("dice", 3), ("assd", 2), ("hd", 2))

"""The command `segment`: one image or many, each with its own folder of results."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bundle import Bundle, load_bundle
from .configs import PlacementConfig, RefineConfig
from .errors import ConfigError, DivergenceError, GeometryError
from .outputs import REPORT, check_output, write_result
from .progress import Cancel, Report
from .report import STAGES
from .segmentation import refine, segment
from .steering_files import SteeringFiles
from .terminal import FINE, INTERRUPTED, Console, Guard, figure, table
from .volume import Volume, case_name, checked_image, checked_labels

#: How tables call the stages of a result.
TITLES = dict(zip(STAGES, ("ITN", "one pass", "refined"), strict=True))


@dataclass(frozen=True)
class Job:
    """One image of a batch; `index` is its place there."""

    image: Path
    folder: Path
    reference: Path | None = None
    index: int = 0

    @property
    def title(self) -> str:
        """What people read."""
        return self.folder.name


@dataclass(frozen=True)
class Settings:
    """What all images of a batch have in common; made before anything is read."""

    refinement: RefineConfig = field(default_factory=RefineConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    format: str = "nii.gz"
    overwrite: bool = False
    picture: bool = True
    steering: SteeringFiles = field(default_factory=SteeringFiles)

    @classmethod
    def of(cls, options: Namespace) -> Settings:
        """From the command line.

        Raises:
            ConfigError: a value is impossible.
        """
        given = options.center is not None or options.box is not None
        return cls(
            RefineConfig(
                options.refine, options.strength, options.beta, options.gamma, options.learning_rate, options.mode
            ),
            PlacementConfig("given" if given else options.placement or "auto", options.center, options.box),
            options.format,
            options.overwrite,
            options.picture,
            SteeringFiles.of(options),
        )


def run_segment(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn segment`; gives the exit code."""
    settings = Settings.of(options)
    codes = []
    ready = []
    for job in make_jobs(options.images, options.reference, options.output):
        with Guard(console, str(job.image)) as guard:
            check_output(job.folder, settings.overwrite)
            ready.append(job)
        codes.append(guard.code)
    if ready:
        bundle = load_bundle(options.model, options.device)
        check_placement(settings.placement, bundle)
        codes += [run_job(bundle, job, settings, console, cancel) for job in ready]
    done = codes[-len(ready) :].count(FINE) if ready else 0
    if len(codes) - len(ready) > 1:
        console.say(f"{done} of {len(options.images)} images segmented, in {options.output}")
    return INTERRUPTED if cancel() else max(codes)


def make_jobs(images: Sequence[Path], references: Sequence[Path], output: Path) -> list[Job]:
    """The images with their folders and references.

    Raises:
        ConfigError: two images would go into one folder, one has no name, or references are missing.
    """
    if references and len(references) != len(images):
        raise ConfigError(
            f"there are {len(images)} images but {len(references)} references",
            "give one label map for each image, in the same order, after the images",
        )
    by_name = defaultdict(list)
    for image in images:
        by_name[case_name(image)].append(image)
    for name, same in by_name.items():
        if len(same) > 1:
            raise ConfigError(
                f"{' and '.join(str(path) for path in same)} would all be written to {output / name}",
                "rename them or segment them into different folders",
            )
        if not name:
            raise ConfigError(f"{same[0]} has no name before its ending", "rename it")
    truths: Sequence[Path | None] = references or [None] * len(images)
    return [
        Job(image, output / case_name(image), reference, index)
        for index, (image, reference) in enumerate(zip(images, truths, strict=True))
    ]


def check_placement(placement: PlacementConfig, bundle: Bundle) -> None:
    """Refuse a centre or box that is not of the model's dimension.

    Raises:
        ConfigError: it is not.
    """
    given, d = placement.center or placement.box, bundle.config.ndim
    if given and len(given) != (d if placement.center else 2 * d):
        what = f"--center needs {d}" if placement.center else f"--box needs {2 * d}"
        raise ConfigError(
            f"{what} numbers for the {d}D model {bundle.about.name}, not {len(given)}", "give LPS millimetres"
        )


def run_job(bundle: Bundle, job: Job, settings: Settings, console: Console, cancel: Cancel) -> int:
    """Segment one image and tell of it; gives its exit code. An image that is asked for after an interrupt is left."""
    if cancel():
        return INTERRUPTED
    with Guard(console, str(job.image)) as guard:
        console.event("image", image=str(job.image), folder=job.folder)
        with console.progress(job.title, str(job.image)) as report:
            figures = segmented(bundle, job, settings, console, report, cancel)
        tell(job, figures, console)
        refinement = figures["refinement"] or {}
        if refinement.get("stopped") == "diverged":
            raise DivergenceError(
                f"the refinement left the finite numbers after step {refinement['iterations']}; the best state before "
                f"it was written to {job.folder}",
                "lower --learning-rate",
            )
    return guard.code


def segmented(
    bundle: Bundle, job: Job, settings: Settings, console: Console, report: Report, cancel: Cancel
) -> dict[str, Any]:
    """Read, segment, refine and write one image; gives what its report.json holds.

    Raises:
        AtlasISTNError: something is wrong with the image, its reference or its output; nothing was written.
    """
    image = checked_image(Volume.read(job.image), bundle.config.ndim)
    reference = None if job.reference is None else _reference(job.reference, image)
    target, steering = settings.steering.read(job.index, bundle, image)
    mapping = settings.steering.target_map
    result = segment(bundle, image, settings.placement, report, cancel, target=target, target_map=mapping)
    for warning in result.placement.warnings:
        console.warn(warning, str(job.image))
    warned = set(result.placement.warnings)
    try:
        result = refine(bundle, result, settings.refinement, report, cancel, steering)
    except DivergenceError as error:
        if error.result is None or error.result.trace is None:
            raise
        result = error.result
    for warning in result.placement.warnings:
        if warning not in warned:
            console.warn(warning, str(job.image))
    write_result(
        bundle,
        result,
        job.folder,
        format=settings.format,
        overwrite=settings.overwrite,
        reference=reference,
        picture=settings.picture,
        source=str(job.image),
        report=report,
    )
    figures: dict[str, Any] = json.loads((job.folder / REPORT).read_text(encoding="utf-8"))
    return figures


def _reference(path: Path, image: Volume) -> Volume:
    """A label map on an image's grid, refused before the work and not after it."""
    reference = Volume.read(path)
    checked_labels(reference)
    if reference.grid.ndim != image.grid.ndim or not reference.grid.same_as(image.grid):
        raise GeometryError(
            f"the reference {path} ({reference.grid}) does not lie on the image's grid ({image.grid})",
            "resample the reference onto the image, with nearest-neighbour interpolation",
        )
    return reference


def tell(job: Job, figures: Mapping[str, Any], console: Console) -> None:
    """What came out, for people and for programs; `figures` are those of report.json."""
    refinement = figures["refinement"]
    if refinement and refinement["stopped"] == "cancelled":
        console.warn(f"stopped after step {refinement['iterations']}; the best state was written", str(job.image))
    console.event(
        "result",
        image=str(job.image),
        folder=job.folder,
        placement={key: figures["placement"][key] for key in ("how", "center", "box", "warnings")},
        refinement=refinement and {key: value for key, value in refinement.items() if key != "trace"},
        **{key: figures[key] for key in ("seconds", "structures", "folding", "disagreement", "scores")},
    )
    how = "one pass" if not refinement else f"{refinement['iterations']} iterations, best at {refinement['best']}"
    seconds = sum(figures["seconds"].values())
    console.say(f"{job.title}: grid placed by {figures['placement']['how']}, {how}, {seconds:.1f} s → {job.folder}")
    for mark in (refinement or {}).get("landmarks", []):
        console.say(f"landmark {mark['name']}: {mark['before']:.1f} mm apart before, {mark['after']:.1f} mm after")
    console.say(scores_table(figures) if figures["scores"] else structures_table(figures))
    console.say()


def structures_table(figures: Mapping[str, Any]) -> str:
    """Volume and topology of each structure of the final labels, and how well the network's own agree."""
    entries = figures["structures"]
    unit = entries[0]["volume"]["unit"]
    header = ["structure", f"volume {unit}" if unit == "mL" else f"area {unit}", "components", "ITN components"]
    rows = []
    for entry in entries:
        counts = [str(entry["topology"][stage]["components"]) for stage in ("final", "prediction")]
        agreement = figure(entry["dice_prediction_final"], 3)
        rows.append([entry["name"], figure(entry["volume"]["final"]), *counts, agreement])
    return table([*header, "Dice with ITN"], rows)


def scores_table(figures: Mapping[str, Any]) -> str:
    """Dice, ASSD, HD and components of each structure against the reference, for each stage."""
    stages = [stage for stage in STAGES if figures["refinement"] or stage != "final"]
    rows = []
    for index, entry in enumerate(figures["scores"][STAGES[0]]["labels"]):
        for stage in stages:
            own = figures["scores"][stage]["labels"][index]
            measures = [figure(own["dice"], 3), figure(own["assd"]), figure(own["hd"]), str(own["components"])]
            rows.append([entry["name"] if stage == stages[0] else "", TITLES[stage], *measures])
    return table(["structure", "", "Dice", "ASSD mm", "HD mm", "components"], rows, left=2)

"""The small commands: models, evaluate, phantom and import-reference. Each gives the exit code."""

from __future__ import annotations

import csv
import io
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError, OutputError
from .metrics import evaluate
from .phantoms import write_phantoms
from .progress import Cancel
from .terminal import BAD_INPUT, FINE, Console, plain
from .volume import Volume, write_atomically

if TYPE_CHECKING:
    from .bundle import Bundle


def run_models(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn models`: the models that come along, or one of them in detail."""
    from .bundle import available_models, load_bundle

    if options.model is not None:
        found = [described(load_bundle(options.model, "cpu"), options.model)]
        code = FINE
    else:
        found, code = [], FINE
        for name, path in available_models().items():
            try:
                found.append(described(load_bundle(path, "cpu"), path))
            except BundleError as error:  # the others are to be seen all the same
                console.fail(error, name)
                code = BAD_INPUT
    console.event("result", models=found)
    if options.json and not console.events:
        console.data(json.dumps(plain({"models": found}), indent=2, ensure_ascii=False))
        return code
    if not found and code == FINE:
        console.say("No models come with this copy of AtlasISTN; give --model a bundle's folder or zip.")
    for entry in found:
        console.say(model_text(entry, full=options.model is not None))
    return code


def described(bundle: Bundle, place: str | Path) -> dict[str, Any]:
    """What people want to know of a model before they use it, as plain values."""
    from .bundle import grid_as_dict
    from .configs import as_dict

    about = bundle.about
    return {
        "name": about.name,
        "title": about.title,
        "version": about.version,
        "path": str(place),
        "dimension": bundle.config.ndim,
        "grid": grid_as_dict(bundle.grid),
        "grid_text": str(bundle.grid),
        "labels": [{"value": label.value, "name": label.name} for label in bundle.labels[1:]],
        "licence": about.licence,
        "intended_use": about.intended_use,
        "description": about.description,
        "citation": about.citation,
        "normalisation": as_dict(bundle.normalisation),
        "refinement": as_dict(bundle.refinement),
        "convention": bundle.config.convention,
        "parameters": sum(p.numel() for p in bundle.model.parameters()),
        "training": dict(bundle.training),
    }


def model_text(entry: dict[str, Any], full: bool) -> str:
    """A model in a few lines, or in all there are."""
    labels = ", ".join(f"{label['value']} {label['name']}" for label in entry["labels"])
    lines = [
        entry["name"] + (f" — {entry['title']}" if entry["title"] else ""),
        f"  grid          {entry['dimension']}D, {entry['grid_text']}",
        f"  labels        {labels}",
        f"  licence       {entry['licence'] or 'not stated'}",
        f"  intended use  {entry['intended_use']}",
    ]
    if full:
        refinement, normalisation = entry["refinement"], entry["normalisation"]
        window = f" {normalisation['center']:g} ± {normalisation['width'] / 2:g}"
        lines += [
            f"  version       {entry['version']}",
            f"  path          {entry['path']}",
            f"  description   {entry['description'] or '-'}",
            f"  citation      {entry['citation'] or '-'}",
            f"  intensities   {normalisation['kind']}" + (window if normalisation["kind"] == "window" else ""),
            f"  refinement    {refinement['iterations']} iterations, λ* {refinement['strength']:g}",
            f"  affine part   {entry['convention']}",
            f"  parameters    {entry['parameters']}",
        ]
    return "\n".join(lines)


def run_evaluate(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn evaluate`: measures of one label map against another."""
    if options.csv is not None and options.csv.exists() and not options.overwrite:
        raise OutputError(f"{options.csv} exists", "choose another name or add --overwrite")
    names = None
    if options.names is not None:
        from .bundle import load_bundle

        names = load_bundle(options.names, "cpu").names
    scores = evaluate(Volume.read(options.labels), Volume.read(options.reference), names)
    console.event("result", **scores.to_dict())
    if options.csv is not None:
        text = io.StringIO()
        rows = scores.to_rows()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["label", "name"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(options.csv, lambda partial: partial.write_text(text.getvalue(), encoding="utf-8"))
        console.note(f"written to {options.csv}")
    elif options.json:
        if not console.events:
            console.data(json.dumps(scores.to_dict(), indent=2, ensure_ascii=False))
    elif not console.events:
        console.data(scores.to_text())
    return FINE


def run_phantom(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn phantom`: labelled images made from seeds."""
    with console.progress(options.kind) as report:
        written = write_phantoms(
            options.kind,
            options.count,
            options.output,
            seed=options.seed,
            artefacts=options.artefacts,
            overwrite=options.overwrite,
            report=report,
            cancel=cancel,
        )
    console.event("result", files=[{"image": image, "labels": labels} for image, labels in written])
    for image, labels in written:
        console.say(f"{image}  {labels}")
    return FINE


def run_import_reference(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn import-reference`: a bundle from a folder of the released training."""
    from .bundle import save_bundle
    from .reference import import_reference

    check_bundle_output(options.output, options.overwrite)
    bundle = import_reference(options.folder, options.name)
    save_bundle(bundle, options.output, options.overwrite)
    console.event("result", model=described(bundle, options.output), path=options.output)
    console.say(f"{options.output} written")
    console.say(model_text(described(bundle, options.output), full=False))
    return FINE


def check_bundle_output(path: Path, overwrite: bool) -> None:
    """See before any work that a bundle can be written.

    Raises:
        OutputError: it cannot, or something is there.
    """
    from .bundle import MANIFEST

    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", "choose another name or add --overwrite")
    if path.is_dir() and (path.suffix == ".zip" or not (path / MANIFEST).is_file()):
        raise OutputError(f"{path} is a folder that is not a model", "choose another name")
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise OutputError(f"{place} is not a folder that can be written to", "choose another place")

"""The words of the command line: commands, options and their help.

Nothing heavy is imported here, so that help is instant.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .configs import (
    ATLAS_UPDATES,
    ITN_NORMS,
    KEPT,
    LABEL_SAMPLINGS,
    MODES,
    PARTS,
    SEGMENTATION_LOSSES,
    STN_INPUTS,
    TrainConfig,
)
from .errors import ConfigError
from .steering_arguments import add_steering

PROGRAM = "atlas-istn"

_EPILOG = """\
exit codes:
  0    everything went well
  1    an unexpected error; --debug shows where
  2    bad input, or a command line that makes no sense; of several images at least one failed
  130  stopped with Ctrl-C

Research only. Not for clinical use.
"""
_SEGMENT = """\
Segment images by warping a model's atlas onto its network's prediction.

For every image a folder DIR/<name> is written with labels, prediction (the network's own labels), one-pass (the atlas
before refinement) and atlas-image on the image's own grid, the transforms image-from-atlas.h5 and
atlas-from-image.h5, report.json and report.png. Several images are a batch: one that fails is reported and the rest
go on.

Ctrl-C during the refinement keeps the best state so far and writes it; a second Ctrl-C stops at once.
"""
_TRAIN = """\
Train a model and its atlas on labelled images.

The images come in one of these ways:
  --data DIR                             an nnU-Net raw folder: dataset.json, imagesTr, labelsTr
  --data DIR --pattern IMAGE LABELS      files below a folder; {case} stands for the case's name, such as in
                                         "{case}/t1.nii.gz" "{case}/seg.nii.gz"
  --images DIR --labels DIR              two folders with files of the same names
  --images CSV --labels CSV              two lists with a heading and one path a line

Label maps alone will do (--synthesise): of --labels DIR, of an nnU-Net folder's labelsTr, or of the second pattern.
Images are then made of them anew for every step, of any contrast and resolution. All labels are drawn; --structures
says which of them are segmented: "10=left thalamus,49=right thalamus", or a JSON table with colours and codes.
--recipe takes table, grid and settings from a file, or from one that comes along (brain-deep-grey):

  atlas-istn train --recipe brain-deep-grey --labels label-maps --name brain --output brain --checkpoint brain.ckpt

All cases are read and checked first; --check stops there and shows the grid that would be taken. Names of structures
come from dataset.json or --label; without either, every value found in the label maps becomes a structure. Without
--shape and --spacing a grid is chosen that holds every label map with a margin. Ctrl-C ends the training after its step
and writes what the last epoch gave.

Several GPUs: torchrun --nproc-per-node=2 -m AtlasISTNLib train ...
"""
_EXPERIMENT = """\
Train models, measure them on test sets and write tables and figures, all as a JSON file says.

SPEC is such a file (docs/experiments.md describes it) or the name of an experiment that comes along. A run that was
stopped goes on where it was when it is started again; with different --only, several processes may work in one DIR.
"""
_WORKER = """\
Serve another program, such as the module in 3D Slicer: one JSON object a line, requests on stdin and events on stdout;
AtlasISTNLib/worker.py describes them. It ends with its input.
"""
#: Every field of TrainConfig.
TRAIN_HELP = {
    "epochs": "passes over the cases",
    "batch_size": "cases per step, over all GPUs together",
    "learning_rate": "Adam's at the start",
    "halve_every": "epochs in which the learning rate halves; 0 keeps it",
    "clip": "largest norm of a step's gradients; 0 for any",
    "strength": "λ, weight of the smoothness",
    "strength_size": "voxels along an axis of the grid that λ was chosen for; λ is then carried to this grid; "
    "0 takes it as it is",
    "omega_midpoint": "epoch at which the registration terms have half their weight; without it they have all of it",
    "eta": "share of the new mean in each epoch's atlas update; 0 keeps the initial atlas",
    "late_eta": "that share from --late-epoch on, to clear the blur of the first epochs away",
    "late_epoch": "first epoch with --late-eta; 0 for none",
    "atlas_update": "running: from the training steps, where nothing is augmented; separate: in a pass of its own "
    "after each epoch, as published",
    "center_atlas": "also move the atlas towards the mean of all deformations",
    "atlas_rounds": "rounds after the last epoch in which the atlas is made anew of cases that are registered by their "
    "labels; they sharpen it",
    "part": "joint trains both networks, itn the segmentation network alone",
    "joint_from": "first epoch in which the registration network and the atlas take part in a joint training",
    "joint_learning_rate": "of the registration network from --joint-from on; 0 gives it the segmentation network's",
    "joint_halve_every": "epochs in which that one halves; 0 keeps it",
    "segmentation_loss": "the published mean squared error, or cross-entropy and soft Dice of a softmax",
    "segmentation_weight": "of that loss; 0 leaves the segmentation network to the registration terms",
    "couple": "let the registration terms train the segmentation network, too",
    "label_sampling": "how labels come to the model grid; nearest as published",
    "label_blur": "σ in voxels of the blur of the labels",
    "rotation": "augmentation: largest angle in degrees",
    "translation": "augmentation: largest shift in mm",
    "scale": "augmentation: largest relative change of size",
    "elastic": "augmentation: largest displacement in mm of a smooth random deformation",
    "intensity": "augmentation: largest relative change of contrast and brightness",
    "noise": "augmentation: largest standard deviation of added noise, in normalised units",
    "blur": "augmentation: largest σ in voxels of a blur",
    "bias": "augmentation: largest standard deviation of a smooth field added to the image, in normalised units",
    "prediction_noise": "augmentation: largest standard deviation of a smooth field added to what the STN sees",
    "validation": "share of the cases held out to watch the training",
    "folds": "folds of a cross-validation; 0 holds the share of --validation out instead",
    "fold": "which fold is held out, from 0; one training for each of them makes the cross-validation",
    "patience": "stop after so many epochs without a better validation; 0 never",
    "keep": "the model of the last epoch, or that of the best validation",
    "amp": "mixed precision on GPUs",
    "seed": "of everything random",
}
_TRAIN_CHOICES = {
    "part": PARTS,
    "segmentation_loss": SEGMENTATION_LOSSES,
    "label_sampling": LABEL_SAMPLINGS,
    "keep": KEPT,
    "atlas_update": ATLAS_UPDATES,
}
#: Options whose value may begin with a minus sign.
_SIGNED = {
    *("--refine", "--strength", "--beta", "--gamma", "--learning-rate", "--box", "--center", "--threads"),
    *("--landmark-weight", "--label-weights", "--target-map"),
    *("--count", "--seed", "--shape", "--spacing", "--window", "--channel", "--itn-channels", "--stn-channels"),
    *("--" + name.replace("_", "-") for name in TRAIN_HELP),
}
_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """A parser that raises `ConfigError` where argparse would print its usage and leave."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, f"see {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What the user wants.

    Raises:
        ConfigError: the command line makes no sense.
        SystemExit: help or version was asked for.
    """
    values, rest = _parser().parse_known_args(_signed_values_joined(arguments))
    options = [word for word in rest if word.startswith("-") and word != "-"]
    program = f"{PROGRAM} {values.command}" if values.command else PROGRAM
    if options:
        raise ConfigError(f"unknown option {options[0]}", f"see {program} --help")
    if values.command is None:
        raise ConfigError("no command was given", f"see {PROGRAM} --help")
    if rest and values.command == "segment":
        values.images += [Path(word) for word in rest]  # images that came after an option
    elif rest:
        raise ConfigError(f"unexpected argument '{rest[0]}'", f"see {program} --help")
    return values


def _signed_values_joined(arguments: Sequence[str]) -> list[str]:
    """`--center -10,20,5` as `--center=-10,20,5`: argparse takes the value for an option otherwise."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] in _SIGNED and _NEGATIVE.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Segmentation of anatomy by warping an atlas onto a network's prediction.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _segment(_command(commands, "segment", "segment images", _SEGMENT))
    _demo(_command(commands, "demo", "segment, refine and measure the samples that come along"))
    _models(_command(commands, "models", "list the models that come along, or describe one"))
    _evaluate(_command(commands, "evaluate", "measure a label map against a reference on the same grid"))
    _phantom(_command(commands, "phantom", "make labelled images to try things on"))
    _train(_command(commands, "train", "train a model on labelled images", _TRAIN))
    _experiment(_command(commands, "experiment", "train and compare models as a file says", _EXPERIMENT))
    _import_reference(
        _command(commands, "import-reference", "turn a model of the authors' released training into ours")
    )
    _worker(commands)
    return parser


def _command(commands: Any, name: str, title: str, description: str = "") -> Parser:
    parser: Parser = commands.add_parser(name, help=title, description=description or f"{title.capitalize()}.")
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--events", choices=["jsonl"], help="for programs: one JSON object a line on stdout and nothing else there"
    )
    group.add_argument("--quiet", action="store_true", help="show only warnings and errors")
    group.add_argument("--verbose", action="store_true", help="show the engine's log")
    group.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    return parser


def _machine(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=whole, metavar="N", help="CPU threads to use (default: all)")


def _segment(parser: Parser) -> None:
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder with one DICOM series")
    add("--model", required=True, metavar="NAME|PATH", help="a model's name (see `atlas-istn models`), folder or zip")
    add("--output", required=True, type=Path, metavar="DIR", help="where the results go")
    add("--overwrite", action="store_true", help="replace results that are there already")
    add("--format", choices=["nii.gz", "nrrd"], default="nii.gz", help="of the written images (default: nii.gz)")
    add("--no-picture", dest="picture", action="store_false", help="write no report.png")
    add(
        "--reference",
        nargs="+",
        type=Path,
        default=[],
        metavar="LABELS",
        help="label maps to measure against, one for each image in the same order; put them after the images",
    )
    group = parser.add_argument_group("refinement")
    add = group.add_argument
    add("--refine", type=whole, metavar="N", help="iterations; 0 for one pass only (default: the model's own)")
    add("--strength", type=number, metavar="λ", help="weight λ* of the smoothness (default: the model's own)")
    add("--beta", type=number, default=1.0, help="weight β* of the atlas brought onto the prediction (default: 1)")
    add("--gamma", type=number, default=0.0, help="weight γ* of the prediction brought onto the atlas (default: 0)")
    add("--learning-rate", type=number, metavar="RATE", help="of Adam (default: the mode's own)")
    add(
        "--mode",
        choices=MODES,
        default="network",
        help="network adapts a copy of the registration network, field the deformation itself (default: network)",
    )
    add_steering(parser)
    group = parser.add_argument_group("where the model's grid lies on the image")
    place = group.add_mutually_exclusive_group()
    place.add_argument(
        "--placement",
        choices=["auto", "center"],
        help="auto looks for the anatomy in images larger than the grid (default); center takes the image's centre",
    )
    place.add_argument("--center", type=numbers, metavar="x,y,z", help="centre of the grid, LPS mm")
    place.add_argument("--box", type=numbers, metavar="x0,x1,y0,y1,z0,z1", help="box around the anatomy, LPS mm")
    _machine(parser)


def _worker(commands: Any) -> None:
    parser: Parser = commands.add_parser("worker", help="serve another program", description=_WORKER)
    parser.add_argument("--threads", type=whole, dest="worker_threads", metavar="N", help="CPU threads to use at most")
    parser.add_argument("--verbose", action="store_true", help="show the engine's log")
    parser.set_defaults(events=None, quiet=False, debug=False)


def _demo(parser: Parser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("atlas-istn-demo"), metavar="DIR", help="default: atlas-istn-demo"
    )
    _machine(parser)


def _models(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", metavar="NAME|PATH", help="the model to describe (default: list all)")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")


def _evaluate(parser: Parser) -> None:
    parser.add_argument("labels", type=Path, metavar="LABELS", help="the label map to measure")
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="the truth, on the same grid")
    parser.add_argument("--names", metavar="NAME|PATH", help="a model whose structures name the labels")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as JSON on stdout")
    shape.add_argument("--csv", type=Path, metavar="FILE", help="write a table of comma-separated values")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there already")


def _phantom(parser: Parser) -> None:
    add = parser.add_argument
    add("kind", choices=["heart", "letter-b"], help="a chest CT with a labelled heart, or a noisy letter B")
    add("--output", required=True, type=Path, metavar="DIR", help="gets the folders images and labels")
    add("--count", type=whole, default=1, metavar="N", help="how many (default: 1)")
    add("--seed", type=whole, default=0, metavar="S", help="of the first one; the others follow (default: 0)")
    add("--artefacts", action="store_true", help="disturb the images; the labels stay right")
    add("--overwrite", action="store_true", help="replace files that are there already")


def _train(parser: Parser) -> None:
    group = parser.add_argument_group("the data")
    add = group.add_argument
    add("--data", type=Path, metavar="DIR", help="an nnU-Net raw folder, or with --pattern any folder")
    add("--pattern", nargs=2, metavar=("IMAGE", "LABELS"), help="how files below --data are named")
    add("--channel", type=whole, metavar="N", help="input channel of an nnU-Net folder that has several, from 0")
    add("--images", type=Path, metavar="DIR|CSV", help="the images")
    add("--labels", type=Path, metavar="DIR|CSV", help="their label maps")
    add(
        "--label",
        action="append",
        type=named_value,
        default=[],
        metavar="VALUE=NAME",
        help="a structure; once for each of them (default: those of dataset.json, or every value found)",
    )
    _train_synthesis(parser)
    add("--ignore-other-labels", action="store_true", help="take label values without a name for background")
    add("--window", type=numbers, metavar="CENTER,WIDTH", help="intensity window (default: z-scores of the image)")
    add(
        "--normalisation",
        choices=("z-score", "percentile"),
        help="of intensities without a window (default: z-score; with --synthesise percentile)",
    )
    add("--check", action="store_true", help="only check the data and show the grid that would be taken")
    _train_outputs(parser)
    _train_model(parser)
    _machine(parser)
    _train_settings(parser.add_argument_group("settings of the training"))


def _train_synthesis(parser: Parser) -> None:
    group = parser.add_argument_group("training on label maps alone")
    add = group.add_argument
    add("--synthesise", action="store_true", help="make the images of the label maps; there may be none")
    add(
        "--structures",
        metavar="TABLE",
        help='what is segmented: "VALUE=NAME,…", or a JSON file (default: as with --label); others are only drawn',
    )
    add("--recipe", metavar="NAME|FILE", help="table, grid and settings; options that are given go before it")
    add(
        "--synthesis",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="how images are made, once for each setting, such as rotation=20 (see docs/training.md)",
    )


def _train_outputs(parser: Parser) -> None:
    group = parser.add_argument_group("what is written")
    add = group.add_argument
    add("--output", type=Path, metavar="BUNDLE", help="the model: a folder, or a .zip; needed unless --check")
    add("--overwrite", action="store_true", help="replace a model or a report that is there already")
    add("--compact", action="store_true", help="store weights and atlas in 8 bits, in about a quarter of the space")
    add("--report", type=Path, metavar="DIR", help="write a report with figures and pictures of the training")
    add("--checkpoint", type=Path, metavar="FILE", help="written after each epoch; an existing one is gone on from")
    add("--cache", type=Path, metavar="DIR", help="keep the prepared cases there for the next time")
    add("--tensorboard", type=Path, metavar="DIR", help="write figures and pictures for TensorBoard")
    add("--name", help="of the model; needed unless --check")
    for what in ("title", "description", "licence", "citation"):
        add(f"--{what}", default="", metavar="TEXT", help="of the model, for those who get it")


def _train_model(parser: Parser) -> None:
    group = parser.add_argument_group("the model")
    add = group.add_argument
    add("--shape", type=wholes, metavar="z,y,x", help="voxels of the model's grid")
    add("--spacing", type=numbers, metavar="x,y,z", help="voxel size of the model's grid in mm; one number for all")
    place = group.add_mutually_exclusive_group()
    text = "centre the grid on each case's {} (default: labels if an image is larger than the grid, else image)"
    for what, flag in (("labels", True), ("image", False)):
        place.add_argument(
            f"--place-on-{what}", dest="place_on_labels", action="store_const", const=flag, help=text.format(what)
        )
    # Their names are those of ModelConfig's fields.
    add("--no-affine", dest="affine", action="store_false", default=argparse.SUPPRESS, help="deform only")
    add("--no-nonrigid", dest="nonrigid", action="store_false", default=argparse.SUPPRESS, help="move and scale only")
    for name, levels, text in (
        ("itn_channels", "a,b,c,d", "widths of the segmentation network (default: 8,16,32,64)"),
        ("stn_channels", "a,b,c", "widths of the registration network (default: 16,32,8)"),
    ):
        add(f"--{name.replace('_', '-')}", type=wholes, default=argparse.SUPPRESS, metavar=levels, help=text)
    add(
        "--itn-norm",
        choices=ITN_NORMS,
        default=argparse.SUPPRESS,
        help="batch normalisation helps to learn many labels; the model has it in its convolutions (default: none)",
    )
    add(
        "--stn-input",
        choices=STN_INPUTS,
        default=argparse.SUPPRESS,
        help="what is registered with the atlas: the segmentation network's prediction (default), or the image itself",
    )


def _train_settings(group: Any) -> None:
    """One option for every field of TrainConfig; what is not given stays off the result."""
    for field in fields(TrainConfig):
        option, text = "--" + field.name.replace("_", "-"), TRAIN_HELP[field.name]
        shared: dict[str, Any] = {"default": argparse.SUPPRESS}
        if field.type == "bool":
            text += f" (default: {'on' if field.default else 'off'})"
            group.add_argument(option, action=argparse.BooleanOptionalAction, help=text, **shared)
        elif field.type == "str":
            text += f" (default: {field.default})"
            group.add_argument(option, choices=_TRAIN_CHOICES[field.name], help=text, **shared)
        else:
            text += "" if field.default is None else f" (default: {field.default:g})"
            kind = whole if field.type == "int" else number
            group.add_argument(option, type=kind, metavar="N", help=text, **shared)


def _import_reference(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds itn.pt, stn.pt, config.json and the atlas")
    parser.add_argument("output", type=Path, metavar="OUT", help="the model to write: a folder, or a .zip")
    parser.add_argument("--name", help="of the model (default: the folder's name)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there already")


def number(text: str) -> float:
    """A number; whether it makes sense is for the settings to say."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from error


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from error


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(number(part.strip()) for part in text.split(","))


def wholes(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(whole(part.strip()) for part in text.split(","))


def setting(text: str) -> tuple[str, float]:
    """`NAME=NUMBER`; whole numbers stay whole. Whether there is such a setting is for the settings to say."""
    name, _, value = text.partition("=")
    if not name.strip() or not value.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    plain = value.strip()
    return name.strip(), int(plain) if plain.lstrip("-").isdecimal() else number(plain)


def named_value(text: str) -> tuple[int, str]:
    """`VALUE=NAME` of a structure."""
    value, _, name = text.partition("=")
    if not name.strip() or not value.strip().isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not VALUE=NAME with a value of 1 or more")
    return int(value), name.strip()


def _experiment(parser: Parser) -> None:
    add = parser.add_argument
    add("spec", metavar="SPEC|NAME", help="the experiment: a JSON file, or letter-b or phantom-heart")
    add("--output", type=Path, metavar="DIR", help="the experiment's folder; an existing one is gone on with")
    add("--only", nargs="+", default=[], metavar="MODEL", help="train and measure these models only")
    add("--rows", nargs="+", default=[], metavar="ROW", help="measure these rows only, and train their models")
    add("--tests", nargs="+", default=[], metavar="TEST", help="measure on these test sets only")
    add("--data", nargs="+", action="extend", type=named_path, default=[], metavar="KEY=PATH", help="where data are")
    add("--tables-only", action="store_true", help="only write tables and figures of what has been measured")
    add("--list", action="store_true", help="say what the experiment holds, and what of it is done in DIR")
    _machine(parser)


def named_path(text: str) -> tuple[str, Path]:
    """`KEY=PATH` of an experiment's data."""
    key, _, path = text.partition("=")
    if not key.strip() or not path:
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=PATH")
    return key.strip(), Path(path).expanduser()

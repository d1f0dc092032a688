"""The command `train`: cases as people have them, a grid that fits them, and a bundle at the end."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

from .atlas_pictures import distinct_color
from .bundle import About, Label, find_device, save_bundle
from .commands import check_bundle_output
from .configs import ModelConfig, NormalisationConfig, TrainConfig
from .dataset_checks import DataCheck, check_cases, listed
from .datasets import DataSet, find_cases
from .errors import ConfigError, OutputError, VolumeError
from .grids import ModelGrid, check_sizes, choose_grid
from .progress import Cancel, Report, never, silent
from .terminal import FINE, INTERRUPTED, Console, figure, is_main, table
from .tracking import TensorBoard
from .training import Trained, run_training

#: Problems of the data that people are shown one by one.
_MOST_SHOWN = 20
#: Fields of About and of ModelConfig that are options.
_ABOUT_OPTIONS = ("title", "description", "licence", "citation")
_MODEL_OPTIONS = ("affine", "nonrigid", "itn_channels", "stn_channels", "stn_input")


@dataclass(frozen=True)
class Plan:
    """What a training is to be made of, checked as far as it can be without reading an image."""

    config: TrainConfig
    normalisation: NormalisationConfig
    model: Mapping[str, Any]
    names: Mapping[int, str]
    data: DataSet


def run_train(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn train`; gives the exit code. Of several processes only the first one speaks and writes."""
    plan = make_plan(options)
    title = options.name or "data"
    with console.progress(title) as report:
        check = check_data(plan, options, report, cancel)
    for note in check.notes if check.good or options.check else ():
        console.warn(str(note))
    if not check.good:
        if options.check:
            console.say(_data_text(plan.data, check))
        _refuse(check, len(plan.data.cases), console)
    chosen = fitting_grid(check, options)
    _show(plan.data, check, chosen, console)
    if options.check:
        return FINE
    with ExitStack() as stack:
        report = stack.enter_context(console.progress(title))
        if options.tensorboard is not None and is_main():
            labels = make_labels(check.names)
            report = stack.enter_context(TensorBoard(options.tensorboard, labels, chosen.grid)).watching(report)
        trained = train_model(plan, check, chosen, options, report, cancel)
    if is_main():
        _write(trained, plan, options, console, cancel)
    return INTERRUPTED if cancel() else FINE


def check_data(plan: Plan, options: Namespace, report: Report = silent, cancel: Cancel = never) -> DataCheck:
    """Read all cases of a plan once and look for what would spoil its training.

    Raises:
        Cancelled: stopped.
    """
    others = options.ignore_other_labels
    return check_cases(plan.data.cases, plan.names, plan.config, ignore_others=others, report=report, cancel=cancel)


def fitting_grid(check: DataCheck, options: Namespace) -> ModelGrid:
    """The grid that the options ask for, or one that fits the data.

    Raises:
        ConfigError: what was asked for does not fit the data.
    """
    return choose_grid(check.extents, options.shape, options.spacing, options.place_on_labels)


def train_model(
    plan: Plan,
    check: DataCheck,
    chosen: ModelGrid,
    options: Namespace,
    report: Report = silent,
    cancel: Cancel = never,
) -> Trained:
    """Train as planned, going on from the checkpoint if there is one; the errors are those of `run_training`."""
    labels = make_labels(check.names)
    return run_training(
        plan.data.cases,
        plan.config,
        labels=labels,
        grid=chosen.grid,
        about=About(options.name, **{key: getattr(options, key) for key in _ABOUT_OPTIONS}),
        normalisation=plan.normalisation,
        model_config=ModelConfig(labels=len(labels), shape=chosen.grid.shape, **plan.model),
        place_on_labels=chosen.on_labels,
        checkpoint=options.checkpoint,
        cache=options.cache,
        device=options.device,
        report=report,
        cancel=cancel,
    )


def make_labels(names: Mapping[int, str]) -> tuple[Label, ...]:
    """Labels with colours that are told apart, background first, from their names by values."""
    found = [Label(0, "background", (0, 0, 0))]
    for index, (value, name) in enumerate(sorted(names.items())):
        color = [round(255 * part) for part in distinct_color(index)]
        found.append(Label(value, name, (color[0], color[1], color[2])))
    return tuple(found)


def make_plan(options: Namespace) -> Plan:
    """Everything that can be refused before an image is read.

    Args:
        options: as `arguments.parse` gives them for the command `train`.

    Raises:
        ConfigError: the options make no sense.
        VolumeError: there is no data, or its files do not pair.
        OutputError: the model cannot be written where it is to go.
        DeviceError: the device is not on this machine.
    """
    missing = [option for option in ("output", "name") if getattr(options, option) is None]
    if missing and not options.check:
        raise ConfigError(f"the model's {' and '.join(missing)} are needed", "give --output and --name, or --check")
    config = TrainConfig(**_given(options, [f.name for f in fields(TrainConfig)]))
    model = _given(options, _MODEL_OPTIONS)
    if config.segmentation_loss != "mse":
        model["itn_output"] = "softmax"  # as `run_training` chooses where nobody does
    check_sizes(options.shape, options.spacing)
    ModelConfig(labels=2, shape=options.shape or (8, 8), **model)
    if config.part == "itn" and model.get("stn_input") == "image":
        raise ConfigError(
            "a model that registers images has no segmentation network", "leave --part or --stn-input out"
        )
    normalisation, names = _normalisation(options.window), _names(options.label)
    if not options.check:
        _check_outputs(options)
        find_device(options.device)
    data = find_cases(
        options.data,
        pattern=tuple(options.pattern) if options.pattern else None,
        images=options.images,
        labels=options.labels,
        channel=options.channel,
    )
    return Plan(config, normalisation, model, names or data.names, data)


def _given(options: Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def _check_outputs(options: Namespace) -> None:
    check_bundle_output(options.output, options.overwrite)
    for folder in (options.report, options.cache, options.tensorboard):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is not a folder", "choose another place")
    taken = options.report is not None and options.report.is_dir() and any(options.report.iterdir())
    if taken and not options.overwrite:
        raise OutputError(f"{options.report} is not empty", "choose another folder or add --overwrite")


def _names(given: Sequence[tuple[int, str]]) -> dict[int, str]:
    names = dict(given)
    if len(names) < len(given):
        raise ConfigError("--label names one value twice", "give every value once")
    return names


def _normalisation(window: Sequence[float] | None) -> NormalisationConfig:
    if window is None:
        return NormalisationConfig()
    if len(window) != 2:
        raise ConfigError(f"--window needs CENTER,WIDTH, not {len(window)} numbers")
    return NormalisationConfig("window", window[0], window[1])


def _refuse(check: DataCheck, cases: int, console: Console) -> None:
    """One line for each problem, then an error about all of them.

    Raises:
        VolumeError: always.
    """
    count = len(check.problems)
    if count == 1:
        check.require_good()
    shown = check.problems if console.events else check.problems[:_MOST_SHOWN]
    for problem in shown:
        console.fail(VolumeError(problem.message, problem.hint), problem.case or None)
    more = f", {count - len(shown)} of them not shown" if count > len(shown) else ""
    raise VolumeError(f"{count} problems in the data of {cases} cases{more}", "correct them; --check looks again")


def _show(data: DataSet, check: DataCheck, chosen: ModelGrid, console: Console) -> None:
    """What was found and what will be made of it."""
    grid, d = chosen.grid, chosen.grid.ndim
    console.event(
        "setup",
        source=data.source,
        cases=len(data.cases),
        shape=grid.shape,
        spacing=grid.spacing,
        place_on_labels=chosen.on_labels,
        margin=chosen.margin,
        cut=chosen.cut,
        labels=list(check.names),
        names=check.names,
    )
    console.say(_data_text(data, check))
    where = "labels" if chosen.on_labels else "image"
    size = " x ".join(f"{e:g}" for e in grid.extent)
    console.say(f"grid    {grid}: {size} mm, its centre on that of each case's {where}")
    least = ", ".join(f"{m:.1f} along {axis}" for m, axis in zip(chosen.margin, "xyz"[:d], strict=True))
    console.say(f"margin  mm from the labels to the grid's border, the least of all cases: {least}")
    numbers = [",".join(f"{n:g}" for n in values) for values in (grid.shape, grid.spacing)]
    console.say(f"as options: --shape {numbers[0]} --spacing {numbers[1]} --place-on-{where}")
    if chosen.cut:
        console.warn(f"the grid cuts the labels of {listed(chosen.cut)} off; give a larger --shape or --spacing")


def _data_text(data: DataSet, check: DataCheck) -> str:
    dimensions = sorted({extent.grid.ndim for extent in check.extents})
    text = f"{data.source}: {len(data.cases)} cases" + "".join(f", {d}D" for d in dimensions)
    rows = [[str(value), name, str(check.counts[value])] for value, name in check.names.items()]
    return text + ("\n" + table(["value", "label", "cases"], rows, left=2) if rows else "")


def _write(trained: Trained, plan: Plan, options: Namespace, console: Console, cancel: Cancel) -> None:
    bundle = trained.bundle
    save_bundle(bundle, options.output, options.overwrite)
    last = {name: float(value) for name, value in bundle.training["last"].items()}
    epochs = bundle.training["epochs"]
    if cancel():
        console.warn(f"stopped after epoch {epochs} of {plan.config.epochs}; the model is what that epoch gave")
    elif epochs < plan.config.epochs:
        console.note(f"stopped early after epoch {epochs}: no better validation for {plan.config.patience} epochs")
    if options.report is not None and cancel():
        console.warn("the training was stopped, and so its report was not written")
    elif options.report is not None:
        from .training_report import write_training_report  # and with it matplotlib

        with console.progress(options.name) as report:
            write_training_report(trained, plan.data.cases, options.report, report, cancel, options.overwrite)
    console.event(
        "result",
        path=options.output,
        epochs=epochs,
        best_epoch=trained.best_epoch,
        last=last,
        training=trained.training,
        validation=trained.validation,
        report=None if cancel() else options.report,
    )
    which = f", the model of epoch {trained.best_epoch}" if trained.best_epoch != epochs else ""
    console.say(f"{options.output} written after {epochs} epochs{which}: {_in_words(last)}")


def _in_words(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure(value, 4)}" for name, value in terms.items())

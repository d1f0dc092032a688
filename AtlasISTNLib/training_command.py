"""The command `train`: cases as people have them, a grid that fits them, and a bundle at the end."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .atlas_pictures import distinct_color
from .bundle import About, Label, find_device, save_bundle
from .commands import check_bundle_output
from .configs import ModelConfig, NormalisationConfig, TrainConfig, as_dict, from_dict
from .dataset_checks import DataCheck, Finding, check_cases, listed
from .datasets import Case, DataSet, find_cases
from .errors import ConfigError, OutputError, VolumeError
from .grids import ModelGrid, check_sizes, choose_grid
from .label_maps import MapCase, find_label_maps
from .label_table import LabelTable, read_table, table_from_names, table_from_text, table_problems
from .progress import Cancel, Report, never, silent
from .recipes import read_recipe
from .synthesis import check_synthesis
from .synthesis_config import SynthesisConfig
from .terminal import FINE, INTERRUPTED, Console, figure, is_main, table
from .tracking import TensorBoard
from .training import Trained, run_training

#: Problems of the data that people are shown one by one.
_MOST_SHOWN = 20
#: Fields of About and of ModelConfig that are options.
_ABOUT_OPTIONS = ("title", "description", "licence", "citation")
#: What of a model is chosen; its labels and shape follow from the table and the grid.
_MODEL_OPTIONS = tuple(f.name for f in fields(ModelConfig) if f.name not in ("labels", "shape"))


@dataclass(frozen=True)
class Plan:
    """What a training is to be made of, checked as far as it can be without reading an image."""

    config: TrainConfig
    normalisation: NormalisationConfig
    model: Mapping[str, Any]
    names: Mapping[int, str]
    data: DataSet
    synthesis: SynthesisConfig | None = None
    table: LabelTable | None = None

    def labels(self, check: DataCheck) -> tuple[Label, ...]:
        """The structures of the model, background first."""
        return make_labels(check.names) if self.table is None else _with_colors(self.table.structures)

    def cases(self, check: DataCheck) -> tuple[Case, ...]:
        """The cases as the training sees them: label maps with their rendering where images are synthesised."""
        if self.synthesis is None:
            return self.data.cases
        table = self.table or table_from_names(check.names)
        return tuple(MapCase.of(case, table) for case in self.data.cases)


def run_train(options: Namespace, console: Console, cancel: Cancel) -> int:
    """`atlas-istn train`; gives the exit code. Of several processes only the first one speaks and writes."""
    options = with_recipe(options)
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
    if plan.synthesis is not None:
        _show_synthesis(plan, check, console)
    if options.check:
        return FINE
    with ExitStack() as stack:
        report = stack.enter_context(console.progress(title))
        if options.tensorboard is not None and is_main():
            labels = plan.labels(check)
            report = stack.enter_context(TensorBoard(options.tensorboard, labels, chosen.grid)).watching(report)
        trained = train_model(plan, check, chosen, options, report, cancel)
    if is_main():
        _write(trained, plan, check, options, console, cancel)
    return INTERRUPTED if cancel() else FINE


def check_data(plan: Plan, options: Namespace, report: Report = silent, cancel: Cancel = never) -> DataCheck:
    """Read all cases of a plan once and look for what would spoil its training.

    Raises:
        Cancelled: stopped.
    """
    others = options.ignore_other_labels or plan.synthesis is not None
    check = check_cases(plan.data.cases, plan.names, plan.config, ignore_others=others, report=report, cancel=cancel)
    if plan.synthesis is None:
        return check
    try:
        found = table_problems(plan.table or table_from_names(check.names), check.present) if check.names else []
    except ConfigError as error:
        found = [str(error.message)]
    problems = tuple(Finding(problem, "correct the label table") for problem in found)
    return replace(check, problems=check.problems + problems)


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
    labels = plan.labels(check)
    return run_training(
        plan.cases(check),
        plan.config,
        labels=labels,
        grid=chosen.grid,
        about=About(options.name, **{key: getattr(options, key) for key in _ABOUT_OPTIONS}),
        normalisation=plan.normalisation,
        model_config=ModelConfig(labels=len(labels), shape=chosen.grid.shape, **plan.model),
        place_on_labels=chosen.on_labels,
        synthesis=plan.synthesis,
        table=None if plan.synthesis is None else plan.table or table_from_names(check.names),
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


def _with_colors(labels: Sequence[Label]) -> tuple[Label, ...]:
    """Structures of a table; those without a colour get one that is told apart."""
    made = make_labels({label.value: label.name for label in labels[1:]})
    plain = Label(0, "").color
    return tuple(
        replace(label, color=own.color) if label.color == plain else label
        for label, own in zip(labels, made, strict=True)
    )


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
    synthesis = _synthesis(options)
    table, names = _table(options), _names(options.label)
    if table is None and synthesis is not None and names:
        table = table_from_names(names)
    normalisation = _normalisation(options, synthesis is not None)
    if synthesis is not None:
        check_synthesis(config, normalisation)
    if not options.check:
        _check_outputs(options)
        find_device(options.device)
    data = _data(options, synthesis is not None, table)
    if table is None and synthesis is not None and data.names:
        table = table_from_names(data.names)
    names = names if table is None else table.names
    return Plan(config, normalisation, model, names or data.names, data, synthesis, table)


def with_recipe(options: Namespace) -> Namespace:
    """The options, filled in from their recipe where nothing was given.

    Raises:
        ConfigError: there is no such recipe, or it makes no sense.
    """
    options = Namespace(**vars(options))
    options.table = None
    if options.recipe is None:
        return options
    recipe = read_recipe(options.recipe)
    for name, value in (*recipe.training.items(), *recipe.model.items()):
        if not hasattr(options, name):
            setattr(options, name, tuple(value) if isinstance(value, list) else value)
    for name in ("shape", "spacing", "place_on_labels"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(recipe, name))
    for name, text in recipe.about.items():
        setattr(options, name, getattr(options, name) or text)
    options.table = recipe.table
    if recipe.synthesis is not None:
        options.synthesise = True
        options.synthesis = [*as_dict(recipe.synthesis).items(), *options.synthesis]
    return options


def _data(options: Namespace, synthesise: bool, table: LabelTable | None) -> DataSet:
    if not synthesise:
        return find_cases(
            options.data,
            pattern=tuple(options.pattern) if options.pattern else None,
            images=options.images,
            labels=options.labels,
            channel=options.channel,
        )
    if options.images is not None or options.channel is not None:
        raise ConfigError("images are made of the label maps", "leave --images and --channel out")
    found = find_label_maps(options.data, pattern=options.pattern, labels=options.labels)
    return replace(found, cases=tuple(MapCase(case.name, case.image, case.labels, table) for case in found.cases))


def _synthesis(options: Namespace) -> SynthesisConfig | None:
    if options.synthesise:
        return from_dict(SynthesisConfig, dict(options.synthesis))
    if options.synthesis:
        raise ConfigError("--synthesis says how images are made of label maps", "add --synthesise")
    return None


def _table(options: Namespace) -> LabelTable | None:
    """The table of --structures, else that of the recipe."""
    text = options.structures
    if text is None:
        return None if options.label else getattr(options, "table", None)
    if not options.synthesise:
        raise ConfigError("--structures goes with --synthesise", "name structures of labelled images with --label")
    if options.label:
        raise ConfigError("--structures and --label both name the structures", "give one of them")
    path = Path(text)
    return read_table(path) if path.suffix.lower() == ".json" or path.is_file() else table_from_text(text)


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


def _normalisation(options: Namespace, synthesise: bool) -> NormalisationConfig:
    window = options.window
    if window is None:
        return NormalisationConfig(options.normalisation or ("percentile" if synthesise else "z-score"))
    if options.normalisation is not None:
        raise ConfigError("a window and another normalisation were given", "leave --window or --normalisation out")
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


def _show_synthesis(plan: Plan, check: DataCheck, console: Console) -> None:
    """How images will be made of the label maps."""
    assert plan.synthesis is not None
    table = plan.table or table_from_names(check.names)
    kept = (
        f"{len(table.kept)} labels kept where the rest is stripped off" if table.kept else "nothing ever stripped off"
    )
    pairs = f"{len(table.pairs)} pairs of left and right" if table.pairs else "no left and right"
    count = len(plan.data.cases) * plan.synthesis.draws
    console.say(
        f"images  made of {len(check.present)} labels, {len(check.names)} of them segmented; {pairs}; {kept}; "
        f"{plan.synthesis.draws} of each label map and epoch, {count} in all, less those held out"
    )


def _data_text(data: DataSet, check: DataCheck) -> str:
    dimensions = sorted({extent.grid.ndim for extent in check.extents})
    text = f"{data.source}: {len(data.cases)} cases" + "".join(f", {d}D" for d in dimensions)
    rows = [[str(value), name, str(check.counts[value])] for value, name in check.names.items()]
    return text + ("\n" + table(["value", "label", "cases"], rows, left=2) if rows else "")


def _write(
    trained: Trained, plan: Plan, check: DataCheck, options: Namespace, console: Console, cancel: Cancel
) -> None:
    bundle = trained.bundle
    save_bundle(bundle, options.output, options.overwrite, options.compact)
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
            write_training_report(trained, plan.cases(check), options.report, report, cancel, options.overwrite)
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

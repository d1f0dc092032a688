"""Joint training of ITN, STN and atlas (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383).

    L = L_s + ω (L_a2s + L_s2a + λ L_reg),   atlas ← (1 − η) atlas + η mean_i(z_i∘Φ_i) after each epoch

Everything random in an epoch is drawn from (seed, epoch, case) alone, so that a training that was stopped at any moment
goes on from its checkpoint as if it had not been, and that many processes do together what one would do alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .atlas_updates import RunningMean, mean_case, renew_atlas, update_atlas
from .augmentation import batch_of, on_grid, prediction_noise
from .bundle import About, Bundle, Label, find_device, grid_as_dict, half_extent
from .checkpoint import Progressed, clear_half_written, resume, save_checkpoint
from .configs import ModelConfig, NormalisationConfig, RefineConfig, TrainConfig, as_dict
from .datasets import Case
from .distributed import Processes, processes
from .errors import Cancelled, ConfigError, DivergenceError
from .geometry import Grid
from .label_maps import MapCase
from .label_table import LabelTable, pairs_by_name
from .model import AtlasISTN, channels_last, without_normalisation
from .objective import joint_loss
from .prepared import Prepared, prepare
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .splits import split_cases
from .synthesis import WATCHED, Synthesiser, check_synthesis, codes_grid
from .synthesis_config import SynthesisConfig
from .volume import Volume
from .warp import sample

_LOGGER = logging.getLogger(__name__)
_LOWER_RATE = "lower the learning rate; the last checkpoint is intact"


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gave.

    Attributes:
        bundle: the model; its `training` is the record that is stored with it.
        history: for each epoch the loss and its terms, "omega", "learning_rate", "seconds" and, with validation cases,
            "dice_itn" and "dice_one_pass".
        initial_atlas: image (1 channel) and soft labels (K channels) at t = 0, on the bundle's grid.
        training: names of the cases trained on.
        validation: names of the held-out cases.
        best_epoch: the epoch, from 1, whose model this is.
    """

    bundle: Bundle
    history: tuple[Mapping[str, float], ...]
    initial_atlas: tuple[Volume, Volume]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    best_epoch: int


def train(
    cases: Sequence[Case],
    config: TrainConfig,
    *,
    labels: Sequence[Label],
    grid: Grid,
    about: About,
    normalisation: NormalisationConfig | None = None,
    model_config: ModelConfig | None = None,
    place_on_labels: bool = False,
    synthesis: SynthesisConfig | None = None,
    table: LabelTable | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    device: str = "auto",
    report: Report = silent,
    cancel: Cancel = never,
) -> Bundle:
    """Train a model and its atlas on labelled cases; see `run_training`, whose bundle it gives."""
    return run_training(
        cases,
        config,
        labels=labels,
        grid=grid,
        about=about,
        normalisation=normalisation,
        model_config=model_config,
        place_on_labels=place_on_labels,
        synthesis=synthesis,
        table=table,
        checkpoint=checkpoint,
        cache=cache,
        device=device,
        report=report,
        cancel=cancel,
    ).bundle


def run_training(
    cases: Sequence[Case],
    config: TrainConfig,
    *,
    labels: Sequence[Label],
    grid: Grid,
    about: About,
    normalisation: NormalisationConfig | None = None,
    model_config: ModelConfig | None = None,
    place_on_labels: bool = False,
    synthesis: SynthesisConfig | None = None,
    table: LabelTable | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    device: str = "auto",
    report: Report = silent,
    cancel: Cancel = never,
) -> Trained:
    """Train a model and its atlas on labelled cases.

    Under `torchrun` all processes do this together; every one of them gets the same result, the first one writes.

    Args:
        cases: at least two.
        config: of the training.
        labels: the structures, background first.
        grid: the model grid in atlas space; only shape, spacing and direction matter for the images.
        about: name and licence of the model.
        normalisation: z-scores by default; by percentiles where images are synthesised.
        model_config: K and shape must agree with `labels` and `grid`; the standard model by default.
        place_on_labels: centre the grid on each case's foreground, as automatic placement does; else on its image.
        synthesis: train on the cases' label maps alone, on images that are made of them anew for every step; images
            that the cases may have are left alone. The atlas's image is then the mean of a fixed rendering.
        table: of the label maps, whose structures are `labels`; by default every other value is a tissue of its own,
            and structures named left and right are partners.
        checkpoint: file to write after each epoch and to go on from if it exists.
        cache: folder that keeps the prepared cases for the next time; a temporary one by default.
        device: "auto", "cpu", "cuda" or "mps".
        report: gets stage "prepare" for each case and "train" for each epoch, whose `preview()` gives atlas image
            (1, *shape) and soft labels (K, *shape) as arrays.
        cancel: asked before each step; a cancelled training gives what its last epoch gave.

    Raises:
        ConfigError, VolumeError: the settings or a case are unusable; nothing was trained.
        BundleError: the checkpoint is damaged or belongs to another training.
        OutputError: checkpoint or cache cannot be written; the last checkpoint is intact.
        DivergenceError: the loss is not finite; the checkpoint holds the last good epoch.
        Cancelled: stopped before the first epoch ended.
    """
    normalisation = normalisation or NormalisationConfig("z-score" if synthesis is None else "percentile")
    model_config = model_config or ModelConfig(
        labels=len(labels), shape=grid.shape, itn_output="linear" if config.segmentation_loss == "mse" else "softmax"
    )
    _check(config, model_config, labels, grid)
    if synthesis is not None:
        check_synthesis(config, normalisation)
        table = table or LabelTable(tuple(labels), pairs_by_name(labels[1:]))
        cases = [MapCase.of(case, table) for case in cases]
    training, validation = split_cases(len(cases), config)
    setting = {
        "cases": [case.name for case in cases],
        "config": as_dict(config),
        "model": as_dict(model_config),
        "grid": grid_as_dict(grid),
        "normalisation": as_dict(normalisation),
        "place_on_labels": place_on_labels,
        "synthesis": None if synthesis is None or table is None else {**as_dict(synthesis), "table": table.as_dict()},
    }
    with ExitStack() as stack:
        group = stack.enter_context(processes(find_device(device)))
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and group.first:
            clear_half_written(path)
        folder = Path(cache) if cache is not None else None
        if folder is None:
            own = stack.enter_context(_own_cache(path)) if group.first else ""
            folder = Path(group.from_first(str(own)))
        values = [label.value for label in labels]

        fine = None if synthesis is None else codes_grid(grid, synthesis)

        def ready() -> Prepared:
            return prepare(cases, values, grid, normalisation, config, place_on_labels, folder, report, cancel, fine)

        # The first process prepares; the others, which wait for its word, find it done.
        data = ready() if group.first else None
        group.wait()
        if data is None and not folder.is_dir():
            raise ConfigError(f"{folder} is not on this machine", "give a cache folder that all machines share")
        data = data or ready()
        maker = None
        if synthesis is not None and table is not None:
            maker = Synthesiser(data, table, grid, normalisation, synthesis, config)
        run = _Training(data, training, validation, model_config, grid, config, group, maker)
        if path is not None and group.from_first(path.exists()):
            run.go_on(path, setting)
        run.until_done(path, setting, report, cancel)
        run.renew_atlas(report, cancel)
    trained = run.result(about, labels, normalisation, [case.name for case in cases])
    if synthesis is not None:
        record = {**trained.bundle.training, "synthesis": setting["synthesis"]}
        trained = replace(trained, bundle=replace(trained.bundle, training=record))
    return trained


@contextmanager
def _own_cache(checkpoint: Path | None) -> Iterator[Path]:
    """A folder for the prepared cases of one training, removed at its end.

    Beside the checkpoint, if there is one: a training that is started again after it was killed finds its cases there,
    and however often that happens, nothing piles up.
    """
    if checkpoint is None:
        with tempfile.TemporaryDirectory(prefix="atlas-istn-") as scratch:
            yield Path(scratch)
        return
    folder = checkpoint.with_name(f".{checkpoint.name}.cases")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(config: TrainConfig, model_config: ModelConfig, labels: Sequence[Label], grid: Grid) -> None:
    if model_config.shape != grid.shape or model_config.labels != len(labels):
        raise ConfigError("the model's labels and shape must agree with those of the training")
    if config.segmentation_loss != "mse" and model_config.itn_output != "softmax":
        raise ConfigError(
            "cross-entropy needs an ITN that ends in a softmax", "set itn_output to softmax or segmentation_loss to mse"
        )
    if config.part == "itn" and model_config.stn_input == "image":
        raise ConfigError("a model that registers images has no ITN to train alone", "set part to joint")


class _Training:
    """One training; owns all that changes during it."""

    def __init__(
        self,
        data: Prepared,
        training: Sequence[int],
        validation: Sequence[int],
        model_config: ModelConfig,
        grid: Grid,
        config: TrainConfig,
        group: Processes,
        maker: Synthesiser | None,
    ) -> None:
        self.maker = maker
        self.data, self.grid, self.config, self.group = data, grid, config, group
        self.training, self.validation = torch.tensor(training), torch.tensor(validation, dtype=torch.long)
        self.strength = config.strength_on(grid.shape)
        torch.manual_seed(config.seed)
        image, labels = mean_case(data, self.training, config.batch_size, group)
        self.initial = (image.clone(), labels.clone())
        self.model = channels_last(AtlasISTN(model_config, half_extent(grid), image, labels), False).to(group.device)
        _begin_at_the_mean(self.model)
        self.moving = list(_trained_parts(self.model, config).parameters())
        self.optimizer = _optimiser(self.moving, self.model.stn, config)
        self.so_far = Progressed()
        self.mean: RunningMean | None = None

    def go_on(self, path: Path, setting: Mapping[str, Any]) -> None:
        self.so_far = resume(path, self.model, self.optimizer, setting)

    def until_done(self, path: Path | None, setting: Mapping[str, Any], report: Report, cancel: Cancel) -> None:
        """Epoch after epoch, until all are done, validation stands still, or the caller has had enough."""
        for epoch in range(len(self.so_far.history) + 1, self.config.epochs + 1):
            if self._stands_still():
                _LOGGER.info("stopped early: no better validation for %d epochs", self.config.patience)
                break
            started = time.perf_counter()
            before = {key: value.clone() for key, value in self.model.state_dict().items()}
            terms = self._epoch(epoch, cancel)
            if terms is None:
                if not self.so_far.history:
                    stop_if(lambda: True, "the training")
                self.model.load_state_dict(before)
                break
            self._update_atlas(epoch)
            self._check_finite(epoch)
            terms |= self._validation_scores()
            terms["seconds"] = time.perf_counter() - started
            self._remember(terms)
            if path is not None and self.group.first:
                save_checkpoint(path, self.model, self.optimizer, setting, self.so_far)
            report(Progress("train", epoch, self.config.epochs, terms, preview=self._atlas))

    def renew_atlas(self, report: Report, cancel: Cancel) -> None:
        """The rounds after the last epoch. Broken off, the atlas is that of the last whole one.

        No checkpoint holds them: a training that goes on makes them again.
        """
        rounds, done = self.config.atlas_rounds, 0
        alone = self.group.count == 1  # others would wait for one that stopped

        def before_case(_number: int, cases: int) -> None:
            nonlocal done
            report(Progress("atlas", done, rounds * cases))
            done += 1
            if alone:
                stop_if(cancel, "the making of the atlas")

        for _ in range(rounds):
            try:
                renew_atlas(self.model, self.data, self.training, self.strength, self.group, before_case)
            except Cancelled:
                return

    def result(
        self, about: About, labels: Sequence[Label], normalisation: NormalisationConfig, names: Sequence[str]
    ) -> Trained:
        epochs = len(self.so_far.history)
        if self.config.keep == "best" and self.so_far.best:
            self.model.load_state_dict(self.so_far.best["model"])
            self.model.atlas_image.copy_(self.so_far.best["atlas"]["atlas_image"])
            self.model.atlas_labels.copy_(self.so_far.best["atlas"]["atlas_labels"])
        best = best_epoch(self.so_far.history, self.config) if self.config.keep == "best" else epochs
        training, validation = (tuple(names[int(i)] for i in index) for index in (self.training, self.validation))
        record = {
            "config": as_dict(self.config),
            "cases": len(names),
            "epochs": epochs,
            "best_epoch": best,
            "last": dict(self.so_far.history[-1]) if epochs else {},
            "training": list(training),
            "validation": list(validation),
        }
        iterations = 50 if self.grid.ndim == 2 else 100
        refinement = RefineConfig(iterations, self.strength, 1.0, 0.0, None, "network")
        model = without_normalisation(self.model).eval().requires_grad_(False)
        bundle = Bundle(about, tuple(labels), self.grid, normalisation, refinement, model, record)
        image, soft = (Volume.from_array(t.numpy(), self.grid, "initial atlas") for t in self.initial)
        return Trained(bundle, tuple(self.so_far.history), (image, soft), training, validation, best)

    def _epoch(self, epoch: int, cancel: Cancel) -> dict[str, float] | None:
        """One pass over the training cases; the mean of each loss term, or None when cancelled."""
        config = self.config
        rates = config.rates(epoch)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rates[settings["of_stn"]]
        self.model.train()
        if 1 < config.joint_from <= epoch:
            self.model.itn.hold_statistics()
        draw = torch.Generator().manual_seed(config.seed * 100003 + epoch)
        cases = self.training if self.maker is None else self.maker.repeated(self.training)
        shuffled = cases[torch.randperm(len(cases), generator=draw)]
        omega = config.omega(epoch)
        joint = config.part_in(epoch) == "joint" and config.updates_while_running and config.eta_in(epoch)
        self.mean = RunningMean(self.model) if joint and self.maker is None else None
        sums = torch.zeros(5, device=self.group.device)
        for batch in shuffled.split(config.batch_size):
            self.optimizer.zero_grad(set_to_none=True)
            stop = cancel()
            terms = torch.zeros(5) if stop else self._gradients(batch, epoch, omega)
            stop, lost = self._add_up_gradients(stop, terms is None)
            if lost or terms is None:
                raise DivergenceError(f"the training loss is not finite in epoch {epoch}", _LOWER_RATE)
            if stop:
                return None
            sums += terms
            if config.clip:
                torch.nn.utils.clip_grad_norm_(self.moving, config.clip)
            self.optimizer.step()
        self._share_statistics()
        self.group.add_up([sums])
        means = dict(zip(("loss", "segmentation", "a2s", "s2a", "reg"), (sums / len(shuffled)).tolist(), strict=True))
        if not torch.isfinite(sums[0]):
            raise DivergenceError(f"the training loss is not finite in epoch {epoch}", _LOWER_RATE)
        return {**means, "omega": omega, "learning_rate": rates[0]}

    def _gradients(self, batch: Tensor, epoch: int, omega: float) -> Tensor | None:
        """Gradients of this process's share of a batch; the share's sums of the loss and of its terms.

        None if the loss is not finite. That is asked on the CPU alone, where points that are not finite crash torch;
        on GPUs asking would make every step wait, and the epoch's sums tell as well.
        """
        own = self.group.share(batch)
        if not len(own):
            return torch.zeros(5, device=self.group.device)
        if self.maker is not None:
            image, labels = self.maker.batch(own, epoch, self.group.device)
        else:
            image, labels = batch_of(self.data, own, self.grid, self.config, epoch, self.group.device)
        noise = prediction_noise(own, labels.shape[1] - 1, self.grid, self.config, epoch, self.group.device)
        mean = self.mean
        warped = None if mean is None else lambda points: mean.add(image, labels, points)
        part = self.config.part_in(epoch)
        loss, terms = joint_loss(self.model, image, labels, omega, self.strength, self.config, noise, warped, part)
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            return None
        (loss * (len(own) / len(batch))).backward()
        return torch.stack([loss, *terms.values()]).detach() * len(own)

    def _add_up_gradients(self, stop: bool, lost: bool) -> tuple[bool, bool]:
        """Gradients of all processes together, and whether one of them wants to stop or has lost its way."""
        if self.group.count == 1:
            return stop, lost
        flags = torch.tensor([float(stop), float(lost)], device=self.group.device)
        for parameter in self.moving:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.group.add_up([flags, *(p.grad for p in self.moving if p.grad is not None)])
        stopped, astray = flags.tolist()
        return stopped > 0, astray > 0

    def _share_statistics(self) -> None:
        """Let batch normalisation have the same statistics in all processes: the mean of theirs."""
        if self.group.count > 1 and self.model.config.itn_norm == "batch":
            statistics = [buffer for buffer in self.model.itn.buffers() if buffer.is_floating_point()]
            self.group.add_up(statistics)
            for buffer in statistics:
                buffer /= self.group.count

    def _update_atlas(self, epoch: int) -> None:
        eta, config = self.config.eta_in(epoch), self.config
        if self.mean is not None:
            self.mean.move(self.model, len(self.training), self.group, eta)
        elif eta and config.part_in(epoch) == "joint":
            cases, size = self.training, config.batch_size
            update_atlas(self.model, self.data, cases, size, self.group, eta, config.center_atlas)

    @torch.no_grad()
    def _validation_scores(self) -> dict[str, float]:
        """Mean foreground Dice of the ITN and of the one-pass atlas on the held-out cases, on the model grid.

        Where images are synthesised, on a few of each held-out label map, which are the same in every epoch.
        """
        if not len(self.validation):
            return {}
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        watched = self.validation if self.maker is None else self.maker.repeated(self.validation, WATCHED)
        for index in self.group.share(watched).split(self.config.batch_size):
            if self.maker is not None:
                image, labels = self.maker.batch(index, 0, self.group.device)
            else:
                image, labels = on_grid(self.data, index, self.group.device)
            prediction, warp = self.model(image)
            warped = sample(self.model.atlas_labels.unsqueeze(0), warp.atlas_from_image())
            truth = labels.argmax(dim=1)
            for place, soft in enumerate((prediction, warped)):
                found = soft.argmax(dim=1)
                sums[place] += sum(_mean_dice(a, b, labels.shape[1]) for a, b in zip(found, truth, strict=True))
        sums = sums.to(torch.float32).to(self.group.device)
        self.group.add_up([sums])
        scores = (sums / len(watched)).tolist()
        return {"dice_itn": scores[0], "dice_one_pass": scores[1]}

    def _check_finite(self, epoch: int) -> None:
        model = self.model
        if not all(bool(t.isfinite().all()) for t in (*model.parameters(), model.atlas_image, model.atlas_labels)):
            raise DivergenceError(f"the weights or the atlas are not finite after epoch {epoch}", _LOWER_RATE)

    def _remember(self, terms: dict[str, float]) -> None:
        history = [*self.so_far.history, terms]
        best = self.so_far.best
        if self.config.keep == "best" and best_epoch(history, self.config) == len(history):
            atlas = {"atlas_image": self.model.atlas_image, "atlas_labels": self.model.atlas_labels}
            state = {"model": self.model.state_dict(), "atlas": atlas}
            best = {part: {key: t.detach().clone() for key, t in tensors.items()} for part, tensors in state.items()}
        self.so_far = replace(self.so_far, history=history, best=best)

    def _stands_still(self) -> bool:
        history, patience = self.so_far.history, self.config.patience
        return bool(patience and history) and len(history) - best_epoch(history, self.config) >= patience

    def _atlas(self) -> tuple[Any, Any]:
        return self.model.atlas_image.cpu().numpy().copy(), self.model.atlas_labels.cpu().numpy().copy()


def best_epoch(history: Sequence[Mapping[str, float]], config: TrainConfig) -> int:
    """The epoch, from 1, of the best validation: of the highest mean Dice of the parts that are trained, the first."""
    names = ("dice_itn",) if config.part == "itn" else ("dice_itn", "dice_one_pass")
    scores = [sum(entry.get(name, 0.0) for name in names) for entry in history]
    return scores.index(max(scores)) + 1 if scores else 0


def _trained_parts(model: AtlasISTN, config: TrainConfig) -> torch.nn.Module:
    """The networks whose weights move."""
    if config.part == "itn":
        return model.itn
    return model.stn if model.config.stn_input == "image" else model


def _optimiser(moving: Sequence[torch.nn.Parameter], stn: torch.nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Adam with the STN's weights apart, but all in the order of `moving`: checkpoints know them by their number."""
    of_stn = {id(weight) for weight in stn.parameters()}
    runs = itertools.groupby(moving, key=lambda weight: id(weight) in of_stn)
    groups = [{"params": list(weights), "of_stn": apart} for apart, weights in runs]
    return torch.optim.Adam(groups, lr=config.learning_rate, foreach=True)


@torch.no_grad()
def _begin_at_the_mean(model: AtlasISTN) -> None:
    """Let the untrained ITN predict each label's share of the volume; hearts then took a quarter of the steps."""
    leave = model.itn.leave
    share = model.atlas_labels.flatten(1).mean(dim=1)
    leave.get_parameter("bias").copy_(share.clamp(min=1e-4).log() if model.itn.softmax else share)
    leave.get_parameter("weight").mul_(0.1)


def _mean_dice(labels: Tensor, truth: Tensor, k: int) -> float:
    """Mean over the labels that are in the truth; where none is, 1 if none was found and 0 otherwise."""
    scores = []
    for value in range(1, k):
        a, b = labels == value, truth == value
        if bool(b.any()):
            scores.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return sum(scores) / len(scores) if scores else float(not labels.any())


__all__ = ["Trained", "best_epoch", "run_training", "train"]

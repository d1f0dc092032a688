"""Joint training of ITN, STN and atlas (Sinclair et al. 2022, doi:10.1016/j.media.2022.102383).

    L = L_s + ω (L_a2s + L_s2a + λ L_reg),   atlas ← (1 − η) atlas + η mean_i(z_i∘Φ_i) after each epoch

Registration terms compare the true labels with the atlas; as in the released code their gradient also reaches the ITN,
through the prediction that the STN sees. Every epoch draws its order and augmentation from (seed, epoch) alone, so that
a training that was stopped goes on from its checkpoint as if it had not been.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .bundle import About, Bundle, Label, find_device, grid_as_dict, half_extent
from .checkpoint import resume, save_checkpoint
from .configs import ModelConfig, NormalisationConfig, RefineConfig, TrainConfig, as_dict
from .datasets import Case, foreground_center, normalised, soft_labels
from .errors import ConfigError, DivergenceError, VolumeError
from .geometry import Grid
from .losses import label_distance, smoothness
from .model import AtlasISTN
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .volume import checked_image, flattened
from .warp import apply_matrix, cropped, identity, invert_matrix, metric_affine, sample

_LOWER_RATE = "lower the learning rate"


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Prepared cases on one grid, in memory.

    Attributes:
        images: (N, 1, *shape + margins) float32, normalised.
        labels: (N, K, *shape + margins) float16, soft.
        margin: voxels beyond the model grid on each side, so that augmentation does not run out of image.
        names: of the cases.
    """

    images: Tensor
    labels: Tensor
    margin: int
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def on_grid(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels of some cases on the model grid, not augmented."""
        shape = [n - 2 * self.margin for n in self.images.shape[2:]]
        image, labels = (cropped(values[index], shape, self.margin) for values in (self.images, self.labels))
        return image.to(device), labels.to(device).float()


def prepare(
    cases: Sequence[Case],
    labels: Sequence[Label],
    grid: Grid,
    normalisation: NormalisationConfig,
    config: TrainConfig,
    place_on_labels: bool,
    report: Report = silent,
    cancel: Cancel = never,
) -> TrainingSet:
    """Read, place, normalise and resample all cases.

    Args:
        place_on_labels: centre the grid on each case's foreground, as automatic placement does; else on the image.

    Raises:
        VolumeError: a case cannot be used; its name is in the message.
        ConfigError: there are fewer than two cases.
    """
    if len(cases) < 2:
        raise ConfigError(f"training needs at least two cases, not {len(cases)}", "twenty or more are sensible")
    values = [label.value for label in labels]
    turns = config.rotation or config.scale or config.translation
    margin = math.ceil(max(grid.shape) * 0.12) if turns else 0
    shape = tuple(n + 2 * margin for n in grid.shape)
    images, targets = [], []
    for done, case in enumerate(cases):
        stop_if(cancel, "preparing the cases")
        image, label_map = case.load()
        checked_image(image, grid.ndim)
        if image.grid.ndim > grid.ndim:
            image, label_map = flattened(image)[0], flattened(label_map)[0]
        center = foreground_center(label_map, values[1:]) if place_on_labels else image.grid.center
        placed = Grid.centered(shape, grid.spacing, center, grid.direction)
        images.append(torch.from_numpy(normalised(image, placed, normalisation).array.copy()))
        soft = soft_labels(label_map, values, placed, config.label_blur)
        if not (soft[1:] > 0.5).any():
            raise VolumeError(
                f"{case.name}: none of its labels lies on the model grid", "check the grid's size and the labels"
            )
        targets.append(torch.from_numpy(soft.astype(np.float16)))
        report(Progress("prepare", done + 1, len(cases), message=case.name))
    return TrainingSet(torch.stack(images), torch.stack(targets), margin, tuple(case.name for case in cases))


def augmented(
    data: TrainingSet, index: Tensor, grid: Grid, config: TrainConfig, draw: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Some cases on the model grid, turned, moved, scaled and changed in intensity at random."""
    if not (data.margin or config.intensity or config.noise):
        return data.on_grid(index, device)
    n, d = len(index), grid.ndim

    def uniform(count: int, limit: float) -> Tensor:
        return (2 * torch.rand((n, count), generator=draw) - 1) * limit

    if data.margin:
        turns = 1 if d == 2 else 3
        half = torch.tensor(half_extent(grid))
        parameters = torch.cat(
            [
                torch.atanh((uniform(d, config.translation) / half).clamp(-0.9, 0.9)),
                torch.atanh(uniform(turns, math.radians(config.rotation)) / (math.pi / 2)),
                torch.atanh(torch.log1p(uniform(d, config.scale))),
            ],
            dim=1,
        )
        theta = metric_affine(parameters, half_extent(grid))
        inner = torch.tensor(grid.size, dtype=torch.float32) - 1
        # CUBE of the model grid to CUBE of the larger prepared grid: both are centred on one point.
        points = apply_matrix(invert_matrix(theta), identity(grid.shape, theta)) * (inner / (inner + 2 * data.margin))
        points = points.to(device)
        image = sample(data.images[index].to(device), points)
        labels = sample(data.labels[index].to(device).float(), points)
    else:
        image, labels = data.on_grid(index, device)
    column = (-1,) + (1,) * (d + 1)
    if config.intensity:
        contrast, brightness = 1 + uniform(1, config.intensity), uniform(1, config.intensity)
        image = image * contrast.reshape(column).to(device) + brightness.reshape(column).to(device)
    if config.noise:
        level = torch.rand((n, 1), generator=draw) * config.noise
        image = image + (torch.randn(image.shape, generator=draw) * level.reshape(column)).to(device)
    return image, labels


def joint_loss(
    model: AtlasISTN, image: Tensor, labels: Tensor, omega: float, strength: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = L_s + ω (L_a2s + L_s2a + λ L_reg) of a batch, and its terms by name (Sinclair et al. 2022).

    Args:
        image: (N, 1, *shape), normalised.
        labels: (N, K, *shape), soft.
    """
    prediction = model.itn(image)
    warp = model.register_atlas(prediction)
    plus, minus = warp.displacement(1), warp.displacement(-1)
    outward = warp.config.direction == "atlas_from_image"
    to_atlas = warp.atlas_from_image(plus if outward else minus)
    to_image = warp.image_from_atlas(minus if outward else plus)
    atlas = model.atlas_labels[1:].unsqueeze(0)
    terms = {
        "segmentation": label_distance(prediction, labels),
        "a2s": label_distance(labels[:, 1:], sample(atlas, to_atlas)),
        "s2a": label_distance(sample(labels[:, 1:], to_image), atlas),
        "reg": smoothness(plus, image),
    }
    total = terms["segmentation"] + omega * (terms["a2s"] + terms["s2a"] + strength * terms["reg"])
    return total, terms


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
    checkpoint: str | os.PathLike[str] | None = None,
    device: str = "auto",
    report: Report = silent,
    cancel: Cancel = never,
) -> Bundle:
    """Train a model and its atlas on labelled cases.

    Args:
        cases: at least two.
        config: of the training.
        labels: the structures, background first.
        grid: the model grid in atlas space; only shape, spacing and direction matter for the images.
        about: name and licence of the model.
        normalisation: z-scores by default.
        model_config: K and shape must agree with `labels` and `grid`; the standard model by default.
        place_on_labels: see `prepare`.
        checkpoint: file to write after each epoch and to go on from if it exists.
        device: "auto", "cpu", "cuda" or "mps".
        report: gets stage "prepare" for each case and "train" for each epoch.
        cancel: asked before each step; a cancelled training returns what its last epoch gave.

    Raises:
        ConfigError, VolumeError: the settings or a case are unusable; nothing was trained.
        DivergenceError: the loss is not finite; the checkpoint holds the last good epoch.
        Cancelled: stopped before the first epoch ended.
    """
    normalisation = normalisation or NormalisationConfig()
    model_config = model_config or ModelConfig(labels=len(labels), shape=grid.shape)
    if model_config.shape != grid.shape or model_config.labels != len(labels):
        raise ConfigError("the model's labels and shape must agree with those of the training")
    target = find_device(device)
    data = prepare(cases, labels, grid, normalisation, config, place_on_labels, report, cancel)
    torch.manual_seed(config.seed)
    held_out = max(1, round(len(data) * config.validation)) if config.validation and len(data) > 4 else 0
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(config.seed))
    validation, training = order[:held_out], order[held_out:]
    atlas_image, atlas_labels = _mean_case(data, training)
    model = AtlasISTN(model_config, half_extent(grid), atlas_image, atlas_labels).to(target)
    _begin_at_the_mean(model)
    _channels_last(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    path = None if checkpoint is None else Path(checkpoint)
    setting = {
        "cases": list(data.names),
        "config": as_dict(config),
        "model": as_dict(model_config),
        "grid": grid_as_dict(grid),
        "normalisation": as_dict(normalisation),
        "place_on_labels": place_on_labels,
    }
    history: list[dict[str, float]] = []
    if path is not None and path.exists():
        history = resume(path, model, optimizer, setting)

    for epoch in range(len(history) + 1, config.epochs + 1):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        terms = _epoch(model, optimizer, data, training, grid, config, epoch, cancel)
        if terms is None:
            if not history:
                stop_if(lambda: True, "the training")
            model.load_state_dict(before)
            break
        _update_atlas(model, data, training, config)
        if not all(bool(t.isfinite().all()) for t in (*model.parameters(), model.atlas_image, model.atlas_labels)):
            raise DivergenceError(f"the weights or the atlas are not finite after epoch {epoch}", _LOWER_RATE)
        terms |= _validation_scores(model, data, validation, config)
        history.append(terms)
        if path is not None:
            save_checkpoint(path, model, optimizer, setting, history)
        report(Progress("train", epoch, config.epochs, terms, preview=lambda: model.atlas_labels))

    record = {
        "config": as_dict(config),
        "cases": len(data),
        "epochs": len(history),
        "last": history[-1] if history else {},
    }
    refinement = RefineConfig(50 if grid.ndim == 2 else 100, config.strength, 1.0, 0.0, None, "network")
    model = model.eval().requires_grad_(False)
    return Bundle(about, tuple(labels), grid, normalisation, refinement, model, record)


@torch.no_grad()
def _begin_at_the_mean(model: AtlasISTN) -> None:
    """Let the untrained ITN predict each label's share of the volume; hearts then took a quarter of the steps."""
    leave = model.itn.leave
    leave.get_parameter("bias").copy_(model.atlas_labels.flatten(1).mean(dim=1))
    leave.get_parameter("weight").mul_(0.1)


def _channels_last(model: AtlasISTN) -> None:
    """Store convolution weights channels last, which measured a fifth to a third faster on CPUs, in 2D and in 3D."""
    layout = torch.channels_last if model.config.ndim == 2 else torch.channels_last_3d
    for parameter in model.parameters():
        if parameter.ndim == model.config.ndim + 2:
            parameter.data = parameter.data.to(memory_format=layout)


def _epoch(
    model: AtlasISTN,
    optimizer: torch.optim.Optimizer,
    data: TrainingSet,
    training: Tensor,
    grid: Grid,
    config: TrainConfig,
    epoch: int,
    cancel: Cancel,
) -> dict[str, float] | None:
    """One pass over the training cases; the mean of each loss term, or None when cancelled."""
    draw = torch.Generator().manual_seed(config.seed * 100003 + epoch)
    device = model.atlas_labels.device
    rate = config.learning_rate * (0.5 ** (epoch / config.halve_every) if config.halve_every else 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    sums: dict[str, float] = {}
    shuffled = training[torch.randperm(len(training), generator=draw)]
    for batch in shuffled.split(config.batch_size):
        if cancel():
            return None
        image, labels = augmented(data, batch, grid, config, draw, device)
        loss, terms = joint_loss(model, image, labels, config.omega(epoch), config.strength)
        if not torch.isfinite(loss):
            raise DivergenceError(f"the training loss is not finite in epoch {epoch}", _LOWER_RATE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for name, value in {"loss": loss, **terms}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(batch)
    return {name: value / len(training) for name, value in sums.items()}


@torch.no_grad()
def _update_atlas(model: AtlasISTN, data: TrainingSet, training: Tensor, config: TrainConfig) -> None:
    """zᵃ ← (1 − η) zᵃ + η mean_i(z_i∘Φ_i) for image and labels, over the whole training set."""
    if config.eta == 0:
        return
    model.eval()
    sums = [torch.zeros_like(model.atlas_image), torch.zeros_like(model.atlas_labels)]
    for batch in training.split(config.batch_size):
        image, labels = data.on_grid(batch, model.atlas_labels.device)
        points = model.register_atlas(model.itn(image)).image_from_atlas()
        for total, values in zip(sums, (image, labels), strict=True):
            total += sample(values, points).sum(dim=0)
    for atlas, total in zip((model.atlas_image, model.atlas_labels), sums, strict=True):
        atlas.mul_(1 - config.eta).add_(total / len(training), alpha=config.eta)


@torch.no_grad()
def _validation_scores(
    model: AtlasISTN, data: TrainingSet, validation: Tensor, config: TrainConfig
) -> dict[str, float]:
    """Mean foreground Dice of the ITN and of the one-pass atlas on the held-out cases, on the model grid."""
    if not len(validation):
        return {}
    model.eval()
    sums = {"dice_itn": 0.0, "dice_one_pass": 0.0}
    for batch in validation.split(config.batch_size):
        image, labels = data.on_grid(batch, model.atlas_labels.device)
        prediction = model.itn(image)
        warped = sample(model.atlas_labels.unsqueeze(0), model.register_atlas(prediction).atlas_from_image())
        truth = labels.argmax(dim=1)
        for name, soft in (("dice_itn", prediction), ("dice_one_pass", warped)):
            sums[name] += _mean_dice(soft.argmax(dim=1), truth, labels.shape[1]) * len(batch)
    return {name: value / len(validation) for name, value in sums.items()}


def _mean_dice(labels: Tensor, truth: Tensor, k: int) -> float:
    scores = []
    for value in range(1, k):
        a, b = labels == value, truth == value
        if bool(b.any()):
            scores.append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
    return sum(scores) / len(scores) if scores else float("nan")


def _mean_case(data: TrainingSet, training: Tensor) -> tuple[Tensor, Tensor]:
    """The atlas at t = 0: means of the training images and label maps."""
    cpu = torch.device("cpu")
    image, labels = data.on_grid(training[:1], cpu)
    image, labels = torch.zeros_like(image[0]), torch.zeros_like(labels[0])
    for index in training.split(1):
        one_image, one_labels = data.on_grid(index, cpu)
        image += one_image[0] / len(training)
        labels += one_labels[0] / len(training)
    return image, labels

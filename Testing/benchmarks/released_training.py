"""The training loop of the released code (github.com/biomedia-mira/atlas-istn, atlas-istn-letter-b.py) written out.

It is what `training` measures `run_training` against; its networks are those of the package, given from outside. It

- holds the prepared cases as SimpleITK images, turns image, labels and mask of a case into tensors each time that the
  case is asked for, and collates batches with torch's DataLoader in this process;
- turns the atlas into tensors for every batch and repeats it for every case of the batch;
- integrates +v and −v, and warps image, prediction, labels, atlas image, atlas labels, the STN's first input channel
  and a picture of grid lines in both directions, each in a call of its own;
- computes eight loss terms, four of which are not used;
- for every batch, on the CPU, class by class with the background and, for the surface distances, case by case: Dice of
  the ITN and of the warped atlas, average and maximum Hausdorff distance of the warped atlas by a run of SimpleITK's
  HausdorffDistanceImageFilter each, precision and recall;
- updates the atlas case by case: a batch of one through ITN and STN, both integrations, and the warps of image, labels
  and first input channel.

Left out, to its favour: reading the files, the pictures for TensorBoard (once an epoch), the validation, progress bars.
ITK, which it lets use all cores, gets as many threads as torch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from AtlasISTNLib.model import AtlasISTN

SPACING, CLASSES = (2.0, 2.0), 2
STRENGTH, ETA, RATE, MIDPOINT = 500.0, 0.01, 1e-3, 25


@dataclass
class Timing:
    """Seconds of each epoch's steps and of its atlas update, and the means of its loss terms."""

    steps: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    terms: list[Mapping[str, float]] = field(default_factory=list)

    def seconds(self) -> tuple[float, float]:
        """Of the steps and of the update, each in the fastest epoch: other work on the machine only adds to them."""
        return min(self.steps), min(self.update)


def released(
    data: Letters,
    model: AtlasISTN,
    batches: Sequence[Sequence[Sequence[int]]],
    metrics: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Train a copy of a model as the released code does.

    Args:
        batches: for each epoch, for each batch, the cases' numbers.
        metrics: whether to compute the metrics of each batch.
        clock: gives seconds.
    """
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous(memory_format=torch.contiguous_format)
    itn, stn = model.itn, model.stn
    image, labels = model.atlas_image.numpy(), model.atlas_labels.numpy()
    atlas = (sitk.GetImageFromArray(image[0]), a_vector_image(labels))
    optimizer = torch.optim.Adam([*itn.parameters(), *stn.parameters()], lr=RATE)
    timing = Timing()
    for epoch, order in enumerate(batches, 1):
        omega = 1 / (1 + math.exp(-(epoch - MIDPOINT) / 25))
        figures: dict[str, list[float]] = {}
        began = clock()
        itn.train()
        stn.train()
        for batch in DataLoader(data, batch_sampler=order):
            optimizer.zero_grad()
            loss, values = released_batch(itn, stn, batch, atlas, omega, metrics)
            loss.backward()
            optimizer.step()
            for name, value in values.items():
                figures.setdefault(name, []).append(value)
        timing.steps.append(clock() - began)
        timing.terms.append({name: sum(found) / len(found) for name, found in figures.items()})
        began = clock()
        itn.eval()
        stn.eval()
        atlas = released_update(itn, stn, data, atlas)
        timing.update.append(clock() - began)
    return timing


class Letters(Dataset):
    """Prepared cases as SimpleITK images; tensors are made anew for whoever asks.

    Args:
        images: (N, 1, Y, X) float32.
        labels: (N, K, Y, X) float32.
    """

    def __init__(self, images: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        self.images = [sitk.GetImageFromArray(image[0]) for image in images]
        self.labels = [a_vector_image(soft) for soft in labels]
        self.masks = [sitk.GetImageFromArray(np.ones(image[0].shape)) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = torch.from_numpy(sitk.GetArrayFromImage(self.images[index])).unsqueeze(0)
        mask = torch.from_numpy(sitk.GetArrayFromImage(self.masks[index])).unsqueeze(0)
        return {"image": image, "labels": channels_of(self.labels[index]), "mask": mask}


def a_vector_image(soft: NDArray[np.float32]) -> sitk.Image:
    """(K, Y, X) as an image of K components."""
    return sitk.GetImageFromArray(np.moveaxis(soft, 0, -1), isVector=True)


def channels_of(image: sitk.Image) -> Tensor:
    """An image of K components as (K, Y, X)."""
    return torch.from_numpy(sitk.GetArrayFromImage(image)).permute(2, 0, 1)


def grid_points(shape: Sequence[int]) -> Tensor:
    """(1, Y, X, 2) points x, y of the pixel centres in [-1, 1]."""
    axes = [2.0 * torch.arange(n) / (n - 1) - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).unsqueeze(0)


def pulled(values: Tensor, points: Tensor, padding: str = "border") -> Tensor:
    return F.grid_sample(values, points, mode="bilinear", padding_mode=padding, align_corners=True)


def integrated(velocity: Tensor) -> Tensor:
    """Six squarings at half resolution, then twice the resolution: (N, 2, Y, X) in [-1, 1] units."""
    still = grid_points(velocity.shape[2:])
    moved = velocity / 2**6
    for _ in range(6):
        moved = moved + pulled(moved, still + moved.permute(0, 2, 3, 1))
    return F.interpolate(moved, scale_factor=2, mode="bilinear", align_corners=False)


def affine(parameters: Tensor) -> Tensor:
    """(N, 3, 3): scaling after rotation after translation, of (N, 5) free parameters; components x, y.

    The released matrices have their axes in the order y, x, so that the same angle turns the other way here.
    """
    n = len(parameters)
    shift, angle = torch.tanh(parameters[:, :2]), torch.tanh(parameters[:, 2]) * (math.pi / 4)
    factors = torch.exp(torch.tanh(parameters[:, 3:]))
    translation, rotation, scaling = (torch.zeros(n, 3, 3) for _ in range(3))
    translation[:, 0, 0] = translation[:, 1, 1] = translation[:, 2, 2] = 1
    translation[:, 0, 2], translation[:, 1, 2] = shift[:, 0], shift[:, 1]
    rotation[:, 0, 0], rotation[:, 0, 1] = torch.cos(angle), torch.sin(angle)
    rotation[:, 1, 0], rotation[:, 1, 1] = -torch.sin(angle), torch.cos(angle)
    rotation[:, 2, 2] = 1
    scaling[:, 0, 0], scaling[:, 1, 1], scaling[:, 2, 2] = factors[:, 0], factors[:, 1], 1
    return torch.bmm(torch.bmm(scaling, rotation), translation)


def through(matrix: Tensor, field: Tensor) -> Tensor:
    """Points (N, 2, Y, X) through matrices (N, 3, 3): (N, Y, X, 2)."""
    n, _, height, width = field.shape
    flat = torch.cat([field.reshape(n, 2, -1), torch.ones(n, 1, height * width)], dim=1)
    return torch.bmm(matrix[:, :2], flat).reshape(n, 2, height, width).permute(0, 2, 3, 1)


def registered(stn: torch.nn.Module, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points that pull the atlas onto the image, points that pull the image onto the atlas, displacement of +v."""
    both = torch.cat([source, target], dim=1)
    velocity, parameters = stn(both)
    n, _, height, width = velocity.shape
    velocity = velocity * torch.tensor([2 / (2 * width - 1), 2 / (2 * height - 1)]).reshape(1, 2, 1, 1)
    matrix = affine(parameters)
    plus, minus = integrated(velocity), integrated(-velocity)
    still = grid_points(both.shape[2:]).permute(0, 3, 1, 2)
    onto_image = pulled(still + plus, through(matrix, still.repeat(n, 1, 1, 1))).permute(0, 2, 3, 1)
    onto_atlas = through(torch.inverse(matrix), still + minus)
    pulled(both[:, :1], onto_image)  # what its forward pass returns, and nobody uses
    return onto_image, onto_atlas, plus


def roughness(displacement: Tensor) -> Tensor:
    dy = (displacement[:, :, 1:, :] - displacement[:, :, :-1, :]).abs()
    dx = (displacement[:, :, :, 1:] - displacement[:, :, :, :-1]).abs()
    return ((dx * dx).mean() + (dy * dy).mean()) / 2


def released_batch(
    itn: torch.nn.Module,
    stn: torch.nn.Module,
    batch: Mapping[str, Tensor],
    atlas: tuple[sitk.Image, sitk.Image],
    omega: float,
    metrics: bool,
) -> tuple[Tensor, dict[str, float]]:
    """Loss and figures of a batch."""
    image, labels = batch["image"], batch["labels"]
    n = len(image)
    atlas_image = torch.from_numpy(sitk.GetArrayFromImage(atlas[0]))[None, None].repeat(n, 1, 1, 1)
    atlas_labels = channels_of(atlas[1]).unsqueeze(0).repeat(n, 1, 1, 1)
    prediction = itn(image)
    onto_image, onto_atlas, plus = registered(stn, prediction[:, 1:], atlas_labels[:, 1:])
    image_on_atlas, prediction_on_atlas, labels_on_atlas = (
        pulled(values, onto_atlas) for values in (image, prediction, labels)
    )
    atlas_image_on_image, atlas_labels_on_image = (pulled(values, onto_image) for values in (atlas_image, atlas_labels))
    lines = torch.zeros(1, 1, *image.shape[2:])
    lines[:, :, ::4, :] = lines[:, :, :, ::4] = 1
    lines = lines.repeat(n, 1, 1, 1)
    for points in (onto_atlas, onto_image):
        pulled(lines, points, "zeros")
    truth, of_itn, of_atlas = (soft.argmax(dim=1) for soft in (labels, prediction, atlas_labels_on_image))
    terms = {
        "segmentation": F.mse_loss(prediction, labels),
        "image to atlas": F.mse_loss(image_on_atlas, atlas_image),
        "atlas to image": F.mse_loss(image, atlas_image_on_image),
        "s2a": F.mse_loss(labels_on_atlas[:, 1:], atlas_labels[:, 1:]),
        "a2s": F.mse_loss(labels[:, 1:], atlas_labels_on_image[:, 1:]),
        "prediction to atlas": F.mse_loss(prediction_on_atlas[:, 1:], atlas_labels[:, 1:]),
        "atlas to prediction": F.mse_loss(prediction[:, 1:], atlas_labels_on_image[:, 1:]),
        "reg": roughness(plus),
    }
    loss = terms["segmentation"] + omega * (terms["s2a"] + terms["a2s"] + STRENGTH * terms["reg"])
    if metrics:
        batch_metrics(truth, of_itn, of_atlas)
    return loss, {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}


def batch_metrics(truth: Tensor, of_itn: Tensor, of_atlas: Tensor) -> dict[str, list[float]]:
    """Metrics of a batch by name, one value for each class, of label maps (N, Y, X)."""
    return {
        "dice_itn": by_class(overlap, truth, of_itn),
        "dice_atlas": by_class(overlap, truth, of_atlas),
        "average distance": by_class(lambda a, b: surface(a, b, "average"), truth, of_atlas),
        "hausdorff": by_class(lambda a, b: surface(a, b, "largest"), truth, of_atlas),
        "precision": by_class(lambda a, b: (a * b).sum() / a.sum(), truth, of_atlas),
        "recall": by_class(lambda a, b: (a * b).sum() / ((a * b).sum() + ((1 - a) * b).sum()), truth, of_atlas),
    }


def by_class(measure: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> list[float]:
    return [float(measure((first == k).float(), (second == k).float()).mean()) for k in range(CLASSES)]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return 2.0 * (a * b).sum() / (a.sum() + b.sum())


def surface(a: Tensor, b: Tensor, which: str) -> Tensor:
    """SimpleITK's average or largest Hausdorff distance of each case; infinite where a class is absent."""
    found = []
    measure = sitk.HausdorffDistanceImageFilter()
    for one, other in zip(a.numpy(), b.numpy(), strict=True):
        images = [sitk.GetImageFromArray(values) for values in (one, other)]
        for image in images:
            image.SetSpacing(SPACING)
        try:
            measure.Execute(*images)
            average = which == "average"
            value = measure.GetAverageHausdorffDistance() if average else measure.GetHausdorffDistance()
        except RuntimeError:
            value = math.inf
        found.append(value)
    return torch.tensor(np.asarray(found))


@torch.no_grad()
def released_update(
    itn: torch.nn.Module, stn: torch.nn.Module, data: Letters, atlas: tuple[sitk.Image, sitk.Image]
) -> tuple[sitk.Image, sitk.Image]:
    """The atlas after an epoch, case by case."""
    old_image = torch.from_numpy(sitk.GetArrayFromImage(atlas[0]))[None, None]
    old_labels = channels_of(atlas[1]).unsqueeze(0)
    new_image, new_labels = torch.zeros(old_image.shape), torch.zeros(old_labels.shape)
    for index in range(len(data)):
        image = torch.from_numpy(sitk.GetArrayFromImage(data.images[index]))[None, None]
        labels = channels_of(data.labels[index]).unsqueeze(0)
        _, onto_atlas, _ = registered(stn, itn(image)[:, 1:], old_labels[:, 1:])
        new_image += pulled(image, onto_atlas)
        new_labels += pulled(labels, onto_atlas)
    new_image = old_image * (1 - ETA) + new_image / len(data) * ETA
    new_labels = old_labels * (1 - ETA) + new_labels / len(data) * ETA
    return sitk.GetImageFromArray(new_image[0, 0].numpy()), a_vector_image(new_labels[0].numpy())

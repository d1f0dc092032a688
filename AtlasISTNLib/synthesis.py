"""Images synthesised from label maps alone, anew for every step, so that a model meets any contrast and resolution.

The idea is that of SynthSeg (Billot et al. 2023, doi:10.1016/j.media.2023.102789): a label map is deformed, every label
in it, segmented or not, gets random intensities, and what scanners do to images follows. The labels keep to the image.

What is drawn depends on seed, epoch, case and draw alone, as in `augmentation`. It is drawn on the CPU, so that every
device trains on the same images; the heavy work is done on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .bundle import half_extent
from .configs import NormalisationConfig, TrainConfig
from .datasets import PERCENTILES
from .errors import ConfigError
from .geometry import Grid
from .label_table import LabelTable
from .prepared import Prepared
from .synthesis_config import SynthesisConfig
from .synthesis_fields import (
    blurred_channels,
    coarser,
    diffeomorphism,
    enlarged,
    finer,
    ghosts,
    moved_patient,
    ringing,
    robust_ends,
)
from .warp import identity, rotation_from_vector

#: The label values are kept on voxels so much smaller than the model's.
_FINER = 1.5
#: The widest margin of the kept label values, as a share of the grid's side.
_WIDEST_MARGIN = 0.25
#: Each voxel takes the labels at two points a quarter of it off its middle: edges then lie between voxels.
_OFFSET = 0.25
#: Images of each held-out label map that watch the training: always the same ones.
WATCHED = 4
#: Control points of the deformation's velocity, and of bias and texture, along each axis.
_VELOCITY_INTERVALS = (2, 6)
_BIAS_POINTS, _TEXTURE_POINTS, _CLUSTER_POINTS = (2, 5), (8, 24), (4, 12)
#: Standard deviation of the greys of images that are alike, and the share of negatives among them.
_ALIKE, _NEGATIVE = 0.06, 0.3
_KINDS = ("percentile", "z-score")


def codes_grid(grid: Grid, config: SynthesisConfig) -> Grid:
    """The grid that label values are kept on: finer than a model grid, and larger by what deformations reach for."""
    half = np.array(grid.extent) / 2
    turned = math.sin(math.radians(min(config.rotation, 45))) * half.max() if config.rotation else 0.0
    reach = config.translation + config.elastic + config.scale * half + turned
    reach = np.minimum(reach, _WIDEST_MARGIN * np.array(grid.extent))
    spacing = np.array(grid.spacing) / _FINER
    size = np.ceil(2 * (half + reach) / spacing).astype(int)
    return Grid.centered(size[::-1].tolist(), spacing.tolist(), (0.0,) * grid.ndim, grid.direction)


def check_synthesis(train: TrainConfig, normalisation: NormalisationConfig) -> None:
    """See that a training's other settings go with synthesised images.

    Raises:
        ConfigError: they do not.
    """
    given = ("rotation", "translation", "scale", "elastic", "intensity", "noise", "blur", "bias")
    doubled = [name for name in given if getattr(train, name)]
    if doubled:
        raise ConfigError(
            f"synthesised images are not augmented by {', '.join(doubled)}", "the synthesis has settings of its own"
        )
    if normalisation.kind not in _KINDS:
        raise ConfigError(
            f"synthesised images have no units, so they cannot be normalised by '{normalisation.kind}'",
            f"use {' or '.join(_KINDS)}",
        )


class Synthesiser:
    """Makes the images of a training from its prepared label maps.

    Args:
        data: prepared with the codes on `codes_grid`.
        table: which labels are segmented, which are partners, …
        grid: the model's.
        normalisation: "percentile" or "z-score".
        config: how images are made.
        train: gives the seed and the blur of the labels.
    """

    def __init__(
        self,
        data: Prepared,
        table: LabelTable,
        grid: Grid,
        normalisation: NormalisationConfig,
        config: SynthesisConfig,
        train: TrainConfig,
    ) -> None:
        if data.codes is None or data.codes_on is None:
            raise ConfigError("the cases were prepared without their label values")
        self._codes, self._codes_on, self._grid = data.codes, data.codes_on, grid
        self._config, self._train, self._kind = config, train, normalisation.kind
        self._channels = len(table.structures)
        self._luts = _Luts(table, int(max(data.codes.max(), 1)) + 1)
        self._left_right = int(np.abs(np.array(grid.direction)[0]).argmax())
        self._partners = bool(table.pairs)

    def repeated(self, cases: Tensor, draws: int | None = None) -> Tensor:
        """Indices of all images of an epoch: `draws` of each of these cases (default: as configured)."""
        count = self._config.draws if draws is None else draws
        return torch.cat([cases + len(self._codes) * draw for draw in range(count)])

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images (N, 1, *shape) and soft labels (N, K, *shape) of an epoch.

        Args:
            index: (N,) of `repeated`.
            epoch: from 1; 0 for the images that watch the training.
        """
        made = [self._made(int(i), epoch, device) for i in index]
        images, labels = zip(*made, strict=True)
        return torch.stack(images).unsqueeze(1), torch.stack(labels)

    def _made(self, index: int, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        dice = _Dice(((self._train.seed * 1_000_003 + epoch) * 1_000_003 + index) % 2**62 ^ 0x51A7)
        flipped = self._partners and dice.one_in(self._config.flips)
        kept = torch.from_numpy(np.array(self._codes[index % len(self._codes)])).to(device)
        values = self._values_at(kept, self._points(dice, flipped, device), flipped, dice)
        labels = self._soft(values)
        image, inside = _tissues(values, labels.shape[1:], self._luts, self._config, dice)
        image = _scanned(image, self._grid, self._config, dice)
        image = _finished(image, inside, self._config, dice)
        return _normalised(image, self._kind, self._config, dice), labels

    def _points(self, dice: _Dice, flipped: bool, device: torch.device) -> Tensor:
        """For each voxel of the model grid its point in VOXEL x, y, z of the kept label values: (*shape, D)."""
        config, grid, d = self._config, self._grid, self._grid.ndim
        half = torch.tensor(half_extent(grid))
        turn = (2 * dice.uniform(1, 1 if d == 2 else 3) - 1) * math.radians(config.rotation)
        stretch = torch.exp((2 * dice.uniform(d) - 1) * math.log1p(config.scale))
        shift = (2 * dice.uniform(d) - 1) * config.translation
        mirror = torch.ones(d)
        if flipped:
            mirror[self._left_right] = -1
        points = identity(grid.shape, half.to(device))[0] * (half * mirror).to(device)
        if config.elastic:
            intervals = dice.whole(*_VELOCITY_INTERVALS)
            control = (2 * dice.uniform(d, *(intervals + 3,) * d) - 1) * config.elastic * dice.share()
            field = diffeomorphism(control.to(device), grid.shape, half.to(device)).movedim(0, -1)
            points = points + field * mirror.to(device)
        linear = rotation_from_vector(turn)[0] * stretch
        spacing = torch.tensor(self._codes_on.spacing)
        middle = (torch.tensor(self._codes_on.size) - 1) / 2
        linear, offset = linear / spacing.unsqueeze(1), shift / spacing + middle
        return points @ linear.T.to(device) + offset.to(device)

    def _values_at(self, kept: Tensor, points: Tensor, flipped: bool, dice: _Dice) -> list[Tensor]:
        """The label values at two points of every voxel, each as (V,) numbers."""
        step = torch.tensor(self._grid.spacing) / torch.tensor(self._codes_on.spacing) * _OFFSET
        signs = 1 - 2 * (dice.uniform(len(step)) < 0.5).float()
        offset = (step * signs).to(points)
        found = []
        for sign in (1, -1):
            flat = torch.zeros(points.shape[:-1], dtype=torch.long, device=points.device)
            for axis in range(points.shape[-1] - 1, -1, -1):  # z, y, x: array order
                n = kept.shape[-1 - axis]
                flat = flat * n + (points[..., axis] + sign * offset[axis]).round_().clamp_(0, n - 1).long()
            values = kept.flatten()[flat.flatten()].long()
            found.append(self._luts.partner.to(values.device)[values] if flipped else values)
        return found

    def _soft(self, values: Sequence[Tensor]) -> Tensor:
        """Soft labels (K, *shape) from the values at the points of each voxel."""
        channel = self._luts.channel.to(values[0].device)
        soft = torch.zeros(self._channels, values[0].numel(), device=values[0].device)
        for part in values:
            soft.scatter_add_(0, channel[part].unsqueeze(0), torch.full((1, part.numel()), 1 / len(values)).to(soft))
        return blurred_channels(soft.reshape(-1, *self._grid.shape), self._train.label_blur)


class _Luts:
    """What becomes of each label value, 0 to `count` − 1, as tables (count,)."""

    def __init__(self, table: LabelTable, count: int) -> None:
        values = range(count)
        partners, groups = table.partners(), table.groups(range(count))
        # A partner that no map holds has no place here, and needs none.
        self.partner = torch.tensor([partners.get(v, v) if partners.get(v, v) < count else v for v in values])
        channels = {label.value: index for index, label in enumerate(table.structures)}
        self.channel = torch.tensor([channels.get(v, 0) for v in values])
        self.group = torch.tensor([groups[v] for v in values])
        self.greys = torch.tensor([table.grey(v) for v in values])
        self.kept = _members(table.kept, count)
        self.fringe = _members(table.fringe, count)

    @property
    def strips(self) -> bool:
        """Whether there is anything to strip off to."""
        return bool(self.kept.any())


class _Dice:
    """Random numbers from one seed, on the CPU."""

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)

    def share(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self._draw))

    def one_in(self, share: float) -> bool:
        return self.share() < share

    def whole(self, low: int, high: int) -> int:
        """From `low` to `high`, both included."""
        return int(torch.randint(low, high + 1, (1,), generator=self._draw))

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._draw)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._draw)


def _tissues(
    values: Sequence[Tensor], shape: Sequence[int], luts: _Luts, config: SynthesisConfig, dice: _Dice
) -> tuple[Tensor, Tensor | None]:
    """The tissues' intensities, and which part of each voxel is left where the rest was stripped off: both (*shape)."""
    device, d = values[0].device, len(shape)
    count = len(luts.group)
    mean, spread = dice.uniform(count)[luts.group], dice.uniform(count)[luts.group] * config.spread
    if config.alike and dice.one_in(config.alike):
        # Bent and shifted together, then each a little by itself.
        bent = luts.greys ** math.exp(dice.share(-0.5, 0.5)) + _ALIKE * dice.normal(count)[luts.group]
        mean = (1 - bent if dice.one_in(_NEGATIVE) else bent).clamp(0, 1)
    mean[0] = dice.share(0, 0.2) if dice.one_in(0.5) else dice.share()
    stripped = luts.strips and dice.one_in(config.stripped)
    inside = None
    if stripped:
        left = luts.kept | luts.fringe if dice.one_in(0.5) else luts.kept
        mean, spread = mean * left, spread * left
        inside = _mean_of(left.float(), values).reshape(tuple(shape))
    image, deviation = _mean_of(mean, values), _mean_of(spread, values)
    clusters = 1 if stripped else dice.whole(1, config.clusters)
    if clusters > 1:
        points = (dice.whole(*_CLUSTER_POINTS),) * d
        field = enlarged(dice.normal(clusters, *points).to(device), shape).flatten(1)
        tissue = field.argmax(dim=0)
        means, spreads = dice.uniform(clusters).to(device), dice.uniform(clusters).to(device) * config.spread
        share = _mean_of((torch.arange(count) == 0).float(), values)
        image = image + share * (means[tissue] - mean[0])
        deviation = deviation + share * (spreads[tissue] - spread[0])
    if config.spread:
        smooth = dice.share()
        texture = enlarged(dice.normal(1, *(dice.whole(*_TEXTURE_POINTS),) * d).to(device), shape)[0].flatten()
        grain = dice.normal(image.numel()).to(device)
        image = image + deviation * (math.sqrt(1 - smooth) * grain + math.sqrt(smooth) * 1.5 * texture)
    return image.reshape(tuple(shape)), inside


def _scanned(image: Tensor, grid: Grid, config: SynthesisConfig, dice: _Dice) -> Tensor:
    """An image as a scanner sees it: uneven, blurred, of other voxels, with artefacts and noise."""
    shape, d = image.shape, image.ndim
    if config.bias:
        points = (dice.whole(*_BIAS_POINTS),) * d
        field = enlarged(dice.normal(1, *points).to(image.device), shape)[0]
        image = image * torch.exp(config.bias * dice.share() * field)
    spacing = grid.spacing[::-1]
    coarse = dice.share(0, config.resolution)
    size = [max(coarse, s) for s in spacing]
    if config.thickness and dice.one_in(0.5):
        axis = dice.whole(0, d - 1)
        size[axis] = max(dice.share(0, config.thickness), spacing[axis])
    blur = dice.share() * config.blur
    sharp = dice.share(0.3, 0.6)  # σ of a slice's profile, as a share of its thickness
    ratio = [n / s for n, s in zip(size, spacing, strict=True)]
    sigma = [math.hypot(blur, sharp * math.sqrt(r * r - 1)) for r in ratio]
    voxels = [min(n, max(4, round(n / r))) for n, r in zip(shape, ratio, strict=True)]
    small = coarser(image, voxels, sigma)
    if dice.one_in(config.artefacts):
        small = _spoilt(small, dice)
    if config.noise:
        level = dice.share() * config.noise
        first = small + level * dice.normal(*small.shape).to(image.device)
        small = torch.hypot(first, level * dice.normal(*small.shape).to(image.device)) if dice.one_in(0.5) else first
    return finer(small, shape)


def _spoilt(image: Tensor, dice: _Dice) -> Tensor:
    """Ringing, ghosts, or the marks of a patient who moved, along a random axis."""
    axis, kind = dice.whole(0, image.ndim - 1), dice.whole(0, 2)
    if kind == 0:
        return ringing(image, axis, dice.share(0.4, 0.8))
    if kind == 1:
        return ghosts(image, axis, dice.whole(1, 4), dice.share(0.02, 0.15))
    for _ in range(dice.whole(1, 3)):
        image = moved_patient(image, axis, dice.share(), dice.share(0.05, 0.3), dice.share(-3, 3))
    return image.abs()


def _finished(image: Tensor, inside: Tensor | None, config: SynthesisConfig, dice: _Dice) -> Tensor:
    """What is done to an image after the scan: the grey scale bent, the outside cleared, sides cut off."""
    low, high = image.min(), image.max()
    if config.gamma:
        exponent = math.exp(config.gamma * float(dice.normal(1)))
        image = ((image - low) / (high - low).clamp(min=1e-6)).pow(exponent)
    if inside is not None and dice.one_in(0.7):
        # Between edges of the blurred image and those of the mask something dark is left, as in real images.
        image = torch.where(inside > 0.25, image, image.min())
    if config.crop and dice.one_in(1 / 3):
        lowest = float(image.min())
        image = image.clone()
        for axis in range(image.ndim):
            n = image.shape[axis]
            for start in (True, False):
                cut = round(dice.share() * config.crop * n) if dice.one_in(0.5) else 0
                image.narrow(axis, 0 if start else n - cut, cut).fill_(lowest)
    return image


def _normalised(image: Tensor, kind: str, config: SynthesisConfig, dice: _Dice) -> Tensor:
    """As `datasets.normalised` does it to a whole image, of which the model grid may hold only a part."""
    below, above = (dice.share(-part * config.range, config.range) for part in (0.25, 0.5))
    if kind == "z-score":
        center, half = float(image.mean()), float(image.std()) or 1.0
        return (image - center - half * below) / (half * (1 + above))
    low, high = robust_ends(image, PERCENTILES)
    low, high = low - below * (high - low), high + above * (high - low)
    return ((2 * image - low - high) / (high - low)).clamp(-1, 1)


def _mean_of(table: Tensor, values: Sequence[Tensor]) -> Tensor:
    """The mean over a voxel's points of what a table (count,) says of their values: (V,)."""
    there = table.to(values[0].device)
    total = there[values[0]]
    for part in values[1:]:
        total = total + there[part]
    return total / len(values)


def _members(values: Iterable[int], count: int) -> Tensor:
    members = torch.zeros(count, dtype=torch.bool)
    members[[value for value in values if value < count]] = True
    return members


__all__ = ["WATCHED", "Synthesiser", "check_synthesis", "codes_grid"]

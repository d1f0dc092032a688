"""The two networks: the ITN, a U-net that predicts soft labels, and the STN, which predicts a transformation.

Layers follow the released code (widths are settings), so that its weights fit after renaming; see `reference`. No layer
of a trained model uses normalisation over space: the ITN gives the same answer on a crop as on a whole image, away from
the crop's border. Batch normalisation of a training goes into the convolutions at its end.
Sizes need not be multiples of anything: inputs are padded inside and outputs cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configs import ModelConfig
from .warp import cropped

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_INTERPOLATE = {2: "bilinear", 3: "trilinear"}

_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
#: Share of one batch in the statistics that stay: small, because a batch of volumes is few images.
_MOMENTUM = 0.02
_EPSILON = 1e-5

#: The U-net halves three times; the STN's affine head once more.
ITN_MULTIPLE = 8
STN_MULTIPLE = 16


def padded_shape(shape: Sequence[int], multiple: int) -> tuple[int, ...]:
    """The smallest shape of multiples that holds `shape`."""
    return tuple(-(-n // multiple) * multiple for n in shape)


def _pad(x: Tensor, multiple: int, mode: str) -> Tensor:
    shape = x.shape[2:]
    extra = [b - a for a, b in zip(shape, padded_shape(shape, multiple), strict=True)]
    if not any(extra):
        return x
    return F.pad(x, [side for n in reversed(extra) for side in (0, n)], mode=mode)


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode=_INTERPOLATE[x.ndim - 2], align_corners=False)


@torch.no_grad()
def _initialise(network: nn.Module, linear: Sequence[nn.Module]) -> None:
    """He's initialisation: the signal keeps its size from layer to layer (He et al. 2015, doi:10.1109/ICCV.2015.123).

    With torch's own, which shrinks it, the deepest layer of the STN saw a hundredth of it on hearts, most of its units
    were dead after six epochs, and one pass had learnt nothing by then; with this one it began to learn in the fifth.

    Args:
        linear: layers that no ReLU follows.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer in linear else "relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _merged(layer: nn.Module, below: Tensor, across: Tensor, joined: bool) -> Tensor:
    """A convolution of [below, across].

    As the sum of two it saves 13 % of a training step on CPUs in 2D and 4 to 8 % in 3D: joined, the gradient of either
    part lies scattered in memory, where torch's kernels are slower. The sum rounds differently, which an imported model
    that is to follow the released code step by step cannot have.
    """
    if joined:
        merged: Tensor = layer(torch.cat([below, across], dim=1))
        return merged
    convolve = F.conv2d if below.ndim == 4 else F.conv3d
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    n = below.shape[1]
    return convolve(below, weight[:, :n], bias, padding=1) + convolve(across, weight[:, n:], padding=1)


class ITN(nn.Module):
    """U-net from an image (N, 1, *shape) to soft labels (N, K, *shape), with or without a softmax at its end."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        conv = _CONV[config.ndim]
        self.softmax = config.itn_output == "softmax"
        self.joined = config.convention == "reference"
        a, b, c, d = config.itn_channels
        self.enter1, self.enter2 = conv(1, a, 3, padding=1), conv(a, a, 3, padding=1)
        self.down1, self.level2 = conv(a, b, 3, padding=1, stride=2), conv(b, b, 3, padding=1)
        self.down2, self.level3 = conv(b, c, 3, padding=1, stride=2), conv(c, c, 3, padding=1)
        self.down3, self.level4 = conv(c, d, 3, padding=1, stride=2), conv(d, d, 3, padding=1)
        self.merge3 = conv(d + c, c, 3, padding=1)
        self.merge2 = conv(c + b, b, 3, padding=1)
        self.merge1 = conv(b + a, a, 3, padding=1)
        self.leave = conv(a, config.labels, 1)
        self.norms: nn.ModuleDict | None = None
        if config.itn_norm == "batch":
            norm = _BATCH_NORM[config.ndim]
            widths = {name: layer.get_parameter("weight").shape[0] for name, layer in self.named_children()}
            self.norms = nn.ModuleDict(
                {name: norm(width, _EPSILON, _MOMENTUM) for name, width in widths.items() if name != "leave"}
            )
        if config.convention == "metric":
            _initialise(self, [self.down1, self.down2, self.down3, self.leave])

    def forward(self, image: Tensor) -> Tensor:
        shape = image.shape[2:]
        x0 = F.relu(self._layer("enter1", _pad(image, ITN_MULTIPLE, "replicate")))
        x1 = F.relu(self._layer("enter2", x0))
        x2 = F.relu(self._layer("level2", self._layer("down1", x1)))
        x3 = F.relu(self._layer("level3", self._layer("down2", x2)))
        x4 = F.relu(self._layer("level4", self._layer("down3", x3)))
        x3 = F.relu(self._layer("merge3", _up(x4), x3))
        x2 = F.relu(self._layer("merge2", _up(x3), x2))
        x1 = F.relu(self._layer("merge1", _up(x2), x1))
        # Contiguous, since sampling is slow on channels that lie last.
        soft = cropped(self.leave(x1), shape).contiguous()
        return soft.softmax(dim=1) if self.softmax else soft

    def _layer(self, name: str, below: Tensor, across: Tensor | None = None) -> Tensor:
        layer = self.get_submodule(name)
        x: Tensor = layer(below) if across is None else _merged(layer, below, across, self.joined)
        return x if self.norms is None else self.norms[name](x)

    def hold_statistics(self) -> None:
        """Train on with the statistics that normalisation has gathered, as they will be in the convolutions."""
        if self.norms is not None:
            self.norms.eval()

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights of an ITN without normalisation that gives what this one gives after its training."""
        weights = {key: value.clone() for key, value in self.state_dict().items() if not key.startswith("norms.")}
        for name, norm in {} if self.norms is None else self.norms.items():
            scale = norm.get_parameter("weight") * torch.rsqrt(norm.get_buffer("running_var") + _EPSILON)
            weight, bias = f"{name}.weight", f"{name}.bias"
            weights[weight] *= scale.reshape(-1, *[1] * (weights[weight].ndim - 1))
            weights[bias] = (weights[bias] - norm.get_buffer("running_mean")) * scale + norm.get_parameter("bias")
        return weights


class STN(nn.Module):
    """From the foreground of a prediction and of the atlas, or from both images, to velocity and affine parameters.

    Input: (N, 2(K−1), *shape), prediction first, or (N, 2, *shape), image first. Output: velocity (N, D, *half) in
    voxels of the full grid (half of the padded shape), or None; and affine parameters (N, 2D + R) as
    `warp.metric_affine` takes them, or None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        conv, d = _CONV[config.ndim], config.ndim
        self.joined = config.convention == "reference"
        a, b, c = config.stn_channels
        n = 2 * (config.labels - 1) if config.stn_input == "prediction" else 2
        self.down1, self.level2a, self.level2b = (
            conv(n, n, 3, padding=1, stride=2),
            conv(n, a, 3, padding=1),
            conv(a, a, 3, padding=1),
        )
        self.down2, self.level3 = conv(a, a, 3, padding=1, stride=2), conv(a, a, 3, padding=1)
        self.down3, self.level4 = conv(a, b, 3, padding=1, stride=2), conv(b, b, 3, padding=1)
        self.affine_hidden = self.translation = self.rotation = self.scaling = None
        if config.affine:
            features = b
            for m in padded_shape(config.shape, STN_MULTIPLE):
                features *= m // STN_MULTIPLE
            self.affine_hidden = nn.Linear(features, 32)
            self.translation, self.rotation, self.scaling = (
                nn.Linear(32, d),
                nn.Linear(32, 1 if d == 2 else 3),
                nn.Linear(32, d),
            )
        self.merge3 = self.merge2a = self.merge2b = self.velocity = None
        if config.nonrigid:
            self.merge3 = conv(b + a, a, 3, padding=1)
            self.merge2a, self.merge2b = conv(a + a, a, 3, padding=1), conv(a, c, 3, padding=1)
            self.velocity = conv(c, d, 3, padding=1)
        if config.convention == "metric":
            _initialise(self, [self.down1, self.down2, self.down3])
        # The released code's heads say nothing at first, so that nothing before them learns until they do.
        reference = config.convention == "reference"
        self._begin_near_the_identity(0.0 if reference else 1e-2, 1e-5 if reference else 1e-2)

    @torch.no_grad()
    def _begin_near_the_identity(self, affine: float, velocity: float) -> None:
        """Draw the heads' weights with these standard deviations, small ones: the atlas starts where it is."""
        for head in (self.translation, self.rotation, self.scaling):
            if head is not None:
                nn.init.normal_(head.weight, std=affine)
                nn.init.zeros_(head.bias)
        if self.velocity is not None:
            nn.init.normal_(self.velocity.get_parameter("weight"), std=velocity)
            nn.init.zeros_(self.velocity.get_parameter("bias"))

    def forward(self, pair: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x2 = F.relu(self.level2b(F.relu(self.level2a(self.down1(_pad(pair, STN_MULTIPLE, "constant"))))))
        x3 = F.relu(self.level3(self.down2(x2)))
        x4 = F.relu(self.level4(self.down3(x3)))
        return self._velocity(x2, x3, x4), self._affine(x4)

    def _velocity(self, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor | None:
        if self.velocity is None or self.merge3 is None or self.merge2a is None or self.merge2b is None:
            return None
        x3 = F.relu(_merged(self.merge3, _up(x4), x3, self.joined))
        x2 = F.relu(_merged(self.merge2a, _up(x3), x2, self.joined))
        return self.velocity(F.relu(self.merge2b(x2))).contiguous()

    def _affine(self, x4: Tensor) -> Tensor | None:
        if self.affine_hidden is None or self.translation is None or self.rotation is None or self.scaling is None:
            return None
        pooled = F.avg_pool2d(x4, 2) if x4.ndim == 4 else F.avg_pool3d(x4, 2)
        hidden = F.relu(self.affine_hidden(pooled.flatten(1)))
        return torch.cat([self.translation(hidden), self.rotation(hidden), self.scaling(hidden)], dim=1)

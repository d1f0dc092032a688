"""What a refinement moves: the weights of a copy of the STN, or velocity and affine parameters themselves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .bundle import Bundle
from .configs import ModelConfig
from .result import Result

#: Adam's learning rates: the paper's for weights; for fields that of the velocity, in voxels.
LEARNING_RATES = {"network": 1e-3, "field": 0.1}
#: Steps over which the learning rate grows to its full size where a refinement goes on from a refined state. Adam's
#: first steps are as long as the rate whatever the gradient: near a minimum they would lead away from it, to twice the
#: loss on the phantom heart, and it would take twenty steps to come back.
GENTLE_STEPS = 5
#: Affine parameters are of the order of 1 where velocities are of the order of 10 voxels.
_AFFINE_SHARE = 0.1


@dataclass(frozen=True)
class Moving:
    """What a mode optimises: its parameters with their share of the learning rate, and what they give.

    Attributes:
        parameters: groups of parameters by share.
        current: gives velocity and affine parameters.
        weights: gives a copy of the STN's weights, where these are what moves.
    """

    parameters: dict[float, list[Tensor]]
    current: Callable[[], tuple[Tensor | None, Tensor | None]]
    weights: Callable[[], dict[str, Tensor] | None]


def optimiser(moving: Moving, rate: float, goes_on: bool) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Adam over what moves, and the schedule of its rate, which is to be stepped with it.

    Args:
        moving: gives the parameters.
        rate: learning rate.
        goes_on: whether they have been refined before; see `GENTLE_STEPS`.
    """
    groups = [{"params": group, "lr": rate * share} for share, group in moving.parameters.items()]
    adam = torch.optim.Adam(groups)
    return adam, LambdaLR(adam, lambda step: min(1.0, (step + 1) / GENTLE_STEPS) if goes_on else 1.0)


def network_moving(bundle: Bundle, result: Result, prediction: Tensor) -> Moving:
    """The paper's refinement: the weights of a copy of the STN."""
    stn: nn.Module = copy.deepcopy(bundle.model.stn)
    if result.state.weights is not None:
        stn.load_state_dict(result.state.weights)
    stn.requires_grad_(True)
    pair = bundle.model.stn_input(prediction)
    if bundle.device.type == "cpu" and bundle.config.convention == "metric" and _convolved_slowly(bundle.config):
        # Two alike are convolved several times as fast as one. It rounds differently, which an imported model that is
        # to follow the released code step by step cannot have.
        pair = pair.expand(2, *pair.shape[1:])

    def current() -> tuple[Tensor | None, Tensor | None]:
        velocity, affine = stn(pair)
        return None if velocity is None else velocity[:1], None if affine is None else affine[:1]

    return Moving(
        {1.0: list(stn.parameters())},
        current,
        lambda: {key: value.detach().cpu().clone() for key, value in stn.state_dict().items()},
    )


def _convolved_slowly(config: ModelConfig) -> bool:
    """Whether torch takes its slow convolution for one case on a CPU, in the STN's largest layers.

    It does for a batch of one of few values, counted along the first four axes: all in 2D, all but the last in 3D
    (`use_mkldnn` in ATen's Convolution.cpp).
    """
    half = [n // 2 for n in config.shape[:2]]
    return config.stn_channels[0] * math.prod(half) <= 20480


def field_moving(bundle: Bundle, result: Result) -> Moving:
    """Velocity and affine parameters themselves."""
    leaves = [
        None if t is None else t.detach().clone().to(bundle.device).requires_grad_(True)
        for t in (result.state.velocity, result.state.affine)
    ]
    groups = {share: [t] for share, t in zip((1.0, _AFFINE_SHARE), leaves, strict=True) if t is not None}
    return Moving(groups, lambda: (leaves[0], leaves[1]), lambda: None)


__all__ = ["GENTLE_STEPS", "LEARNING_RATES", "Moving", "field_moving", "network_moving", "optimiser"]

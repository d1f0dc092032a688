"""Models in a quarter of the space: weights and atlas in whole numbers of 8 bits.

A weight w of an output channel c is stored as the whole number nearest to w / s_c, s_c = max |w| / 127 over the weights
of that channel: symmetric quantisation by channel, as for inference in whole numbers (Jacob et al. 2018,
doi:10.1109/CVPR.2018.00286). Here they only travel so, and are computed with as ordinary numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError
from .volume import Volume

#: Ending of the name under which the steps of a tensor's channels are stored.
_STEPS = ":steps"
_LARGEST = 127
#: Voxels of an atlas image are rounded to multiples of this, in normalised values.
_IMAGE_STEP = 2.0**-7


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: tensors of two axes and more as int8 with a step for each of the first axis, the rest
    as it is."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim < 2 or not value.is_floating_point():
            packed[name] = value
            continue
        steps = value.flatten(1).abs().amax(dim=1).float() / _LARGEST
        one = torch.where(steps > 0, steps, torch.ones_like(steps)).reshape(-1, *[1] * (value.ndim - 1))
        packed[name] = (value / one).round().to(torch.int8).contiguous()
        packed[name + _STEPS] = steps
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights from what is stored, packed or not.

    Raises:
        ConfigError: steps do not fit their tensor, or are absent.
    """
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        if name.endswith(_STEPS):
            continue
        steps = packed.get(name + _STEPS)
        if value.dtype != torch.int8:
            state[name] = value
        elif steps is None or steps.shape != value.shape[:1]:
            raise ConfigError(f"the weights {name} lack their steps")
        else:
            state[name] = value * steps.reshape(-1, *[1] * (value.ndim - 1))
    return state


def pack_atlas(image: Volume, labels: Volume) -> tuple[Volume, Volume]:
    """Atlas image in steps of 1/128, and soft labels (0–1) as 0–255."""
    rounded = np.rint(image.array / _IMAGE_STEP) * _IMAGE_STEP
    return (
        image.with_array(rounded.astype(np.float32)),
        labels.with_array(np.rint(np.clip(labels.array, 0, 1) * 255).astype(np.uint8)),
    )

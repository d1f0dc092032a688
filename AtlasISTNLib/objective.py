"""The training's objective: L = L_s + ω (L_a2s + L_s2a + λ L_reg).

Source: Sinclair et al. 2022, doi:10.1016/j.media.2022.102383.

Which gradients flow where:

- L_s trains the ITN.
- The registration terms compare the *true* labels with the atlas. They train the STN and, as in the released code, also
  the ITN, through the prediction that the STN sees; with `couple` off that path is cut.
- The atlas receives no gradient: it is a mean of warped cases, updated once an epoch.
- L_reg is the smoothness of the non-rigid part integrated from +v alone; the affine part is free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from .configs import TrainConfig
from .losses import cross_entropy_dice, label_distance, smoothness
from .model import AtlasISTN
from .warp import Transformation, sample


def joint_loss(
    model: AtlasISTN,
    image: Tensor,
    labels: Tensor,
    omega: float,
    strength: float,
    config: TrainConfig,
    disturbance: Tensor | None = None,
    warped: Callable[[Tensor], None] | None = None,
    part: str | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of a batch and its terms by name: "segmentation", "a2s", "s2a", "reg".

    Args:
        image: (N, 1, *shape), normalised.
        labels: (N, K, *shape), soft.
        omega: ω of this epoch.
        strength: λ on this grid.
        config: gives L_s with its weight, and whether the networks are coupled.
        disturbance: (N, K−1, *shape), added to the foreground of the prediction that the STN sees, and to nothing else.
        warped: told the points (N, *shape, D) in CUBE of the images for the atlas's voxels, without gradient.
        part: what is trained, "joint" or "itn"; by default what the config says.
    """
    zero = torch.zeros((), device=image.device)
    terms = {"segmentation": zero, "a2s": zero, "s2a": zero, "reg": zero}
    prediction, warp = _outputs(model, image, config, part or config.part, disturbance)
    if model.config.stn_input == "prediction":
        distance = label_distance if config.segmentation_loss == "mse" else cross_entropy_dice
        terms["segmentation"] = distance(prediction, labels)
    if warp is not None:
        plus, minus = warp.displacements()
        outward = warp.config.direction == "atlas_from_image"
        to_atlas = warp.atlas_from_image(plus if outward else minus)
        to_image = warp.image_from_atlas(minus if outward else plus)
        if warped is not None:
            warped(to_image.detach())
        atlas, foreground = model.atlas_labels[1:].unsqueeze(0), labels[:, 1:]
        terms["a2s"] = label_distance(foreground, sample(atlas, to_atlas))
        terms["s2a"] = label_distance(sample(foreground, to_image), atlas)
        terms["reg"] = smoothness(plus, image)
    registration = terms["a2s"] + terms["s2a"] + strength * terms["reg"]
    return config.segmentation_weight * terms["segmentation"] + omega * registration, terms


def _outputs(
    model: AtlasISTN, image: Tensor, config: TrainConfig, part: str, disturbance: Tensor | None
) -> tuple[Tensor, Transformation | None]:
    """Prediction and transformation; no transformation when only the ITN is trained."""
    # Convolutions alone run in lower precision: the warps' squarings would lose what they add up.
    half = torch.autocast(image.device.type, torch.bfloat16) if config.amp else contextlib.nullcontext()
    prediction = image
    with half:
        if model.config.stn_input == "prediction":
            prediction = model.itn(image)
        velocity = affine = None
        if part == "joint":
            seen = prediction if config.couple else prediction.detach()
            if disturbance is not None and model.config.stn_input == "prediction":
                seen = torch.cat([seen[:, :1], seen[:, 1:] + disturbance], dim=1)
            velocity, affine = model.stn(model.stn_input(seen, image))
    if part == "itn":
        return prediction.float(), None
    parts = (None if t is None else t.float() for t in (velocity, affine))
    return prediction.float(), model.transformation(*parts)


__all__ = ["joint_loss"]

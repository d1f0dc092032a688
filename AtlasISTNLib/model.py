"""The model: an atlas, the network that predicts labels and the network that registers the atlas to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .configs import ModelConfig
from .errors import ConfigError
from .networks import ITN, STN
from .warp import Transformation, metric_affine, reference_affine, sample


class AtlasISTN(nn.Module):
    """ITN, STN and atlas (Sinclair et al. 2022). It keeps nothing of the cases that it sees.

    Args:
        config: what the model is made of.
        half_extent: mm from the model grid's centre to its outermost voxel centres, x, y, z.
        atlas_image: (1, *shape), normalised as the images are.
        atlas_labels: (K, *shape), soft, background first.

    Raises:
        ConfigError: the atlas does not fit the config.
    """

    atlas_image: Tensor
    atlas_labels: Tensor

    def __init__(
        self, config: ModelConfig, half_extent: Sequence[float], atlas_image: Tensor, atlas_labels: Tensor
    ) -> None:
        super().__init__()
        expected = (config.labels, *config.shape)
        if tuple(atlas_labels.shape) != expected or tuple(atlas_image.shape) != (1, *config.shape):
            raise ConfigError(
                f"the atlas has shapes {tuple(atlas_image.shape)} and {tuple(atlas_labels.shape)}, "
                f"the model needs {(1, *config.shape)} and {expected}"
            )
        self.config = config
        self.half_extent = tuple(float(h) for h in half_extent)
        self.itn = ITN(config)
        self.stn = STN(config)
        self.register_buffer("atlas_image", atlas_image.float(), persistent=False)
        self.register_buffer("atlas_labels", atlas_labels.float(), persistent=False)

    def stn_input(self, prediction: Tensor, image: Tensor | None = None) -> Tensor:
        """What the STN sees: the foregrounds of a prediction (N, K, *shape) and of the atlas, (N, 2(K−1), *shape).

        A model with `stn_input` "image" sees the image (N, 1, *shape) and the atlas image instead, (N, 2, *shape).

        Raises:
            ConfigError: such a model was given no image.
        """
        if self.config.stn_input == "image":
            if image is None:
                raise ConfigError("this model registers images; it cannot register the atlas to a prediction")
            return torch.cat([image, self.atlas_image.expand(image.shape[0], -1, *self.config.shape)], dim=1)
        atlas = self.atlas_labels[1:].expand(prediction.shape[0], -1, *self.config.shape)
        return torch.cat([prediction[:, 1:], atlas], dim=1)

    def register_atlas(self, prediction: Tensor, image: Tensor | None = None) -> Transformation:
        """One pass of the STN for predictions (N, K, *shape), or for the images (N, 1, *shape) of a model of images."""
        return self.transformation(*self.stn(self.stn_input(prediction, image)))

    def forward(self, image: Tensor) -> tuple[Tensor, Transformation]:
        """Prediction (N, K, *shape) and one pass of the STN for normalised images (N, 1, *shape).

        A model of images has no ITN: its own warped atlas stands for the prediction.
        """
        if self.config.stn_input == "prediction":
            prediction = self.itn(image)
            return prediction, self.register_atlas(prediction)
        warp = self.register_atlas(image, image)
        return sample(self.atlas_labels.unsqueeze(0), warp.atlas_from_image()), warp

    def transformation(self, velocity: Tensor | None, affine: Tensor | None) -> Transformation:
        """The transformation of an STN's output: velocity (N, D, *half) in voxels, affine parameters (N, 2D + R)."""
        config = self.config
        if affine is None:
            n = 1 if velocity is None else velocity.shape[0]
            like = self.atlas_image
            eye = torch.eye(config.ndim, config.ndim + 1, dtype=like.dtype, device=like.device)
            return Transformation(eye.expand(n, -1, -1), velocity, config)
        if config.convention == "reference":
            return Transformation(reference_affine(affine), velocity, config)
        return Transformation(metric_affine(affine, self.half_extent), velocity, config)


def without_normalisation(model: AtlasISTN) -> AtlasISTN:
    """The model with its ITN's batch normalisation, if it has any, in the convolutions; gives the same."""
    if model.config.itn_norm == "none":
        return model
    config = replace(model.config, itn_norm="none")
    plain = AtlasISTN(config, model.half_extent, model.atlas_image, model.atlas_labels)
    plain.itn.load_state_dict(model.itn.folded())
    plain.stn.load_state_dict(model.stn.state_dict())
    return channels_last(plain.to(model.atlas_image.device), False)


def channels_last(model: AtlasISTN, rounds_alike: bool = True) -> AtlasISTN:
    """Store convolution weights channels last, which measured a fifth to a half faster on CPUs, in 2D and in 3D.

    Args:
        rounds_alike: leave models of the released code's convention as they are: another layout rounds differently, and
            imported ones follow that code step by step. Training need not.
    """
    if model.config.convention == "metric" or not rounds_alike:
        model.itn.joined = model.stn.joined = False
        layout = torch.channels_last if model.config.ndim == 2 else torch.channels_last_3d
        for parameter in model.parameters():
            if parameter.ndim == model.config.ndim + 2:
                parameter.data = parameter.data.to(memory_format=layout)
    return model

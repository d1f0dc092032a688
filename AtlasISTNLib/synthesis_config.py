"""Settings of a training on label maps alone, whose images are synthesised anew for every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .errors import ConfigError

#: The largest sensible value of each field; every one of them is at least 0.
_MOST: dict[str, float] = {
    "draws": 1000,
    "rotation": 85,
    "translation": 1000,
    "scale": 0.5,
    "elastic": 100,
    "flips": 1,
    "alike": 1,
    "spread": 1,
    "clusters": 16,
    "stripped": 1,
    "bias": 3,
    "blur": 10,
    "thickness": 50,
    "resolution": 20,
    "noise": 1,
    "artefacts": 1,
    "gamma": 2,
    "crop": 0.4,
    "range": 0.9,
}


@dataclass(frozen=True)
class SynthesisConfig:
    """How images are made of label maps (idea: Billot et al. 2023, doi:10.1016/j.media.2023.102789).

    Tissues have values between 0 and 1, each a normal distribution of its own; 0 for any field leaves its step out.

    Attributes:
        draws: images that are made of each label map in an epoch; at least 1.
        rotation: largest angle in degrees about x, y, z.
        translation: largest shift in mm along x, y, z.
        scale: largest relative change of size.
        elastic: mm, largest velocity of a smooth random diffeomorphism, which its displacements seldom exceed.
        flips: share of the images that are mirrored left to right, their labels swapped; where a table pairs any.
        alike: share of the images whose tissues keep near the table's greys, or near their negatives, so that anatomy
            in contrasts that scanners do give is learnt first; in the others every tissue may have any grey.
        spread: largest standard deviation of a tissue's values, part of it as texture.
        clusters: most tissues that the background is made of, so that it is not flat; at least 1.
        stripped: share of the images in which only the table's labels "kept" remain; where it has any.
        bias: largest standard deviation of the logarithm of a smooth multiplicative field.
        blur: largest σ in voxels.
        thickness: mm, largest slice thickness, along one axis for half of the images.
        resolution: mm, largest voxel size along the other axes.
        noise: largest standard deviation of noise, Gaussian or Rician.
        artefacts: share of the images with ghosts, ringing or a patient who moved.
        gamma: standard deviation of the logarithm of the exponent that bends the grey scale.
        crop: largest share of the image that is cut off at a side, for a third of the images.
        range: largest share by which the values' range is taken too wide or too narrow, as the range of a whole image
            differs from that of the part on the model grid.
    """

    draws: int = 1
    rotation: float = 15.0
    translation: float = 10.0
    scale: float = 0.15
    elastic: float = 6.0
    flips: float = 0.5
    alike: float = 0.0
    spread: float = 0.12
    clusters: int = 4
    stripped: float = 0.3
    bias: float = 0.35
    blur: float = 0.8
    thickness: float = 6.0
    resolution: float = 2.5
    noise: float = 0.1
    artefacts: float = 0.25
    gamma: float = 0.3
    crop: float = 0.15
    range: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"the synthesis's {name} must be a finite number, not {value!r}")
            low = 1 if field.type == "int" else 0
            if field.type == "int" and not isinstance(value, int):
                raise ConfigError(f"the synthesis's {name} must be a whole number, not {value!r}")
            if not low <= value <= _MOST[name]:
                raise ConfigError(f"the synthesis's {name} must lie between {low} and {_MOST[name]:g}, not {value:g}")


__all__ = ["SynthesisConfig"]

"""Steering from files, as the command line gives it: for each image of a batch what is meant for it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .bundle import Bundle
from .errors import ConfigError
from .landmark_files import read_landmarks
from .steering import LANDMARK_WEIGHT, Steering, check_steering, check_target
from .volume import Volume


@dataclass(frozen=True)
class SteeringFiles:
    """What steers the images of a batch; files by their place among the images.

    Attributes:
        targets, masks: one for each image, or none.
        target_map: of all targets.
        landmarks: one or two files, for a single image.
        landmark_weight: per mm².
        label_weights, certainty: as `Steering` has them.
    """

    targets: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    target_map: Mapping[int, int] | None = None
    landmarks: tuple[Path, ...] = ()
    landmark_weight: float = LANDMARK_WEIGHT
    label_weights: Mapping[int, float] = field(default_factory=dict)
    certainty: bool = False

    @classmethod
    def of(cls, options: Namespace) -> SteeringFiles:
        """From the command line.

        Raises:
            ConfigError: there are too few or too many files, or an option says something of a file that is not there.
        """
        count = len(options.images)
        for name, files in (("target", options.target), ("ignore", options.ignore)):
            if files and len(files) != count:
                raise ConfigError(
                    f"there are {count} images but {len(files)} files after --{name}",
                    "give one for each image, in the same order, after the images",
                )
        if options.landmarks and count > 1:
            raise ConfigError(f"landmarks belong to one image, not to {count}", "segment that image by itself")
        if options.target_map and not options.target:
            raise ConfigError("--target-map comes without --target", "give the label map, too")
        if options.landmark_weight is not None and not options.landmarks:
            raise ConfigError("--landmark-weight comes without --landmarks", "give the landmarks, too")
        weight = LANDMARK_WEIGHT if options.landmark_weight is None else options.landmark_weight
        return cls(
            tuple(options.target),
            tuple(options.ignore),
            options.target_map,
            tuple(options.landmarks),
            weight,
            options.label_weights or {},
            options.certainty,
        )

    def read(self, index: int, bundle: Bundle, image: Volume) -> tuple[Volume | None, Steering]:
        """The target that takes the ITN's place, and what steers the refinement, for one image of the batch.

        Raises:
            AtlasISTNError: a file cannot be read, or does not fit the model or the image.
        """
        target = Volume.read(self.targets[index]) if self.targets else None
        steering = Steering(
            ignore=Volume.read(self.masks[index]) if self.masks else None,
            landmarks=read_landmarks(self.landmarks, self.landmark_weight) if self.landmarks else None,
            label_weights=self.label_weights or None,
            certainty=self.certainty,
        )
        if target is not None:
            check_target(target, self.target_map, bundle.labels, image.grid)
        check_steering(steering, bundle.labels, bundle.grid, image.grid)
        return target, steering


__all__ = ["SteeringFiles"]

"""Steering as fields of a request, its volumes as files.

A file is written anew only when what is in it has changed. So a refinement that begins again after another change does
not wait for an export, and the engine knows a target that took the network's place again and keeps its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from AtlasISTNLib.topology import label_boxes
from AtlasISTNLib.volume import Volume

from . import frames, ignore, targets
from .jobs import JobFolders, save_volume
from .steer_choices import OFF, Choices


class SteerFiles:
    """The target and the ignored region of the last request.

    Args:
        jobs: where the files lie.
    """

    def __init__(self, jobs: JobFolders) -> None:
        self._jobs = jobs
        self._folder: Path | None = None
        self._count = 0
        self._kept: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._shown: frozenset[int] = frozenset()  # label values that the target holds on the input

    def fields(
        self, do: str, choices: Choices, volume: Any, landmarks: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fields of a request "segment" or "refine". Structures that a target does not show do not pull.

        Args:
            do: which of them.
            choices: what steers.
            volume: the input's node.
            landmarks: of the request, from the points that pull.

        Raises:
            VolumeError, GeometryError: a segmentation cannot be brought to the input.
            OutputError: there is no room for the files.
        """
        fields: dict[str, Any] = {}
        target = None if choices.target is None else self._target(choices, volume)
        if target is not None and choices.without_network:
            fields["target"] = target
        if do == "segment":
            return fields
        steering: dict[str, Any] = {}
        if target is not None and not choices.without_network:
            steering["target"] = target
        if choices.ignore and choices.region is not None:
            steering["ignore"] = self._ignore(choices, volume)
        if landmarks:
            steering["landmarks"] = dict(landmarks)
        weights = dict(choices.weights or {})
        if target is not None:  # what it does not show is not known to be absent
            weights.update({value: OFF for value in choices.names or {} if value not in self._shown})
        if weights:
            steering["label_weights"] = {str(value): weight for value, weight in sorted(weights.items())}
        if choices.certainty:
            steering["certainty"] = True
        if steering:
            fields["steering"] = steering
        return fields

    def _target(self, choices: Choices, volume: Any) -> dict[str, Any]:
        used = tuple((entry.segment_id, entry.value) for entry in choices.used)
        stamp = (used, targets.content_stamp(choices.target, [key for key, _value in used]), _stamp(volume))

        def make() -> Volume:
            made = targets.target_volume(choices.target, choices.matches, volume)
            self._shown = frozenset(label_boxes(made.array[0]))
            return made

        return self._entry("target", stamp, make)

    def _ignore(self, choices: Choices, volume: Any) -> dict[str, Any]:
        stamp = (targets.content_stamp(choices.region, [choices.region_id]), _stamp(volume))
        return self._entry("ignore", stamp, lambda: ignore.mask(choices.region, choices.region_id, volume))

    def _entry(self, kind: str, stamp: Any, make: Callable[[], Volume]) -> dict[str, Any]:
        before, entry = self._kept.get(kind, (None, {}))
        folder = self._folder
        if folder is not None and before == stamp and (folder / entry["array"]).is_file():
            return entry
        made = make()
        if folder is None or not folder.is_dir():  # another program may have tidied up
            folder = self._folder = self._jobs.new("steering")
        self._count += 1  # a name of its own: the engine tells targets apart by it
        fresh = save_volume(made, folder, f"{kind}-{self._count}")
        if entry:
            (folder / entry["array"]).unlink(missing_ok=True)
        self._kept[kind] = (stamp, fresh)
        return fresh


def _stamp(volume: Any) -> tuple[Any, ...]:
    """What changes when the input's voxels lie elsewhere."""
    matrix = frames.ijk_to_ras(volume)
    return (volume.GetID(), volume.GetImageData().GetDimensions(), matrix.tobytes(), targets.placed_at(volume))

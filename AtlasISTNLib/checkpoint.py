"""Checkpoints: all that a training needs to go on as if it had not been stopped, in one file of tensors."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .configs import TrainConfig, as_dict
from .errors import BundleError
from .model import AtlasISTN
from .volume import write_atomically

CHECKPOINT_SCHEMA = 2


@dataclass(frozen=True, eq=False)
class Progressed:
    """How far a training is.

    Attributes:
        history: loss terms, schedule and validation scores of each epoch.
        best: weights ("model") and atlas ("atlas") of the best epoch so far, where it is to be kept.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best: Mapping[str, Mapping[str, Tensor]] | None = None


def save_checkpoint(
    path: Path,
    model: AtlasISTN,
    optimizer: torch.optim.Optimizer,
    setting: Mapping[str, Any],
    so_far: Progressed,
) -> None:
    """Write weights, atlas, optimizer, settings and history; the file appears whole or not at all.

    Randomness needs no state: it is drawn from seed, epoch and case.

    Raises:
        OutputError: the place cannot be written; an older checkpoint there is intact.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {"atlas_image": model.atlas_image, "atlas_labels": model.atlas_labels}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    for part, values in (so_far.best or {}).items():
        tensors |= {f"best.{part}.{key}": value for key, value in values.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"schema": CHECKPOINT_SCHEMA, **setting, "history": so_far.history}
    write_atomically(path, lambda partial: _save(tensors, partial, {"training": json.dumps(metadata)}))


def clear_half_written(path: Path) -> None:
    """Remove what killed trainings left half-written beside a checkpoint; one training at a time writes to it."""
    for partial in path.parent.glob(f".????????.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):
            partial.unlink()


def resume(path: Path, model: AtlasISTN, optimizer: torch.optim.Optimizer, setting: Mapping[str, Any]) -> Progressed:
    """Load a checkpoint into model and optimizer; gives how far it was.

    Raises:
        BundleError: it is damaged, of another release, or of a training with other cases or settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {}).get("training", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise BundleError(f"the checkpoint {path} cannot be read", "remove it to train from the start") from error
    if metadata.get("schema") != CHECKPOINT_SCHEMA:
        raise BundleError(f"{path} is not a checkpoint that this release can go on from", "remove it or name another")
    # Settings that came to exist later had their defaults.
    old, new = {**as_dict(TrainConfig()), **metadata.get("config", {})}, setting["config"]
    changed = [key for key, value in new.items() if key != "epochs" and old.get(key) != value]
    changed += [key for key, value in setting.items() if key != "config" and metadata.get(key, value) != value]
    if changed:
        what = ", ".join(changed)
        raise BundleError(
            f"the checkpoint {path} belongs to another training (different: {what})", "remove it or name another"
        )
    model.load_state_dict(_under("model.", tensors))
    model.atlas_image.copy_(tensors["atlas_image"])
    model.atlas_labels.copy_(tensors["atlas_labels"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    best = {part: _under(f"best.{part}.", tensors) for part in ("model", "atlas")}
    return Progressed(list(metadata["history"]), best if best["model"] else None)


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:  # a full disk, too, is this to the library
        raise OSError(str(error)) from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

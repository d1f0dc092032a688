"""The fields of the worker's requests, read strictly: what is absent, unknown or of another kind is named."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .arguments import parse
from .configs import PlacementConfig, RefineConfig, TrainConfig, from_dict
from .errors import OutputError
from .strict_json import Section
from .worker_steering import Entry, SteeringRequest, entry_of, optional_entry, steering_request, value_map

#: What a refinement begins at: the result of one pass, or the case's last one.
STARTS = ("one-pass", "current")


@dataclass(frozen=True)
class CaseRequest:
    """What `segment` and `refine` are asked for.

    Attributes:
        case: the caller's name for this image, model and placement.
        model: name or path.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        threads: of the CPU; 0 for all.
        low_memory: rather slow than short of memory.
        image: entry of a volume.
        image_folder: where its file is.
        reference: entry of the true labels, with its folder; None without.
        placement: where the model grid goes; None for automatic.
        folder: where the files of the answer go.
        config: of the refinement; None for one pass.
        preview_seconds: between two previews, at least; 0 for none.
        target: entry of labels that take the place of the ITN's prediction, with its folder; None without.
        target_map: which of their values is which of the model's.
        steering: of the refinement.
        start: what the refinement begins at, one of `STARTS`.
        state: of which earlier result of the case, where it begins at the current one; None for the last.
        folding: whether the refinement's progress has the share of folded cells.
    """

    case: str
    model: str
    device: str
    threads: int
    low_memory: bool
    image: Mapping[str, Any]
    image_folder: Path
    reference: Entry | None
    placement: PlacementConfig | None
    folder: Path
    config: RefineConfig | None = None
    preview_seconds: float = 0.0
    target: Entry | None = None
    target_map: Mapping[int, int] | None = None
    steering: SteeringRequest = field(default_factory=SteeringRequest)
    start: str = STARTS[0]
    state: str | None = None
    folding: bool = False


@dataclass(frozen=True)
class TrainRequest:
    """What `check` and `train` are asked for.

    Attributes:
        options: as `atlas-istn train` has them.
        threads: of the CPU; 0 for all.
        folder: where the files of previews go; None for none.
        preview_seconds: between two previews, at least.
    """

    options: Namespace
    threads: int
    folder: Path | None
    preview_seconds: float


def section(do: str, values: Mapping[str, Any]) -> Section:
    """The fields of a request; null is as good as absent."""
    return Section({key: value for key, value in values.items() if value is not None}, f"the request '{do}'")


def case_request(do: str, values: Mapping[str, Any]) -> CaseRequest:
    """The fields of `segment` and `refine`.

    Raises:
        ConfigError: something is absent, unknown, of another kind or impossible.
        OutputError: there is no such folder.
    """
    found = section(do, values)
    image, image_folder = entry_of(found.take("image", dict), found.at("image"))
    placement = found.take("placement", dict, None)
    refining = do == "refine"
    request = CaseRequest(
        case=found.take("case", str),
        model=found.take("model", str),
        device=found.take("device", str, "auto"),
        threads=found.whole("threads", 0, 0),
        low_memory=found.take("low_memory", bool, False),
        image=image,
        image_folder=image_folder,
        reference=optional_entry(found, "reference"),
        placement=None if placement is None else from_dict(PlacementConfig, placement),
        folder=existing_folder(found),
        config=from_dict(RefineConfig, found.take("config", dict, {})) if refining else None,
        preview_seconds=_seconds(found) if refining else 0.0,
        target=optional_entry(found, "target"),
        target_map=value_map(found, "target_map"),
        steering=steering_request(found) if refining else SteeringRequest(),
        start=found.one_of("start", STARTS, STARTS[0]) if refining else STARTS[0],
        state=found.take("state", str, None) if refining else None,
        folding=found.take("folding", bool, False) if refining else False,
    )
    if request.target_map is not None and request.target is None:
        found.fail("target_map", "comes without a target", "give the target, too")
    found.close()
    return request


def train_request(do: str, values: Mapping[str, Any]) -> TrainRequest:
    """The fields of `check` and `train`: those of the command line by their names, and "config" for its settings.

    Raises:
        ConfigError: something is absent, unknown, of another kind or impossible.
        OutputError: there is no such folder.
    """
    found = section(do, values)
    options = parse(["train"])
    options.check = do == "check"
    for key in ("data", "images", "labels", "output", "checkpoint", "cache", "report"):
        text = found.take(key, str, None)
        setattr(options, key, None if text is None else Path(text))
    for key in ("name", "title", "description", "licence", "citation", "device"):
        setattr(options, key, found.take(key, str, getattr(options, key)))
    for key in ("structures", "recipe", "normalisation"):
        setattr(options, key, found.take(key, str, None))
    options.synthesis = list(found.take("synthesis", dict, {}).items())
    for key in ("overwrite", "ignore_other_labels", "place_on_labels", "synthesise"):
        setattr(options, key, found.take(key, bool, getattr(options, key)))
    options.pattern = found.items("pattern", str, None)
    options.channel = found.take("channel", int, None)
    options.window = found.items("window", float, None)
    options.shape = found.items("shape", int, None)
    options.spacing = found.items("spacing", float, None)
    options.label = [(s.whole("value", 1), s.take("name", str)) for s in found.sections("label", [])]
    _check_pattern(options, found)
    _take_model(options, found.take("model", dict, {}), found.at("model"))
    config = from_dict(TrainConfig, found.take("config", dict, {}))
    for name in (setting.name for setting in fields(TrainConfig)):
        setattr(options, name, getattr(config, name))
    if options.output is not None and options.checkpoint is None:
        options.checkpoint = options.output.with_name(f"{options.output.name}.checkpoint")
    folder = existing_folder(found) if "folder" in found else None
    request = TrainRequest(options, found.whole("threads", 0, 0), folder, _seconds(found))
    found.close()
    return request


def existing_folder(found: Section, key: str = "folder") -> Path:
    """A folder that is there.

    Raises:
        OutputError: it is not.
    """
    folder = Path(found.take(key, str))
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} for the answer does not exist", "was it removed?")
    return folder


def _seconds(found: Section) -> float:
    seconds = float(found.take("preview_seconds", float, 0.0))
    if seconds < 0:
        found.fail("preview_seconds", f"must be at least 0, not {seconds:g}")
    return seconds


def _check_pattern(options: Namespace, found: Section) -> None:
    if options.pattern is not None and len(options.pattern) != 2:
        found.fail("pattern", "needs two texts, of the image and of the labels")


def _take_model(options: Namespace, values: Mapping[str, Any], where: str) -> None:
    """Parts of ModelConfig that differ from the standard model."""
    found = Section(values, where)
    for key in ("affine", "nonrigid"):
        if key in found:
            setattr(options, key, found.take(key, bool))
    for key in ("itn_channels", "stn_channels"):
        if key in found:
            setattr(options, key, found.items(key, int))
    if "stn_input" in found:
        options.stn_input = found.take("stn_input", str)
    found.close()


__all__ = ["CaseRequest", "TrainRequest", "case_request", "existing_folder", "section", "train_request"]

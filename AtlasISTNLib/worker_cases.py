"""What the worker keeps warm between requests, a few models and cases, and the files that a case becomes."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, find_device, load_bundle
from .configs import PlacementConfig, as_dict
from .disagreements import disagreement
from .errors import DivergenceError, WorkerError
from .exchange import correspondence_to_files, grid_from_dict, volume_from_files, volume_to_files
from .geometry import Grid
from .manifest import FILES, MANIFEST, file_hash, find_model
from .progress import Cancel, Progress, Report, never, stop_if
from .report import check_reference, summary
from .result import Result, Trace
from .segmentation import refine, resumed, segment
from .volume import Volume
from .worker_requests import STARTS, CaseRequest
from .worker_states import States
from .worker_steering import named_volume

#: Models and cases that are kept.
MOST_BUNDLES, MOST_CASES = 2, 3
#: Previews of one request that lie on disk; whoever wants them has read the older ones.
_MOST_PREVIEWS = 16
_STATES_KEPT = "the state before it was kept"
_STATE_GONE = "The engine does not have the state of that result any more; the refinement began at the one-pass result"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KeptCase:
    """A segmented image.

    Attributes:
        bundle: the model that segmented it.
        image: grid of the image.
        placement: what was asked for.
        one_pass: what refinements begin from.
        last: the latest result.
        reference: true labels, where they were given.
        given: entry and map of the labels that took the place of the ITN's prediction, where they were given.
        ongoing: what a refinement that was cancelled briefly had got to: newer than `last`, with a state to go on from
            and nothing to look at.
        state: what the state of `last` is kept under.
    """

    bundle: Bundle
    image: Grid
    placement: PlacementConfig | None
    one_pass: Result
    last: Result
    reference: Volume | None = None
    given: tuple[Any, Any] = (None, None)
    ongoing: Result | None = None
    state: str = ""


class Cases:
    """The models and cases at hand; the oldest ones make room for new ones."""

    def __init__(self) -> None:
        self._bundles: OrderedDict[tuple[str, str], tuple[object, Bundle]] = OrderedDict()
        self._cases: OrderedDict[str, KeptCase] = OrderedDict()
        self._states = States()

    def clear(self) -> None:
        """Let go of everything."""
        self._bundles.clear()
        self._cases.clear()
        self._states.clear()

    def forget(self, case: str) -> None:
        """Let go of a case, if it is there."""
        self._cases.pop(case, None)
        self._states.forget(case)

    def find(self, case: str, state: str | None = None) -> KeptCase:
        """A case that is kept, brought back to an earlier state of it where one is named.

        Raises:
            WorkerError: it is not, or the state is not.
        """
        if case not in self._cases:
            raise WorkerError(f"the engine does not have the case '{case}' any more", "segment the image again")
        self._cases.move_to_end(case)
        found = self._recalled(case, self._cases[case], state)
        if found is None:
            raise WorkerError("the engine does not have the state of this result any more", "refine the image again")
        self._cases[case] = found
        return found

    def segment(self, request: CaseRequest, report: Report, cancel: Cancel) -> KeptCase:
        """Segment an image in one pass and keep it."""
        report(Progress("load", 0, 1))
        bundle = self._bundle(request)
        image = volume_from_files(request.image, request.image_folder)
        reference = _reference(request, image)
        report(Progress("load", 1, 1))
        stop_if(cancel, "segmenting")
        placement = request.placement
        target = None if request.target is None else named_volume(request.target)
        mapping = request.target_map
        result = segment(bundle, image, placement, report, cancel, request.low_memory, target, mapping)
        case = KeptCase(bundle, image.grid, placement, result, result, reference, (request.target, mapping))
        return self._keep(request, case)

    def refine(
        self, request: CaseRequest, report: Report, cancel: Cancel, brief: Cancel = never
    ) -> tuple[KeptCase, str]:
        """Refine a case from its one-pass or latest state, segmenting the image first where it is not kept.

        Args:
            request: what is asked for.
            report, cancel, brief: see `segmentation.refine`.

        Returns:
            The case, and what went wrong on the way to a result that is good all the same; mostly empty.
        """
        case = self._warm(request) or self.segment(request, report, cancel)
        reference, problem = _reference(request, case.one_pass.image), ""
        begin = case.one_pass
        if request.start == "current":
            recalled = self._recalled(request.case, case, request.state)
            case, problem = (case, _STATE_GONE) if recalled is None else (recalled, "")
            begin = case.one_pass if recalled is None else case.ongoing or case.last
        steering = request.steering.read()
        if begin is case.ongoing and request.config is not None and request.config.iterations == 0:
            begin = resumed(case.bundle, begin, begin.state, begin.target, begin.trace)  # with all that it lacks
        try:
            result = refine(case.bundle, begin, request.config, report, cancel, steering, brief)
        except DivergenceError as error:
            if error.result is None or error.result.trace is None:
                raise
            result, problem = error.result, "; ".join(filter(None, (problem, error.message, _STATES_KEPT)))
        trace = result.trace
        if trace is not None and trace.stopped == "cancelled" and brief():
            return self._keep(request, replace(case, ongoing=result, reference=reference)), problem
        return self._keep(request, replace(case, last=result, ongoing=None, reference=reference)), problem

    def _recalled(self, name: str, case: KeptCase, state: str | None) -> KeptCase | None:
        """The case with an earlier result as its last one; None where the state of that is not kept any more."""
        if state is None or state == case.state:
            return case
        kept = self._states.find(name, case.bundle, state)
        if kept is None:
            return None
        last = resumed(case.bundle, case.one_pass, kept.state, kept.target, kept.trace)
        return replace(case, last=last, ongoing=None, state=state)

    def _keep(self, request: CaseRequest, case: KeptCase) -> KeptCase:
        if case.ongoing is None:
            case = replace(case, state=self._states.keep(request.case, case.bundle, case.last))
        # Copies, because a result holds on to every volume that was computed of it, and an answer needs them all.
        kept = replace(case, one_pass=replace(case.one_pass), last=replace(case.last))
        self._cases[request.case] = kept
        self._cases.move_to_end(request.case)
        while len(self._cases) > MOST_CASES:
            self._cases.popitem(last=False)
        return case

    def _warm(self, request: CaseRequest) -> KeptCase | None:
        """The case of a request, if it is kept and nothing that it depends on has changed."""
        case = self._cases.get(request.case)
        if case is None or case.placement != request.placement or not _same_grid(request, case.image):
            return None
        if case.given != (request.target, request.target_map):
            return None
        if self._kept_bundle(request) is not case.bundle:
            return None
        return case

    def _bundle(self, request: CaseRequest) -> Bundle:
        bundle = self._kept_bundle(request)
        if bundle is None:
            key, stamp = _key(request)
            bundle = load_bundle(request.model, key[1])
            self._bundles[key] = (stamp, bundle)
            while len(self._bundles) > MOST_BUNDLES:
                self._bundles.popitem(last=False)
        return bundle

    def _kept_bundle(self, request: CaseRequest) -> Bundle | None:
        key, stamp = _key(request)
        if key not in self._bundles or self._bundles[key][0] != stamp:
            return None
        self._bundles.move_to_end(key)
        return self._bundles[key][1]


def answer(request: CaseRequest, number: int, case: KeptCase, problem: str, report: Report) -> dict[str, Any]:
    """The values of an event "result": the case's volumes and correspondences in files, and all figures.

    Args:
        request: gives the folder.
        number: of the request, which the files' names begin with.
        case: as `Cases` gave it.
        problem: for "warnings".
        report: told after every file, stage "write".
    """
    result, folder, stem = case.last, request.folder, f"r{number}-"
    start = STARTS[0] if problem.startswith(_STATE_GONE) else request.start
    refined = result.trace is not None
    writers: dict[str, Callable[[], Any]] = {
        "labels": lambda: volume_to_files(_compact(result.labels), folder, f"{stem}labels"),
        "prediction": lambda: volume_to_files(_compact(result.prediction), folder, f"{stem}prediction"),
        "atlas_image": lambda: volume_to_files(result.atlas_image, folder, f"{stem}atlas-image"),
        "final": lambda: correspondence_to_files(result.correspondence, folder, f"{stem}final"),
    }
    if refined:
        writers["one_pass"] = lambda: volume_to_files(_compact(result.one_pass_labels), folder, f"{stem}one-pass")
        writers["first"] = lambda: correspondence_to_files(result.one_pass, folder, f"{stem}first")
    writers["disagreement"] = lambda: volume_to_files(disagreement(result).map, folder, f"{stem}disagreement")
    writers["figures"] = lambda: summary(case.bundle, result, case.reference)
    made = {}
    report(Progress("write", 0, len(writers)))
    for count, (name, write) in enumerate(writers.items(), 1):
        made[name] = write()
        report(Progress("write", count, len(writers)))
    return {
        "case": request.case,
        "folder": str(folder),
        "volumes": {
            "labels": made["labels"],
            "one_pass": made.get("one_pass", made["labels"]),
            "prediction": made["prediction"],
            "atlas_image": made["atlas_image"],
        },
        "correspondence": {"one_pass": made.get("first", made["final"]), "final": made["final"]},
        "disagreement": made["disagreement"],
        "figures": made["figures"],
        "trace": None if result.trace is None else {**_trace(result.trace), "start": start},
        "labels": [asdict(label) for label in result.structures],
        "refined": refined,
        "state": case.state,
        "warnings": [*result.placement.warnings, *([problem] if problem else [])],
    }


def brief_answer(case: str, ongoing: Result) -> dict[str, Any]:
    """The values of an event "result" of a refinement that was cancelled briefly."""
    trace = None if ongoing.trace is None else _trace(ongoing.trace)
    return {"case": case, "brief": True, "trace": trace, "warnings": list(ongoing.placement.warnings)}


class Previews:
    """Previews of a refinement as files with names of their own; of many, the latest are there."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._stem = folder, f"r{number}-preview"
        self._files: list[list[Path]] = []

    def __call__(self, progress: Progress) -> Mapping[str, Any]:
        """Write the correspondence of a step; gives the values of an event "preview"."""
        assert progress.preview is not None
        entry = correspondence_to_files(progress.preview(), self._folder, f"{self._stem}-{progress.step}")
        self._files.append([self._folder / entry[key]["array"] for key in ("displacement", "displacement_back")])
        if len(self._files) > _MOST_PREVIEWS:
            for path in self._files.pop(0):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
        return {"correspondence": entry}


def _compact(labels: Volume) -> Volume:
    """A label map in the smallest unsigned type that holds its values."""
    return labels.with_array(labels.array.astype(np.min_scalar_type(int(labels.array.max())), copy=False))


def _trace(trace: Trace) -> dict[str, Any]:
    return {
        "config": as_dict(trace.config),
        "best": trace.best,
        "stopped": trace.stopped,
        "seconds": trace.seconds,
        "strength_voxel": list(trace.strength_voxel),
        "steps": [[step.step, step.total, step.a2s, step.s2a, step.reg] for step in trace.steps],
        "steering": None if trace.steering is None else dict(trace.steering),
        "landmarks": [asdict(mark) for mark in trace.landmarks],
        "distances": [[step.landmarks, *step.distances] for step in trace.steps if step.distances],
    }


def _reference(request: CaseRequest, image: Volume) -> Volume | None:
    """The true labels of a request, if there are any, refused before the work and not after it."""
    if request.reference is None:
        return None
    reference = volume_from_files(*request.reference)
    check_reference(image, reference)
    return reference


def _same_grid(request: CaseRequest, grid: Grid) -> bool:
    with contextlib.suppress(KeyError, TypeError, WorkerError):
        return grid_from_dict(request.image["grid"]) == grid
    return False


def _key(request: CaseRequest) -> tuple[tuple[str, str], object]:
    """What a model is kept under, and what changes when its files do."""
    place, device = find_model(request.model), find_device(request.device)
    name = device.type if device.type == "cpu" else f"{device.type}:{device.index or 0}"
    return (str(place.resolve()), name), tuple(_stamps(place))


def _stamps(place: Path) -> Iterator[tuple[str, int, int] | str]:
    for path in [place / name for name in FILES] if place.is_dir() else [place]:
        with contextlib.suppress(OSError):
            state = path.stat()
            yield path.name, state.st_mtime_ns, state.st_size
    with contextlib.suppress(OSError):
        yield file_hash(place / MANIFEST)  # short, and it holds the hashes of the others


__all__ = ["MOST_BUNDLES", "MOST_CASES", "Cases", "KeptCase", "Previews", "answer", "brief_answer"]

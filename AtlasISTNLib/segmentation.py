"""Segmenting an image: ITN, one pass of the STN, and refinement of a copy on the single case.

Refinement minimises L* = β* L*_a2s + γ* L*_s2a + λ* L_reg against the ITN's own prediction, with the ITN frozen
(Sinclair et al. 2022, doi:10.1016/j.media.2022.102383). The ITN runs once, in `segment`. What else may steer it is
described in `steering` and `guidance`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .bundle import Bundle
from .configs import PlacementConfig, RefineConfig
from .correspondence import Correspondence
from .datasets import normalised
from .errors import ConfigError, DeviceError, DivergenceError
from .geometry import Grid, Plane, transform_points
from .guidance import Guidance
from .losses import folded_share, smoothness, strength_in_voxels
from .moving import LEARNING_RATES, field_moving, network_moving, optimiser
from .placement import SMALL_SLAB_VOXELS, Placement, place, place_on, touching
from .progress import Cancel, Progress, Report, never, silent, stop_if
from .result import LandmarkLeft, Result, State, Step, Trace
from .steering import Steering, check_target, on_slice, soft_target, target_foreground
from .volume import Volume, checked_image, flattened
from .warp import Transformation, sample

_OUT_OF_MEMORY = "use --device cpu, or close other programs that use the GPU"
#: torch before 2.5 has only the name for CUDA.
_OutOfMemory: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def segment(
    bundle: Bundle,
    image: Volume,
    placement: PlacementConfig | None = None,
    report: Report = silent,
    cancel: Cancel = never,
    low_memory: bool = False,
    target: Volume | None = None,
    target_map: Mapping[int, int] | None = None,
) -> Result:
    """Predict labels with the ITN, or take given ones, and register the atlas to them in one pass.

    Args:
        bundle: the model.
        image: one grey value per voxel, on any grid; a 2D model takes 2D images and single slices.
        placement: where to put the model grid; automatic by default.
        report: gets the stages "place", "predict" and "register".
        cancel: asked between stages.
        low_memory: look for the anatomy in smaller parts of the image, which takes longer.
        target: labels to take in place of the ITN's prediction, which is not run then; see `Steering`. Where the model
            grid is to be found automatically, it goes to the target's foreground.
        target_map: which of the target's values is which of the model's.

    Raises:
        VolumeError: the image or the target cannot be used with this model.
        ConfigError: the given placement or the map is impossible, or the model takes no labels.
        GeometryError: the target lies elsewhere than the image.
        DeviceError: out of memory.
        Cancelled: stopped.
    """
    start = time.perf_counter()
    checked_image(image, bundle.config.ndim)
    flat, plane = flattened(image) if image.grid.ndim > bundle.config.ndim else (image, None)
    given = None
    if target is not None:
        if bundle.config.stn_input == "image":
            raise ConfigError(f"{bundle.about.name} registers images, not labels", "leave the target out")
        check_target(target, target_map, bundle.labels, image.grid)
        given = target if plane is None else on_slice(target, image.grid)
    try:
        where = _on_plane(placement or PlacementConfig(), plane)
        if given is None:
            placed = place(bundle, flat, where, report, cancel, SMALL_SLAB_VOXELS if low_memory else None)
        else:
            placed = place_on(bundle, flat, target_foreground(given, target_map, bundle.labels), where)
        located = time.perf_counter()
        stop_if(cancel, "segmenting")
        with torch.no_grad():
            if given is None:
                normal = torch.from_numpy(normalised(flat, placed.grid, bundle.normalisation).array.copy())
            else:
                normal = torch.from_numpy(soft_target(given, target_map, bundle.labels, placed.grid))
            normal = normal.unsqueeze(0).to(bundle.device)
            with_itn = bundle.config.stn_input == "prediction"
            prediction = bundle.model.itn(normal) if with_itn and given is None else normal
            report(Progress("predict", 1, 1))
            stop_if(cancel, "segmenting")
            velocity, affine = bundle.model.stn(bundle.model.stn_input(prediction, normal))
            warp = bundle.model.transformation(velocity, affine)
            if not with_itn:  # the warped atlas is all that such a model predicts
                prediction = sample(bundle.model.atlas_labels.unsqueeze(0), warp.atlas_from_image())
            correspondence = _correspondence(bundle, warp, placed.grid, plane)
    except _OutOfMemory as error:
        raise DeviceError(f"{bundle.device} ran out of memory segmenting {image.name}", _OUT_OF_MEMORY) from error
    report(Progress("register", 1, 1))
    placed = _with_border_warnings(placed, bundle, prediction, warp)
    soft = _lifted(prediction[0], correspondence.image_grid, "prediction")
    return Result(
        image=image,
        structures=bundle.labels,
        placement=placed if plane is None else replace(placed, grid=correspondence.image_grid),
        soft_prediction=soft,
        soft_atlas=_lifted(bundle.model.atlas_labels, correspondence.atlas_grid, "labels"),
        atlas=_lifted(bundle.model.atlas_image, correspondence.atlas_grid, "atlas-image"),
        one_pass=correspondence,
        correspondence=correspondence,
        state=State(_kept(velocity), _kept(affine)),
        seconds={"place": located - start, "one_pass": time.perf_counter() - located},
        source="itn" if target is None else "target",
        target=None if target is None else soft,
    )


def refine(
    bundle: Bundle,
    result: Result,
    config: RefineConfig | None = None,
    report: Report = silent,
    cancel: Cancel = never,
    steering: Steering | None = None,
    brief: Cancel = never,
) -> Result:
    """Refine a result against the ITN's prediction; the bundle and the given result stay as they are.

    It begins at the state of `result`: the one-pass one after `segment`, the refined one after `refine` (in mode
    "network" with the weights that `result` was refined to, or the model's own if it was refined as a field; with
    another target, with what they give for it). Adam begins afresh, and at a refined state with five shorter steps.
    The state of the lowest loss is kept.

    Args:
        config: None fields take the model's own defaults; zero iterations give `result` back.
        report: gets stage "refine" for every step with "total", "a2s", "s2a", "reg"; `preview()` gives the
            `Correspondence` of that step and `more()` its "folding"; with landmarks there is "landmarks" besides.
        cancel: asked after every step; the best state so far is returned, its trace "cancelled".
        steering: what is to pull the atlas besides, or in place of, the ITN's prediction.
        brief: asked where it is cancelled: whether the state is all that is wanted, to go on from. The correspondence
            is then left coarse, which takes most of the time that is left.

    Raises:
        ConfigError: `result` was made with another model, or the steering does not fit the model or the image.
        VolumeError, GeometryError: the same of the steering's volumes.
        DivergenceError: a loss is not finite; the error's `result` is the best one so far.
        DeviceError: out of memory.
    """
    config = resolved(config or RefineConfig(), bundle)
    atlas = (bundle.config.labels, *bundle.config.shape)
    if result.structures != bundle.labels or result.soft_prediction.array.size != np.prod(atlas):
        raise ConfigError(
            f"the result was not made with the model {bundle.about.name}", "segment the image with this model first"
        )
    if config.iterations == 0:
        return result
    given = steering is not None and steering.target is not None and config.mode == "field"
    if bundle.config.stn_input == "image" and not given:
        raise ConfigError(
            f"{bundle.about.name} registers images and predicts no labels that its atlas could be refined against",
            "take its one-pass result, another model, or a target of your own in mode field",
        )
    try:
        return _Refinement(bundle, result, config, steering).run(report, cancel, brief)
    except _OutOfMemory as error:
        raise DeviceError(f"{bundle.device} ran out of memory refining {result.image.name}", _OUT_OF_MEMORY) from error


def resumed(
    bundle: Bundle, result: Result, state: State, target: Volume | None = None, trace: Trace | None = None
) -> Result:
    """The refined result of the same image that had another state.

    Args:
        bundle: the model of `result`.
        result: any result of the image.
        state, target, trace: of the result that is wanted; without a trace that is the one-pass result.
    """
    plane = Plane.of(result.image.grid) if result.image.grid.ndim > bundle.config.ndim else None
    parts = (None if t is None else t.to(bundle.device) for t in (state.velocity, state.affine))
    with torch.no_grad():
        warp = bundle.model.transformation(*parts)
        found = result.one_pass
        if trace is not None:
            found = _correspondence(bundle, warp, result.one_pass.image_grid, plane)
    placement = _with_border_warnings(result.placement, bundle, None, warp)
    return replace(result, correspondence=found, state=state, target=target, trace=trace, placement=placement)


def resolved(config: RefineConfig, bundle: Bundle) -> RefineConfig:
    """A config with every None replaced by the model's own default."""
    own = bundle.refinement
    rate = (
        own.learning_rate if own.mode == config.mode and own.learning_rate is not None else LEARNING_RATES[config.mode]
    )
    return replace(
        config,
        iterations=own.iterations if config.iterations is None else config.iterations,
        strength=own.strength if config.strength is None else config.strength,
        learning_rate=rate if config.learning_rate is None else config.learning_rate,
    )


class _Refinement:
    """One run of `refine`; owns everything that changes during it."""

    def __init__(self, bundle: Bundle, result: Result, config: RefineConfig, steering: Steering | None) -> None:
        self.bundle, self.result, self.config = bundle, result, config
        image = result.image.grid
        self.plane = Plane.of(image) if image.ndim > bundle.config.ndim else None
        placed = result.placement.grid if self.plane is None else _flat(result.placement.grid, self.plane)
        self.guidance = Guidance.of(bundle, result, steering, placed)
        network = config.mode == "network"
        self.moving = network_moving(bundle, result, self.guidance.labels) if network else field_moving(bundle, result)
        self.steps: list[Step] = []
        self.best: tuple[int, State] | None = None
        self.started = time.perf_counter()

    def run(self, report: Report, cancel: Cancel, brief: Cancel) -> Result:
        iterations, rate = self.config.iterations or 0, self.config.learning_rate or 0.0
        optimizer, schedule = optimiser(self.moving, rate, goes_on=self.result.trace is not None)
        stopped = "finished"
        for step in range(iterations + 1):
            last = step == iterations
            with torch.set_grad_enabled(not last):
                velocity, affine = self.moving.current()
                warp = self.bundle.model.transformation(velocity, affine)
                loss, record, plus = self._loss(warp, step)
            self._keep(record, velocity, affine)
            self._tell(report, record, warp, plus)
            if last:
                break
            if cancel():
                stopped = "cancelled"
                break
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if cancel():  # asked twice in a step: on a CPU a large model's takes longer than people like to wait
                stopped = "cancelled"
                break
            optimizer.step()
            schedule.step()
        return self._finished(stopped, fine=stopped == "finished" or not brief())

    def _loss(self, warp: Transformation, step: int) -> tuple[Tensor, Step, Tensor | None]:
        """L*, its terms and the displacement that they share; warps nothing that a zero weight makes needless."""
        c, model, guidance = self.config, self.bundle.model, self.guidance
        plus = warp.displacement(1)
        outward = warp.config.direction == "atlas_from_image"
        zero = torch.zeros((), device=guidance.labels.device)
        a2s = s2a = zero
        if c.beta:
            points = warp.atlas_from_image(plus if outward else None)
            a2s = guidance.a2s(sample(model.atlas_labels[1:].unsqueeze(0), points))
        back = warp.displacement(-1) if outward and (c.gamma or guidance.pairs is not None) else plus
        if c.gamma:
            s2a = guidance.s2a(warp.image_from_atlas(back), model.atlas_labels[1:].unsqueeze(0))
        reg = smoothness(plus, guidance.labels)
        total = c.beta * a2s + c.gamma * s2a + (c.strength or 0.0) * reg
        terms = [a2s, s2a, reg]
        if guidance.pairs is not None:
            squares = guidance.pairs.distances(warp, back)
            total = total + guidance.pairs.weight * squares.mean()
            terms += [squares.mean(), *squares.sqrt()]
        # One transfer from the device for all of them.
        whole, first, second, smooth, *marks = torch.stack([total, *terms]).detach().tolist()
        return total, Step(step, whole, first, second, smooth, sum(marks[:1]), tuple(marks[1:])), plus

    def _tell(self, report: Report, record: Step, warp: Transformation, plus: Tensor | None) -> None:
        report(
            Progress(
                "refine",
                record.step,
                self.config.iterations or 0,
                _values(record),
                preview=lambda: self._seen(warp),
                more=lambda: {"folding": folded_share(plus)},
            )
        )

    def _keep(self, record: Step, velocity: Tensor | None, affine: Tensor | None) -> None:
        if not np.isfinite(record.total):
            good = self._finished("diverged") if self.best else self.result
            raise DivergenceError(
                f"the refinement's loss is not finite at step {record.step}",
                "lower the learning rate; the last good result was kept",
                good,
            )
        self.steps.append(record)
        if self.best is None or record.total < self.steps[self.best[0]].total:
            self.best = (len(self.steps) - 1, State(_kept(velocity), _kept(affine), self.moving.weights()))

    def _seen(self, warp: Transformation, fine: bool = False) -> Correspondence:
        return _correspondence(self.bundle, warp, self.result.one_pass.image_grid, self.plane, fine)

    def _finished(self, stopped: str, fine: bool = True) -> Result:
        if self.best is None:
            return self.result
        index, state = self.best
        device = self.bundle.device
        parts = (None if t is None else t.to(device) for t in (state.velocity, state.affine))
        with torch.no_grad():
            warp = self.bundle.model.transformation(*parts)
            correspondence = self._seen(warp, fine)
        seconds = time.perf_counter() - self.started
        trace = Trace(
            config=self.config,
            strength_voxel=strength_in_voxels(self.config.strength or 0.0, self.bundle.config.shape),
            steps=tuple(self.steps),
            best=self.steps[index].step,
            stopped=stopped,
            seconds=seconds,
            steering=self.guidance.record,
            landmarks=self._landmarks(correspondence),
        )
        return replace(
            self.result,
            correspondence=correspondence,
            state=state,
            trace=trace,
            target=self.guidance.target,
            placement=_with_border_warnings(self.result.placement, self.bundle, None, warp),
            seconds={**self.result.seconds, "refine": seconds},
        )

    def _landmarks(self, correspondence: Correspondence) -> tuple[LandmarkLeft, ...]:
        """How far each landmark was from its partner at first, and is by the correspondence that is given back."""
        marks = self.guidance.marks
        if marks is None:
            return ()
        d = correspondence.theta.shape[0] - 1
        left = np.linalg.norm(correspondence.image_from_atlas(marks.atlas[:, :d]) - marks.image[:, :d], axis=1)
        pairs = zip(marks.names, self.steps[0].distances, left.tolist(), strict=True)
        return tuple(LandmarkLeft(*pair) for pair in pairs)


def _values(record: Step) -> dict[str, float]:
    values = {"total": record.total, "a2s": record.a2s, "s2a": record.s2a, "reg": record.reg}
    return {**values, "landmarks": record.landmarks} if record.distances else values


def _correspondence(
    bundle: Bundle, warp: Transformation, placed: Grid, plane: Plane | None, fine: bool = True
) -> Correspondence:
    with torch.no_grad():
        fields = [warp.displacement(sign) for sign in (1, -1)]
    arrays = [None if f is None else f[0].double().cpu().numpy() for f in fields]
    theta = warp.theta[0].detach().double().cpu().numpy()
    direction = bundle.config.direction
    if plane is None:
        return Correspondence.build(direction, theta, arrays[0], arrays[1], placed, bundle.grid, fine)
    flat = placed if placed.ndim == 2 else _flat(placed, plane)
    return Correspondence.build(direction, theta, arrays[0], arrays[1], flat, bundle.grid, fine).lifted(plane)


def _on_plane(config: PlacementConfig, plane: Plane | None) -> PlacementConfig:
    """A placement that is given in WORLD, in the coordinates of the single slice that the model sees."""
    if plane is None or len(config.center or config.box or ()) not in (3, 6):
        return config
    back = np.linalg.inv(plane.world_from_plane)
    if config.center is not None:
        return replace(config, center=tuple(transform_points(back, config.center)[:2].tolist()))
    pairs = np.array(config.box).reshape(3, 2)
    corners = transform_points(back, np.stack(np.meshgrid(*pairs, indexing="ij"), axis=-1).reshape(-1, 3))[:, :2]
    return replace(config, box=tuple(np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1).ravel().tolist()))


def _flat(placed: Grid, plane: Plane) -> Grid:
    """The 2D model grid again, from its 3D slice."""
    back = np.linalg.inv(plane.world_from_plane)
    origin = back[:3, :3] @ np.array(placed.origin) + back[:3, 3]
    direction = (back[:3, :3] @ np.array(placed.direction))[:2, :2]
    return Grid(placed.shape[1:], placed.spacing[:2], tuple(origin[:2]), tuple(tuple(row) for row in direction))


def _lifted(channels: Tensor, grid: Grid, name: str) -> Volume:
    """Channels (C, *shape) on a grid of that shape or of one slice of it."""
    return Volume.from_array(channels.detach().cpu().numpy().reshape(-1, *grid.shape), grid, name)


def _with_border_warnings(
    placed: Placement, bundle: Bundle, prediction: Tensor | None, warp: Transformation
) -> Placement:
    """Say which structures reach the border of the model grid, where they may be cut."""
    values = np.array([label.value for label in bundle.labels])
    with torch.no_grad():
        warped = sample(bundle.model.atlas_labels.unsqueeze(0), warp.atlas_from_image())
    soft = [warped] if prediction is None else [prediction, warped]
    found = {name for s in soft for name in touching(values[s[0].argmax(dim=0).cpu().numpy()], bundle.names)}
    kept = tuple(w for w in placed.warnings if not w.startswith(_BORDER))
    if not found:
        return replace(placed, warnings=kept)
    names = ", ".join(name for name in bundle.names.values() if name in found)
    return replace(placed, warnings=(*kept, f"{_BORDER}: {names}. They may be cut; place the grid differently."))


_BORDER = "These structures touch the border of the model grid"


def _kept(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().cpu().clone()


__all__ = ["LEARNING_RATES", "refine", "resolved", "resumed", "segment"]

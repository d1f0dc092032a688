"""Settings as values: every choice that a run or a model depends on, checked when it is made.

All are frozen dataclasses. `as_dict` gives what a manifest or a report stores; `from_dict` reads it back and names what
it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from .errors import ConfigError

#: How a transformation's affine part, velocity units and border are defined; see `ModelConfig.convention`.
CONVENTIONS = ("metric", "reference")
#: Which of the two maps is φ∘θ, that is, the one integrated from +v with the affine applied first.
DIRECTIONS = ("atlas_from_image", "image_from_atlas")
MODES = ("network", "field")
PLACEMENTS = ("auto", "center", "given")
#: What the STN sees: the ITN's prediction beside the atlas labels, or the image beside the atlas image (no ITN).
STN_INPUTS = ("prediction", "image")
#: How the ITN ends: linear, as published, or with a softmax over the labels.
ITN_OUTPUTS = ("linear", "softmax")
#: What follows each of the ITN's convolutions while it is trained.
ITN_NORMS = ("none", "batch")
#: L_s: the published mean squared error, or cross-entropy and soft Dice of the softmax.
SEGMENTATION_LOSSES = ("mse", "cross-entropy-dice")
#: How label maps come to the model grid: averaged over its voxels with a smooth weight, interpolated at their centres,
#: or, as published, the value nearest to them.
LABEL_SAMPLINGS = ("averaged", "linear", "nearest")
#: Which parts a training trains: both networks, or the ITN alone.
PARTS = ("joint", "itn")
NORMALISATIONS = ("z-score", "percentile", "window", "none")
#: Which epoch's model a training gives.
KEPT = ("last", "best")
ATLAS_UPDATES = ("running", "separate")

_C = TypeVar("_C")


@dataclass(frozen=True)
class ModelConfig:
    """What a model is made of.

    Attributes:
        labels: number K of label channels, background first; at least 2.
        shape: voxels of the model grid along the array axes, (Z, Y, X) or (Y, X).
        itn_channels: widths of the ITN's four levels.
        stn_channels: widths of the STN: encoder at 1/2 and 1/4, encoder at 1/8, last decoder layer.
        convention: "metric" rotates in millimetres about the grid's centre with a rotation vector; "reference" is the
            released code's: Euler angles in the normalised cube, array-order axes, border-clamped composition.
        direction: which map is φ∘θ; the other one is θ⁻¹∘φ⁻¹.
        affine: whether there is an affine part.
        nonrigid: whether there is a diffeomorphic part.
        squarings: steps of scaling and squaring.
        stn_input: "prediction" is Atlas-ISTN; "image" registers the atlas image to the image, as VoxelMorph does, and
            leaves the ITN unused.
        itn_output: "linear" as published, or "softmax", which a training with cross-entropy needs.
        itn_norm: "none" as published, or "batch": batch normalisation while the ITN is trained, which many labels and
            images of any contrast need to be learnt in reasonable time. The trained model has it in its convolutions;
            from `TrainConfig.joint_from` on, if that is set, it already is what it will be there.
    """

    labels: int
    shape: tuple[int, ...]
    itn_channels: tuple[int, ...] = (8, 16, 32, 64)
    stn_channels: tuple[int, ...] = (16, 32, 8)
    convention: str = "metric"
    direction: str = "atlas_from_image"
    affine: bool = True
    nonrigid: bool = True
    squarings: int = 6
    stn_input: str = "prediction"
    itn_output: str = "linear"
    itn_norm: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "itn_channels", tuple(int(n) for n in self.itn_channels))
        object.__setattr__(self, "stn_channels", tuple(int(n) for n in self.stn_channels))
        if self.labels < 2:
            raise ConfigError(f"a model needs a background and at least one label, not {self.labels} channels")
        if len(self.shape) not in (2, 3) or min(self.shape) < 8:
            raise ConfigError(f"a model grid has 2 or 3 axes of at least 8 voxels, not shape {self.shape}")
        _one_of("convention", self.convention, CONVENTIONS)
        _one_of("direction", self.direction, DIRECTIONS)
        _one_of("stn_input", self.stn_input, STN_INPUTS)
        _one_of("itn_output", self.itn_output, ITN_OUTPUTS)
        _one_of("itn_norm", self.itn_norm, ITN_NORMS)
        if len(self.itn_channels) != 4 or min(self.itn_channels) < 1:
            raise ConfigError(f"itn_channels needs four positive widths, not {self.itn_channels}")
        if len(self.stn_channels) != 3 or min(self.stn_channels) < 1:
            raise ConfigError(f"stn_channels needs three positive widths, not {self.stn_channels}")
        if not (self.affine or self.nonrigid):
            raise ConfigError("a model needs an affine or a non-rigid part")
        _whole("labels", self.labels, 2)
        _whole("squarings", self.squarings, 1)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)


@dataclass(frozen=True)
class NormalisationConfig:
    """How an image's values are brought to the ITN.

    Attributes:
        kind: "z-score" subtracts the mean and divides by the standard deviation of the whole image; "percentile" maps
            the 1st and the 99th percentile of what lies above the image's lowest value (its padding, as a rule) to -1
            and 1 and clips what lies beyond, for any contrast; "window" does that with a given window of intensities,
            for units with a meaning such as HU; "none" takes the values as they are.
        center: middle of the window, in the image's units.
        width: full width of the window, in the image's units; positive.
        outside: what lies beyond the image where the model grid is larger: "mean", "minimum", or a value in its units.
        antialias: blur before sampling onto larger voxels.
    """

    kind: str = "z-score"
    center: float = 0.0
    width: float = 1.0
    outside: str | float = "minimum"
    antialias: bool = True

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, NORMALISATIONS)
        _finite("center", self.center)
        _finite("width", self.width)
        if self.width <= 0:
            raise ConfigError(f"the window's width must be positive, not {self.width}")
        if isinstance(self.outside, str):
            _one_of("outside", self.outside, ("mean", "minimum"))
        else:
            _finite("outside", self.outside)


@dataclass(frozen=True)
class PlacementConfig:
    """Where on the image the model grid goes.

    Attributes:
        how: "auto" looks for the anatomy with the ITN when the image is larger than the model grid, and takes the
            image's centre otherwise; "center" takes the image's centre; "given" takes `center` or the middle of `box`.
        center: LPS mm, x, y, z.
        box: LPS mm, x0, x1, y0, y1, z0, z1.
    """

    how: str = "auto"
    center: tuple[float, ...] | None = None
    box: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _one_of("how", self.how, PLACEMENTS)
        if (self.how == "given") != (self.center is not None or self.box is not None):
            raise ConfigError("a centre or a box goes with the placement 'given', and 'given' needs one of them")
        if self.center is not None and self.box is not None:
            raise ConfigError("give either a centre or a box for the model grid, not both")
        for value in (*(self.center or ()), *(self.box or ())):
            _finite("the placement", value)
        if self.box is not None:
            pairs = list(zip(self.box[::2], self.box[1::2], strict=False))
            if len(self.box) not in (4, 6) or any(low >= high for low, high in pairs):
                raise ConfigError(f"a box is x0,x1,y0,y1,z0,z1 in mm with x0 < x1 and so on, not {self.box}")


@dataclass(frozen=True)
class RefineConfig:
    """Refinement of one case: L* = β* L*_a2s + γ* L*_s2a + λ* L_reg (Sinclair et al. 2022).

    Attributes:
        iterations: gradient steps; 0 keeps the one-pass result. None takes the model's own number.
        strength: λ*, in the paper's units at the model's grid size; None takes the model's own.
        beta: β*, weight of the atlas brought onto the prediction.
        gamma: γ*, weight of the prediction brought onto the atlas.
        learning_rate: of Adam; None takes the mode's own.
        mode: "network" adapts a copy of the STN's weights; "field" adapts velocity and affine parameters themselves.
    """

    iterations: int | None = None
    strength: float | None = None
    beta: float = 1.0
    gamma: float = 0.0
    learning_rate: float | None = None
    mode: str = "network"

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        if self.iterations is not None:
            _whole("iterations", self.iterations, 0)
        if self.strength is not None:
            _at_least("the strength λ*", self.strength, 0)
        _at_least("beta", self.beta, 0)
        _at_least("gamma", self.gamma, 0)
        if self.beta == 0 and self.gamma == 0:
            raise ConfigError("beta and gamma are both zero: nothing would pull the atlas to the image")
        if self.learning_rate is not None:
            _positive("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class TrainConfig:
    """Joint training of ITN, STN and atlas: L = L_s + ω (L_a2s + L_s2a + λ L_reg) (Sinclair et al. 2022).

    Attributes:
        epochs: passes over the training cases.
        batch_size: cases per step, over all processes together.
        learning_rate: Adam's at the start.
        halve_every: epochs in which the learning rate halves, exponentially; 0 keeps it.
        clip: largest norm of all gradients of a step together; 0 for any.
        strength: λ, in the paper's units.
        strength_size: voxels along an axis of the grid that λ was chosen for; λ is then carried to this training's grid
            so that it stays the same in voxel units. 0 takes λ as it is.
        omega_midpoint: epoch at which the sigmoid ω(t) = 1/(1 + exp(−(t − midpoint)/25)) is ½; None keeps ω = 1.
        eta: η, share of the new mean in each epoch's atlas update; 0 keeps the initial atlas.
        late_eta: η from epoch `late_epoch` on, when the cases are aligned and the blur of the first epochs is to go.
        late_epoch: the first epoch with `late_eta`; 0 for none.
        atlas_update: "running" takes each case as its own training step of the epoch warped it, which saves a second
            pass over all cases; "separate" makes that pass after the epoch, as published. Where cases are augmented or
            the atlas is centred, it is always the latter.
        center_atlas: after each epoch, also move the atlas by η of the mean velocity of all cases, towards mean zero.
        atlas_rounds: rounds after the last epoch in which the atlas is made anew, each case registered to it by its
            known labels as in a refinement: a sharp atlas where the STN does not align the cases well. 0 for none.
        part: "joint", or "itn" for the segmentation network alone.
        joint_from: the first epoch of a joint training in which the STN and the atlas take part; until then the ITN is
            trained alone, which costs a fraction. 0 for all.
        joint_learning_rate: of the STN in epoch `joint_from`, so that it does not begin at the rate that the ITN has
            come down to; 0 gives it the ITN's. A high one drives the atlas out of the grid before it has learnt much.
        joint_halve_every: epochs in which that one halves, exponentially; 0 keeps it.
        segmentation_loss: L_s: "mse" as published, or "cross-entropy-dice".
        segmentation_weight: of L_s; 0 leaves the ITN to the registration terms.
        couple: whether the registration terms also train the ITN, as in the released code, through the prediction that
            the STN sees.
        label_sampling: "averaged" weighs all labels of a larger model voxel, which no thin structure slips through;
            "linear" interpolates at its centre, which keeps corners; "nearest" takes one value, as published.
        label_blur: σ in voxels of the blur of one-hot labels.
        rotation: augmentation, largest angle in degrees about x, y, z; 0 for none.
        translation: augmentation, largest shift in mm along x, y, z.
        scale: augmentation, largest relative change of size (0.1 for 0.9 to 1.1).
        elastic: augmentation, largest displacement in mm of a smooth random deformation, for half of the cases.
        intensity: augmentation, largest relative change of contrast and of brightness (in normalised units).
        noise: augmentation, largest standard deviation of added noise, in normalised units.
        blur: augmentation, largest σ in voxels of a blur, for half of the cases.
        bias: augmentation, largest standard deviation of a smooth random field added to the image, in normalised units.
        prediction_noise: augmentation, largest standard deviation of a smooth random field added to the prediction on
            its way to the STN, so that one pass does not depend on every detail of it.
        validation: share of the cases held out to watch the training.
        folds: number of cross-validation folds; 0 holds `validation` of the cases out instead.
        fold: which of the folds is held out, from 0.
        patience: stop after so many epochs without a better validation score; 0 never.
        keep: "last" gives the model of the last epoch, "best" that of the best validation score.
        amp: mixed precision on GPUs.
        seed: of everything random.
    """

    epochs: int = 100
    batch_size: int = 4
    learning_rate: float = 1e-3
    halve_every: int = 0
    clip: float = 0.0
    strength: float = 500.0
    strength_size: int = 0
    omega_midpoint: float | None = None
    eta: float = 0.01
    late_eta: float = 0.2
    late_epoch: int = 0
    atlas_update: str = "running"
    center_atlas: bool = False
    atlas_rounds: int = 0
    part: str = "joint"
    joint_from: int = 0
    joint_learning_rate: float = 0.0
    joint_halve_every: int = 0
    segmentation_loss: str = "mse"
    segmentation_weight: float = 1.0
    couple: bool = True
    label_sampling: str = "averaged"
    label_blur: float = 0.5
    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    intensity: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    bias: float = 0.0
    prediction_noise: float = 0.0
    validation: float = 0.1
    folds: int = 0
    fold: int = 0
    patience: int = 0
    keep: str = "last"
    amp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("halve_every", 0), ("strength_size", 0), ("folds", 0)):
            _whole(name, getattr(self, name), low)
        for name in ("fold", "patience", "seed", "late_epoch", "joint_from", "joint_halve_every", "atlas_rounds"):
            _whole(name, getattr(self, name), 0)
        for name, choices in (
            ("part", PARTS),
            ("segmentation_loss", SEGMENTATION_LOSSES),
            ("label_sampling", LABEL_SAMPLINGS),
            ("keep", KEPT),
            ("atlas_update", ATLAS_UPDATES),
        ):
            _one_of(name, getattr(self, name), choices)
        for name in ("center_atlas", "couple", "amp"):
            _flag(name, getattr(self, name))
        _positive("learning_rate", self.learning_rate)
        for name in (
            "clip",
            "joint_learning_rate",
            "strength",
            "segmentation_weight",
            "label_blur",
            "rotation",
            "translation",
            "scale",
            "elastic",
        ):
            _at_least(name, getattr(self, name), 0)
        for name in ("intensity", "noise", "blur", "bias", "prediction_noise"):
            _at_least(name, getattr(self, name), 0)
        for name, most in (("rotation", 85), ("scale", 0.5)):  # what `warp.metric_affine` can reach, with room
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most:g}, not {getattr(self, name):g}")
        for name in ("eta", "late_eta", "validation"):
            value = getattr(self, name)
            _finite(name, value)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} lies between 0 and 1, not {value}")
        if self.omega_midpoint is not None:
            _finite("omega_midpoint", self.omega_midpoint)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.strength_size == 1:
            raise ConfigError("strength_size is a number of voxels along an axis, not 1", "use 0 to take λ as it is")
        if self.folds == 1:
            raise ConfigError("one fold holds every case out", "use 2 or more folds, or 0 for a single split")
        if self.fold >= max(self.folds, 1):
            raise ConfigError(f"there is no fold {self.fold} among {self.folds}", "folds are counted from 0")
        watched = self.folds > 0 or self.validation > 0
        if not watched and (self.patience or self.keep == "best"):
            raise ConfigError(
                "early stopping and the best epoch need validation cases", "set validation or folds above 0"
            )
        if self.part == "itn" and self.segmentation_weight == 0:
            raise ConfigError("training the ITN alone with no weight on its loss trains nothing")

    @property
    def augments(self) -> bool:
        """Whether training cases are changed at random before each step."""
        moved = self.rotation or self.translation or self.scale or self.elastic
        altered = self.intensity or self.noise or self.blur or self.bias or self.prediction_noise
        return bool(moved or altered)

    @property
    def updates_while_running(self) -> bool:
        """Whether an epoch's own steps give the mean that the atlas moves to."""
        return self.atlas_update == "running" and not self.augments and not self.center_atlas

    def eta_in(self, epoch: int) -> float:
        """η of an epoch, counted from 1."""
        return self.late_eta if self.late_epoch and epoch >= self.late_epoch else self.eta

    def strength_on(self, shape: Sequence[int]) -> float:
        """λ on a grid of this shape (voxels), in the paper's units there.

        The regulariser is measured in the normalised cube, so that λ in voxel units is λ·4/(N−1)² along an axis of N
        voxels. With `strength_size` that number is kept; on grids with unequal axes, in the geometric mean.
        """
        if not self.strength_size:
            return self.strength
        steps = math.prod(n - 1 for n in shape) ** (1 / len(shape))
        return self.strength * (steps / (self.strength_size - 1)) ** 2

    def part_in(self, epoch: int) -> str:
        """What an epoch, counted from 1, trains."""
        return "itn" if epoch < self.joint_from else self.part

    def rates(self, epoch: int) -> tuple[float, float]:
        """Learning rates of the ITN and of the STN in an epoch, counted from 1."""
        itn = self.learning_rate * (0.5 ** ((epoch - 1) / self.halve_every) if self.halve_every else 1.0)
        if not self.joint_learning_rate:
            return itn, itn
        later = max(epoch - max(self.joint_from, 1), 0)
        return itn, self.joint_learning_rate * (
            0.5 ** (later / self.joint_halve_every) if self.joint_halve_every else 1.0
        )

    def omega(self, epoch: int) -> float:
        """ω of an epoch, counted from 1."""
        if self.omega_midpoint is None:
            return 1.0
        # The same as 1/(1 + exp(−x)), without its overflow.
        return 0.5 * (1.0 + math.tanh((epoch - self.omega_midpoint) / 50.0))


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain values for JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def from_dict(kind: type[_C], values: Mapping[str, Any]) -> _C:
    """A config of `kind` from plain values.

    Raises:
        ConfigError: a name is unknown, a required one absent, or a value impossible.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{kind.__name__} does not know {', '.join(unknown)}", f"it knows {', '.join(sorted(known))}")
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**plain)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__} cannot be made: {error}") from error


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} is '{value}'", f"use one of {', '.join(choices)}")


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is true or false, not {value!r}")


def _finite(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, not {value!r}")


def _at_least(name: str, value: Any, low: float) -> None:
    _finite(name, value)
    if value < low:
        raise ConfigError(f"{name} must be at least {low:g}, not {value:g}")


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    _at_least(name, value, low)


def _positive(name: str, value: Any) -> None:
    _finite(name, value)
    if value <= 0:
        raise ConfigError(f"{name} must be positive, not {value:g}")

"""What a scene's choices say about steering: what the atlas is fitted to, what is ignored, how hard structures pull.

Read from the parameter node, without widgets. Label weights and corrections of matches stand there as JSON by the
model's key, so that another model has others; corrections then by the reference to the target that they are of.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import ignore, targets
from .models import Entry

#: What the atlas can be fitted to; values of the parameter `fitTo`.
PREDICTION, EDITED, SEGMENTATION = "prediction", "edited", "segmentation"
FITS = (PREDICTION, EDITED, SEGMENTATION)
#: References of the parameter node to targets whose matches were corrected; each is one for itself.
_CORRECTED = "AtlasISTN.Corrected."
#: Weights that the panel offers.
OFF, NORMAL, MOST = 0.0, 1.0, 10.0


@dataclass(frozen=True, eq=False)
class Choices:
    """What steers the refinement of an input with a model.

    Attributes:
        volume: the input; None where there is none, or no model.
        fit: one of `FITS`.
        target: the segmentation that is fitted to; None for the network's prediction, and where there is none.
        matches: what its segments are.
        without_network: whether segmenting goes by the target, too.
        ignore: whether a region is to be ignored.
        region: the segmentation it is in, or None.
        region_id: its segment there.
        certainty: whether the labels pull less where the prediction is uncertain.
        weights: by label value, those that are not 1.
        names: of the structures by label value.
    """

    volume: Any = None
    fit: str = PREDICTION
    target: Any = None
    matches: tuple[targets.Match, ...] = ()
    without_network: bool = False
    ignore: bool = False
    region: Any = None
    region_id: str = ""
    certainty: bool = False
    weights: Mapping[int, float] | None = None
    names: Mapping[int, str] | None = None

    @property
    def used(self) -> tuple[targets.Match, ...]:
        """The segments of the target that are structures."""
        return tuple(entry for entry in self.matches if entry.value != targets.UNUSED)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the structures that the target has not."""
        found = {entry.value for entry in self.used}
        return tuple(name for value, name in (self.names or {}).items() if value not in found)

    @property
    def steers(self) -> bool:
        """Whether anything differs from a plain refinement."""
        return bool(self.fit != PREDICTION or self.ignore or self.certainty or self.weights)

    def state(self) -> tuple[Any, ...]:
        """What changes when a refinement would be steered otherwise."""
        target = None
        if self.target is not None:
            used = [(entry.segment_id, entry.value) for entry in self.used]
            target = (tuple(used), targets.content_stamp(self.target, [key for key, _value in used]))
        region = None
        if self.ignore and self.region is not None:
            region = (self.region_id, targets.content_stamp(self.region, [self.region_id]))
        weights = tuple(sorted((self.weights or {}).items()))
        return (self.fit, target, self.without_network, region, self.certainty, weights)


def read(parameters: Any, volume: Any, model: Entry | None) -> Choices:
    """The choices of a parameter node for an input and a model."""
    if parameters is None or volume is None or model is None or model.manifest is None:
        return Choices()
    labels = model.manifest.labels
    target = target_of(parameters, volume, model)
    matches = targets.match(target, labels, corrections(parameters, target, model)) if target is not None else ()
    region = parameters.ignored
    elsewhere = region is not None and ignore.is_region(region) and not ignore.belongs_to(region, volume)
    if elsewhere:  # painted on another input
        region = ignore.region(volume)
    return Choices(
        volume=volume,
        fit=parameters.fitTo,
        target=target,
        matches=matches,
        without_network=parameters.withoutNetwork and parameters.fitTo != PREDICTION,
        ignore=parameters.ignoreRegion and not (elsewhere and region is None),
        region=region,
        region_id=_segment_of(region, parameters.ignoredSegment),
        certainty=parameters.certainty,
        weights={v: w for v, w in weights(parameters, model).items() if w != NORMAL},
        names=model.manifest.names,
    )


def target_of(parameters: Any, volume: Any, model: Entry) -> Any:
    """The segmentation that is fitted to; None for the network's own, and where there is none."""
    if parameters.fitTo == EDITED:
        return targets.edited_prediction(volume, model.manifest.about.name) if model.manifest is not None else None
    return parameters.target if parameters.fitTo == SEGMENTATION else None


def reason(choices: Choices, pulled: bool = False) -> str:
    """Why what is chosen cannot steer; empty where it can.

    Args:
        choices: what is chosen.
        pulled: whether points pull the atlas.
    """
    if choices.fit == EDITED and choices.target is None:
        return _("Make the copy of the prediction to edit first, or fit to something else")
    if choices.fit == SEGMENTATION and choices.target is None:
        return _("Choose the segmentation to fit to")
    if choices.target is not None:
        refused = targets.refusal(choices.target)
        if refused:
            return refused
        if not choices.used:
            return _("Say which segment of {name} is which structure").format(name=choices.target.GetName())
    if choices.ignore and (choices.region is None or not choices.region_id):
        return _("Paint the region to ignore, or choose one")
    pulling = {entry.value for entry in choices.used} if choices.target is not None else set(choices.names or {})
    if choices.names and not pulled and all((choices.weights or {}).get(v, NORMAL) == OFF for v in pulling):
        return _("All structures are off, so that nothing would pull the atlas")
    return ""


def in_words(choices: Choices, pulls: int = 0) -> str:
    """What steers, in a sentence.

    Args:
        choices: what is chosen.
        pulls: number of pairs of points that pull.
    """
    if choices.fit == PREDICTION or choices.target is None:
        parts = [_("fits to the network's prediction")]
    elif choices.fit == EDITED:
        parts = [_("fits to the edited prediction")]
    else:
        parts = [_("fits to “{name}”").format(name=choices.target.GetName())]
    if choices.without_network and choices.target is not None:
        parts.append(_("without the network"))
    if choices.ignore and choices.region is not None and choices.region_id:
        parts.append(_("ignores {size}").format(size=size_text(choices)))
    if choices.certainty:
        parts.append(_("trusts the network where it is sure"))
    parts += [
        _("{name} off").format(name=(choices.names or {})[value])
        if weight == OFF
        else _("{name} × {weight:g}").format(name=(choices.names or {})[value], weight=weight)
        for value, weight in (choices.weights or {}).items()
    ]
    if pulls:
        parts.append(_("1 pull") if pulls == 1 else _("{count} pulls").format(count=pulls))
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "."


def size_text(choices: Choices) -> str:
    """How large the region to ignore is: a volume, or an area on a single slice."""
    found = ignore.size(choices.region, choices.region_id)
    if not found:
        return _("nothing yet")
    sizes, spacing = choices.volume.GetImageData().GetDimensions(), choices.volume.GetSpacing()
    thickness = [s for s, n in zip(spacing, sizes, strict=True) if n == 1]
    if thickness:
        return _("{area:.3g} mm²").format(area=found / thickness[0])
    return _("{volume:.3g} mL").format(volume=found / 1000)


def weights(parameters: Any, model: Entry) -> dict[int, float]:
    """How hard each structure of a model pulls, by label value; 1 where nothing was said."""
    if model.manifest is None:
        return {}
    said = _recall(parameters.structureWeights).get(model.key)
    said = said if isinstance(said, dict) else {}
    return {value: _weight(said.get(str(value))) for value in model.manifest.names}


def set_weights(parameters: Any, model: Entry, values: Mapping[int, float]) -> None:
    """Keep weights in the scene; those of other models stay."""
    said = {str(value): weight for value, weight in values.items() if weight != NORMAL}
    parameters.structureWeights = _changed(parameters.structureWeights, model.key, said)


def corrections(parameters: Any, target: Any, model: Entry) -> dict[str, int]:
    """What the user said of the segments of a target: label value by segment ID."""
    said = _recall(parameters.targetMatches).get(model.key)
    found = said.get(_place_of(parameters, target)) if isinstance(said, dict) else None
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int) and not isinstance(value, bool)}


def correct(parameters: Any, target: Any, model: Entry, segment_id: str, value: int) -> None:
    """Keep in the scene what a segment of a target is; what was said of nodes that have left it is dropped."""
    node, said = parameters.parameterNode, _recall(parameters.targetMatches).get(model.key)
    kept = {k: v for k, v in said.items() if node.GetNodeReference(k)} if isinstance(said, dict) else {}
    place = _place_of(parameters, target) or _CORRECTED + uuid.uuid4().hex[:12]
    kept[place] = {**corrections(parameters, target, model), segment_id: value}
    with slicer.util.NodeModify(node):
        node.SetNodeReferenceID(place, target.GetID())
        parameters.targetMatches = _changed(parameters.targetMatches, model.key, kept)


def forget_corrections(parameters: Any, target: Any, model: Entry) -> None:
    """Match the segments of a target by their names and codes again."""
    said, place = _recall(parameters.targetMatches).get(model.key), _place_of(parameters, target)
    kept = {k: v for k, v in said.items() if k != place} if isinstance(said, dict) else {}
    parameters.targetMatches = _changed(parameters.targetMatches, model.key, kept)


def _place_of(parameters: Any, target: Any) -> str:
    """The role in which the parameter node refers to a target that was corrected; empty where it does not.

    IDs of nodes do not last: in a scene that is added to another one they may change, and references with them.
    """
    node = parameters.parameterNode
    roles = [node.GetNthNodeReferenceRole(i) or "" for i in range(node.GetNumberOfNodeReferenceRoles())]
    mine = (r for r in roles if r.startswith(_CORRECTED) and node.GetNodeReferenceID(r) == target.GetID())
    return next(mine, "")


def _segment_of(region: Any, wanted: str) -> str:
    """The segment to ignore: the chosen one, or the only one."""
    if region is None:
        return ""
    ids = targets.segment_ids(region)
    if wanted in ids:
        return wanted
    return ids[0] if len(ids) == 1 or (ids and ignore.is_region(region)) else ""


def _weight(value: Any) -> float:
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(min(max(value, OFF), MOST)) if real else NORMAL


def _recall(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _changed(text: str, key: str, value: Mapping[str, Any]) -> str:
    found = _recall(text)
    found.pop(key, None)
    if value:
        found[key] = dict(value)
    return json.dumps(found, ensure_ascii=False) if found else ""

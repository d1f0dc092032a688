"""Results: what the engine sends, and the nodes that it becomes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import WorkerError
from AtlasISTNLib.exchange import correspondence_from_files, volume_from_files
from AtlasISTNLib.manifest import Label, Manifest
from AtlasISTNLib.volume import Volume

from . import frames, nodes, segments, surfaces, transforms, volumes

VOLUMES = ("labels", "one_pass", "prediction", "atlas_image")
#: Attribute of the segmentation.
_REFINED = "AtlasISTN.Refined"
#: What reading values of wrong kinds out of an event raises.
_WRONG = (AttributeError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A result of the engine.

    Attributes:
        case: the panel's name for this image, model and placement.
        labels: the structures, background first.
        volumes: on the image's own grid: "labels", "one_pass", "prediction" (label values) and "atlas_image".
        one_pass: correspondence after one pass.
        final: the current one; after a refinement the refined one.
        figures: as `AtlasISTNLib.report.summary` gives them.
        trace: the course of the refinement; None without one.
        refined: whether there was one.
        disagreement: where the atlas and what it was fitted to disagree, in [0, 1] on the model grid as it was placed;
            None where the engine did not say.
        state: the engine's name of what the result had got to, to go on from; empty where it gave none.
        warnings: what the engine remarked.
    """

    case: str
    labels: tuple[Label, ...]
    volumes: Mapping[str, Volume]
    one_pass: Correspondence
    final: Correspondence
    figures: dict[str, Any]
    trace: dict[str, Any] | None
    refined: bool
    disagreement: Volume | None = None
    state: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a result.

    Attributes:
        segmentation, prediction, one_pass: segmentation nodes; only the first is shown at first.
        atlas_image: a volume node on the input's voxels.
        image_from_atlas, atlas_from_image: transform nodes.
        surfaces: model nodes by label value.
        folder_item: our folder in the subject hierarchy; 0 where there is none.
    """

    segmentation: Any
    prediction: Any
    one_pass: Any
    atlas_image: Any
    image_from_atlas: Any
    atlas_from_image: Any
    surfaces: Mapping[int, Any]
    folder_item: int


def read_outcome(event: Mapping[str, Any]) -> Outcome:
    """The outcome that a result event of the engine tells of; its files are read and closed.

    Raises:
        WorkerError: the event makes no sense, or its files are absent, damaged or outside of its folder.
    """
    try:
        folder = event["folder"]
        entries = {name: event["volumes"][name] for name in VOLUMES}
        maps = [event["correspondence"][name] for name in ("one_pass", "final")]
        labels = tuple(Label(**{**entry, "color": tuple(entry["color"])}) for entry in event["labels"])
        case, figures, trace = str(event["case"]), dict(event["figures"]), event.get("trace")
        refined, map_entry = bool(event["refined"]), event.get("disagreement")
        state, warnings = str(event.get("state") or ""), tuple(str(text) for text in event.get("warnings") or ())
    except _WRONG as error:
        raise WorkerError(
            _("The engine's result makes no sense: {error}").format(error=error),
            _("install the extension again; panel and engine may be of different versions"),
        ) from error
    found = {name: volume_from_files(entry, folder) for name, entry in entries.items()}
    one_pass, final = (correspondence_from_files(entry, folder) for entry in maps)
    disagreement = None if map_entry is None else volume_from_files(map_entry, folder)
    return Outcome(case, labels, found, one_pass, final, figures, trace, refined, disagreement, state, warnings)


def write_outcome(
    outcome: Outcome,
    input_node: Any,
    manifest: Manifest,
    atlas_surfaces: Mapping[int, surfaces.Surface] | None = None,
) -> Nodes:
    """Create or update all our nodes for an input and a model. If anything fails, the scene is as it was.

    Args:
        outcome: from `read_outcome`.
        input_node: the volume that was segmented. Where it was moved since then, results stay on its voxels.
        manifest: of the model.
        atlas_surfaces: from `surfaces.atlas_surfaces`; none without. Surfaces of an earlier result that are not among
            them leave the scene, as they would lie where the anatomy was.

    Raises:
        GeometryError: the volume has other voxels than when it was segmented, or see `frames.check_parents`.
        VolumeError: it has none.
    """
    model = manifest.about.name
    frames.check_parents(input_node)
    frame = frames.frame_of_result(outcome.volumes["labels"].grid, input_node)
    matrix = frames.ijk_to_ras(input_node)
    # All that is slow or may fail comes first, outside of the scene.
    layers = {name: segments.layer_of(outcome.volumes[name], outcome.labels, matrix) for name in VOLUMES[:3]}
    maps = transforms.build_transforms(outcome.final, input_node, frame)
    meshes = {
        label.value: (label, surfaces.poly_data((atlas_surfaces or {})[label.value], outcome.final, frame))
        for label in outcome.labels
        if label.value in (atlas_surfaces or {})
    }
    scene = input_node.GetScene()
    if nodes.of_input(scene, input_node, model):
        scene.SaveStateForUndo()
    with nodes.all_or_nothing(scene) as changes:
        written = {}
        for key, role, name in (
            ("labels", nodes.SEGMENTATION, _("segmentation")),
            ("prediction", nodes.PREDICTION, _("prediction")),
            ("one_pass", nodes.ONE_PASS, _("one pass")),
        ):
            written[key] = segments.write_segmentation(
                layers[key], role, name, outcome.labels, input_node, model, changes
            )
        volumes.write_atlas_image(outcome.volumes["atlas_image"], input_node, model, changes)
        transforms.place_transforms(maps, input_node, model, changes)
        surfaces.place_surfaces(meshes, input_node, model, changes)
        _note_refined(written["labels"], outcome.refined, changes)
    _drop_surfaces(scene, input_node, model, meshes)
    found = find_nodes(input_node, model)
    assert found is not None  # it was written just now
    return found


def find_nodes(input_node: Any, model: str) -> Nodes | None:
    """Our nodes for an input and a model (its name), as after a scene was loaded; None where nothing was segmented.

    A node that was removed is None.
    """
    scene = input_node.GetScene()
    found = {node.GetAttribute(nodes.ROLE): node for node in nodes.of_input(scene, input_node, model)}
    if nodes.SEGMENTATION not in found:
        return None
    prefix = nodes.SURFACE + ":"
    return Nodes(
        segmentation=found[nodes.SEGMENTATION],
        prediction=found.get(nodes.PREDICTION),
        one_pass=found.get(nodes.ONE_PASS),
        atlas_image=found.get(nodes.ATLAS_IMAGE),
        image_from_atlas=found.get(nodes.IMAGE_FROM_ATLAS),
        atlas_from_image=found.get(nodes.ATLAS_FROM_IMAGE),
        surfaces=dict(sorted((int(r[len(prefix) :]), node) for r, node in found.items() if r.startswith(prefix))),
        folder_item=nodes.folder_item(scene, input_node, model),
    )


def is_refined(found: Nodes) -> bool:
    """Whether the segmentation of a result is a refined one; known after its scene was loaded, too."""
    return nodes.in_scene(found.segmentation) and found.segmentation.GetAttribute(_REFINED) == "1"


def _note_refined(segmentation: Any, refined: bool, changes: nodes.Changes) -> None:
    before = segmentation.GetAttribute(_REFINED)
    changes.undo_with(lambda: segmentation.SetAttribute(_REFINED, before))
    segmentation.SetAttribute(_REFINED, "1" if refined else "0")


def _drop_surfaces(scene: Any, input_node: Any, model: str, kept: Collection[int]) -> None:
    roles = {nodes.surface_role(value) for value in kept}
    for node in nodes.of_input(scene, input_node, model):
        role = node.GetAttribute(nodes.ROLE)
        if role.startswith(nodes.SURFACE + ":") and role not in roles:
            nodes.remove(node)

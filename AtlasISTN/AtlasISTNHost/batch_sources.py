"""What a batch can work on: the scans of a folder, the volumes of the scene, the items of a sequence. No widgets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.manifest import Manifest
from AtlasISTNLib.volume import IMAGE_ENDINGS, Volume, case_name

from . import exports, frames, nodes, results

#: Endings of images that nobody segments: they are segmentations.
_SEGMENTATIONS = (".seg.nrrd",)
#: Where the four letters of a DICOM file stand, and how many files of a folder are asked for them.
_DICOM_PLACE, _DICOM_MARK, _DICOM_ASKED = 128, b"DICM", 8
#: What is written of a volume of the scene, where files are wanted.
_FILES = exports.Choices(segmentation=True, labelmap=True, transforms="h5")
#: Results of a volume that become sequences, and the roles of these.
_ROLES = {"segmentation": "sequence-segmentation", "image_from_atlas": "sequence-image-from-atlas"}


@dataclass(frozen=True)
class Item:
    """One volume of a batch.

    Attributes:
        name: what people call it; a folder of results takes it as its name.
        read: reads the voxels, when their turn comes. Raises AtlasISTNError, OSError or RuntimeError.
        keep: brings the engine's result into the scene and, with a folder, to files there; None where the engine itself
            writes the files. Raises the same.
        there: whether the scene holds a result of it already.
    """

    name: str
    read: Callable[[], Volume]
    keep: Callable[[Mapping[str, Any], Path | None], None] | None = None
    there: bool = False


def folder_items(folder: Path) -> list[Item]:
    """The scans of a folder: its image files and its folders of DICOM files; no voxel is read.

    DICOM files that lie in the folder itself are taken for one series.

    Raises:
        OSError: the folder cannot be read.
    """
    entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name.lower())
    found = [folder] if any(_is_dicom(path) for path in entries[:_DICOM_ASKED] if path.is_file()) else []
    whole = bool(found)
    for path in entries:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if any(_is_dicom(file) for file in files[:_DICOM_ASKED]):
                found.append(path)
        elif _is_image(path) and not (whole and _is_dicom(path)):
            found.append(path)
    names = Counter(case_name(path) for path in found)
    # Two scans of one name keep their endings, so that each has results of its own, today and the next time.
    return [
        Item(case_name(path) if names[case_name(path)] == 1 else path.name, partial(Volume.read, path))
        for path in found
    ]


def scene_items(scene: Any, manifest: Manifest) -> list[Item]:
    """The scalar volumes of a scene, without what is hidden, empty or ours; results become nodes."""
    volumes = [node for node in _of_class(scene, "vtkMRMLScalarVolumeNode") if _is_input(node)]
    seen: Counter[str] = Counter()
    items = []
    for node in volumes:
        seen[node.GetName()] += 1
        count = seen[node.GetName()]
        items.append(
            Item(
                node.GetName() if count == 1 else f"{node.GetName()} ({count})",
                partial(_read_node, scene, node.GetID()),
                partial(_keep_node, scene, node.GetID(), manifest),
                nodes.find(scene, "segmentation", node, manifest.about.name) is not None,
            )
        )
    return items


def sequence_items(sequence: Any, manifest: Manifest) -> list[Item]:
    """The volumes of a sequence; results become a sequence of segmentations and one of transforms beside it."""
    scene = sequence.GetScene()
    target = _result_sequence(scene, sequence, "segmentation", manifest, make=False)
    items = []
    for index in range(sequence.GetNumberOfDataNodes()):
        if not sequence.GetNthDataNode(index).IsA("vtkMRMLScalarVolumeNode"):
            continue
        value = sequence.GetNthIndexValue(index)
        items.append(
            Item(
                f"{sequence.GetName()} {value}",
                partial(_read_item, sequence, index),
                partial(_keep_item, sequence, index, manifest),
                target is not None and target.GetDataNodeAtValue(value) is not None,
            )
        )
    return items


# ------------------------------------------------------------------------------------------------------------- folders


def _is_image(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and name.endswith(IMAGE_ENDINGS) and not name.endswith(_SEGMENTATIONS)


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(_DICOM_PLACE)
            return file.read(len(_DICOM_MARK)) == _DICOM_MARK
    except OSError:
        return False


# --------------------------------------------------------------------------------------------------------------- scene


def _of_class(scene: Any, name: str) -> list[Any]:
    return [scene.GetNthNodeByClass(index, name) for index in range(scene.GetNumberOfNodesByClass(name))]


def _is_input(node: Any) -> bool:
    image = node.GetImageData()
    return (
        node.GetClassName() == "vtkMRMLScalarVolumeNode"  # label maps and vector volumes are its children
        and not node.GetHideFromEditors()
        and not nodes.is_ours(node)
        and image is not None
        and 0 not in image.GetDimensions()
    )


def _present(scene: Any, node_id: str) -> Any:
    node = scene.GetNodeByID(node_id)
    if node is None:
        raise RuntimeError(_("The volume is no longer in the scene"))
    return node


def _read_node(scene: Any, node_id: str) -> Volume:
    return frames.volume_from_node(_present(scene, node_id))


def _keep_node(scene: Any, node_id: str, manifest: Manifest, event: Mapping[str, Any], folder: Path | None) -> None:
    volume = _present(scene, node_id)
    made = results.write_outcome(results.read_outcome(event), volume, manifest)
    made.segmentation.GetDisplayNode().SetVisibility(_is_seen(scene, volume))
    _export(made, folder)


def _is_seen(scene: Any, volume: Any) -> bool:
    """Whether a volume is what the slice views show: the results of many patients would lie over each other there."""
    shown = {node.GetBackgroundVolumeID() for node in _of_class(scene, "vtkMRMLSliceCompositeNode")} - {None, ""}
    return not shown or volume.GetID() in shown


def _export(made: results.Nodes, folder: Path | None) -> None:
    """Files of a result in the scene: the engine, which does not know the transforms there, cannot write them."""
    if folder is not None:
        exports.write(exports.plan(made, folder, _FILES))


# ------------------------------------------------------------------------------------------------------------ sequences


def _read_item(sequence: Any, index: int) -> Volume:
    with _in_scene(sequence, index) as volume:
        return frames.volume_from_node(volume)


def _keep_item(sequence: Any, index: int, manifest: Manifest, event: Mapping[str, Any], folder: Path | None) -> None:
    """Results are made for a passing copy of the item, as for any volume, and copied into the sequences of results."""
    scene, value = sequence.GetScene(), sequence.GetNthIndexValue(index)
    outcome = results.read_outcome(event)
    with _in_scene(sequence, index) as volume:
        try:
            made = results.write_outcome(outcome, volume, manifest)
            _export(made, folder)
            for kind in _ROLES:
                target = _result_sequence(scene, sequence, kind, manifest, make=True)
                target.SetDataNodeAtValue(getattr(made, kind), value)
        finally:
            _remove(scene, nodes.of_input(scene, volume, manifest.about.name))
    _follow(scene, sequence, manifest)


@contextmanager
def _in_scene(sequence: Any, index: int) -> Iterator[Any]:
    """A hidden copy of an item in the scene, under the transform that the sequence's volume lies under there."""
    scene = sequence.GetScene()
    if scene is None:
        raise RuntimeError(_("The sequence is no longer in the scene"))
    item = sequence.GetNthDataNode(index)
    volume = slicer.vtkMRMLScalarVolumeNode()
    volume.SetHideFromEditors(True)
    volume.SetSaveWithScene(False)
    volume.CopyContent(item, True)
    volume.SetName(f"{sequence.GetName()} {sequence.GetNthIndexValue(index)}")
    scene.AddNode(volume)
    try:
        shown = _proxy(scene, sequence)
        if shown is not None and shown.GetParentTransformNode() is not None:
            volume.SetAndObserveTransformNodeID(shown.GetTransformNodeID())
        yield volume
    finally:
        scene.RemoveNode(volume)


def _remove(scene: Any, passing: Sequence[Any]) -> None:
    """Remove nodes of ours with what belongs to them, and the folder that becomes empty with them."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folders = set()
    for node in passing:
        if hierarchy is not None and hierarchy.GetItemByDataNode(node):
            folders.add(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)))
        displays = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())] if _shows(node) else []
        for part in (node, *displays, node.GetStorageNode()):
            if part is not None and scene.IsNodePresent(part):
                scene.RemoveNode(part)
    for item in folders:
        if hierarchy.GetItemLevel(item) == "Folder" and hierarchy.GetNumberOfItemChildren(item) == 0:
            hierarchy.RemoveItem(item)


def _shows(node: Any) -> bool:
    return bool(node.IsA("vtkMRMLDisplayableNode"))


def _result_sequence(scene: Any, sequence: Any, kind: str, manifest: Manifest, make: bool) -> Any:
    role, model = _ROLES[kind], manifest.about.name
    if not make:
        return nodes.find(scene, role, sequence, model)
    found = nodes.get_or_add(scene, "vtkMRMLSequenceNode", role, sequence, model)
    if not found.GetNumberOfDataNodes():
        found.SetIndexName(sequence.GetIndexName())
        found.SetIndexUnit(sequence.GetIndexUnit())
        found.SetIndexType(sequence.GetIndexType())
    return found


def _browser(scene: Any, sequence: Any) -> Any:
    for browser in _of_class(scene, "vtkMRMLSequenceBrowserNode"):
        if browser.IsSynchronizedSequenceNode(sequence, True):
            return browser
    return None


def _proxy(scene: Any, sequence: Any) -> Any:
    browser = _browser(scene, sequence)
    return browser.GetProxyNode(sequence) if browser is not None else None


def _follow(scene: Any, sequence: Any, manifest: Manifest) -> None:
    """Let the browser that shows the volumes show their results too."""
    browser = _browser(scene, sequence)
    if browser is None:
        return
    shown = browser.GetProxyNode(sequence)
    for kind in _ROLES:
        found = _result_sequence(scene, sequence, kind, manifest, make=False)
        if found is not None and not browser.IsSynchronizedSequenceNode(found, True):
            browser.AddSynchronizedSequenceNode(found)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    for kind in _ROLES:
        found = _result_sequence(scene, sequence, kind, manifest, make=False)
        proxy = browser.GetProxyNode(found) if found is not None else None
        if proxy is not None and shown is not None:
            proxy.SetAndObserveTransformNodeID(shown.GetTransformNodeID())


__all__ = ["Item", "folder_items", "scene_items", "sequence_items"]

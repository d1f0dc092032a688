"""slicer.app.coreIOManager(): reads and writes files by the real logics and storage nodes of MRML.

File types are named as Slicer names them. What cannot be read or written gives False and a message, as there.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import slicer
import vtk

from . import mrml

# Ending -> type of file; longer endings come first.
TYPES = (
    (".seg.nrrd", "SegmentationFile"),
    (".seg.vtm", "SegmentationFile"),
    (".seg.nhdr", "SegmentationFile"),
    (".mrk.json", "MarkupsFile"),
    (".nii.gz", "VolumeFile"),
    (".nrrd", "VolumeFile"),
    (".nhdr", "VolumeFile"),
    (".nii", "VolumeFile"),
    (".mha", "VolumeFile"),
    (".mhd", "VolumeFile"),
    (".dcm", "VolumeFile"),
    (".png", "VolumeFile"),
    (".tif", "VolumeFile"),
    (".h5", "TransformFile"),
    (".tfm", "TransformFile"),
    (".mat", "TransformFile"),
    (".vtk", "ModelFile"),
    (".vtp", "ModelFile"),
    (".stl", "ModelFile"),
    (".obj", "ModelFile"),
    (".ply", "ModelFile"),
    (".fcsv", "MarkupsFile"),
    (".json", "MarkupsFile"),
    (".csv", "TableFile"),
    (".tsv", "TableFile"),
    (".ctbl", "ColorTableFile"),
    (".txt", "TextFile"),
    (".mrb", "SceneFile"),
    (".mrml", "SceneFile"),
)
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
WRITERS = (
    ("vtkMRMLSegmentationNode", "SegmentationFile"),
    ("vtkMRMLVolumeNode", "VolumeFile"),
    ("vtkMRMLTransformNode", "TransformFile"),
    ("vtkMRMLModelNode", "ModelFile"),
    ("vtkMRMLMarkupsNode", "MarkupsFile"),
    ("vtkMRMLTableNode", "TableFile"),
    ("vtkMRMLTextNode", "TextFile"),
    ("vtkMRMLColorNode", "ColorTableFile"),
    ("vtkMRMLScene", "SceneFile"),
)


@dataclass(frozen=True)
class Done:
    """One file that was read or written, for tests to look at."""

    what: str
    file: str


history: list[Done] = []


class IOManager:
    """The methods of qSlicerCoreIOManager that slicer.util and modules call."""

    def fileType(self, fileName: str) -> str:
        return next((kind for ending, kind in TYPES if fileName.lower().endswith(ending)), "NoFile")

    def fileWriterFileType(self, node: Any, preferredFileType: str = "") -> str:
        return next((kind for name, kind in WRITERS if node.IsA(name)), "NoFile")

    def fileWriterExtensions(self, node: Any) -> tuple[str, ...]:
        name = node.GetDefaultStorageNodeClassName("")
        if not name:
            return ()
        storage = getattr(slicer, name)()
        if node.IsA("vtkMRMLVolumeNode"):  # whose formats are known to the scene
            storage.SetScene(slicer.mrmlScene)
        types = storage.GetSupportedWriteFileTypes()
        return tuple(types.GetValue(i) for i in range(types.GetNumberOfValues()))

    def extractKnownExtension(self, fileName: str, node: Any) -> str:
        found = [vtk_extension(each) for each in self.fileWriterExtensions(node)]
        fitting = [ending for ending in found if fileName.lower().endswith(ending)]
        return max(fitting, key=len, default="")

    def loadNodes(self, fileType: str, properties: Any, loadedNodes: Any = None, userMessages: Any = None) -> bool:
        fileName = properties["fileName"]
        if not isinstance(fileName, str):
            raise TypeError(f"PythonQt makes no QString of {fileName!r}")
        reader = READERS.get(fileType)
        if not Path(fileName).exists():
            return tell(userMessages, f"File not found: {fileName}")
        if reader is None:
            return tell(userMessages, f"No reader found to read file {fileName} of type {fileType}")
        nodes = reader(fileName, dict(properties), userMessages)
        for node in nodes or ():
            if loadedNodes is not None:
                loadedNodes.AddItem(node)
        if nodes is not None:
            history.append(Done(f"read {fileType}", fileName))
        return nodes is not None

    def loadFile(self, fileName: str) -> str:
        kind = self.fileType(fileName)
        return kind if self.loadNodes(kind, {"fileName": fileName}) else ""

    def loadScene(self, fileName: str, clear: bool = True) -> bool:
        return self.loadNodes("SceneFile", {"fileName": fileName, "clear": clear})

    def saveScene(self, fileName: str, screenShot: Any = None, userMessages: Any = None) -> bool:
        return self.saveNodes("SceneFile", {"fileName": fileName, "screenShot": screenShot}, userMessages)

    def saveNodes(self, fileType: str, properties: Any, userMessages: Any = None) -> bool:
        fileName = properties["fileName"]
        if not isinstance(fileName, str):
            raise TypeError(f"PythonQt makes no QString of {fileName!r}")
        if fileType == "SceneFile":
            done = save_scene(fileName, userMessages)
        else:
            node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
            done = save_node(node, fileName, dict(properties), userMessages)
        if done:
            history.append(Done(f"wrote {fileType}", fileName))
        return done

    def exportNodes(
        self, nodeIDs: Any, fileNames: Any, properties: Any, hardenTransforms: bool, userMessages: Any = None
    ) -> bool:
        """Copies of the nodes are written, so that the scene's own keep their storage and their transforms."""
        exporting = slicer.vtkMRMLScene()
        formats = slicer.vtkDataIOManager()
        exporting.SetDataIOManager(formats)
        for node_id, fileName in zip(nodeIDs, fileNames, strict=True):
            original = slicer.mrmlScene.GetNodeByID(node_id)
            copy = exporting.AddNewNodeByClass(original.GetClassName(), original.GetName())
            copy.CopyContent(original)
            if hardenTransforms and original.GetParentTransformNode() is not None:
                matrix = vtk.vtkGeneralTransform()
                original.GetParentTransformNode().GetTransformToWorld(matrix)
                copy.ApplyTransform(matrix)
            if not save_node(copy, fileName, dict(properties), userMessages):
                return False
            history.append(Done(f"exported {original.GetClassName()}", fileName))
        return True


def vtk_extension(described: str) -> str:
    """The ending of a description such as "NRRD (.nrrd)"."""
    return slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString(described)


def tell(messages: Any, text: str) -> bool:
    """Put an error with the messages, and say False."""
    if messages is not None:
        messages.AddMessage(vtk.vtkCommand.ErrorEvent, text)
    return False


def plain_name(properties: Any) -> str:
    """The name for a node of a file: as asked for, or the file's without its ending."""
    if properties.get("name"):
        return properties["name"]
    name = Path(properties["fileName"]).name
    ending = next((ending for ending, _ in TYPES if name.lower().endswith(ending)), Path(name).suffix)
    return name[: len(name) - len(ending)] if ending else name


# --- readers --------------------------------------------------------------------------------------------------------


def read_volume(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    options = 0
    for bit, name in enumerate(("labelmap", "center", "singleFile", "autoWindowLevel", "discardOrientation")):
        options |= int(bool(properties.get(name))) << bit
    with readable(fileName) as file:
        node = slicer.modules.volumes.logic().AddArchetypeVolume(file, plain_name(properties), options, None)
    if node is not None and node.GetStorageNode() is not None:
        node.GetStorageNode().SetFileName(fileName)
    if node is None:
        tell(messages, f"The volume {fileName} could not be read")
        return None
    color = properties.get("colorNodeID")
    if color and node.GetDisplayNode() is not None:
        node.GetDisplayNode().SetAndObserveColorNodeID(color)
    if properties.get("show", True):
        show_volume(node)
    return [node]


@contextlib.contextmanager
def readable(fileName: str) -> Iterator[str]:
    """The file, or a copy in a format that the wheel can read: Slicer itself has ITK's readers of pictures, too."""
    if Path(fileName).suffix.lower() not in PICTURES or not Path(fileName).is_file():
        yield fileName
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder, "picture.nrrd"))
        sitk.WriteImage(sitk.JoinSeries(sitk.ReadImage(fileName)), copy)  # a volume of one slice
        yield copy


def show_volume(node: Any) -> None:
    """As Slicer does after loading: the volume is the active one and shown in all slice views."""
    application = mrml.core().application_logic
    selection = application.GetSelectionNode()
    if selection is None:
        return
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        selection.SetActiveLabelVolumeID(node.GetID())
    else:
        selection.SetActiveVolumeID(node.GetID())
    application.PropagateVolumeSelection()


def read_segmentation(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    logic = slicer.modules.segmentations.logic()
    node = logic.LoadSegmentationFromFile(fileName, properties.get("autoOpacities", True), plain_name(properties))
    if node is None:
        tell(messages, f"The segmentation {fileName} could not be read")
        return None
    return [node]


def read_transform(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    node = slicer.modules.transforms.logic().AddTransform(fileName, slicer.mrmlScene, messages)
    if node is None:
        return None
    if properties.get("name"):
        node.SetName(properties["name"])
    return [node]


def read_model(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    system = properties.get("coordinateSystem", slicer.vtkMRMLStorageNode.CoordinateSystemLPS)
    node = slicer.modules.models.logic().AddModel(fileName, system, messages)
    if node is None:
        return None
    if properties.get("name"):
        node.SetName(properties["name"])
    return [node]


def read_markups(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    node_id = slicer.modules.markups.logic().LoadMarkups(fileName, properties.get("name"), messages)
    return [slicer.mrmlScene.GetNodeByID(node_id)] if node_id else None


def read_table(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    node = slicer.modules.tables.logic().AddTable(fileName, plain_name(properties))
    return None if node is None else [node]


def read_stored(class_name: str, storage_name: str) -> Any:
    """A reader for what needs no logic: a node and its storage node."""

    def read(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
        storage = slicer.mrmlScene.AddNewNodeByClass(storage_name)
        storage.SetFileName(fileName)
        node = slicer.mrmlScene.AddNewNodeByClass(class_name, plain_name(properties))
        if not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            slicer.mrmlScene.RemoveNode(storage)
            return None
        node.SetAndObserveStorageNodeID(storage.GetID())
        return [node]

    return read


def read_scene(fileName: str, properties: Any, messages: Any) -> list[Any] | None:
    clear, scene = bool(properties.get("clear", False)), slicer.mrmlScene
    if fileName.lower().endswith(".mrb"):
        return [] if scene.ReadFromMRB(fileName, clear, messages) else None
    scene.SetURL(fileName)
    done = scene.Connect(messages) if clear else scene.Import(messages)
    return [] if done else None


READERS = {
    "VolumeFile": read_volume,
    "SegmentationFile": read_segmentation,
    "TransformFile": read_transform,
    "ModelFile": read_model,
    "MarkupsFile": read_markups,
    "TableFile": read_table,
    "TextFile": read_stored("vtkMRMLTextNode", "vtkMRMLTextStorageNode"),
    "ColorTableFile": read_stored("vtkMRMLColorTableNode", "vtkMRMLColorTableStorageNode"),
    "SceneFile": read_scene,
}

# --- writers --------------------------------------------------------------------------------------------------------


def save_node(node: Any, fileName: str, properties: Any, messages: Any) -> bool:
    """By the node's storage node, or one that knows the file's ending."""
    if node is None:
        return tell(messages, "There is no such node")
    storage = node.GetStorageNode()
    if storage is None or not storage.SupportedFileType(fileName):
        node.AddDefaultStorageNode(fileName)
        storage = node.GetStorageNode()
    if storage is None:
        return tell(messages, f"{node.GetName()} cannot be written")
    storage.SetFileName(fileName)
    if "useCompression" in properties:
        storage.SetUseCompression(bool(properties["useCompression"]))
    if storage.WriteData(node):
        return True
    return tell(messages, f"{node.GetName()} could not be written to {fileName}")


def save_scene(fileName: str, messages: Any) -> bool:
    """A bundle (.mrb), a bare .mrml, or else a folder of everything."""
    if fileName.lower().endswith(".mrb"):
        return bool(slicer.mrmlScene.WriteToMRB(fileName, None, messages))
    if fileName.lower().endswith(".mrml"):
        slicer.mrmlScene.SetURL(fileName)
        return bool(slicer.mrmlScene.Commit(fileName, messages))
    Path(fileName).mkdir(parents=True, exist_ok=True)
    logic = mrml.core().application_logic
    return bool(logic.SaveSceneToSlicerDataBundleDirectory(fileName, None, messages))

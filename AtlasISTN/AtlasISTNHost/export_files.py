"""Files of single nodes: segmentations, label maps, surfaces and transforms as Slicer, ITK and VTK read them.

Everything is in the world, as the user sees it, under whatever transform the input lies. Only what consists of voxels
stays in the input's own coordinates where that transform is not linear, since it would have to be resampled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from AtlasISTNLib.errors import GeometryError, OutputError
from AtlasISTNLib.geometry import Float, Grid, transform_points
from AtlasISTNLib.volume import Volume

from . import frames, references, segments, transforms

Writer = Callable[[Path], object]

_PREFIX = segments.segment_id(0)[:-1]


def is_linear(node: Any) -> bool:
    """Whether a node lies under no transform or under linear ones only."""
    parent = node.GetParentTransformNode()
    return parent is None or bool(parent.IsTransformToWorldLinear())


def structure_name(segmentation_node: Any, value: int) -> str:
    """What the segment of a label is called now; empty where it is gone."""
    segment = segmentation_node.GetSegmentation().GetSegment(segments.segment_id(value))
    return "" if segment is None else str(segment.GetName())


def is_models(segment_id: str) -> bool:
    """Whether a segment is one of the model's structures, by its ID."""
    return segment_id.startswith(_PREFIX) and segment_id.removeprefix(_PREFIX).isdigit()


def label_values(segmentation_node: Any) -> dict[str, int]:
    """The value of each segment in a label map: the model's own, and the next free ones for what the user added."""
    segmentation = segmentation_node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    values = {i: int(i.removeprefix(_PREFIX)) for i in ids if is_models(i)}
    free = max(values.values(), default=0) + 1
    for added in (i for i in ids if i not in values):
        values[added] = free
        free += 1
    return values


def segmentation_writer(segmentation_node: Any, input_node: Any) -> Writer:
    """Writes a segmentation as .seg.nrrd, with all its segments, codes and colours."""

    def write(path: Path) -> None:
        copy = slicer.vtkMRMLSegmentationNode()
        copy.SetName(segmentation_node.GetName())
        copy.GetSegmentation().DeepCopy(segmentation_node.GetSegmentation())
        matrix = _world_from_local(input_node)
        if not np.array_equal(matrix, np.eye(4)):
            copy.ApplyTransformMatrix(frames.vtk_matrix(matrix))
            image = slicer.vtkOrientedImageData()
            image.SetExtent(*(n for size in input_node.GetImageData().GetDimensions() for n in (0, size - 1)))
            image.SetGeometryFromImageToWorldMatrix(frames.vtk_matrix(matrix @ frames.ijk_to_ras(input_node)))
            converter = slicer.vtkSegmentationConverter
            copy.GetSegmentation().SetConversionParameter(
                converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(image)
            )
        _store(slicer.vtkMRMLSegmentationStorageNode(), copy, path)

    return write


def labelmap_writer(segmentation_node: Any, input_node: Any) -> Writer:
    """Writes a label map of a segmentation on the input's voxels; the ending chooses the format."""

    def write(path: Path) -> None:
        values = label_values(segmentation_node)
        kind = np.uint8 if max(values.values(), default=0) < 256 else np.int32
        array = np.zeros(input_node.GetImageData().GetDimensions()[::-1], dtype=kind)
        with references.with_voxels(segmentation_node, input_node) as source:
            for segment_id, value in values.items():
                box, mask = references.mask_on_voxels(source, segment_id, input_node)
                array[box][mask] = value
        Volume.from_array(array, _grid(input_node)).write(path)

    return write


def surface_writer(model_node: Any) -> Writer:
    """Writes a surface in world coordinates (LPS, and the file says so); vertices keep their order save in STL."""

    def write(path: Path) -> None:
        mesh = model_node.GetPolyData()
        copy = slicer.vtkMRMLModelNode()
        parent = model_node.GetParentTransformNode()
        moved = vtk.vtkPolyData()
        moved.CopyStructure(mesh)
        points = vtk.vtkPoints()
        points.SetDataTypeToFloat()
        for point in frames.moved(vtk_to_numpy(mesh.GetPoints().GetData()).astype(np.float64), parent):
            points.InsertNextPoint(point)
        moved.SetPoints(points)
        copy.SetAndObservePolyData(moved)
        storage = slicer.vtkMRMLModelStorageNode()
        storage.SetCoordinateSystem(slicer.vtkMRMLStorageNode.CoordinateSystemLPS)
        _store(storage, copy, path)

    return write


def transform_writer(opposite_node: Any) -> Writer:
    """Writes a map between atlas and world as an ITK transform (.h5) or as a displacement field (.nrrd), LPS mm.

    Args:
        opposite_node: the node of the *other* direction. A node stores what leads from its parent's points to its own,
            so image-from-atlas stores the map from the image to the atlas, which is written as atlas-from-image.

    A point of the file's transform goes where the file's name says. ITK's files hold resampling transforms for Slicer,
    which therefore reads an .h5 the other way round; a .nrrd can say that it is meant for points, and does.
    """

    def write(path: Path) -> None:
        transform = vtk.vtkGeneralTransform()
        opposite_node.GetTransformFromWorld(transform)
        matrix, shape = _lattice(opposite_node)
        index = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape)[::-1], axis=-1).astype(np.float64)
        source = transform_points(matrix, index)
        moves = (frames.through(transform, source) - source) * [-1, -1, 1]
        field = sitk.GetImageFromArray(moves.reshape(*shape, 3), isVector=True)
        lps = frames.FLIP @ matrix
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        field.SetSpacing(spacing.tolist())
        field.SetOrigin(lps[:3, 3].tolist())
        field.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        try:
            if path.suffix == ".nrrd":
                single = sitk.Cast(field, sitk.sitkVectorFloat32)
                single.SetMetaData("displacement field type", "modeling")
                sitk.WriteImage(single, str(path), useCompression=True)
            else:
                sitk.WriteTransform(sitk.DisplacementFieldTransform(field), str(path))
        except RuntimeError as error:
            raise OutputError(_("{name} could not be written").format(name=path.name), str(error)) from error

    return write


def _store(storage: Any, node: Any, path: Path) -> None:
    """Write a node by one of Slicer's storage nodes; neither is in a scene."""
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(node) or not path.is_file():
        raise OutputError(
            _("{name} could not be written").format(name=path.name), _("choose another folder or make room there")
        )


def _world_from_local(node: Any) -> Float:
    """(4, 4), local RAS to world RAS; the identity where the transform is not linear."""
    parent = node.GetParentTransformNode()
    if parent is None or not parent.IsTransformToWorldLinear():
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return np.asarray(slicer.util.arrayFromVTKMatrix(matrix), dtype=np.float64)


def _grid(input_node: Any) -> Grid:
    """The input's voxels in the world, LPS; in its own coordinates where they would not be at right angles there."""
    local = frames.FLIP @ frames.ijk_to_ras(input_node)
    world = frames.FLIP @ _world_from_local(input_node) @ frames.ijk_to_ras(input_node)
    shape = input_node.GetImageData().GetDimensions()[::-1]
    try:
        return _grid_of(world, shape)
    except GeometryError:
        return _grid_of(local, shape)


def _grid_of(matrix: Float, shape: tuple[int, ...]) -> Grid:
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = matrix[:3, :3] / spacing
    return Grid(shape, tuple(spacing), tuple(matrix[:3, 3]), tuple(tuple(row) for row in direction))


def _lattice(node: Any) -> tuple[Float, tuple[int, int, int]]:
    """Where a node of `transforms` is sampled: (4, 4), index i, j, k to world RAS, and the nodes along k, j, i."""
    grid, before = _grid_transform(node.GetTransformFromParent())
    if grid is None:
        raise OutputError(
            _("The transform {name} is no longer a displacement field").format(name=node.GetName()),
            _("segment the volume again"),
        )
    image = grid.GetDisplacementGrid()
    matrix = np.eye(4)
    direction = grid.GetGridDirectionMatrix()
    if direction is not None:
        matrix[:3, :3] = slicer.util.arrayFromVTKMatrix(direction)[:3, :3]
    matrix[:3, :3] = matrix[:3, :3] * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    matrix = np.linalg.inv(before) @ matrix
    shape = image.GetDimensions()[::-1]
    if is_linear(node):
        return _world_from_local(node) @ matrix, shape
    return _world_lattice(matrix, shape, node.GetParentTransformNode())


def _grid_transform(transform: Any) -> tuple[Any, Float]:
    """The grid in a transform and the linear map before it, (4, 4); None without a grid."""
    before = np.eye(4)
    parts = [transform]
    if transform is not None and transform.IsA("vtkGeneralTransform"):
        transform.Update()  # after loading it is the inverse of another one, and empty before it is asked for
        parts = [transform.GetConcatenatedTransform(i) for i in range(transform.GetNumberOfConcatenatedTransforms())]
    for part in parts:
        if part is not None and part.IsA("vtkOrientedGridTransform") and part.GetDisplacementGrid() is not None:
            return part, before
        if part is not None and part.IsA("vtkLinearTransform"):
            before = slicer.util.arrayFromVTKMatrix(part.GetMatrix()) @ before
    return None, before


def _world_lattice(matrix: Float, shape: tuple[int, ...], parent: Any) -> tuple[Float, tuple[int, int, int]]:
    """Upright in the world around a lattice under a transform that is not linear, about as dense."""
    ends = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 9) for n in shape[::-1]), indexing="ij"), axis=-1)
    world = frames.moved(transform_points(matrix, ends.reshape(-1, 3)), parent)
    low, high = world.min(axis=0), world.max(axis=0)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    count = np.ceil((high - low) / spacing).astype(int) + 1
    while np.prod(count) > transforms.MOST_NODES:
        spacing = spacing * 1.25
        count = np.ceil((high - low) / spacing).astype(int) + 1
    found = np.diag([*spacing, 1.0])
    found[:3, 3] = low
    k, j, i = (int(n) for n in count[::-1])
    return found, (k, j, i)

"""Does the overlay lie where the anatomy lies, whatever the scan's geometry? The bundled heart on phantoms in a scene.

    python Testing/benchmarks/overlay.py [--count 10] [--seed 4100] [--refine 0]

One phantom heart is scanned onto the identity geometry and onto random oblique, anisotropic ones, every second of them
left-handed, under no parent transform, a rigid, a similar, a sheared and a non-linear one in turn. Each scan goes
through Slicer's MRML as the panel does it: node, engine's volume, result, segmentation node. The segmentation's voxels
are then compared with the phantom's truth at their world positions. Needs the packages of `make panel`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "Testing"), str(REPOSITORY / "AtlasISTN")]

import slicer  # noqa: E402
import vtk  # noqa: E402
from standin import i18n  # noqa: E402
from standin.mrml import make_scene  # noqa: E402

i18n.install()

from AtlasISTNHost import frames, results  # noqa: E402

from AtlasISTNLib import RefineConfig, Volume, load_bundle, refine, segment  # noqa: E402
from AtlasISTNLib.geometry import VOXEL, WORLD  # noqa: E402
from AtlasISTNLib.manifest import load_manifest  # noqa: E402
from AtlasISTNLib.metrics import dice  # noqa: E402
from AtlasISTNLib.phantoms import heart  # noqa: E402
from AtlasISTNLib.report import summary  # noqa: E402

PARENTS = ("none", "rigid", "similar", "sheared", "non-linear")
_LPS = np.diag([-1.0, -1.0, 1.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10, help="random geometries (default: 10)")
    parser.add_argument("--seed", type=int, default=4100, help="of the phantom and of the geometries")
    parser.add_argument("--refine", type=int, default=0, help="iterations in mode field (default: one pass alone)")
    options = parser.parse_args()
    bundle, manifest = load_bundle("phantom-heart", "cpu"), load_manifest("phantom-heart")
    phantom = heart(options.seed)
    rng = np.random.default_rng(options.seed)
    sys.stdout.write(f"{'geometry':<44} {'spacing, mm':<18} {'Dice':>6} {'worst':>6}\n")
    for case in range(options.count + 1):
        scene = make_scene()
        kind = "none" if case == 0 else PARENTS[case % len(PARENTS)]
        name, matrix, shape = geometry(phantom, rng, case)
        node = scan(scene, phantom, matrix, shape, parent(scene, kind, rng, phantom))
        image = frames.volume_from_node(node)
        found = segment(bundle, image)
        if options.refine:
            found = refine(bundle, found, RefineConfig(iterations=options.refine, mode="field"))
        figures = summary(bundle, found)
        outcome = results.Outcome(
            str(case),
            bundle.labels,
            {
                "labels": found.labels,
                "one_pass": found.one_pass_labels,
                "prediction": found.prediction,
                "atlas_image": found.atlas_image,
            },
            found.one_pass,
            found.correspondence,
            figures,
            None,
            found.trace is not None,
        )
        written = results.write_outcome(outcome, node, manifest)
        scores = agreement(written.segmentation, node, phantom.labels)
        spacing = " × ".join(f"{s:.2f}" for s in image.grid.spacing)
        title = f"{name}, parent {kind}"
        sys.stdout.write(f"{title:<44} {spacing:<18} {np.mean(scores):>6.4f} {min(scores):>6.4f}\n")
        sys.stdout.flush()


def geometry(phantom: Any, rng: np.random.Generator, case: int) -> tuple[str, NDArray[np.float64], tuple[int, ...]]:
    """Name, IJK-to-RAS (4, 4) about the phantom's middle, and shape (K, J, I) of a scan."""
    grid = phantom.image.grid
    spacing = np.full(3, 2.0) if case == 0 else rng.uniform(1.2, 3.5, 3)
    turn = np.eye(3)
    if case:
        axis = rng.normal(size=3)
        turn = rotation(axis / np.linalg.norm(axis), np.deg2rad(rng.uniform(5, 35)))
        turn = turn @ np.eye(3)[:, rng.permutation(3)]
        if (np.linalg.det(turn) > 0) == (case % 2 == 0):
            turn[:, 0] *= -1
    size = np.ceil(np.abs(np.linalg.inv(turn)) @ np.array(grid.extent) / spacing).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = turn * spacing
    matrix[:3, 3] = _LPS @ np.array(grid.center) - matrix[:3, :3] @ ((size - 1) / 2)
    handed = "left-handed" if np.linalg.det(turn) < 0 else "right-handed"
    return ("identity" if case == 0 else f"oblique, {handed}"), matrix, tuple(int(n) for n in size[::-1])


def rotation(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def parent(scene: Any, kind: str, rng: np.random.Generator, phantom: Any) -> Any:
    """A parent transform node about the phantom's middle; None for none."""
    if kind == "none":
        return None
    middle = _LPS @ np.array(phantom.image.grid.center)
    if kind == "non-linear":
        node = scene.AddNewNodeByClass("vtkMRMLTransformNode", kind)
        spline = vtk.vtkThinPlateSplineTransform()
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        for corner in np.array(np.meshgrid(*[[-120, 0, 120]] * 3)).reshape(3, -1).T:
            source.InsertNextPoint(*(middle + corner))
            target.InsertNextPoint(*(middle + corner + rng.normal(scale=6, size=3)))
        spline.SetSourceLandmarks(source)
        spline.SetTargetLandmarks(target)
        spline.SetBasisToR()
        node.SetAndObserveTransformToParent(spline)
        return node
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", kind)
    axis = rng.normal(size=3)
    linear = rotation(axis / np.linalg.norm(axis), np.deg2rad(rng.uniform(20, 120)))
    if kind == "similar":
        linear *= 1.1
    if kind == "sheared":
        linear = linear @ np.array([[1, 0.15, 0], [0, 1, -0.1], [0.05, 0, 0.95]])
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ middle + rng.uniform(-30, 30, 3)
    node.SetMatrixTransformToParent(frames.vtk_matrix(matrix))
    return node


def scan(scene: Any, phantom: Any, world: NDArray[np.float64], shape: tuple[int, ...], transform: Any) -> Any:
    """A volume node whose voxels lie in the world about where `world` (IJK to RAS) says, and see the phantom there.

    Under a parent the node's own geometry is `world` brought back by the parent's linear part about the middle.
    """
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    local = world
    if transform is not None and transform.IsLinear():
        there = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(there)
        linear = slicer.util.arrayFromVTKMatrix(there)
        left, _stretch, right = np.linalg.svd(linear[:3, :3])
        turn = left @ right  # the axes of a scan are orthogonal: a shear stays with the parent
        middle = world @ np.array([*[(n - 1) / 2 for n in shape[::-1]], 1.0])
        own = np.linalg.solve(linear, middle)
        local = np.eye(4)
        local[:3, :3] = turn.T @ world[:3, :3]
        local[:3, 3] = own[:3] - local[:3, :3] @ np.array([(n - 1) / 2 for n in shape[::-1]])
    node.SetIJKToRASMatrix(frames.vtk_matrix(local))
    if transform is not None:
        node.SetAndObserveTransformNodeID(transform.GetID())
    slicer.util.updateVolumeFromArray(node, np.zeros(shape, dtype=np.float32))
    seen = sampled(phantom.image, world_points(node, shape), order=1)
    slicer.util.updateVolumeFromArray(node, seen.astype(np.float32))
    return node


def world_points(node: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """World LPS points (K, J, I, 3) of a node's voxels, parents applied."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)[..., ::-1].reshape(-1, 3)
    matrix = frames.ijk_to_ras(node)
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    if node.GetParentTransformNode() is not None:
        points = frames.moved(points, node.GetParentTransformNode())
    return (points @ _LPS).reshape(*shape, 3)


def sampled(volume: Volume, points: NDArray[np.float64], order: int) -> NDArray[Any]:
    """A volume's values at world LPS points (..., 3)."""
    index = volume.grid.transform_points(points.reshape(-1, 3), VOXEL, WORLD)
    values = volume.array[0].astype(np.float64)
    found = ndimage.map_coordinates(values, index[:, ::-1].T, order=order, mode="constant", cval=float(values.min()))
    return found.reshape(points.shape[:-1])


def agreement(segmentation: Any, node: Any, truth: Volume) -> list[float]:
    """Dice of each segment with the truth at the segment's own voxels in the world."""
    shape = slicer.util.arrayFromVolume(node).shape
    there = sampled(truth, world_points(node, shape), order=0)
    scores = []
    for index in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        name = segmentation.GetSegmentation().GetNthSegmentID(index)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, name, node) > 0
        scores.append(float(dice(mask, there == index + 1)))
    return scores


if __name__ == "__main__":
    main()

"""What belongs to a scene: the choices in the panel, kept in a parameter node and saved with the scene.

What belongs to the machine (device, threads, folders, models of one's own) is in `settings`.
"""

from __future__ import annotations

from typing import Annotated

from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

# The names of those that a widget shows stand in the form as its SlicerParameterName.


@parameterNodeWrapper
class AtlasISTNParameters:
    """Choices of one scene.

    inputVolume: the scan to segment.
    region: a box whose middle is where the model grid goes; None to look for the anatomy.
    model: name of a bundled model, or path of another; empty before any was chosen.
    strength: λ*; 0 before any was chosen.
    iterations, beta, gamma, learningRate (0: the mode's own), mode: of the refinement.
    autoRefine: refine on whenever something that steers it changes.
    refineAfter: refine as soon as there is something to refine.
    shown: which result the views show, "prediction", "one-pass" or "refined".
    outlinesOnly, atlasOpacity, showSurfaces, showGrid, showJacobian, showDisagreement: how they show it.
    reference: a segmentation to measure against.
    fitTo: what the atlas is fitted to, "prediction", "edited" (the copy of it that the user edits) or "segmentation".
    target: that segmentation.
    targetMatches: which of its segments is which structure, as far as the user said; see `steer_choices`.
    withoutNetwork: segment by the target, too.
    ignoreRegion: whether a region is ignored.
    ignored, ignoredSegment: the segmentation it is in, and its segment.
    certainty: let the labels pull less where the prediction is uncertain.
    structureWeights: how hard each structure pulls; see `steer_choices`.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    region: vtkMRMLMarkupsROINode
    model: str = ""
    strength: float = 0.0
    iterations: Annotated[int, WithinRange(1, 2000)] = 100
    beta: Annotated[float, WithinRange(0.0, 1000.0)] = 1.0
    gamma: Annotated[float, WithinRange(0.0, 1000.0)] = 0.0
    learningRate: Annotated[float, WithinRange(0.0, 10.0)] = 0.0
    mode: Annotated[str, Choice(["network", "field"])] = "network"
    autoRefine: bool = False
    refineAfter: bool = False
    shown: Annotated[str, Choice(["prediction", "one-pass", "refined"])] = "refined"
    outlinesOnly: bool = False
    atlasOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.0
    showSurfaces: bool = True
    showGrid: bool = False
    showJacobian: bool = False
    showDisagreement: bool = False
    reference: vtkMRMLSegmentationNode
    fitTo: Annotated[str, Choice(["prediction", "edited", "segmentation"])] = "prediction"
    target: vtkMRMLSegmentationNode
    targetMatches: str = ""
    withoutNetwork: bool = False
    ignoreRegion: bool = False
    ignored: vtkMRMLSegmentationNode
    ignoredSegment: str = ""
    certainty: bool = False
    structureWeights: str = ""

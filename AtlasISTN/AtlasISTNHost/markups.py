"""Markups: landmarks carried from the atlas to the patient and back, as copies."""

from __future__ import annotations

from typing import Any

import vtk
from slicer.i18n import tr as _

from AtlasISTNLib.errors import GeometryError

from . import nodes


def to_patient(markups_node: Any, image_from_atlas_node: Any) -> Any:
    """A copy of markups of the atlas, on the patient: under the input's parent transform.

    Args:
        markups_node: in atlas space; may lie under the transform node itself already, where it shows on the patient.
        image_from_atlas_node: ours.

    Raises:
        GeometryError: the markups are of a kind that cannot be bent.
    """
    parent = image_from_atlas_node.GetParentTransformNode()
    copy = _copy(markups_node, _("{name} on the patient").format(name=markups_node.GetName()))
    if markups_node.GetParentTransformNode() is not image_from_atlas_node:
        copy.HardenTransform()
    copy.SetAndObserveTransformNodeID(None)
    copy.ApplyTransform(image_from_atlas_node.GetTransformToParent())
    if parent is not None:
        copy.SetAndObserveTransformNodeID(parent.GetID())
    return copy


def to_atlas(markups_node: Any, atlas_from_image_node: Any) -> Any:
    """A copy of markups of the patient, in atlas space: under no transform.

    The partner of the transform node, which follows the input wherever it is moved, is asked where it is still there;
    then landmarks go to and fro exactly.

    Args:
        markups_node: anywhere on the patient, under any transform.
        atlas_from_image_node: ours.

    Raises:
        GeometryError: the markups are of a kind that cannot be bent.
    """
    copy = _copy(markups_node, _("{name} in the atlas").format(name=markups_node.GetName()))
    copy.HardenTransform()
    copy.SetAndObserveTransformNodeID(None)
    partner = _partner(atlas_from_image_node)
    if partner is None:
        copy.ApplyTransform(atlas_from_image_node.GetTransformToParent())
    else:
        transform = vtk.vtkGeneralTransform()
        partner.GetTransformFromWorld(transform)
        copy.ApplyTransform(transform)
    return copy


def _copy(markups_node: Any, name: str) -> Any:
    """A copy in the scene, under the transform that the original lies under."""
    if not markups_node.CanApplyNonLinearTransforms():
        raise GeometryError(
            _("{name} cannot be bent from one anatomy to the other").format(name=markups_node.GetName()),
            _("use points, a line, a curve or an angle"),
        )
    scene = markups_node.GetScene()
    copy = scene.AddNewNodeByClass(markups_node.GetClassName(), scene.GenerateUniqueName(name))
    given = copy.GetName()
    copy.CopyContent(markups_node, True)
    copy.SetName(given)
    copy.SetLocked(False)
    copy.CreateDefaultDisplayNodes()
    if markups_node.GetDisplayNode() is not None:
        copy.GetDisplayNode().CopyContent(markups_node.GetDisplayNode())
    copy.SetAndObserveTransformNodeID(markups_node.GetTransformNodeID())
    return copy


def _partner(atlas_from_image_node: Any) -> Any:
    scene, model = atlas_from_image_node.GetScene(), atlas_from_image_node.GetAttribute(nodes.MODEL)
    input_node = atlas_from_image_node.GetNodeReference(nodes.INPUT)
    if input_node is None or not nodes.is_ours(atlas_from_image_node):
        return None
    return nodes.find(scene, nodes.IMAGE_FROM_ATLAS, input_node, model)

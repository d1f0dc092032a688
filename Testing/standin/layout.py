"""slicer.app.layoutManager(): MRML's own layout logic and slice logics, with views that are rendered when asked for."""

from __future__ import annotations

from typing import Any

import slicer

from . import views


class SliceView:
    """qMRMLSliceView."""

    def __init__(self, widget: SliceWidget) -> None:
        self._widget = widget

    def forceRender(self) -> None:
        self._widget._view().window.Render()

    scheduleRender = forceRender

    def renderWindow(self) -> Any:
        return self._widget._view().window

    def mrmlSliceNode(self) -> Any:
        return self._widget.mrmlSliceNode()


class SliceWidget:
    """qMRMLSliceWidget."""

    def __init__(self, core: Any, node: Any, logic: Any) -> None:
        self._core, self._node, self._logic = core, node, logic
        self._made: list[views.SliceView] = []

    def _view(self) -> views.SliceView:
        if not self._made:
            self._made.append(views.SliceView(self._core, self._logic))
        return self._made[0]

    @property
    def sliceViewName(self) -> str:
        return self._node.GetLayoutName()

    @property
    def sliceOrientation(self) -> str:
        return self._node.GetOrientation()

    def setSliceOrientation(self, orientation: str) -> None:
        self._node.SetOrientation(orientation)

    def sliceLogic(self) -> Any:
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self) -> Any:
        return self._node

    mrmlAbstractViewNode = mrmlSliceNode

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self._logic.FitSliceToBackground()

    def sliceView(self) -> SliceView:
        return SliceView(self)


class ThreeDView:
    """qMRMLThreeDView."""

    def __init__(self, widget: ThreeDWidget) -> None:
        self._widget = widget

    def forceRender(self) -> None:
        self._widget._view().window.Render()

    scheduleRender = forceRender

    def resetFocalPoint(self) -> None:
        self._widget._camera_is_set = True
        self._widget._view().reset_camera()

    def resetCamera(self, resetRotation=True, resetTranslation=True, resetDistance=True) -> None:
        self.resetFocalPoint()

    def renderWindow(self) -> Any:
        return self._widget._view().window

    def mrmlViewNode(self) -> Any:
        return self._widget.mrmlViewNode()

    def cameraNode(self) -> Any:
        return slicer.modules.cameras.logic().GetViewActiveCameraNode(self.mrmlViewNode())


class ThreeDWidget:
    """qMRMLThreeDWidget."""

    def __init__(self, core: Any, node: Any, logic: Any) -> None:
        self._core, self._node, self._logic = core, node, logic
        self._made: list[views.ThreeDView] = []
        self._camera_is_set = False

    def _view(self) -> views.ThreeDView:
        if not self._made:
            self._made.append(views.ThreeDView(self._core, self._node))
        return self._made[0]

    def mrmlViewNode(self) -> Any:
        return self._node

    mrmlAbstractViewNode = mrmlViewNode

    def viewLogic(self) -> Any:
        return self._logic

    logic = viewLogic

    def threeDView(self) -> ThreeDView:
        return ThreeDView(self)


class LayoutManager:
    """qSlicerLayoutManager: the views of the scene's layout node.

    Parameters
    ----------
    core: the scene and its logics; slice and view nodes are made in the scene, as Slicer does at its start
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLApplicationLogic(core.application_logic)
        self._layout_logic.SetMRMLScene(core.scene)
        self._slices: dict[str, SliceWidget] = {}
        self._threed: dict[str, ThreeDWidget] = {}
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def _update(self) -> None:
        """Widgets for nodes that are new in the layout; nobody loses one that was there."""
        listed = self._layout_logic.GetViewNodes()
        nodes = [listed.GetItemAsObject(i) for i in range(listed.GetNumberOfItems())]
        for widget in [*self._slices.values(), *self._threed.values()]:
            widget.mrmlAbstractViewNode().SetMappedInLayout(widget.mrmlAbstractViewNode() in nodes)
        for node in nodes:
            node.SetMappedInLayout(1)
            name = node.GetLayoutName()
            if node.IsA("vtkMRMLSliceNode") and name not in self._slices:
                self._slices[name] = SliceWidget(self._core, node, self._slice_logic(node))
            elif node.IsA("vtkMRMLViewNode") and name not in self._threed:
                self._threed[name] = ThreeDWidget(self._core, node, self._view_logic(node))

    def _slice_logic(self, node: Any) -> Any:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._core.application_logic)
        self._core.application_logic.GetSliceLogics().AddItem(logic)
        logic.SetMRMLScene(self._core.scene)
        logic.SetSliceNode(node)
        logic.ResizeSliceNode(400, 400)
        return logic

    def _view_logic(self, node: Any) -> Any:
        logic = slicer.vtkMRMLViewLogic()
        logic.SetMRMLApplicationLogic(self._core.application_logic)
        self._core.application_logic.GetViewLogics().AddItem(logic)
        logic.SetMRMLScene(self._core.scene)
        logic.AddViewNode(node.GetLayoutName())
        return logic

    def mrmlScene(self) -> Any:
        return self._core.scene

    @property
    def layout(self) -> int:
        return self._layout_logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, newLayout: int) -> None:
        self._layout_logic.GetLayoutNode().SetViewArrangement(newLayout)
        self._update()

    def layoutLogic(self) -> Any:
        return self._layout_logic

    def sliceViewNames(self) -> tuple[str, ...]:
        shown = [self._slices[name] for name in self._slices]
        return tuple(widget.sliceViewName for widget in shown if widget.mrmlSliceNode().IsMappedInLayout())

    def sliceWidget(self, name: str) -> SliceWidget | None:
        return self._slices.get(name)

    @property
    def threeDViewCount(self) -> int:
        return len([each for each in self._threed.values() if each.mrmlViewNode().IsMappedInLayout()])

    tableViewCount = 0
    plotViewCount = 0

    def threeDWidget(self, which: int | str) -> ThreeDWidget | None:
        if isinstance(which, str):
            return self._threed.get(which)
        found = [each for each in self._threed.values() if each.mrmlViewNode().IsMappedInLayout()]
        return found[which] if 0 <= which < len(found) else None

    def tableWidget(self, which: int) -> None:
        return None

    def plotWidget(self, which: int) -> None:
        return None

    def mrmlSliceLogics(self) -> Any:
        return self._core.application_logic.GetSliceLogics()

    def mrmlViewLogics(self) -> Any:
        return self._core.application_logic.GetViewLogics()

    def activeMRMLThreeDViewNode(self) -> Any:
        return self.threeDWidget(0).mrmlViewNode()

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        for widget in self._threed.values():
            widget.threeDView().resetFocalPoint()

    def pauseRender(self) -> None:
        """Views are rendered when they are asked for only."""

    resumeRender = pauseRender

"""A small module as one writes them for Slicer, to see that the stand-in host carries a whole one."""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

WORKER = "import json\nfor part in range(5): print(json.dumps({'percent': 20 * part + 20}), flush=True)"


class HostSample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Host sample")
        parent.categories = ["Testing"]


@parameterNodeWrapper
class HostSampleParameterNode:
    inputVolume: vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(0, 100)] = 40
    smooth: bool = False
    folder: Path
    outputSegmentation: vtkMRMLSegmentationNode


class HostSampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        form = slicer.util.loadUI(self.resourcePath("UI/HostSample.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.logic = HostSampleLogic()
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.ui.workerButton.clicked.connect(self.onWorker)
        self.parameters = HostSampleParameterNode(self.logic.getParameterNode())
        self.connection = self.parameters.connectGui(self.ui)
        self.addObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.check)
        self.check()

    def cleanup(self):
        self.parameters.disconnectGui(self.connection)
        self.removeObservers()

    def check(self, caller=None, event=None):
        ready = bool(self.parameters.inputVolume and self.parameters.outputSegmentation)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Run") if ready else _("Select an input volume")

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            count = self.logic.process(
                self.parameters.inputVolume, self.parameters.outputSegmentation, self.parameters.threshold
            )
            self.ui.segmentsTable.setSegmentationNode(self.parameters.outputSegmentation)
            self.ui.statusLabel.text = _("{count} voxels").format(count=count)
            slicer.util.setSliceViewerLayers(background=self.parameters.inputVolume, fit=True)
            qt.QSettings().setValue("HostSample/Threshold", self.parameters.threshold)

    def onWorker(self):
        self.process = qt.QProcess()
        self.process.connect("readyReadStandardOutput()", self.onOutput)
        self.process.connect("finished(int,QProcess::ExitStatus)", self.onFinished)
        self.process.start(sys.executable, ["-c", WORKER])

    def onOutput(self):
        for line in self.process.readAllStandardOutput().data().decode().splitlines():
            self.ui.progressBar.value = json.loads(line)["percent"]

    def onFinished(self, code, status):
        normal = status == qt.QProcess.NormalExit
        self.ui.statusLabel.text = _("Ended with {code}").format(code=code if normal else "a crash")


class HostSampleLogic(ScriptedLoadableModuleLogic):
    def process(self, volume, segmentation, threshold):
        mask = (slicer.util.arrayFromVolume(volume) > threshold).astype(np.uint8)
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        segment = segmentation.GetSegmentation().AddEmptySegment("bright", _("bright"))
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
        return int(mask.sum())

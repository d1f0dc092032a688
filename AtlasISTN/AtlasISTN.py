"""The Slicer module Atlas-ISTN. Its four classes only wire; what they wire lies in AtlasISTNHost and AtlasISTNLib."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

HOMEPAGE = "https://github.com/AtlasISTN/AtlasISTN"
#: Nodes that the panel has mostly nothing to do with, unless they are its own.
UNCONCERNED = (
    *("vtkMRMLColorNode", "vtkMRMLDisplayNode", "vtkMRMLModelNode", "vtkMRMLStorageNode"),
    *("vtkMRMLTableNode", "vtkMRMLTextNode"),
)
ARTICLE = "https://doi.org/10.1016/j.media.2022.102383"


class AtlasISTN(ScriptedLoadableModule):
    """What Slicer lists: title, category, help, icon."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Atlas-ISTN")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["AtlasISTN contributors"]
        self.parent.helpText = _(
            "<p>Segments anatomy by warping an atlas onto a network's prediction, and gives the correspondence between"
            ' atlas and patient both ways. See the <a href="{homepage}">project page</a>.</p>'
            "<p>Not for clinical use.</p>"
        ).format(homepage=HOMEPAGE)
        self.parent.acknowledgementText = _(
            "<p>The method is that of Sinclair et al., <i>Atlas-ISTN: Joint segmentation, registration and atlas"
            " construction with image-and-spatial transformer networks</i>, Medical Image Analysis 78 (2022) 102383,"
            ' <a href="{article}">doi:10.1016/j.media.2022.102383</a>. Please cite it where you use this module.</p>'
        ).format(article=ARTICLE)
        # SampleData is another module: it can be told of ours once all of them are there.
        slicer.app.connect("startupCompleted()", register_samples)
        # So is the Segment Editor, which is told of our effect.
        slicer.app.connect("startupCompleted()", register_effect)


def register_samples() -> None:
    """Add the bundled scans to SampleData."""
    AtlasISTNLogic().room("samples").register()


def register_effect() -> None:
    """Add the effect "Atlas fit" to the Segment Editor."""
    try:
        import qSlicerSegmentationsEditorEffectsPythonQt as effects
    except ImportError:
        logging.getLogger(__name__).warning("the Segment Editor is absent, and with it the effect Atlas fit")
        return
    effect = effects.qSlicerSegmentEditorScriptedEffect(None)
    if effect.setPythonSource((Path(__file__).resolve().parent / "AtlasISTNEffects" / "AtlasFitEffect.py").as_posix()):
        effect.self().register()


class AtlasISTNWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel's life in Slicer: made, entered, left, its scene closed and loaded, taken down."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: AtlasISTNLogic | None = None
        self.panel: Any = None
        self._entered = self._looks_later = False

    def setup(self) -> None:
        """Called by Slicer once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = AtlasISTNLogic()
        try:
            self._build()
        except BaseException:
            # Whatever it was, an empty panel would say nothing.
            self._explain(traceback.format_exc())
            raise
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._on_scene_closing)
        self.addObserver(scene, scene.EndCloseEvent, self._on_scene_changed)
        self.addObserver(scene, scene.StartImportEvent, self._on_importing)
        self.addObserver(scene, scene.EndImportEvent, self._on_scene_changed)
        self.addObserver(scene, scene.EndBatchProcessEvent, self._on_nodes_changed)
        self.addObserver(scene, scene.NodeAddedEvent, self._on_node)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_node)
        slicer.app.connect("aboutToQuit()", self.cleanup)
        self._bind()

    def cleanup(self) -> None:
        """Called by Slicer when the module goes away, and when Slicer ends."""
        self.removeObservers()
        slicer.app.disconnect("aboutToQuit()", self.cleanup)
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def enter(self) -> None:
        """Called by Slicer each time the module is shown."""
        self._entered = True
        if self._follows():
            self.panel.update()  # what is noted of the choices, such as that a result is out of date, stays
        else:
            self._bind()

    def exit(self) -> None:
        """Called by Slicer each time another module is shown; a run goes on."""
        self._entered = False

    def onReload(self) -> None:
        """Developer's reload: the rooms behind the module, too."""
        for name in [n for n in sys.modules if n.split(".")[0] in ("AtlasISTNHost", "AtlasISTNLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def _build(self) -> None:
        assert self.logic is not None
        room = self.logic.room("panel")
        widget = slicer.util.loadUI(self.resourcePath("UI/AtlasISTN.ui"))
        self.layout.addWidget(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.panel = room.Panel(slicer.util.childWidgetVariables(widget))

    def _explain(self, details: str) -> None:
        label = qt.QLabel(
            _(
                "The panel could not be made. Please install the extension again; if that does not help, report this:"
                "\n\n{details}"
            ).format(details=details)
        )
        label.wordWrap = True
        label.textInteractionFlags = qt.Qt.TextSelectableByMouse
        self.layout.addWidget(label)
        self.layout.addStretch(1)

    def _bind(self) -> None:
        """Follow the parameter node of the scene that is open."""
        if self.panel is None or slicer.mrmlScene.IsClosing() or slicer.mrmlScene.IsImporting():
            return
        assert self.logic is not None
        self._unbind()
        parameters = self.logic.getParameterNode()
        self.panel.bind(parameters)
        self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)

    def _follows(self) -> bool:
        """Whether the panel follows the parameter node of the scene that is open."""
        if self.panel is None or self.panel.parameters is None:
            return False
        node = self.panel.parameters.parameterNode
        return bool(node is slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode"))

    def _unbind(self) -> None:
        if self.panel is not None and self.panel.parameters is not None:
            self.removeObserver(self.panel.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._on_parameters)
            self.panel.bind(None)

    def _on_parameters(self, _caller: Any, _event: Any) -> None:
        if self.panel is not None:
            self.panel.on_parameters()

    def _on_scene_closing(self, _caller: Any, _event: Any) -> None:
        self._unbind()
        if self.panel is not None:
            self.panel.scene_closed()

    def _on_importing(self, _caller: Any, _event: Any) -> None:
        # Our parameter node is overwritten, and names nodes by IDs that are given anew before the import is over.
        self._unbind()

    def _on_scene_changed(self, _caller: Any, _event: Any) -> None:
        self._bind()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node(self, caller: Any, event: Any, node: Any) -> None:
        if node is None or node.GetAttribute("AtlasISTN.Role") or not any(map(node.IsA, UNCONCERNED)):
            self._on_nodes_changed(caller, event)
        elif not self._looks_later:
            # Other modules add hundreds of them, and each time all of the panel would be brought up to date.
            self._looks_later = True
            qt.QTimer.singleShot(0, self._look_later)

    def _look_later(self) -> None:
        self._looks_later = False
        self._on_nodes_changed(None, None)

    def _on_nodes_changed(self, _caller: Any, _event: Any) -> None:
        scene = slicer.mrmlScene
        if self.panel is not None and not (scene.IsClosing() or scene.IsImporting() or scene.IsBatchProcessing()):
            self.panel.nodes_changed()


class AtlasISTNLogic(ScriptedLoadableModuleLogic):
    """What the module can do without a panel."""

    def engine(self) -> ModuleType:
        """The package AtlasISTNLib, without torch.

        Raises ImportError where it is neither installed nor beside this module's folder.
        """
        checkout = Path(__file__).resolve().parent.parent
        if importlib.util.find_spec("AtlasISTNLib") is None and (checkout / "AtlasISTNLib").is_dir():
            # In an installed extension the package lies on Slicer's path; in a checkout whose module folder was added
            # by hand it lies one folder up.
            sys.path.append(str(checkout))
            importlib.invalidate_caches()
        return importlib.import_module("AtlasISTNLib")

    def room(self, name: str) -> ModuleType:
        """A room of AtlasISTNHost; nothing of it is imported before the module is used."""
        self.engine()
        return importlib.import_module(f"AtlasISTNHost.{name}")

    def getParameterNode(self) -> Any:
        """The scene's choices, see AtlasISTNHost.parameters."""
        return self.room("parameters").AtlasISTNParameters(super().getParameterNode())

    def process(
        self, volume: Any, model: str = "", refine: bool = True, device: str = "auto", wait: float = 600
    ) -> Any:
        """Segment a volume from a script and wait until it is done; Slicer stays alive meanwhile.

        Args:
            volume: a scalar volume node.
            model: name of a bundled model or path of another; the first one by default.
            refine: whether to refine with the model's own settings.
            device: "auto", "cpu", "cuda:0", …
            wait: seconds after which it is given up.

        Returns:
            The nodes of the result, see AtlasISTNHost.results.Nodes.

        Raises:
            AtlasISTNError: what went wrong.
        """
        return self.room("scripting").process(volume, model, refine, device, wait)


class AtlasISTNTest(ScriptedLoadableModuleTest):
    """Run by Slicer's self tests and by ctest as py_AtlasISTN; the same tests run on the stand-in host."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for test in (
            *(self.test_engine_without_torch, self.test_panel_opens),
            *(self.test_effect_is_offered, self.test_sample_is_segmented),
        ):
            self.setUp()
            test()

    def test_engine_without_torch(self) -> None:
        """The module finds its engine, and finding it does not bring torch into Slicer's process."""
        before = "torch" in sys.modules
        logic = AtlasISTNLogic()
        self.assertTrue(logic.engine().__version__)
        resources = importlib.import_module("AtlasISTNLib.resources")
        self.assertEqual(resources.models_folder().parent, resources.samples_folder().parent)
        self.assertEqual("torch" in sys.modules, before)
        self.delayDisplay("Engine found without torch")

    def test_panel_opens(self) -> None:
        """The panel has its models and says what is to be done first."""
        widget = slicer.modules.atlasistn.widgetRepresentation().self()  # made now where nobody has opened it yet
        self.assertIsNotNone(widget.panel)
        self.assertGreater(widget.panel.ui.modelComboBox.count, 0)
        self.assertFalse(widget.panel.ui.segmentButton.enabled)
        self.assertTrue(widget.panel.ui.segmentButton.toolTip)
        self.delayDisplay("The panel is there")

    def test_effect_is_offered(self) -> None:
        """The Segment Editor has our effect."""
        register_effect()  # where Slicer has not finished starting; a second time changes nothing
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.setMRMLScene(slicer.mrmlScene)
        self.assertIn("Atlas fit", editor.availableEffectNames())
        self.delayDisplay("The Segment Editor has the effect Atlas fit")

    def test_sample_is_segmented(self) -> None:
        """The bundled sample is segmented, if PyTorch is installed."""
        logic = AtlasISTNLogic()
        if not logic.room("torch_setup").state().ready:
            self.delayDisplay("PyTorch is not installed: segmenting was not tested")
            return
        sample = logic.room("samples").samples()[-1]
        nodes = logic.process(logic.room("samples").load(sample), model="letter-b")
        segmentation = nodes.segmentation.GetSegmentation()
        self.assertEqual(segmentation.GetNumberOfSegments(), 1)
        self.assertGreater(
            slicer.util.arrayFromSegmentBinaryLabelmap(nodes.segmentation, segmentation.GetNthSegmentID(0)).sum(), 100
        )
        self.delayDisplay("The sample was segmented")

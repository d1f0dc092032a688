"""The Slicer module Atlas-ISTN. Its four classes only wire; what they wire lies in AtlasISTNHost and AtlasISTNLib."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

HOMEPAGE = "https://github.com/AtlasISTN/AtlasISTN"
ARTICLE = "https://doi.org/10.1016/j.media.2022.102383"
COMMAND = "python -m AtlasISTNLib --help"


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


class AtlasISTNWidget(ScriptedLoadableModuleWidget):
    """The panel: for now a text, which says what is here and what is not yet."""

    def setup(self) -> None:
        """Called by Slicer once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = AtlasISTNLogic()
        self.statusLabel = qt.QLabel(self.logic.status_text())
        self.statusLabel.wordWrap = True
        self.statusLabel.openExternalLinks = True
        self.layout.addWidget(self.statusLabel)
        self.layout.addStretch(1)


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

    def status_text(self) -> str:
        """What the panel says while it has no controls, as rich text."""
        try:
            engine = _("The engine, version {version}, is installed.").format(version=self.engine().__version__)
        except ImportError as error:
            engine = _("The engine was not found ({error}). Please install the extension again.").format(error=error)
        return _(
            "<p>This module will segment the anatomy that a model knows by warping the model's atlas onto a network's"
            " prediction, refine the result while you watch, and keep the correspondence between atlas and patient.</p>"
            "<p><b>Its controls are not there yet.</b> {engine} It works from the command line of a Python in which"
            " AtlasISTN is installed:</p><pre>{command}</pre>"
            '<p>See the <a href="{homepage}">project page</a>. Not for clinical use.</p>'
        ).format(engine=engine, command=COMMAND, homepage=HOMEPAGE)


class AtlasISTNTest(ScriptedLoadableModuleTest):
    """Run by Slicer's self tests and by ctest as py_AtlasISTN."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_engine_without_torch()

    def test_engine_without_torch(self) -> None:
        """The module finds its engine, and finding it does not bring torch into Slicer's process."""
        before = "torch" in sys.modules
        logic = AtlasISTNLogic()
        version = logic.engine().__version__
        resources = importlib.import_module("AtlasISTNLib.resources")
        self.assertIn(version, logic.status_text())
        self.assertEqual(resources.models_folder().parent, resources.samples_folder().parent)
        self.assertEqual("torch" in sys.modules, before)
        self.delayDisplay(f"Engine {version} found without torch")

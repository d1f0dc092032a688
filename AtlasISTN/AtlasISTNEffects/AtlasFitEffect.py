"""The effect "Atlas fit" of Slicer's Segment Editor. It only wires; what it does lies in AtlasISTNHost.fit_effect.

Slicer loads this file by its path, as a module that is called like the folder, and takes the class that is called like
the file. The folder has a name of its own: as "SegmentEditorEffects" it would stand in the way of Slicer's package.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import qt
from SegmentEditorEffects.AbstractScriptedSegmentEditorEffect import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _


class AtlasFitEffect(AbstractScriptedSegmentEditorEffect):
    """Fits an atlas to the segments that are edited and puts it in their place.

    Args:
        scriptedEffect: the editor's side, a qSlicerSegmentEditorScriptedEffect.
    """

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "Atlas fit"  # scripts and scenes know it by this name: never translated
        scriptedEffect.title = _("Atlas fit")
        scriptedEffect.perSegment = False
        scriptedEffect.requireSegments = True
        scriptedEffect.showEffectCursorInSliceView = False
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.fit: Any = None

    def clone(self) -> Any:
        """Called for every editor that is made; the one that was registered is never shown."""
        effects = importlib.import_module("qSlicerSegmentationsEditorEffectsPythonQt")
        made = effects.qSlicerSegmentEditorScriptedEffect(None)
        made.setPythonSource(Path(__file__).as_posix())
        return made

    def icon(self) -> Any:
        return qt.QIcon(str(Path(__file__).with_name("AtlasFitEffect.png")))

    def helpText(self) -> str:
        return _room().help_text()

    def setMRMLDefaults(self) -> None:
        """Called before there are widgets, too."""
        _room("fit_widgets").defaults(self.scriptedEffect)

    def setupOptionsFrame(self) -> None:
        self.fit = _room().Fit(self.scriptedEffect)

    def activate(self) -> None:
        if self.fit is not None:
            self.fit.enter()

    def deactivate(self) -> None:
        if self.fit is not None:
            self.fit.leave()

    def interactionNodeModified(self, interactionNode: Any) -> None:
        """Windowing or placing a markup meanwhile is no reason to leave the effect: it does nothing in the views."""

    def updateGUIFromMRML(self) -> None:
        if self.fit is not None:
            self.fit.show()

    def updateMRMLFromGUI(self) -> None:
        if self.fit is not None:
            self.fit.widgets.store()

    def sourceVolumeNodeChanged(self) -> None:
        self.updateGUIFromMRML()

    def referenceGeometryChanged(self) -> None:
        self.updateGUIFromMRML()

    def cleanup(self) -> None:
        """Called before the editor goes away."""
        if self.fit is not None:
            self.fit.close()
            self.fit = None


def _room(name: str = "fit_effect") -> Any:
    """A room of the panel; nothing of it is imported before an editor is made."""
    return importlib.import_module("AtlasISTN").AtlasISTNLogic().room(name)

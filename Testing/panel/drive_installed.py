"""Drives the panel of a module file with the stand-in host, in a process that has only that file's folder on its path.

    python drive_installed.py <AtlasISTN.py> <folder Testing> <report.json>

Opens the module, loads the sample letter B as a user does, segments it, and writes what came of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PATIENCE = 300  # seconds; torch is imported by a process of its own meanwhile


def drive(module: Path) -> dict[str, object]:
    """What a user would see."""
    import standin

    standin.start()
    opened = standin.open_module(module)
    standin.application.startup_completed()
    opened.parent.resize(480, 1200)
    opened.parent.show()
    import slicer

    def widget(name: str):
        return slicer.util.findChild(opened.parent, name)

    models = widget("modelComboBox")
    seen: dict[str, object] = {
        "models": [models.itemText(index) for index in range(models.count)],
        "without_input": widget("segmentButton").enabled,
    }
    for action in widget("sampleButton").menu().actions():
        if action.text == "Letter B":
            action.trigger()
    standin.process_events(0.1)
    widget("refineAfterCheckBox").checked = False
    seen["with_input"] = widget("segmentButton").enabled

    standin.click(widget("segmentButton"))
    standin.wait_until(
        lambda: slicer.util.getNodesByClass("vtkMRMLSegmentationNode") or widget("messageFrame").visible,
        timeout=PATIENCE,
    )
    standin.wait_until(lambda: not widget("stopButton").visible, timeout=PATIENCE)
    if widget("messageFrame").visible:
        seen["message"] = widget("messageLabel").text
    seen["segments"], seen["dice"] = measured(slicer, module)
    seen["engine_in_here"] = "torch" in sys.modules
    seen["effects"] = effects(standin)
    standin.close_module(opened)
    seen["slot_errors"] = [str(error) for error in standin.slot_errors]
    return seen


def effects(standin) -> dict[str, str]:
    """The Segment Editor's effects that were registered and their files; each was shown in an editor."""
    editor = standin.segment_editor.Editor()
    found = {}
    for name, effect in editor.effects.items():
        editor.activate(name)
        if effect.helpText() and effect.optionsLayout().rowCount():
            found[name] = effect.pythonSource()
    editor.close()
    return found


def measured(slicer, module: Path) -> tuple[list[str], float]:
    """Names of the segments found, and the agreement with the sample's true labels as Dice's coefficient."""
    import numpy as np
    import SimpleITK as sitk

    from AtlasISTNLib.resources import samples_folder

    node = next(n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if n.GetDisplayVisibility())
    (volume,) = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() == "Letter B"]
    segmentation = node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    found = np.any([slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume) for name in ids], axis=0)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(samples_folder() / "letter-b-labels.png"))) > 0
    found = found.reshape(truth.shape)
    names = [segmentation.GetSegment(name).GetName() for name in ids]
    return names, float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def main() -> None:
    module, testing, report = (Path(word).resolve() for word in sys.argv[1:])
    # Python puts the folder of this script first
    sys.path[0] = str(testing)
    sys.path.insert(0, str(module.parent))
    seen = drive(module)
    ours = [m.__file__ for n, m in sys.modules.items() if n.startswith("AtlasISTN") and getattr(m, "__file__", None)]
    seen["files"] = sorted(ours)
    report.write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main()

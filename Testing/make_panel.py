"""Drives the panel on the stand-in host as a user would and saves pictures of it and of the views at each step.

    python Testing/make_panel.py [--output out/panel] [--screenshots]

Each picture is a window as Slicer's: the panel on the left, the views on the right. `--screenshots` also renews those
that the documentation shows, in Resources/Screenshots. Takes about a minute; the engine is the real one.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTING = Path(__file__).resolve().parent
REPOSITORY = TESTING.parent
sys.path.insert(0, str(TESTING))

import numpy as np  # noqa: E402
import standin  # noqa: E402

#: Width of the panel, and height of it and of the views together, in pixels.
WIDTH, HEIGHT = 520, 1000
#: Pictures that the documentation shows, without their numbers.
SHOWN = (
    *("input", "one-pass", "refining", "refined", "review", "reference"),
    *("steered", "history", "brain", "export", "error"),
)
BRAIN = "Mean brain of 152 people (ICBM152 T1)"
SECONDS = 600

_log = logging.getLogger("panel")


class Session:
    """The opened panel and where its pictures go."""

    def __init__(self, folder: Path) -> None:
        import slicer

        self.folder, self.count = folder, 0
        self.pictures: dict[str, Path] = {}
        self.opened = standin.open_module(REPOSITORY / "AtlasISTN" / "AtlasISTN.py")
        self.slicer = slicer
        self.panel = self.opened.widget.panel
        self.ui = self.panel.ui
        self.scroll = _scrolled(self.opened.parent)
        self.opened.widget.enter()
        standin.process_events(0.2)

    def picture(self, name: str, top: str | None = None) -> Path:
        """Save the window as it is now; `top` names a widget that the panel is scrolled to."""
        from standin import views

        _scroll_to(self.scroll, getattr(self.ui, top) if top else None)
        self.count += 1
        path = self.folder / f"{self.count:02d}-{name}.png"
        scratch = self.folder / ".panel.png"
        standin.grab(self.scroll, scratch)
        left = _read_png(scratch)
        scratch.unlink()
        size = ((1560 - WIDTH) // 2 - 8, HEIGHT // 2 - 24)
        right = views.picture(size=size)
        views.write_png(_beside(left, right), path)
        self.pictures[name] = path
        sys.stdout.write(f"{path}\n")
        return path

    def click(self, name: str) -> None:
        widget = getattr(self.ui, name)
        _scroll_to(self.scroll, widget)
        standin.click(widget)

    def wait(self, until: Callable[[], Any] | None = None) -> float:
        """Seconds until the condition holds; by default until the run is over."""
        start = time.monotonic()
        if not standin.wait_until(until or (lambda: not self.panel.session.busy), SECONDS):
            raise SystemExit(f"Nothing came of it within {SECONDS} s: {self.panel.session.status}")
        standin.process_events(0.1)
        return time.monotonic() - start

    def sample(self, name: str) -> None:
        """Choose a sample in the menu."""
        menu = self.ui.sampleButton.menu()
        next(action for action in menu.actions() if action.text == name).trigger()
        standin.process_events(0.1)
        self.see_anatomy()

    def see_anatomy(self) -> None:
        """Slices fitted to the scan, the 3D view to what is in it."""
        manager = self.slicer.app.layoutManager()
        manager.resetSliceViews()
        manager.resetThreeDViews()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "out" / "panel")
    parser.add_argument("--screenshots", action="store_true", help="renew the pictures of the documentation, too")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    standin.start()
    session = Session(options.output)
    try:
        walk(session)
    finally:
        standin.close_module(session.opened)
    if standin.slot_errors:
        sys.stderr.write(f"Slots raised: {standin.slot_errors}\n")
        return 1
    if options.screenshots:
        _renew(session.pictures)
    return 0


def walk(session: Session) -> None:
    """The whole way from an empty scene to exported files, a picture at each step."""
    ui, panel = session.ui, session.panel
    session.picture("opened")
    session.sample("Phantom heart with artefacts")
    session.picture("input")
    session.click("segmentButton")
    session.wait(lambda: panel.session.status is None or panel.session.status.stage == "place")
    session.picture("segmenting", "segmentCollapsibleButton")
    cold = session.wait()
    _check(session)
    session.see_anatomy()
    session.picture("one-pass", "segmentCollapsibleButton")
    session.click("segmentButton")
    warm = session.wait()
    sys.stdout.write(f"From the click to the one-pass overlay: first {cold:.1f} s more, then {warm:.1f} s\n")
    session.click("showPredictionRadioButton")
    session.picture("network", "reviewCollapsibleButton")
    ui.strengthSlider.value = -100
    ui.iterationsSpinBox.value = 60
    session.click("refineButton")
    session.wait(lambda: not panel.session.refining or "Step 20" in ui.statusLabel.text)
    session.picture("refining", "refineCollapsibleButton")
    session.wait()
    _check(session)
    session.picture("refined", "refineCollapsibleButton")
    look(session)
    steer(session)
    brain(session)
    finish(session)


def look(session: Session) -> None:
    """Review: outlines, the atlas's image, the deformation, a reference, points."""
    from AtlasISTNLib.resources import samples_folder

    ui, slicer = session.ui, session.slicer
    session.click("outlineCheckBox")
    ui.atlasOpacitySlider.value = 0.5
    session.picture("review", "reviewCollapsibleButton")
    ui.atlasOpacitySlider.value = 0.0
    session.click("gridCheckBox")
    session.picture("grid", "reviewCollapsibleButton")
    session.click("gridCheckBox")
    session.click("jacobianCheckBox")
    session.picture("jacobian", "reviewCollapsibleButton")
    session.click("jacobianCheckBox")
    session.click("outlineCheckBox")
    truth = slicer.util.loadLabelVolume(str(samples_folder() / "phantom-heart-corrupted-labels.nrrd"), {"show": False})
    reference = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Truth")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(truth, reference)
    for index, label in enumerate(session.panel.input.model.manifest.labels[1:]):
        reference.GetSegmentation().GetNthSegment(index).SetName(label.name)
    slicer.mrmlScene.RemoveNode(truth)
    reference.CreateDefaultDisplayNodes()
    reference.GetDisplayNode().SetVisibility(False)
    ui.referenceSelector.setCurrentNode(reference)
    session.wait(lambda: ui.measuresTable.columnCount > 3)
    session.picture("reference", "reviewCollapsibleButton")
    points(session)


def points(session: Session) -> None:
    """A point in the patient, carried to the atlas and back."""
    slicer = session.slicer
    surface = session.panel.review.nodes.surfaces[2]
    middle = np.array(slicer.util.arrayFromModelPoints(surface)).mean(axis=0)
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Middle of the left ventricle")
    markups.AddControlPoint(*middle.tolist(), "LV")
    session.ui.markupsSelector.setCurrentNode(markups)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *middle.tolist())
    session.click("toAtlasButton")
    session.picture("points", "reviewCollapsibleButton")


def steer(session: Session) -> None:
    """Auto, a region that is ignored, a pull; where the atlas disagrees; the history, and two results compared."""
    from mouse import Mouse
    from standin import mrml

    ui, panel, slicer = session.ui, session.panel, session.slicer
    session.click("steerCollapsibleButton")
    session.click("autoCheckBox")
    slicer.modules.segmenteditor = mrml.Module("SegmentEditor")  # to be gone to; what it does there follows
    session.click("paintIgnoreButton")
    paint_ball(session, 2, 14.0)
    session.wait(lambda: panel.session.refining)
    session.wait()
    surface = slicer.util.arrayFromModelPoints(panel.review.nodes.surfaces[3])
    view = slicer.app.layoutManager().sliceWidget("Red")._view()
    height = view.logic.GetSliceOffset()
    near = surface[np.abs(surface[:, 2] - height) < 2]
    place = np.array([*near[near[:, 1].argmax()][:2], height], dtype=float)
    session.click("pullButton")
    mouse = Mouse(view)
    mouse.click(place)
    standin.process_events()
    mouse.drag(place, place + np.array([4.0, 9.0, 0.0]))
    session.wait(lambda: panel.session.refining)
    session.picture("steering", "steerCollapsibleButton")
    session.wait()
    session.click("autoCheckBox")
    session.picture("steered", "steerCollapsibleButton")
    session.click("steerCollapsibleButton")
    session.click("disagreementCheckBox")
    session.picture("how-sure", "reviewCollapsibleButton")
    session.click("disagreementCheckBox")
    session.click("historyCollapsibleButton")
    ui.compareComboBox.setCurrentIndex(ui.compareComboBox.count - 1)
    standin.process_events(0.2)
    session.picture("history", "historyCollapsibleButton")
    ui.compareComboBox.setCurrentIndex(0)
    session.click("historyCollapsibleButton")


def paint_ball(session: Session, structure: int, radius: float) -> None:
    """What the Segment Editor's brush would leave in the region to ignore: a ball (mm) in a structure's middle."""
    slicer, volume = session.slicer, session.panel.parameters.inputVolume
    region = session.panel.parameters.ignored
    middle = np.array(slicer.util.arrayFromModelPoints(session.panel.review.nodes.surfaces[structure])).mean(axis=0)
    matrix = slicer.util.arrayFromVTKMatrix(_ijk_to_ras(volume))
    shape = slicer.util.arrayFromVolume(volume).shape
    index = np.indices(shape)[::-1].reshape(3, -1)
    points = matrix[:3, :3] @ index + matrix[:3, 3:]
    ball = (np.linalg.norm(points - middle[:, None], axis=0) < radius).reshape(shape)
    segment = region.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(ball.astype(np.uint8), region, segment, volume)
    standin.process_events(0.1)


def _ijk_to_ras(volume: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def brain(session: Session) -> None:
    """A real head refined, where nilearn is installed, which brings one along."""
    ui = session.ui
    if BRAIN not in [action.text for action in ui.sampleButton.menu().actions()]:
        return
    session.sample(BRAIN)
    session.click("segmentButton")
    session.wait()
    session.panel.parameters.mode = "field"
    session.click("refineButton")
    session.wait()
    _check(session)
    session.see_anatomy()
    session.click("outlineCheckBox")
    session.picture("brain", "reviewCollapsibleButton")
    session.click("outlineCheckBox")
    session.sample("Phantom heart with artefacts")


def finish(session: Session) -> None:
    """Export, then what an error looks like."""
    import os

    ui, panel = session.ui, session.panel
    session.click("exportCollapsibleButton")
    folder = session.folder / "exported"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier walk
    ui.exportPathEdit.currentPath = str(folder)
    standin.process_events(0.1)
    session.click("exportButton")
    session.wait(lambda: (folder / "report.png").is_file() or panel.session.failure is not None or _report(folder))
    session.picture("export", "exportCollapsibleButton")
    session.click("exportCollapsibleButton")
    session.click("batchCollapsibleButton")
    session.picture("batch", "batchCollapsibleButton")
    session.click("batchCollapsibleButton")
    session.click("trainCollapsibleButton")
    session.picture("train", "trainCollapsibleButton")
    session.click("trainCollapsibleButton")
    session.click("segmentButton")
    session.wait(lambda: panel.engine.pid and panel.session.status is not None)
    os.kill(panel.engine.pid, 9)
    session.wait()
    session.picture("error")


def _report(folder: Path) -> bool:
    return any(path.suffix == ".png" for path in folder.glob("*.png"))


def _check(session: Session) -> None:
    if session.panel.session.failure is not None:
        raise SystemExit(f"{session.panel.session.failure}")


def _scrolled(parent: Any) -> Any:
    """The panel in a scroll area, as Slicer's module panel has it."""
    from PySide6 import QtCore, QtWidgets
    from standin import manners

    area = QtWidgets.QScrollArea()
    area.setWidget(manners.unwrap(parent))
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
    area.resize(WIDTH, HEIGHT)
    area.show()
    return area


def _scroll_to(area: Any, widget: Any) -> None:
    from PySide6 import QtCore
    from standin import manners

    standin.process_events(0.05)
    top = 0
    if widget is not None:
        native = manners.unwrap(widget)
        top = native.mapTo(area.widget(), QtCore.QPoint(0, 0)).y() - 8
    area.verticalScrollBar().setValue(top)
    standin.process_events()


def _read_png(path: Path) -> np.ndarray:
    """(height, width, 3) uint8."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    width, height, _depth = image.GetDimensions()
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)
    return np.ascontiguousarray(values[::-1, :, :3])


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    height = max(left.shape[0], right.shape[0])
    made = np.full((height, left.shape[1] + right.shape[1], 3), 240, dtype=np.uint8)
    made[: left.shape[0], : left.shape[1]] = left
    made[: right.shape[0], left.shape[1] :] = right
    made[right.shape[0] :, left.shape[1] :] = 0
    return made


def _renew(pictures: dict[str, Path]) -> None:
    """The documentation's pictures, as JPEG so that the repository stays small."""
    from PIL import Image

    folder = REPOSITORY / "Resources" / "Screenshots"
    for name in (name for name in SHOWN if name in pictures):
        with Image.open(pictures[name]) as image:
            image.convert("RGB").save(folder / f"panel-{name}.jpg", quality=86, subsampling=0, optimize=True)
        sys.stdout.write(f"{folder / f'panel-{name}.jpg'}\n")


if __name__ == "__main__":
    sys.exit(main())

"""What a user does about metal in the wall of a heart, step by step in the panel: what it costs and what it brings.

    python Testing/benchmarks/user_path.py [--threads 2] [--iterations 100] [--seed 5000] [--output out/user-path]

The panel runs on the stand-in host with the real engine. The heart is one that the bundled model never saw, with metal
in the free wall of its left ventricle (see steering.py). It is segmented, refined by λ* alone, refined with
the metal painted over, and with two points pulled to where they belong; each is done by clicks, values and drags. Auto
is on, so that each change is followed at once. After every step the result is read from the scene and compared with the
known labels. Printed is a Markdown table: what the user did, the seconds from the last of it until the surfaces moved
for the first time and until the result was there, and how good it is. The time that a person takes is not in it.

Pictures: each step in four views, and all of them in axial slices side by side (path.png).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))

import numpy as np  # noqa: E402
import standin  # noqa: E402
from matplotlib.font_manager import findfont  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from scipy import ndimage  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402
from steering import (  # noqa: E402
    BLOOD,
    FIRST_UNSEEN_SEED,
    NEAR,
    PAINTED,
    WALL,
    around_heart,
    ball,
    place_in_wall,
    with_metal,
)

from AtlasISTNLib import Scores, Volume, evaluate, load_bundle  # noqa: E402
from AtlasISTNLib.experiment_scores import atlas_on_its_grid  # noqa: E402
from AtlasISTNLib.topology import topology  # noqa: E402

SECONDS = 900
#: LPS, which the engine speaks, to RAS, which Slicer speaks.
FLIP = np.array([-1.0, -1.0, 1.0])
#: mm: what the pictures show, and between the two points that are pulled, at least.
FIELD, APART = 120.0, 12.0
SIZE = (440, 440)
#: Pixels of the coloured bar above a slice.
BAR = 18


@dataclass(frozen=True)
class Step:
    """What a step cost and brought.

    Attributes:
        name: what the user did.
        actions: clicks, drags and strokes.
        moved, done: seconds after the last of them; moved is None where no surface was there before.
        scores: against the known labels.
        right: whether every structure has the topology that it has in the atlas.
        red: the axial slice, (height, width, 3) uint8.
    """

    name: str
    actions: int
    moved: float | None
    done: float
    scores: Scores
    right: bool
    red: np.ndarray


class Walk:
    """The panel with the scan in it, and the steps so far."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        import slicer

        self.slicer, self.options = slicer, options
        phantom = around_heart(options.seed)
        self.truth, self.center = phantom.labels, place_in_wall(phantom)
        with_metal(phantom.image, self.center, options.seed).write(scratch / "scan.nrrd")
        self.opened = standin.open_module(TESTING.parent / "AtlasISTN" / "AtlasISTN.py")
        self.opened.parent.resize(520, 1400)
        self.opened.parent.show()
        self.opened.widget.enter()
        self.panel = self.opened.widget.panel
        self.ui, self.session = self.panel.ui, self.panel.session
        self.scan = slicer.util.loadVolume(str(scratch / "scan.nrrd"), {"name": "Heart with metal"})
        self.scan.GetDisplayNode().SetAutoWindowLevel(False)
        self.scan.GetDisplayNode().SetWindowLevel(900, 150)
        self.ui.inputVolumeSelector.setCurrentNode(self.scan)
        if not self.panel.input.choose("phantom-heart"):
            raise SystemExit("The model phantom-heart is not there")
        self.ui.threadsSpinBox.value = options.threads
        self.ui.iterationsSpinBox.value = options.iterations
        self.panel.parameters.mode = options.mode
        self.known = self.outlines_of_truth()
        self.steps: list[Step] = []
        self.pulled: list[np.ndarray] = []  # where points were taken, RAS mm
        self.first_move: float | None = None
        self.earlier_run: Any = None  # what was under way when the user was done
        bundle = load_bundle("phantom-heart", "cpu")
        self.topology = topology(atlas_on_its_grid(bundle))
        self.session.on_preview_listeners.append(self._note_move)
        self.look_at_metal()

    # Steps

    def step(self, name: str, actions: int, last: float) -> None:
        """Wait until what was asked for is there, and note it; `last` is when the user was done."""
        self.wait(lambda: self.session.busy or self.panel.live.waiting, 3.0)
        self.wait(lambda: not (self.session.busy or self.panel.live.waiting or self.session.unwritten))
        done = time.monotonic() - last
        if self.session.failure is not None:
            raise SystemExit(str(self.session.failure))
        moved = None if self.first_move is None else self.first_move - last
        if not self.steps:
            self.click("outlineCheckBox")  # to see the scan beneath
        labels = self.labels()
        found = topology(labels)
        right = all(found.get(value) == shape for value, shape in self.topology.items())
        red = self.picture(f"{len(self.steps) + 1}-{name}")
        self.steps.append(Step(name, actions, moved, done, evaluate(labels, self.truth), right, red))
        sys.stdout.write(row(self.steps[-1]) + "\n")
        sys.stdout.flush()

    def _note_move(self, _correspondence: Any, _frame: Any) -> None:
        if self.first_move is None and self.session._run is not self.earlier_run:
            self.first_move = time.monotonic()

    def wait(self, until: Any, seconds: float = SECONDS) -> None:
        if not standin.wait_until(until, seconds) and seconds == SECONDS:
            raise SystemExit(f"Nothing came of it within {SECONDS} s")
        standin.process_events(0.05)

    def click(self, name: str) -> float:
        """Click, and when that was."""
        asked = self.asked()
        standin.click(getattr(self.ui, name))
        return asked

    def asked(self) -> float:
        """Now, when the user is done: whatever is under way is no answer to it."""
        self.first_move, self.earlier_run = None, self.session._run
        return time.monotonic()

    def segment(self) -> None:
        self.step("Segment", 1, self.click("segmentButton"))

    def refine(self, strength: float) -> None:
        self.ui.strengthSpinBox.value = strength
        self.step(f"λ* = {strength:g}, Refine", 2, self.click("refineButton"))

    def drag_strength(self, strength: float) -> None:
        """Auto on, and another λ* in the box beside the slider."""
        self.ui.autoCheckBox.checked = True
        standin.process_events(0.05)
        self.ui.strengthSpinBox.value = strength
        self.step(f"Auto, λ* to {strength:g}", 2, self.asked())

    def ignore_metal(self) -> None:
        """The button, and what a stroke of a round brush over the metal leaves."""
        from standin import mrml

        self.slicer.modules.segmenteditor = mrml.Module("SegmentEditor")
        self.click("steerCollapsibleButton")  # opens the section
        self.click("paintIgnoreButton")
        region = self.panel.parameters.ignored
        painted = ball(self.truth, self.center, PAINTED).array[0]
        segment = region.GetSegmentation().GetNthSegmentID(0)
        self.slicer.util.updateSegmentBinaryLabelmapFromArray(painted, region, segment, self.scan)
        last = self.asked()
        standin.process_events(0.1)
        self.step("metal painted over", 3, last)

    def pull(self, name: str) -> None:
        """The worst place of the wall's outlines near the metal in an axial slice, dragged to the true outline."""
        from AtlasISTNHost import pulls
        from mouse import Mouse

        ours, theirs = self.worst()
        self.slicer.app.layoutManager().sliceWidget("Red")._view().set_offset(float(ours[2]))
        view = self.slicer.app.layoutManager().sliceWidget("Red")._view()
        mouse = Mouse(view)
        self.click("pullButton")
        mouse.click(ours)
        standin.process_events()
        self.wait(lambda: not self.ui.pullButton.checked)
        node = pulls.find(self.scan, self.panel.input.model.manifest.about.name)
        mark = np.array(node.GetNthControlPointPositionWorld(node.GetNumberOfControlPoints() - 1))
        self.pulled.append(mark)
        mouse.drag(mark, theirs)
        self.step(name, 4, self.asked())

    # The scene

    def labels(self) -> Volume:
        """The refined labels as the scene has them."""
        array = np.zeros(self.truth.array.shape[1:], dtype=np.int16)
        node = self.session.nodes.segmentation
        values = {label.name: label.value for label in self.panel.input.model.manifest.labels}
        segmentation = node.GetSegmentation()
        for index in range(segmentation.GetNumberOfSegments()):
            key = segmentation.GetNthSegmentID(index)
            mask = self.slicer.util.arrayFromSegmentBinaryLabelmap(node, key, self.scan)
            array[mask > 0] = values[segmentation.GetSegment(key).GetName()]
        return self.truth.with_array(array)

    def worst(self) -> tuple[np.ndarray, np.ndarray]:
        """A place on the refined wall's outline in an axial slice near the metal, and where it belongs; RAS mm."""
        labels, found = self.labels(), []
        for values in ((WALL, BLOOD), (BLOOD,)):
            ours, theirs = (outlines(volume, values) for volume in (labels, self.truth))
            ours = ours[np.linalg.norm(ours - self.center, axis=1) < NEAR]
            for height in np.unique(ours[:, 2]):
                mine = ours[ours[:, 2] == height]
                known = theirs[np.abs(theirs[:, 2] - height) < 1e-3]
                if len(known):
                    away, nearest = cKDTree(known).query(mine)
                    found += list(zip(away, mine * FLIP, known[nearest] * FLIP, strict=True))
        far = [entry for entry in found if all(np.linalg.norm(entry[1] - mark) > APART for mark in self.pulled)]
        _away, ours, theirs = max(far, key=lambda entry: entry[0])
        return ours, theirs

    def outlines_of_truth(self) -> Any:
        """The known labels as white outlines, for the pictures alone."""
        slicer = self.slicer
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Truth")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.scan)
        for value in np.unique(self.truth.array)[1:]:
            key = node.GetSegmentation().AddEmptySegment(f"truth-{value}", f"truth {value}", (1.0, 1.0, 1.0))
            mask = (self.truth.array[0] == value).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, key, self.scan)
        display = node.GetDisplayNode()
        display.SetAllSegmentsVisibility2DFill(False)
        display.SetOpacity2DOutline(0.75)
        display.SetVisibility3D(False)
        display.SetVisibility(False)
        return node

    def look_at_metal(self) -> None:
        slicer = self.slicer
        slicer.app.layoutManager().resetSliceViews()
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *(self.center * FLIP).tolist())
        for name in ("Red", "Green", "Yellow"):
            node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
            node.SetFieldOfView(FIELD, FIELD, node.GetFieldOfView()[2])
            node.JumpSliceByCentering(*(self.center * FLIP).tolist())

    def picture(self, name: str) -> np.ndarray:
        """Save the views; the axial slice through the metal with the true outlines in white."""
        from standin import views

        self.look_at_metal()
        views.picture(size=SIZE)  # the first one after a change of size still has the old slice
        safe = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-")
        views.picture(self.options.output / f"{safe}.png", size=SIZE)
        self.known.GetDisplayNode().SetVisibility(True)
        red = views.picture(layout="red", size=SIZE)
        self.known.GetDisplayNode().SetVisibility(False)
        return red


def outlines(labels: Volume, values: tuple[int, ...]) -> np.ndarray:
    """Middles of the border voxels of some structures together in axial slices, (P, 3) WORLD mm (LPS)."""
    mask = np.isin(labels.array[0], values)
    border = mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(2, 1)[None])
    return labels.grid.points()[border]


def row(step: Step) -> str:
    """A row of the table."""
    cells = [
        step.name,
        str(step.actions),
        "" if step.moved is None else f"{step.moved:.1f}",
        f"{step.done:.1f}",
        f"{step.scores.mean('dice'):.3f}",
        f"{step.scores[WALL].dice:.3f}",
        f"{step.scores.mean('hd'):.1f}",
        f"{step.scores[WALL].hd:.1f}",
        "right" if step.right else "wrong",
    ]
    return f"| {' | '.join(cells)} |"


def montage(steps: list[Step], path: Path) -> None:
    """All axial slices in two rows, with what was done above and how far the wall is off below."""
    font = ImageFont.truetype(findfont("DejaVu Sans"), 17)  # it has λ
    tiles = [step.red[BAR:] for step in steps]
    height, width, _ = tiles[0].shape
    columns = (len(steps) + 1) // 2
    page = Image.new("RGB", (columns * (width + 6) - 6, 2 * (height + 62)), "white")
    draw = ImageDraw.Draw(page)
    for place, (step, tile) in enumerate(zip(steps, tiles, strict=True)):
        left, top = place % columns * (width + 6), place // columns * (height + 62)
        page.paste(Image.fromarray(tile), (left, top + 30))
        draw.text((left + width / 2, top + 15), step.name, "black", font, "mm")
        wall = step.scores[WALL]
        below = f"wall: Dice {wall.dice:.3f}, HD {wall.hd:.1f} mm"
        draw.text((left + width / 2, top + height + 45), below, "black", font, "mm")
    page.save(path)


def main() -> int:
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    standin.start()
    sys.stdout.write(
        "| | actions | moved, s | done, s | Dice, all | Dice, wall | HD, all | HD, wall | topology |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        walk = Walk(options, Path(scratch))
        try:
            walk.segment()
            walk.refine(150)
            walk.drag_strength(500)
            walk.ignore_metal()
            walk.pull("one point pulled")
            walk.pull("two points pulled")
        finally:
            standin.close_module(walk.opened)
    total = sum(step.done for step in walk.steps)
    actions = sum(step.actions for step in walk.steps)
    sys.stdout.write(f"\n{actions} actions, {total:.0f} s of waiting in all; load {os.getloadavg()[0]:.1f}\n")
    montage(walk.steps, options.output / "path.png")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=FIRST_UNSEEN_SEED)
    parser.add_argument("--mode", default="field", choices=["field", "network"])
    parser.add_argument("--output", type=Path, default=Path("out/user-path"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

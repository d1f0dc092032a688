"""Refinement that follows what steers it: Auto, the chart, and what is shown meanwhile. The engine is the real one."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from house import MODULE

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import live as live_room

from AtlasISTNLib.errors import VolumeError

SECONDS = 240  # an engine that starts on a busy machine


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """The module with a letter that was segmented; one engine for all of these tests."""
    slicer.mrmlScene.Clear(0)
    found = standin.open_module(MODULE / "AtlasISTN.py")
    found.parent.resize(480, 1500)
    found.parent.show()
    found.widget.enter()
    load(found.widget.panel, "Letter B")
    yield found
    standin.close_module(found)
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def panel(opened: Any) -> Iterator[Any]:
    """Nothing runs, Auto is off, all settings are the model's own."""
    panel = opened.widget.panel
    yield panel
    panel.on_stop()
    settle(panel)
    panel.session.show_failure(None)
    with panel.quietly():
        standin.click(panel.ui.strengthResetButton)
        panel.parameters.iterations, panel.parameters.gamma = panel.input.model.iterations, 0.0


@pytest.fixture
def ui(panel: Any) -> Any:
    return panel.ui


class Requests:
    """What the engine was asked for, and the results that were written."""

    def __init__(self, panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.written: list[Any] = []
        request = panel.engine.request

        def noting(do: str, fields: dict[str, Any], **callbacks: Any) -> int:
            self.asked.append({"do": do, **fields})
            return request(do, fields, **callbacks)

        monkeypatch.setattr(panel.engine, "request", noting)
        monkeypatch.setattr(
            panel.session,
            "on_result_listeners",
            [*panel.session.on_result_listeners, lambda *r: self.written.append(r)],
        )

    @property
    def strengths(self) -> list[float]:
        return [fields["config"]["strength"] for fields in self.asked if fields["do"] == "refine"]


@pytest.fixture
def requests(panel: Any, monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(panel, monkeypatch)


def load(panel: Any, sample: str) -> None:
    """A sample, segmented."""
    next(action for action in panel.ui.sampleButton.menu().actions() if action.text == sample).trigger()
    standin.process_events()
    standin.click(panel.ui.segmentButton)
    settle(panel)
    assert panel.session.failure is None


def settle(panel: Any) -> None:
    """Wait until nothing runs and nothing is about to."""
    assert standin.wait_until(lambda: is_idle(panel), SECONDS), panel.session.status
    standin.process_events()


def is_idle(panel: Any) -> bool:
    return not (panel.session.busy or panel.live.waiting or panel.session.unwritten)


def drag(ui: Any, *values: int) -> None:
    for value in values:
        ui.strengthSlider.value = value
        standin.process_events()


def until_moved(panel: Any) -> None:
    """Wait until a refinement was seen to move."""
    assert standin.wait_until(lambda: panel.session.refining and panel.session.previews, SECONDS)


def nothing_starts(requests: Requests, seconds: float = 0.5) -> bool:
    before = len(requests.asked)
    standin.process_events(seconds)
    return len(requests.asked) == before


class TestAuto:
    def test_a_drag_ends_in_a_result_by_the_last_value(self, panel, ui, requests):
        ui.iterationsSpinBox.value = 30
        standin.click(ui.autoCheckBox)
        settle(panel)  # the iterations were changed
        requests.asked.clear()
        requests.written.clear()
        drag(ui, *range(0, -210, -10))
        own = panel.input.model.strength
        assert standin.wait_until(lambda: requests.strengths, SECONDS)
        settle(panel)
        assert len(requests.strengths) <= 10, "not one for every movement"
        assert requests.strengths[-1] == pytest.approx(own / 4, rel=2e-3)
        assert {fields["start"] for fields in requests.asked} == {"current"}
        assert len(requests.written) == 1
        assert requests.written[0][0].trace["config"]["strength"] == pytest.approx(own / 4, rel=2e-3)
        assert requests.written[0][0].trace["stopped"] == "finished"
        assert panel.session.outcome is requests.written[0][0]

    def test_it_goes_on_from_where_it_was_and_writes_only_the_end(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.refineButton)
        assert standin.wait_until(lambda: panel.session.refining and len(panel.session.course.points) > 15, SECONDS)
        standin.click(ui.autoCheckBox)
        before = panel.session.outcome
        with panel.quietly():
            ui.iterationsSpinBox.value = 10
        drag(ui, 100)
        assert standin.wait_until(lambda: len(requests.strengths) == 2, SECONDS)
        assert panel.session.outcome is before
        assert not requests.written
        settle(panel)
        assert len(requests.written) == 1
        course = panel.session.course
        (start,) = course.starts
        earlier = [p for p in course.points if p.step <= start]
        first = next(p for p in course.points[::-1] if p.step == start)
        best = min(earlier[:-1], key=lambda p: p.total)
        assert first.a2s == pytest.approx(best.a2s, rel=1e-3), "the state of the lowest loss, by the new λ*"
        assert first.reg == pytest.approx(2 * best.reg, rel=1e-2)
        assert course.points[0].a2s > 1.05 * first.a2s, "and not one pass again"
        assert panel.session.outcome.trace["steps"][0][1] == pytest.approx(first.total)

    def test_every_setting_steers(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2
        standin.click(ui.autoCheckBox)
        for change in (
            lambda: setattr(ui.gammaSpinBox, "value", 0.5),
            lambda: setattr(ui.betaSpinBox, "value", 2.0),
            lambda: setattr(ui.strengthSpinBox, "value", 2 * panel.input.model.strength),
            lambda: panel.auto_restart(),
        ):
            count = len(requests.asked)
            change()
            assert standin.wait_until(lambda count=count: len(requests.asked) > count, SECONDS)
            settle(panel)
        configs = [fields["config"] for fields in requests.asked]
        assert [(c["gamma"], c["beta"]) for c in configs] == [(0.5, 1.0), (0.5, 2.0), (0.5, 2.0), (0.5, 2.0)]
        panel.parameters.beta = 1.0
        settle(panel)

    def test_changes_while_it_segments_are_not_lost(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 3
        standin.click(ui.autoCheckBox)
        standin.click(ui.segmentButton)
        drag(ui, 50)
        assert [fields["do"] for fields in requests.asked] == ["segment"]
        settle(panel)
        assert [fields["do"] for fields in requests.asked] == ["segment", "refine"]
        assert panel.session.outcome.refined

    def test_without_it_the_result_is_only_out_of_date(self, panel, ui, requests):
        assert "changed" not in ui.statusLabel.text
        drag(ui, 50)
        assert nothing_starts(requests)
        assert "settings have changed" in ui.statusLabel.text
        with panel.quietly():
            ui.iterationsSpinBox.value = 2
        drag(ui, 60)
        standin.click(ui.refineButton)
        settle(panel)
        assert "changed" not in ui.statusLabel.text

    def test_another_module_and_back(self, opened, panel, ui, requests):
        drag(ui, 50)
        opened.widget.exit()
        opened.widget.enter()
        assert "settings have changed" in ui.statusLabel.text
        ui.iterationsSpinBox.value = 2
        opened.widget.exit()
        standin.click(ui.autoCheckBox)
        opened.widget.enter()  # before it has begun
        assert standin.wait_until(lambda: requests.asked, 20)

    def test_switching_it_on_catches_up(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2
        standin.click(ui.autoCheckBox)
        assert nothing_starts(requests), "nothing has changed"
        standin.click(ui.autoCheckBox)
        drag(ui, 50)
        assert nothing_starts(requests)
        standin.click(ui.autoCheckBox)
        assert standin.wait_until(lambda: requests.asked, SECONDS)

    def test_a_scene_that_has_it_on_starts_nothing(self, panel, ui, requests):
        standin.click(ui.autoCheckBox)
        assert panel.parameters.autoRefine
        panel.bind(panel.parameters)
        assert ui.autoCheckBox.checked
        assert nothing_starts(requests)


class TestStop:
    def test_in_mid_run(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.autoCheckBox)
        drag(ui, -100)
        until_moved(panel)
        drag(ui, -120)  # and the next one is about to begin
        standin.click(ui.stopButton)
        settle(panel)
        assert not ui.autoCheckBox.checked
        assert len(requests.strengths) == 1
        assert nothing_starts(requests)
        assert panel.session.failure is None
        assert panel.session.outcome.trace["stopped"] == "cancelled"
        assert not ui.stopButton.visible

    def test_between_two_runs_what_was_reached_is_written(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.autoCheckBox)
        drag(ui, -100)
        until_moved(panel)
        panel.session.give_way()
        panel.session.on_preview_listeners.append(lambda *_: None)
        standin.click(ui.stopButton)
        assert ui.stopButton.visible
        settle(panel)
        panel.session.on_preview_listeners.pop()
        assert [fields["config"]["iterations"] for fields in requests.asked] == [2000, 0]
        (outcome, *_rest) = requests.written[-1]
        assert outcome.trace["stopped"] == "cancelled"
        assert outcome.trace["config"]["iterations"] == 2000
        assert len(outcome.trace["steps"]) > 1
        totals = [step[1] for step in outcome.trace["steps"]]
        assert [point.total for point in panel.session.course.points[-len(totals) :]] == totals
        assert not ui.autoCheckBox.checked


class TestFailure:
    def test_one_message_and_no_loop(self, panel, ui, requests):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.autoCheckBox)
        drag(ui, -100)
        until_moved(panel)
        before = panel.session.outcome
        os.kill(panel.engine.pid, 9)
        settle(panel)
        assert ui.messageFrame.visible
        assert "signal 9" in ui.messageLabel.text
        assert not ui.autoCheckBox.checked
        assert panel.session.outcome is before
        drag(ui, -150)
        assert nothing_starts(requests)
        assert ui.messageFrame.visible
        assert len(requests.asked) == 1

    def test_what_cannot_be_begun(self, panel, ui, requests, monkeypatch):
        tried: list[str] = []

        def extra(do: str) -> Any:
            def fails(_volume: Any, _folder: Any) -> dict[str, Any]:
                tried.append(do)
                raise VolumeError("the region is empty", "paint one")

            return fails

        monkeypatch.setattr(panel.steer, "extra", extra)
        standin.click(ui.autoCheckBox)
        drag(ui, 80)
        assert standin.wait_until(lambda: tried, SECONDS)
        settle(panel)
        assert "The region is empty" in ui.messageLabel.text
        assert ui.messageFrame.visible
        assert not ui.autoCheckBox.checked
        drag(ui, 90)
        assert nothing_starts(requests)
        assert tried == ["refine"]

    def test_a_run_that_gave_way_to_nothing_is_written(self, panel, ui, requests, monkeypatch):
        """What is seen and what is in the scene are the same again, though the next refinement cannot begin."""
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.autoCheckBox)
        drag(ui, -100)
        until_moved(panel)

        def fails(_volume: Any, _folder: Any) -> dict[str, Any]:
            raise VolumeError("the region is empty", "paint one")

        monkeypatch.setattr(panel.steer, "extra", lambda _do: fails)
        drag(ui, 0)
        settle(panel)
        assert "The region is empty" in ui.messageLabel.text
        assert len(requests.written) == 1
        assert panel.session.outcome.trace["stopped"] == "cancelled"


class TestTiming:
    """Against a session that only notes what it is told."""

    class Still:
        def __init__(self) -> None:
            self.busy = self.unwritten = False
            self.failure = None
            self.previews = 0
            self.gave_way = self.completed = 0
            self.engine = SimpleNamespace(state="idle")

        def give_way(self) -> None:
            self.gave_way += 1

        def complete(self) -> None:
            self.completed += 1

        def show_failure(self, failure: Any) -> None:
            self.failure = failure

    @pytest.fixture
    def session(self) -> Still:
        return self.Still()

    @pytest.fixture
    def live(self, session: Still) -> Iterator[Any]:
        self.started = 0

        def start() -> None:
            self.started += 1
            session.busy = True

        made = live_room.Live(session, lambda: "", start, lambda: None)
        made.turn(True)
        yield made
        made.close()

    def test_it_waits_for_the_last_movement_and_not_longer_than_promised(self, live, session):
        assert live_room.QUIET_MS <= 300
        for _ in range(10):
            live.changed()
            standin.process_events(live_room.QUIET_MS / 4000)
            if self.started:  # the machine itself was that slow
                pytest.skip("the machine is too busy to tell")
        assert standin.wait_until(lambda: self.started, 10)
        assert self.started == 1

    def test_what_goes_on_gives_way_once_there_was_something_to_see(self, live, session, monkeypatch):
        session.busy = True
        live.changed()
        assert standin.wait_until(lambda: session.gave_way, 10)
        session.busy = False
        live.update()
        assert self.started == 1
        count, session.previews = session.gave_way, 1
        clock = [100.0]
        monkeypatch.setattr(live_room, "time", SimpleNamespace(monotonic=lambda: clock[0]))
        live.changed()
        assert session.gave_way == count
        clock[0] += live_room.LONGEST_MS / 1000 + 0.01
        live.changed()  # still no rest, and yet
        assert session.gave_way > count

    def test_the_engine_at_work_for_somebody_else(self, live, session):
        session.engine.state = "busy"
        live.changed()
        standin.process_events(3 * live_room.QUIET_MS / 1000)
        assert not self.started
        assert live.waiting
        session.engine.state = "idle"
        live.update()
        assert self.started == 1


class TestLooks:
    def test_the_chart_stays_and_the_folding_goes(self, panel, ui):
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.refineButton)
        assert standin.wait_until(lambda: ui.lossChartLabel.visible and ui.foldingLiveLabel.visible, SECONDS)
        assert "old" in ui.foldingLiveLabel.text
        standin.click(ui.stopButton)
        settle(panel)
        assert ui.lossChartLabel.visible
        assert not ui.lossChartLabel.pixmap.isNull()
        assert not ui.foldingLiveLabel.visible
        standin.click(ui.segmentButton)
        settle(panel)
        assert not ui.lossChartLabel.visible, "one pass has no course"

    def test_a_heart_follows_and_ends_as_a_label_map(self, panel, ui, requests):
        load(panel, "Phantom heart")
        nodes = panel.session.nodes
        surface, display = nodes.surfaces[2], nodes.surfaces[2].GetDisplayNode()
        labels = array_of(nodes.segmentation, panel)
        with panel.quietly():
            ui.iterationsSpinBox.value = 2000
        standin.click(ui.autoCheckBox)
        seen = [points_of(surface)]
        outlined: list[bool] = []
        look = lambda *_: (seen.append(points_of(surface)), outlined.append(bool(display.GetVisibility2D())))  # noqa: E731
        panel.session.on_preview_listeners.append(look)
        drag(ui, -150)
        assert standin.wait_until(lambda: len(seen) > 2, SECONDS)
        with panel.quietly():
            ui.iterationsSpinBox.value = 8
        drag(ui, -300)
        assert standin.wait_until(lambda: panel.session.unwritten, SECONDS)
        assert display.GetVisibility2D(), "outlines stay from one refinement to the next"
        np.testing.assert_array_equal(array_of(nodes.segmentation, panel), labels)
        settle(panel)
        panel.session.on_preview_listeners.remove(look)
        assert all(outlined)
        assert all((a != b).any() for a, b in itertools.pairwise(seen[:3]))
        assert not display.GetVisibility2D()
        assert (array_of(nodes.segmentation, panel) != labels).any()
        middle = (surface.GetPolyData().GetNumberOfPoints(), points_of(surface).mean(axis=0))
        atlas = panel.session.surfaces_of(panel.input.model)[2]
        expected = panel.session.outcome.final.image_from_atlas(atlas.points).mean(axis=0) * (-1, -1, 1)
        assert middle[0] == len(atlas.points)
        assert middle[1] == pytest.approx(expected, abs=1e-2), "the surface is that of the result"


def points_of(node: Any) -> np.ndarray:
    return np.array(slicer.util.arrayFromModelPoints(node))


def array_of(segmentation: Any, panel: Any) -> np.ndarray:
    identifier = segmentation.GetSegmentation().GetNthSegmentID(1)
    return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, identifier, panel.parameters.inputVolume))

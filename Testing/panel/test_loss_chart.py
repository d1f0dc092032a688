"""The chart of a refinement's loss: what its axes name, what is drawn, and how often."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import qt
import slicer
import standin
from house import MODULE

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import loss_chart as room
from AtlasISTNHost.course import Course, Point

from AtlasISTNLib.configs import RefineConfig


def falling(count: int = 50, s2a: float = 0.0) -> list[Point]:
    """a2s falls, what it costs in smoothness rises."""
    found = []
    for step in range(count):
        a2s, reg = 0.01 * math.exp(-step / 20) + 0.002, 0.0005 + 0.00002 * step
        found.append(Point(step, a2s + reg + s2a, a2s, s2a, reg))
    return found


def drawn(points: list[Point], starts: tuple[int, ...] = (), width: int = 440) -> np.ndarray:
    """(height, width, 4): the picture's red, green, blue and alpha."""
    from standin import manners

    picture = manners.unwrap(room.chart(points, list(starts), width, 130, qt.QColor("#000000"))).toImage()
    picture = picture.convertToFormat(picture.Format.Format_RGBA8888)
    values = np.frombuffer(bytes(picture.constBits()), dtype=np.uint8)
    return values.reshape(picture.height(), picture.bytesPerLine() // 4, 4)[:, : picture.width()]


def rows_of(picture: np.ndarray, curve: room.Curve, columns: slice) -> np.ndarray:
    """Rows in which a curve's own colour is seen, below the legend."""
    color = qt.QColor(curve.color)
    wanted = np.array([color.red(), color.green(), color.blue(), 255])
    near = np.abs(picture[:, columns].astype(int) - wanted).max(axis=2) < 12
    return np.flatnonzero(near[20:].any(axis=1)) + 20


def by_key() -> dict[str, room.Curve]:
    return {curve.key: curve for curve in room.curves()}


class TestAxes:
    @pytest.mark.parametrize(("low", "high"), [(0.002, 0.012), (0.9, 1.1), (1e-5, 3.0), (123.0, 124.0), (3e-7, 4e-7)])
    def test_names_are_round_and_few(self, low, high):
        found = room.ticks(math.log10(low), math.log10(high))
        assert len(found) <= 6
        assert all(low <= value <= high for value in found)
        assert found == sorted(found)

    def test_there_are_names_where_the_values_span_much(self):
        assert room.ticks(-5, 0.5) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
        assert len(room.ticks(math.log10(0.002), math.log10(0.012))) >= 3

    def test_what_is_too_small_to_matter_does_not_stretch_the_axis(self):
        points = [Point(step, 1.0 + 1e-9, 1.0, 0.0, 1e-9) for step in range(3)]
        low, high = room.limits(points)
        assert 10**low > 0.5
        assert 10**high > 1.0
        assert low < high

    def test_nothing_to_show(self):
        assert room.limits([]) is None
        assert room.limits(falling(1)) is None
        assert room.limits([Point(0, 0.0, 0.0, 0.0, 0.0)] * 3) is None

    @pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 100), (37, 60), (100, 2100)])
    def test_steps(self, first, last):
        found = room.step_ticks(first, last)
        assert 1 <= len(found) <= 6
        assert all(first <= step <= last for step in found)

    def test_many_points_become_few_and_keep_their_ends(self):
        points = falling(1000)
        few = room.thinned(points, 100)
        assert len(few) <= 102
        assert (few[0], few[-1]) == (points[0], points[-1])
        assert list(room.thinned(points[:5], 100)) == points[:5]


class TestPicture:
    def test_every_part_is_where_its_values_are(self):
        picture, curves = drawn(falling()), by_key()
        left, right = slice(50, 70), slice(400, 425)
        total, a2s, reg = (curves[key] for key in ("total", "a2s", "reg"))
        assert rows_of(picture, a2s, left).mean() < rows_of(picture, a2s, right).mean() - 20, "it falls"
        assert rows_of(picture, reg, left).mean() > rows_of(picture, reg, right).mean() + 20, "it rises"
        assert rows_of(picture, total, right).mean() < rows_of(picture, a2s, right).mean(), "the whole is on top"
        assert not len(rows_of(picture, curves["s2a"], slice(50, 425))), "a part with no weight is not drawn"
        assert len(rows_of(drawn(falling(s2a=0.001)), curves["s2a"], slice(50, 425)))

    def test_a_line_where_a_run_went_on(self):
        points = falling()
        columns = np.flatnonzero((drawn(points, (25,)) != drawn(points)).any(axis=(0, 2)))
        assert len(columns) <= 5
        assert 200 < columns.mean() < 270

    def test_nothing_is_drawn_of_nothing(self):
        assert not drawn([]).any()
        assert not drawn(falling(), width=60).any()


class TestOnThePanel:
    @pytest.fixture
    def labels(self) -> tuple[Any, Any]:
        return qt.QLabel(), qt.QLabel()

    def test_it_is_drawn_at_most_five_times_a_second(self, labels, monkeypatch):
        times: list[float] = []
        clock = [50.0]
        monkeypatch.setattr(room.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(room, "chart", lambda *_: times.append(clock[0]) or qt.QPixmap(4, 4))
        shown, course = room.LossChart(*labels), Course()
        course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
        for step in range(100):
            course.add(step, {"total": 1.0, "a2s": 1.0, "s2a": 0.0, "reg": 0.0})
            shown.show(course, True)
            clock[0] += 0.02
        assert 8 <= len(times) <= 11
        clock[0] += 1.0
        shown.show(course, True)
        count = len(times)
        shown.show(course, True)
        assert len(times) == count, "nothing new"
        shown.close()

    def test_the_last_step_is_drawn_though_nothing_follows(self, labels):
        shown, course = room.LossChart(*labels), Course()
        course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
        for step in range(3):
            course.add(step, {"total": 1.0 + step, "a2s": 1.0, "s2a": 0.0, "reg": 0.0})
            shown.show(course, True)
        before = shown._drawn
        assert standin.wait_until(lambda: shown._drawn != before, 5)
        assert shown._drawn[0] == course.changes
        shown.close()

    def test_what_was_drawn_out_of_sight_is_there_when_the_panel_comes_back(self):
        panel = qt.QWidget()
        layout = qt.QVBoxLayout(panel)
        labels = qt.QLabel(), qt.QLabel()
        for label in labels:
            layout.addWidget(label)
        panel.resize(400, 300)
        shown, course = room.LossChart(*labels), Course()
        course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
        for step in range(3):
            course.add(step, {"total": 2.0 - 0.1 * step, "a2s": 2.0 - 0.1 * step, "s2a": 0.0, "reg": 0.0})
        assert not panel.visible
        shown.show(course, True)
        panel.show()
        shown.show(course, False)
        assert labels[0].pixmap is not None
        assert not labels[0].pixmap.isNull()
        shown.close()

    def test_a_wide_picture_does_not_keep_the_panel_wide(self):
        form = slicer.util.loadUI(str(MODULE / "Resources" / "UI" / "AtlasISTN.ui"))
        label = slicer.util.childWidgetVariables(form).lossChartLabel
        form.show()
        label.visible = True
        standin.process_events()
        before = form.minimumSizeHint.width()
        label.setPixmap(qt.QPixmap(2 * before, 130))
        standin.process_events()
        assert form.minimumSizeHint.width() == before

    def test_after_the_end_nothing_is_drawn(self, labels, monkeypatch):
        drawn: list[Any] = []
        monkeypatch.setattr(room, "chart", lambda *_: drawn.append(_) or qt.QPixmap(4, 4))
        shown, course = room.LossChart(*labels), Course()
        course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
        for step in range(3):
            course.add(step, {"total": 1.0, "a2s": 1.0, "s2a": 0.0, "reg": 0.0})
        shown.close()
        shown.show(course, True)
        standin.process_events(2 * room.REDRAW_MS / 1000)
        assert not drawn

    def test_folding_is_said_while_it_runs(self, labels):
        shown, course = room.LossChart(*labels), Course()
        shown.show(course, True)
        assert not labels[1].visible
        for share, text in ((0.0, "No folding"), (0.0123, "1.23 %"), (1e-6, "< 0.01 %")):
            course.add(0, {"folding": share})
            shown.show(course, True)
            assert labels[1].visible
            assert text in labels[1].text
        shown.show(course, False)
        assert not labels[1].visible
        shown.close()

"""The course of a refinement, over all runs that went on from one another."""

from __future__ import annotations

import math
import sys

import pytest
from house import MODULE

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import course as room

from AtlasISTNLib.configs import RefineConfig, as_dict


def figures(total: float, a2s: float = 1.0, s2a: float = 0.0, reg: float = 0.0, **more: float) -> dict[str, float]:
    return {"total": total, "a2s": a2s, "s2a": s2a, "reg": reg, **more}


@pytest.fixture
def course() -> room.Course:
    return room.Course()


def test_parts_with_their_weights_add_up_to_the_total(course):
    course.begin(RefineConfig(strength=10.0, beta=2.0, gamma=0.5), 1.0, goes_on=False)
    course.add(0, figures(2.0 * 1 + 0.5 * 3 + 10 * 0.2, 1.0, 3.0, 0.2))
    course.add(1, figures(2.0 * 1 + 0.5 * 3 + 10 * 0.2 + 4.0, 1.0, 3.0, 0.2))
    first, second = course.points
    assert (first.a2s, first.s2a, first.reg, first.landmarks) == pytest.approx((2.0, 1.5, 2.0, 0.0))
    assert second.landmarks == pytest.approx(4.0)


def test_the_models_own_strength_where_none_is_given(course):
    course.begin(RefineConfig(), 7.0, goes_on=False)
    course.add(0, figures(2.4, 1.0, 0.0, 0.2))
    assert course.points[0].reg == pytest.approx(1.4)


def test_runs_that_go_on_follow_one_another(course):
    course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
    course.add(0, figures(5.0))
    course.add(4, figures(3.0))
    course.end({"steps": [[step, 5.0 - step / 2, 1.0, 0.0, 0.0] for step in range(6)]})
    assert [point.step for point in course.points] == [0, 1, 2, 3, 4, 5], "all of its steps, each once"
    course.begin(RefineConfig(strength=2.0), 1.0, goes_on=True)
    course.add(0, figures(9.0))
    course.add(3, figures(8.0))
    assert [point.step for point in course.points] == [0, 1, 2, 3, 4, 5, 5, 8]
    assert course.starts == [5]
    course.begin(RefineConfig(strength=2.0), 1.0, goes_on=True)
    course.add(0, figures(8.0))
    assert course.starts == [5, 8]
    course.begin(RefineConfig(strength=2.0), 1.0, goes_on=False)
    assert (course.points, course.starts, course.folding) == ([], [], None)


def test_the_first_run_may_go_on_from_nothing(course):
    course.begin(RefineConfig(strength=1.0), 1.0, goes_on=True)
    course.add(0, figures(5.0))
    assert course.starts == []
    assert course.points[0].step == 0


def test_figures_that_are_none_are_no_points(course):
    course.begin(RefineConfig(strength=1.0), 1.0, goes_on=False)
    for values in ({}, figures(math.nan), figures(math.inf), {**figures(1.0), "reg": None}):
        course.add(0, values)
    assert course.points == []
    course.add(1, {"folding": 0.25})
    assert course.folding == 0.25


def test_many_steps_do_not_pile_up(course):
    for run in range(4):
        course.begin(RefineConfig(strength=1.0), 1.0, goes_on=run > 0)
        course.end({"steps": [[step, 1.0, 1.0, 0.0, 0.0] for step in range(room.MOST_STEPS)]})
    assert len(course.points) <= 2 * room.MOST_STEPS
    assert all(start >= course.points[0].step for start in course.starts)


def test_an_earlier_result_is_shown_as_it_was(course):
    config = as_dict(RefineConfig(strength=3.0, gamma=1.0))
    course.add(0, figures(1.0, folding=0.5))
    course.show({"config": config, "steps": [[0, 4.0, 1.0, 1.5, 0.5], [1, 3.0, 1.0, 0.5, 0.5]]})
    assert [(p.step, p.total, p.s2a, p.reg) for p in course.points] == [(0, 4.0, 1.5, 1.5), (1, 3.0, 0.5, 1.5)]
    assert course.folding is None
    course.show(None)
    assert course.points == []

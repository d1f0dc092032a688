"""The session without an engine: what looks at a running refinement may move."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import standin
from fake_engine import FakeEngine
from house import MODULE

sys.path.insert(0, str(MODULE))

from AtlasISTNHost import results, surfaces
from AtlasISTNHost.engine import Failure
from AtlasISTNHost.jobs import JobFolders
from AtlasISTNHost.models import Entry
from AtlasISTNHost.session import Session, Task
from host import atlas_cases as cases

from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.exchange import correspondence_to_files


@pytest.fixture
def held():
    """A session that holds a result, its task, and an engine that does nothing of itself."""
    slicer.mrmlScene.Clear(0)
    jobs, engine = JobFolders(), FakeEngine()
    session = Session(engine, jobs, lambda: None)
    entry = Entry("two-blobs", Path(), cases.a_manifest())
    meshes = surfaces.atlas_surfaces(entry.manifest, cases.the_soft_labels())
    session.surfaces_of = lambda _model: meshes  # the model has no files
    scan = cases.scan(slicer.mrmlScene, spacing=(4.0, 4.0, 4.0), extent=100.0)
    outcome = cases.outcome_of(scan, cases.a_correspondence(seed=0), False)
    session.adopt(outcome, results.write_outcome(outcome, scan, entry.manifest, meshes), scan, entry)
    yield session, Task(scan, None, entry), engine
    jobs.close()
    standin.process_events()
    slicer.mrmlScene.Clear(0)


def vertices(session: Session) -> Any:
    return {value: slicer.util.arrayFromModelPoints(node).copy() for value, node in session.nodes.surfaces.items()}


def look(engine: FakeEngine) -> None:
    """A look at the refinement, at another state of the atlas than that of the result."""
    folder = Path(engine.asked[-1][1]["folder"])
    engine.tell("preview", {"correspondence": correspondence_to_files(cases.a_correspondence(seed=5), folder, "look")})


def test_the_surfaces_follow_the_refinement_of_their_scan(held):
    session, task, engine = held
    before = vertices(session)
    session.refine(task, RefineConfig(5))
    look(engine)
    assert all(np.abs(now - before[value]).max() > 0.5 for value, now in vertices(session).items())


def test_the_surfaces_of_one_scan_do_not_follow_another(held):
    session, task, engine = held
    told: list[Any] = []
    session.on_preview_listeners.append(lambda *what: told.append(what))
    other = cases.scan(slicer.mrmlScene, spacing=(4.0, 4.0, 4.0), extent=100.0)
    before = vertices(session)
    session.refine(replace(task, volume=other), RefineConfig(5))
    look(engine)
    for value, now in vertices(session).items():
        np.testing.assert_array_equal(now, before[value])
        assert not session.nodes.surfaces[value].GetDisplayNode().GetVisibility2D()
    assert told == []


def test_whatever_goes_wrong_with_a_result_the_next_run_can_begin(held, monkeypatch):
    session, task, engine = held

    def breaks(_event: Any) -> Any:
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(results, "read_outcome", breaks)
    session.refine(task, RefineConfig(5))
    with pytest.raises(KeyError):
        engine.answer("result", {})
    assert not session.busy
    assert session.status is None
    count = len(engine.asked)
    session.refine(task, RefineConfig(5))
    assert len(engine.asked) == count + 1


def given_way(session: Session, task: Task, engine: FakeEngine) -> None:
    """A refinement that was seen to move and then gave way."""
    session.refine(task, RefineConfig(5))
    engine.progress(stage="refine", step=1, total=5, values={})
    look(engine)
    session.give_way()
    engine.answer("result", {"brief": True, "trace": None})
    assert session.unwritten


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[value], other[value]) for value in other)


def outlined(session: Session) -> bool:
    return any(node.GetDisplayNode().GetVisibility2D() for node in session.nodes.surfaces.values())


class TestGivingWay:
    def test_it_waits_for_the_first_step(self, held):
        session, task, engine = held
        session.refine(task, RefineConfig(5))
        session.give_way()
        engine.progress(stage="predict", step=1, total=2)
        assert engine.cancelled == 0, "or the engine would have to predict again"
        engine.progress(stage="refine", step=0, total=5, values={})
        engine.progress(stage="refine", step=1, total=5, values={})
        assert (engine.cancelled, engine.briefly) == (1, 1)

    def test_stop_is_for_good(self, held):
        session, task, engine = held
        session.refine(task, RefineConfig(5))
        engine.progress(stage="refine", step=0, total=5, values={})
        session.stop()
        session.give_way()
        assert (engine.cancelled, engine.briefly) == (1, 0)

    def test_what_was_seen_stays_for_the_next_one(self, held):
        session, task, engine = held
        before, outcome = vertices(session), session.outcome
        given_way(session, task, engine)
        moved = vertices(session)
        assert not same(moved, before)
        session.refine(task, RefineConfig(5), start="current")
        assert same(vertices(session), moved)
        assert outlined(session)
        assert engine.asked[-1][1]["start"] == "current"
        assert session.outcome is outcome

    @pytest.mark.parametrize("what", ["segment", "another scan"])
    def test_what_does_not_go_on_from_it_begins_at_the_last_result(self, held, what):
        session, task, engine = held
        before = vertices(session)
        given_way(session, task, engine)
        if what == "segment":
            session.segment(task)
        else:
            other = cases.scan(slicer.mrmlScene, spacing=(4.0, 4.0, 4.0), extent=100.0)
            session.refine(replace(task, volume=other), RefineConfig(5), start="current")
        assert same(vertices(session), before)
        assert not outlined(session)
        assert not session.unwritten

    def test_it_is_completed_once(self, held):
        session, task, engine = held
        given_way(session, task, engine)
        session.complete()
        assert engine.asked[-1][1]["config"]["iterations"] == 0
        engine.answer("error", Failure("Unexpected", "no", "", do="refine"))
        count = len(engine.asked)
        session.complete()
        assert len(engine.asked) == count
        assert session.failure.message == "no"

    def test_an_engine_that_knows_nothing_of_it_overwrites_nothing(self, held):
        session, task, engine = held
        before, outcome = vertices(session), session.outcome
        given_way(session, task, engine)
        session.complete()
        engine.answer("result", {"refined": False})
        assert session.outcome is outcome
        assert same(vertices(session), before)
        assert not outlined(session)
        assert not session.busy

    def test_a_scan_is_written_to_disk_once(self, held):
        session, task, engine = held
        given_way(session, task, engine)
        session.refine(task, RefineConfig(5), start="current")
        first, second = (fields["image"] for _do, fields in engine.asked)
        assert first == second
        assert (Path(second["folder"]) / second["array"]).is_file()
        engine.answer("error", Failure("Cancelled", ""))
        task.volume.GetImageData().Modified()
        session.refine(task, RefineConfig(5), start="current")
        third = engine.asked[-1][1]
        assert third["image"]["folder"] != second["folder"], "voxels that changed"
        assert third["case"] != engine.asked[0][1]["case"]
        assert not Path(second["folder"]).exists()

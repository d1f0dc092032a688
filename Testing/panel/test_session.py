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

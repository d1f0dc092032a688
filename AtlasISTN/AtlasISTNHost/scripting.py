"""Segmenting from a script: the panel's own way, without the panel, waiting for the end."""

from __future__ import annotations

import time
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.errors import AtlasISTNError, BundleError, WorkerError

from . import models, settings
from .engine import Engine
from .jobs import JobFolders
from .session import Session, Task


def process(volume: Any, model: str, refine: bool, device: str, wait: float) -> Any:
    """See AtlasISTNLogic.process."""
    known = models.entries(tuple(settings.own_models()))
    found = [entry for entry in known if model in (entry.key, str(entry.path))] if model else known[:1]
    if not found and model:
        found = [models.entry_at(model)]
    if not found or found[0].manifest is None:
        raise BundleError(_("There is no model {model}").format(model=model), found[0].problem if found else "")
    engine, jobs = Engine(), JobFolders()
    session = Session(engine, jobs, lambda: None)
    try:
        task = Task(volume, None, found[0], device, settings.threads())
        session.segment(task, RefineConfig() if refine else None)
        end = time.monotonic() + wait
        while session.busy:
            if time.monotonic() > end:
                raise WorkerError(_("The engine was not done after {wait:g} s").format(wait=wait))
            slicer.app.processEvents()
            time.sleep(0.01)
        if session.failure is not None:
            raise AtlasISTNError(session.failure.message, session.failure.hint)
        return session.nodes
    finally:
        engine.stop(wait_ms=3000)  # a script may end Slicer next, and then there are no timers that would see to it
        jobs.close()

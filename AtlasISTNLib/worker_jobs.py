"""The worker's work: what each request does. Gives the values of its event "result"."""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from .errors import ConfigError
from .outputs import FORMATS, write_result
from .progress import stop_if
from .report import write_picture
from .worker_cases import Cases, Previews, answer, brief_answer
from .worker_channel import Channel, Request
from .worker_progress import Reporter
from .worker_requests import case_request, section, train_request

_log = logging.getLogger(__name__)


class Jobs:
    """Does what is requested; keeps models and cases warm.

    Args:
        channel: gets the events on the way, and says when to stop.
        threads: of the CPU, for requests that ask for all of them; None for torch's own number.
    """

    def __init__(self, channel: Channel, threads: int | None = None) -> None:
        self._channel, self._cases = channel, Cases()
        self._ready_to_refine = False
        self._threads = threads or torch.get_num_threads()
        self._does: Mapping[str, Callable[[Request], dict[str, Any]]] = {
            "segment": self._segment,
            "refine": self._refine,
            "report": self._report,
            "export": self._export,
            "check": self._check,
            "train": self._train,
            "forget": self._forget,
        }

    def do(self, request: Request) -> dict[str, Any]:
        """Do what is requested.

        Raises:
            AtlasISTNError: it cannot be done.
        """
        if request.do not in self._does:
            raise ConfigError(f"no request is called '{request.do}'", f"use one of {', '.join(self._does)}")
        return self._does[request.do](request)

    def be_ready_to_refine(self) -> None:
        """Have torch load what its optimisers need, which takes it seconds, before anybody waits for it."""
        if not self._ready_to_refine:
            self._ready_to_refine = True
            torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()

    def make_room(self) -> None:
        """Let go of all that is kept, after memory ran out."""
        self._cases.clear()
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _segment(self, request: Request) -> dict[str, Any]:
        wanted = case_request("segment", request.fields)
        self._use_threads(wanted.threads)
        report, cancel = self._reporter(request), self._channel.cancelled
        case = self._cases.segment(wanted, report, cancel)
        stop_if(cancel, "segmenting")
        return answer(wanted, request.number, case, "", report)

    def _refine(self, request: Request) -> dict[str, Any]:
        wanted = case_request("refine", request.fields)
        self._use_threads(wanted.threads)
        show = Previews(wanted.folder, request.number) if wanted.preview_seconds else None
        report = Reporter(self._sender(request), show, wanted.preview_seconds, more=wanted.folding)
        channel = self._channel
        case, problem = self._cases.refine(wanted, report, channel.cancelled, channel.briefly)
        if case.ongoing is not None:
            return brief_answer(wanted.case, case.ongoing)
        return answer(wanted, request.number, case, problem, report)

    def _report(self, request: Request) -> dict[str, Any]:
        found = section("report", request.fields)
        name, path = found.take("case", str), Path(found.take("path", str))
        state = found.take("state", str, None)
        found.close()
        case = self._cases.find(name, state)
        with self._channel.writing():
            write_picture(case.bundle, case.last, path, case.reference)
        return {"case": name, "path": str(path)}

    def _export(self, request: Request) -> dict[str, Any]:
        found = section("export", request.fields)
        name, folder = found.take("case", str), Path(found.take("folder", str))
        ending, overwrite = found.one_of("format", FORMATS, FORMATS[0]), found.take("overwrite", bool, False)
        picture, source = found.take("picture", bool, None), found.take("source", str, "")
        state = found.take("state", str, None)
        found.close()
        case, warnings = self._cases.find(name, state), []
        if picture is None:
            picture = importlib.util.find_spec("matplotlib") is not None
            warnings = [] if picture else ["report.png was left out: the package matplotlib is not installed"]
        with self._channel.writing():
            write_result(
                case.bundle,
                case.last,
                folder,
                format=ending,
                overwrite=overwrite,
                reference=case.reference,
                picture=picture,
                source=source,
                report=self._reporter(request),
            )
        return {"case": name, "folder": str(folder), "warnings": warnings}

    def _forget(self, request: Request) -> dict[str, Any]:
        found = section("forget", request.fields)
        name = found.take("case", str)
        found.close()
        self._cases.forget(name)
        return {"case": name}

    def _check(self, request: Request) -> dict[str, Any]:
        from .worker_training import checked

        wanted = train_request("check", request.fields)
        return checked(wanted, self._reporter(request), self._channel.cancelled)

    def _train(self, request: Request) -> dict[str, Any]:
        from .worker_training import trained

        wanted = train_request("train", request.fields)
        self._use_threads(wanted.threads)
        channel = self._channel
        return trained(wanted, request.number, self._sender(request), channel.cancelled, channel.writing)

    def _reporter(self, request: Request) -> Reporter:
        return Reporter(self._sender(request))

    def _sender(self, request: Request) -> Callable[..., None]:
        return functools.partial(self._channel.send, number=request.number)

    def _use_threads(self, count: int) -> None:
        threads = count or self._threads
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


__all__ = ["Jobs"]

"""The command line: `atlas-istn`, and `python -m AtlasISTNLib`.

`main` gives exit code 0 when everything went well, 2 for bad input or a command line that makes no sense (of several
images at least one failed), 1 for an error that nobody foresaw, and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from . import __version__
from .arguments import PROGRAM, parse
from .errors import ConfigError
from .terminal import FINE, INTERRUPTED, UNEXPECTED, Console, Guard, Interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from .progress import Cancel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see the help of each.

    Args:
        arguments: words of the command line, without the program's name; by default those of this process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no λ still gets its table
    # Errors of the command line itself have to reach a program that listens, too.
    console = Console(events="--events=jsonl" in words or ("--events", "jsonl") in pairwise(words))
    try:
        with Guard(console) as guard:
            options = parse(words)
            help_hint = f"see {PROGRAM} {options.command} --help"
            console = Console(options.events is not None, options.quiet, options.debug, help_hint)
        code = guard.code or _run(options, console)
    except KeyboardInterrupt:
        console.note("interrupted")
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNEXPECTED
    except SystemExit as left:  # help and version
        return int(left.code or FINE)
    console.event("end", exit_code=code)
    return code


def _run(options: Namespace, console: Console) -> int:
    console.event("start", command=options.command, version=__version__)
    with _logging(options.verbose), Interrupts() as cancel, Guard(console) as guard:
        if getattr(options, "threads", None) is not None:
            _use_threads(options.threads)
        return _command(options.command)(options, console, cancel) or (INTERRUPTED if cancel() else FINE)
    return guard.code


def _command(name: str) -> Callable[[Namespace, Console, Cancel], int]:
    """The function of a command; its room, and all that this room imports, is opened only now."""
    if name == "segment":
        from .batch import run_segment

        return run_segment
    if name == "demo":
        from .demo import run_demo

        return run_demo
    if name == "train":
        from .training_command import run_train

        return run_train
    if name == "experiment":
        from .experiment_command import run_experiment

        return run_experiment
    if name == "worker":
        from .worker import serve

        return lambda options, console, cancel: serve(options.worker_threads)
    from . import commands

    return {
        "models": commands.run_models,
        "evaluate": commands.run_evaluate,
        "phantom": commands.run_phantom,
        "import-reference": commands.run_import_reference,
    }[name]


def _use_threads(count: int) -> None:
    if count < 1:
        raise ConfigError(f"--threads must be at least 1, not {count}", "leave it out to use all")
    import torch

    torch.set_num_threads(count)


@contextlib.contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    """The engine's log on stderr while a command runs; the images' libraries speak only when asked to."""
    import SimpleITK as sitk

    logger = logging.getLogger(__package__)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level, itk_speaks = logger.level, sitk.ProcessObject.GetGlobalWarningDisplay()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    sitk.ProcessObject.SetGlobalWarningDisplay(verbose)
    try:
        with warnings.catch_warnings():
            if not verbose:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        sitk.ProcessObject.SetGlobalWarningDisplay(itk_speaks)

"""A training that is killed again and again ends as one that was not: `kill -9` at random moments, then a comparison.

    python Testing/benchmarks/resume.py [--kills 10] [--epochs 60] [--seed 0] [--keep FOLDER]

`atlas-istn train` runs as a process of its own on small phantom letters, augmented, with a checkpoint. It is killed at
random moments of its epochs, every other time as soon as the next checkpoint begins to be written, and started again
with the same words until it ends by itself. Weights, atlas and the figures of every epoch must equal those of a run in
one go to the last bit, and nothing but the checkpoint may be left beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.phantoms import write_phantoms

#: Seconds within which a tiny training must have written its next checkpoint; more means that it hangs.
PATIENCE = 300.0
SETTINGS = (
    *("--shape", "24,20", "--spacing", "6", "--batch-size", "3", "--validation", "0.25", "--threads", "1"),
    *("--device", "cpu", "--strength", "20", "--eta", "0.1", "--halve-every", "8", "--omega-midpoint", "3"),
    *("--rotation", "10", "--translation", "5", "--scale", "0.1", "--elastic", "3", "--intensity", "0.1"),
    *("--noise", "0.1", "--blur", "0.5", "--seed", "7"),
)


@dataclass(frozen=True)
class Kill:
    """How a process ended.

    Attributes:
        epoch: epochs in the checkpoint that it left.
        writing: whether it was killed at the sight of a checkpoint being written.
        left: names of the files that it was writing beside the checkpoint.
    """

    epoch: int
    writing: bool
    left: frozenset[str]


def training_words(letters: Path, output: Path, epochs: int, *more: object) -> list[str]:
    """The command's words after the program's name; `letters` holds the folders images and labels."""
    where = ("--images", letters / "images", "--labels", letters / "labels", "--output", output, "--name", "letters")
    return [str(word) for word in ("train", *where, "--epochs", epochs, *SETTINGS, *more)]


def started(words: Sequence[str], launcher: Sequence[str] = (), scratch: Path | None = None) -> subprocess.Popen[str]:
    """The command as a process of its own on one thread.

    Args:
        launcher: words between Python and the package.
        scratch: folder for its temporary files.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if scratch is not None:
        environment["TMPDIR"] = str(scratch)
    program = [sys.executable, *launcher, "-m", "AtlasISTNLib", *words]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def history_of(checkpoint: Path) -> list[dict[str, float]]:
    """The figures of a checkpoint's epochs; it is whole, or this raises."""
    with safe_open(checkpoint, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            file.get_tensor(name)
        return list(json.loads(file.metadata()["training"])["history"])


def wait_for_epoch(process: subprocess.Popen[str], checkpoint: Path, epoch: int) -> None:
    """Wait until the checkpoint holds this epoch and was written by this process, or the process has ended."""
    start, seen = time.monotonic(), _version(checkpoint)
    while process.poll() is None:
        if time.monotonic() - start > PATIENCE:
            process.kill()
            raise TimeoutError(f"no epoch {epoch} within {PATIENCE:g} s")
        if (now := _version(checkpoint)) != seen:
            seen = now
            if len(history_of(checkpoint)) >= epoch:
                return
        time.sleep(0.0005)  # who sleeps is woken at once, even on a busy machine


def killed(words: Sequence[str], checkpoint: Path, epoch: int, writing: bool, draw: random.Random) -> Kill | None:
    """Start a training and kill it in the epoch after `epoch`; None if it ended before.

    Args:
        checkpoint: its folder's subfolder "scratch" takes the temporary files.
        writing: kill it as soon as a file appears beside the checkpoint; else anywhere in the epoch.
    """
    before = half_written(checkpoint)
    process = started(words, scratch=checkpoint.parent / "scratch")
    try:
        wait_for_epoch(process, checkpoint, epoch)
        duration = _last_duration(checkpoint) if checkpoint.exists() else 0.0
        if writing:
            until = time.monotonic() + 2 * duration + 0.1
            while half_written(checkpoint) <= before and process.poll() is None and time.monotonic() < until:
                time.sleep(0.00005)
        else:
            time.sleep(draw.random() * duration)
        ended = process.poll() is not None
    finally:
        process.kill()
        process.communicate()
    if ended:
        return None
    return Kill(len(history_of(checkpoint)), writing, half_written(checkpoint) - before)


def half_written(checkpoint: Path) -> frozenset[str]:
    """Names of the files beside a checkpoint that carry its name and are not it."""
    with os.scandir(checkpoint.parent) as entries:
        names = (entry.name for entry in entries if entry.is_file())
        return frozenset(name for name in names if checkpoint.name in name and name != checkpoint.name)


def litter(*wanted: Path) -> list[str]:
    """Names of the files in the folder of the first one, and below it, that are not wanted."""
    folder = wanted[0].parent
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in wanted)


def differences(one: Path, other: Path) -> list[str]:
    """Names of the tensors and figures in which two bundles differ in any bit; durations do not count."""
    first, second = (load_bundle(path, "cpu") for path in (one, other))
    tensors = [
        {**b.model.state_dict(), "atlas image": b.model.atlas_image, "atlas labels": b.model.atlas_labels}
        for b in (first, second)
    ]
    if tensors[0].keys() != tensors[1].keys():
        return ["names of the tensors"]
    found = [name for name, value in tensors[0].items() if not np.array_equal(value, tensors[1][name])]
    records = [json.loads(json.dumps(dict(b.training))) for b in (first, second)]
    for record in records:
        record["last"].pop("seconds", None)
    return found + [f"training: {name}" for name in records[0] if records[0][name] != records[1].get(name)]


def kills_and_ends(letters: Path, folder: Path, epochs: int, kills: int, seed: int) -> tuple[list[Kill], Path, Path]:
    """Train in `folder` with `kills` kills on the way; gives these, the bundle and the checkpoint.

    Raises:
        RuntimeError: the training ended before it could be killed so often, or failed.
    """
    draw = random.Random(seed)
    (folder / "scratch").mkdir(parents=True)
    checkpoint, output = folder / "letters.ckpt", folder / "letters.zip"
    words = training_words(letters, output, epochs, "--checkpoint", checkpoint)
    done: list[Kill] = []
    for number in range(kills):
        # A share of the epochs for each kill, so that a late one takes none of the others their place.
        epoch = int((number + 0.6 * draw.random()) * epochs / (kills + 1)) + 1
        kill = killed(words, checkpoint, epoch, number % 2 == 1, draw)
        if kill is None or output.exists():
            raise RuntimeError(f"the training ended before kill {number + 1}")
        done.append(kill)
    process = started(words, scratch=checkpoint.parent / "scratch")
    _, errors = process.communicate(timeout=600)
    if process.returncode != 0:
        raise RuntimeError(f"the last start ended with {process.returncode}: {errors}")
    return done, output, checkpoint


def _last_duration(checkpoint: Path) -> float:
    return float(history_of(checkpoint)[-1]["seconds"])


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for all files (default: a temporary one)")
    options = parser.parse_args()
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        write_phantoms("letter-b", 8, folder / "letters")
        start = time.monotonic()
        whole = started(training_words(folder / "letters", folder / "whole.zip", options.epochs))
        if whole.wait() != 0:
            write(whole.communicate()[1])
            return 1
        write(f"in one go: {options.epochs} epochs in {time.monotonic() - start:.0f} s\n")
        kills, output, checkpoint = kills_and_ends(
            folder / "letters", folder / "killed", options.epochs, options.kills, options.seed
        )
        for number, kill in enumerate(kills, 1):
            how = "while a checkpoint was being written" if kill.left else "in an epoch"
            write(f"kill {number}: after epoch {kill.epoch}, {how}\n")
        different = differences(folder / "whole.zip", output)
        beside = litter(checkpoint, output)
        epochs = len(history_of(checkpoint))
        write(f"{len(kills)} kills, {epochs} epochs at the end; different: {', '.join(different) or 'nothing'}\n")
        write(f"left besides checkpoint and model: {', '.join(beside) or 'nothing'}\n")
        return int(bool(different or beside or epochs != options.epochs))


if __name__ == "__main__":
    sys.exit(main())

"""Tracking: the course of a training for TensorBoard, while it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atlas_pictures import atlas_views, atlas_volumes, colors_of, grey, grey_range, painted
from .bundle import Label
from .errors import ConfigError, OutputError
from .geometry import Grid
from .progress import Progress, Report

#: Where the figures of an epoch are shown.
_TAGS = {
    "loss": "loss/total",
    "segmentation": "loss/segmentation",
    "a2s": "loss/atlas-to-image",
    "s2a": "loss/image-to-atlas",
    "reg": "loss/regularity",
    "omega": "schedule/omega",
    "learning_rate": "schedule/learning-rate",
    "seconds": "seconds",
}
_DICE = "dice_"
#: Pictures of the atlas in a training, about.
_PICTURES = 50
_PIXELS, _GAP = 192, 4
#: Seconds after which an open TensorBoard sees what was written.
_FLUSH = 10


class TensorBoard:
    """Writes the figures and the atlas of a training where TensorBoard finds them; the step is the epoch.

        with TensorBoard("runs/hearts", labels, grid) as board:
            train(cases, config, labels=labels, grid=grid, about=about, report=board.watching(report))

    A training that goes on from a checkpoint goes on in the same folder: what an interrupted run had written of later
    epochs is replaced.

    Args:
        folder: for the event files; made if absent.
        labels: the structures, background first, for their colours.
        grid: of the atlas, for pictures that lie as in the world; otherwise voxels count as 1 mm and axes as LPS.

    Raises:
        ConfigError: TensorBoard is not installed.
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str], labels: Sequence[Label] = (), grid: Grid | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "TensorBoard is not installed", "run: python -m pip install tensorboard, or train without it"
            ) from error
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Permissions do not tell on every system; a folder that was made does.
            os.rmdir(tempfile.mkdtemp(prefix=".atlas-istn-", dir=self.folder))
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror}", "choose another folder for TensorBoard"
            ) from error
        self._labels, self._grid = tuple(labels), grid
        self._kind: Any = SummaryWriter
        self._writer: Any = None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still held back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def watching(self, report: Report) -> Report:
        """A `report` that writes every epoch down and passes everything on."""

        def both(progress: Progress) -> None:
            if progress.stage == "train":
                self._write(progress)
            report(progress)

        return both

    def _write(self, progress: Progress) -> None:
        epoch = progress.step
        first = self._writer is None
        if first:
            # Tells TensorBoard to forget what another run wrote of this epoch and of those after it.
            self._writer = self._kind(str(self.folder), purge_step=epoch, flush_secs=_FLUSH)
        for name, value in progress.values.items():
            self._writer.add_scalar(tag(name), value, epoch)
        every = -(-progress.total // _PICTURES) or 1
        if progress.preview is not None and (first or epoch % every == 0 or epoch == progress.total):
            image, labels = progress.preview()
            for name, picture in atlas_strips(image, labels, self._labels, self._grid).items():
                self._writer.add_image(f"atlas/{name}", picture, epoch, dataformats="HWC")


def tag(name: str) -> str:
    """TensorBoard's name for a figure of an epoch."""
    if name.startswith(_DICE):
        return f"dice/{name.removeprefix(_DICE).replace('_', '-')}"
    return _TAGS.get(name, name.replace("_", "-"))


def atlas_strips(
    image: NDArray[Any], labels: NDArray[Any], structures: Sequence[Label] = (), grid: Grid | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Pictures "image" and "labels" of an atlas, (rows, columns, RGB): in 3D three planes beside one another.

    Args:
        image: (1, *shape).
        labels: (K, *shape), soft, background first; the strongest label is painted.
        structures: K labels with colours.
        grid: of both.
    """
    picture, soft = atlas_volumes(image, labels, grid)
    views, between = atlas_views(soft, _PIXELS), grey_range(picture)
    colors = colors_of(structures, len(soft.array) - 1)
    grays = [np.repeat(grey(picture, view, between)[..., np.newaxis], 3, axis=2) for view in views]
    return {"image": _strip(grays), "labels": _strip([painted(soft, view, colors) for view in views])}


def _strip(pictures: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    gap = np.ones((pictures[0].shape[0], _GAP, 3))
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.rint(255 * np.concatenate(parts, axis=1)).astype(np.uint8)


__all__ = ["TensorBoard", "atlas_strips", "tag"]

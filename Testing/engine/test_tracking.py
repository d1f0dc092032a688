"""TensorBoard gets the figures and the atlas of a training, and a training that goes on replaces what was lost."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.bundle import Label
from AtlasISTNLib.errors import ConfigError, OutputError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.progress import Progress, silent
from AtlasISTNLib.tracking import TensorBoard, atlas_strips

LABELS = (Label(0, "background", (0, 0, 0)), Label(1, "left", (255, 0, 0)), Label(4, "right", (0, 0, 255)))
SIDE = 192  # pixels of a view


def atlas(shape: tuple[int, ...], left: tuple, right: tuple) -> tuple[np.ndarray, np.ndarray]:
    """An atlas image that is bright where the first structure lies, and its labels."""
    labels = np.zeros((3, *shape), dtype=np.float32)
    labels[1][left] = 0.8
    labels[2][right] = 0.6
    labels[0] = 1 - labels[1:].sum(axis=0)
    return labels[1:2] * 5 - 1, labels


def halves(shape: tuple[int, ...] = (12, 10)) -> tuple[np.ndarray, np.ndarray]:
    return atlas(shape, np.s_[..., 1:4], np.s_[..., -4:-1])


def epoch(step: int, total: int, loss: float = 1.0, **more) -> Progress:
    values = {"loss": loss, "segmentation": 0.5, "a2s": 0.25, "s2a": 0.2, "reg": 1e-4, "omega": 0.01, **more}
    values |= {"learning_rate": 1e-3, "seconds": 2.0}
    return Progress("train", step, total, values, preview=halves)


def read(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(events, tag: str) -> dict[int, float]:
    return {entry.step: entry.value for entry in events.Scalars(tag)}


def test_figures_stand_under_their_names_by_epoch(tmp_path):
    seen = []
    with TensorBoard(tmp_path / "runs" / "one", LABELS) as board:
        report = board.watching(seen.append)
        events = [
            Progress("prepare", 1, 1, {"loss": 7.0}),
            epoch(1, 2, 3.0, dice_itn=0.8, dice_one_pass=0.7),
            epoch(2, 2, 2.0, dice_itn=0.9, dice_one_pass=0.75),
        ]
        for event in events:
            report(event)
    assert seen == events, "everything is passed on, in order"
    found = read(tmp_path / "runs" / "one")
    assert scalars(found, "loss/total") == {1: 3.0, 2: 2.0}
    assert scalars(found, "dice/one-pass") == pytest.approx({1: 0.7, 2: 0.75})
    expected = {"loss/total", "loss/segmentation", "loss/atlas-to-image", "loss/image-to-atlas", "loss/regularity"}
    expected |= {"dice/itn", "dice/one-pass", "schedule/omega", "schedule/learning-rate", "seconds"}
    assert set(found.Tags()["scalars"]) == expected
    assert scalars(found, "loss/regularity") == pytest.approx({1: 1e-4, 2: 1e-4})


def test_about_fifty_pictures_however_long_the_training(tmp_path):
    computed = []
    with TensorBoard(tmp_path, LABELS) as board:
        report = board.watching(silent)
        for step in range(1, 1001):
            report(replace(epoch(step, 1000), preview=lambda s=step: computed.append(s) or halves()))
    found = read(tmp_path)
    steps = [entry.step for entry in found.Images("atlas/labels")]
    assert 40 <= len(steps) <= 52
    assert (steps[0], steps[-1]) == (1, 1000)
    assert [entry.step for entry in found.Images("atlas/image")] == steps == computed
    assert len(scalars(found, "loss/total")) == 1000


def test_a_training_that_goes_on_replaces_the_epochs_it_repeats(tmp_path):
    """Killed after epoch 4, its checkpoint is of epoch 2: epochs 3 and 4 come again, with other figures."""
    for steps, loss in ((range(1, 5), 9.0), (range(3, 7), 5.0)):
        with TensorBoard(tmp_path) as board:
            report = board.watching(silent)
            for step in steps:
                report(epoch(step, 6, loss))
    assert scalars(read(tmp_path), "loss/total") == {1: 9.0, 2: 9.0, 3: 5.0, 4: 5.0, 5: 5.0, 6: 5.0}


def test_what_was_written_survives_an_error(tmp_path):
    def cut(progress) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"), TensorBoard(tmp_path) as board:
        board.watching(cut)(epoch(1, 3, 4.0))
    assert scalars(read(tmp_path), "loss/total") == {1: 4.0}


def test_flat_atlas_in_its_colours():
    image, labels = halves((10, 20))
    strips = atlas_strips(image, labels, LABELS)
    for strip in strips.values():
        assert strip.shape == (SIDE, SIDE, 3)
        assert strip.dtype == np.uint8
    row = strips["labels"][SIDE // 2]
    pixel = SIDE / 20  # the wider axis fills the picture
    assert row[round(2.5 * pixel)].tolist() == [255, 0, 0]
    assert row[round(17.5 * pixel)].tolist() == [0, 0, 255]
    assert row[SIDE // 2].tolist() == [0, 0, 0], "the background is black"
    assert strips["labels"][5].max() == 0, "nothing lies above a grid that is wider than high"
    assert strips["image"][SIDE // 2, round(2.5 * pixel)].tolist() == [255] * 3
    assert strips["image"][SIDE // 2, round(17.5 * pixel)].tolist() == [0] * 3


def test_three_planes_lie_as_radiology_shows_them():
    """A structure at the patient's left, anterior and superior; the grid's axes run the other way round."""
    grid = Grid.centered((16, 12, 10), (2.0, 2.0, 3.0), direction=np.diag([-1.0, -1.0, 1.0]))
    corner = np.s_[-5:, -5:, :4]  # high z, high index of −y, low index of −x: superior, anterior, left
    strip = atlas_strips(*atlas(grid.shape, corner, np.s_[:0]), LABELS, grid)["labels"]
    assert strip.shape == (SIDE, 3 * SIDE + 8, 3)
    for start, vertical, horizontal in ((0, -1, 1), (SIDE + 4, -1, 1), (2 * SIDE + 8, -1, -1)):
        rows, columns = np.nonzero(strip[:, start : start + SIDE, 0] == 255)
        assert np.sign(rows.mean() - SIDE / 2) == vertical
        assert np.sign(columns.mean() - SIDE / 2) == horizontal


def test_voxels_are_shown_as_long_as_they_are():
    image, labels = atlas((20, 20), np.s_[5:15, 5:15], np.s_[0:1, 0:1])
    strip = atlas_strips(image, labels, LABELS, Grid.centered((20, 20), (1.0, 2.0)))["labels"]
    rows, columns = np.nonzero(strip[..., 0] == 255)
    assert np.ptp(rows) == pytest.approx(2 * np.ptp(columns), abs=3)


def test_missing_tensorboard_is_told_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="TensorBoard is not installed") as caught:
        TensorBoard(tmp_path / "runs")
    assert "pip install tensorboard" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        TensorBoard(tmp_path / "file" / "runs")

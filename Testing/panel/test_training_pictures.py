"""What the section Train says and draws: findings, times, checkpoints; a training's chart and slices of its atlas."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import standin

standin.start()
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "AtlasISTN"))

import qt  # noqa: E402
from AtlasISTNHost import drawing  # noqa: E402
from AtlasISTNHost.training_texts import (  # noqa: E402
    check_html,
    grid_text,
    is_name,
    progress_text,
    read_checkpoint,
    rough_time,
    suggested_name,
)

from AtlasISTNLib.geometry import Grid  # noqa: E402
from AtlasISTNLib.volume import Volume  # noqa: E402

FOUND = {
    "source": "folders",
    "cases": 3,
    "problems": [{"message": "a: the image and <labels> differ", "hint": "resample one", "case": "a"}],
    "notes": [{"message": "label 2 (RV) is missing from 1 of 3 cases: b", "hint": "", "case": ""}],
    "labels": [{"value": 1, "name": "LV", "cases": 3}, {"value": 2, "name": "RV", "cases": 2}],
    "grid": None,
}
GRID = {"shape": [32, 48, 64], "spacing": [2.0, 2.5, 3.0], "origin": [0, 0, 0], "direction": np.eye(3).tolist()}
EPOCH = {"loss": 0.5, "segmentation": 0.1, "a2s": 0.2, "s2a": 0.15, "reg": 1e-4, "omega": 1.0, "dice_one_pass": 0.8}


# ------------------------------------------------------------------------------------------------------------ the texts


def test_all_findings_are_shown_at_once() -> None:
    many = {**FOUND, "problems": [{"message": f"case {index} is broken", "hint": "", "case": ""} for index in range(9)]}
    text = check_html(many)
    assert "9 problems" in text
    assert all(f"case {index} is broken" in text for index in range(9))
    text = check_html(FOUND)
    assert "1 problem" in text
    assert "&lt;labels&gt;" in text
    assert "<labels>" not in text
    assert "resample one" in text
    assert "3 cases" in text
    assert "RV" in text
    good = check_html({**FOUND, "problems": [], "grid": GRID, "cut": ["b"]})
    assert "can be trained on" in good
    assert "64 × 48 × 32 voxels of 2 × 2.5 × 3 mm" in good
    assert "cuts" in good


def test_grid_is_written_x_first() -> None:
    assert grid_text({"shape": [8, 16], "spacing": [1.0, 2.0]}) == "16 × 8 voxels of 1 × 2 mm"
    assert grid_text(None) == ""


@pytest.mark.parametrize(
    ("folder", "name"), [("Dataset003_Heart", "heart"), ("Task04_Hippo Campus", "hippo-campus"), ("ü", "")]
)
def test_suggested_name(folder: str, name: str) -> None:
    assert suggested_name(Path("/data") / folder) == name
    assert not name or is_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a/b", "..", "a--b", "ä"])
def test_names_that_are_none(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12000, "3 h 20 min"), (7199, "2 h 00 min")]
)
def test_rough_time(seconds: float, text: str) -> None:
    assert rough_time(seconds) == text


def test_progress_in_words() -> None:
    event = {"stage": "train", "step": 3, "total": 10, "values": EPOCH, "seconds_left": 720.0}
    assert progress_text(event) == "Epoch 3 of 10, loss 0.5, Dice 0.800, 12 min left"
    assert progress_text({"stage": "check", "step": 1, "total": 4}) == "Reading case 1 of 4"
    assert progress_text({"stage": "start", "step": 0, "total": 0, "message": "Starting: 3 s"}) == "Starting: 3 s"


def test_what_is_no_checkpoint_is_none(tmp_path: Path) -> None:
    for content in (b"", b"12345678", struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"{}", b"x" * 100):
        (tmp_path / "c").write_bytes(content)
        assert read_checkpoint(tmp_path / "c") is None
    assert read_checkpoint(tmp_path / "absent") is None


# --------------------------------------------------------------------------------------------------------- the pictures


def pixels_of(pixmap: Any, folder: Path) -> np.ndarray:
    """(rows, columns, 4) RGBA."""
    path = str(folder / "pixmap.png")
    assert pixmap.save(path)
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def places(picture: np.ndarray, color: str) -> np.ndarray:
    """(n, 2) rows and columns of pixels of about this colour."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    near = np.abs(picture[..., :3].astype(int) - wanted).max(axis=-1) < 12
    return np.argwhere(near & (picture[..., 3] > 200))


def color_of(key: str) -> str:
    return next(curve.color for curve in drawing.curves() if curve.key == key)


def test_chart_shows_a_falling_loss_and_a_rising_dice(tmp_path: Path) -> None:
    history = [{"loss": 10.0 ** (-epoch / 5), "dice_itn": 0.05 + 0.1 * epoch} for epoch in range(9)]
    picture = pixels_of(drawing.loss_chart(history, 420, 190, qt.QColor("black")), tmp_path)
    assert picture.shape == (190, 420, 4)
    for key, falls in (("loss", True), ("dice_itn", False)):
        found = places(picture, color_of(key))
        found = found[found[:, 0] > 30]  # below the legend
        left, right = found[found[:, 1].argmin()], found[found[:, 1].argmax()]
        assert right[1] - left[1] > 250
        assert (right[0] > left[0] + 60) == falls
        assert abs(int(right[0]) - int(left[0])) > 60


def test_chart_leaves_out_what_is_not_a_number(tmp_path: Path) -> None:
    history = [{"loss": 1.0, "reg": 0.0}, {}, {"loss": float("nan")}, {"loss": 0.1}]
    picture = pixels_of(drawing.loss_chart(history, 420, 190, qt.QColor("black")), tmp_path)
    assert len(places(picture, color_of("loss"))) > 100
    assert len(places(picture, color_of("reg"))) == 0
    empty = pixels_of(drawing.loss_chart([], 420, 190, qt.QColor("black")), tmp_path)
    assert empty[..., 3].max() == 0


@pytest.mark.parametrize(
    ("epochs", "ticks"), [(1, [1]), (4, [1, 2, 3, 4]), (40, [1, 10, 20, 30, 40]), (800, [1, 200, 400, 600, 800])]
)
def test_ticks_are_round(epochs: int, ticks: list[int]) -> None:
    assert drawing.epoch_ticks(epochs) == ticks


def test_decades_are_few() -> None:
    assert drawing.decades(-2.0, 0.0) == [-2, -1, 0]
    assert len(drawing.decades(-12.0, 3.0)) <= 5


def an_atlas() -> tuple[Volume, Volume]:
    """A structure to the patient's left, in front and high up; LPS, 2 mm."""
    grid = Grid.centered((40, 40, 40), (2.0, 2.0, 2.0))
    labels = np.zeros((3, 40, 40, 40), dtype=np.float32)
    labels[1, 28:34, 6:12, 28:34] = 1  # z up, y forward (small y is anterior in LPS), x left
    labels[2, 6:12, 28:34, 6:12] = 1
    labels[0] = 1 - labels[1:].sum(axis=0)
    image = np.linspace(0, 1, 40, dtype=np.float32).repeat(1600).reshape(1, 40, 40, 40)
    return Volume.from_array(image, grid), Volume.from_array(labels, grid)


def test_slices_lie_as_radiology_shows_them() -> None:
    image, labels = an_atlas()
    # All of it in the middle planes
    wide = np.zeros_like(labels.array)
    wide[1, :, 6:12, 28:34] = 1
    wide[2, :, 28:34, 6:12] = 1
    wide[0] = 1 - wide[1:].sum(axis=0)
    picture = drawing.atlas_picture(image, labels.with_array(wide), [(255, 0, 0), (0, 255, 0)], 120)
    assert picture.shape == (120, 360, 3)
    axial = picture[:, :120].astype(int)
    red = np.argwhere(axial[..., 0] > axial[..., 1] + 60).mean(axis=0)
    green = np.argwhere(axial[..., 1] > axial[..., 0] + 60).mean(axis=0)
    assert red[0] < green[0], "anterior is up"
    assert red[1] > green[1], "the patient's left is on the right"
    coronal = picture[:, 120:240].astype(int).sum(axis=2)
    inside = coronal[coronal.sum(axis=1) > 0]
    assert inside[:10].mean() > inside[-10:].mean(), "superior, where the image is brighter, is up"


def test_picture_becomes_a_pixmap_as_it_is(tmp_path: Path) -> None:
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    picture[2:5, 20:25] = (200, 100, 50)
    assert np.array_equal(pixels_of(drawing.pixmap_of(picture), tmp_path)[..., :3], picture)

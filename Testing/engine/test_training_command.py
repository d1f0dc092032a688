"""The commands `phantom` and `train`, and the grid that a new model gets."""

from __future__ import annotations

import signal
from dataclasses import fields

import numpy as np
import pytest

from AtlasISTNLib import training, training_command
from AtlasISTNLib.arguments import TRAIN_HELP, parse
from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.configs import TrainConfig
from AtlasISTNLib.errors import ConfigError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.training_command import Extent, choose_grid
from AtlasISTNLib.volume import Volume


def test_phantom_then_train_then_segment(run, tmp_path):
    letters = tmp_path / "letters"
    assert run("phantom", "letter-b", "--output", letters, "--count", 3, "--seed", 5)[0] == 0
    assert sorted(p.name for p in (letters / "images").iterdir()) == [f"letter-b-000{n}.png" for n in (5, 6, 7)]
    words = ("--images", letters / "images", "--labels", letters / "labels", "--output", tmp_path / "b.zip")
    settings = ("--epochs", 1, "--batch-size", 3, "--spacing", "8", "--shape", "16,16", "--label", "1=letter B")
    code, out, err = run("train", "--name", "b", *words, *settings)
    assert code == 0, err
    bundle = load_bundle(tmp_path / "b.zip", "cpu")
    assert bundle.names == {1: "letter B"}
    assert bundle.grid.spacing == (8.0, 8.0)
    assert bundle.config.shape == (16, 16)
    assert bundle.training["config"]["batch_size"] == 3
    assert "1 letter B" in out
    assert run("train", "--name", "b", *words, *settings)[0] == 2  # it exists, and that is known before the training
    image = letters / "images" / "letter-b-0005.png"
    code, *_ = run("segment", image, "--model", tmp_path / "b.zip", "--output", tmp_path / "o", "--refine", 1)
    assert code == 0


def test_interrupted_training_writes_what_the_last_epoch_gave(run, tmp_path, monkeypatch):
    letters = tmp_path / "letters"
    assert run("phantom", "letter-b", "--output", letters, "--count", 2)[0] == 0

    def pressed(*cases, report, **named):
        def reporting(progress):
            report(progress)
            if (progress.stage, progress.step) == ("train", 2):
                signal.raise_signal(signal.SIGINT)

        return training.train(*cases, report=reporting, **named)

    monkeypatch.setattr(training_command, "train", pressed)
    words = ("--images", letters / "images", "--labels", letters / "labels", "--output", tmp_path / "b")
    code, _, err = run("train", "--name", "b", *words, "--epochs", 9, "--spacing", "8", "--shape", "16,16")
    assert code == 130
    assert "epoch 2 of 9" in err
    assert load_bundle(tmp_path / "b", "cpu").training["epochs"] == 2


def test_every_training_setting_is_an_option():
    assert set(TRAIN_HELP) == {field.name for field in fields(TrainConfig)}
    given = {field.name: 2 for field in fields(TrainConfig)} | {"eta": 0.5, "validation": 0.25, "scale": 0.25}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    options = parse(["train", "--images", "a", "--labels", "b", "--output", "c", "--name", "n", *words])
    assert {name: getattr(options, name) for name in given} == given
    assert TrainConfig(**given).batch_size == 2


# -------------------------------------------------------------------------------------------- the grid of a new model


def an_extent(shape, spacing, low, high, direction=None) -> Extent:
    """Of a box of label 1 between two corners in voxels, x, y, z."""
    grid = Grid.centered(shape, spacing, None, direction)
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))] = 1
    return Extent.of(Volume.from_array(labels, grid), "case", frozenset())


def test_chosen_grid_holds_every_case_with_a_margin():
    turn = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    extents = [
        an_extent((40, 50, 60), (2.0, 2.0, 3.0), (10, 10, 10), (30, 20, 25)),
        an_extent((40, 50, 60), (2.0, 2.0, 3.0), (10, 10, 10), (30, 20, 25), turn),  # its x runs along the world's y
    ]
    grid, on_labels = choose_grid(extents, None, None, None)
    assert on_labels
    extent = np.array(grid.extent)
    assert (extent >= np.array([40, 40, 45]) * 1.25).all()
    assert (extent <= np.array([40, 40, 45]) * 1.31 + 8 * np.array(grid.spacing)).all()
    assert max(grid.shape) <= 72


def test_images_no_larger_than_the_grid_are_placed_by_their_centre():
    extents = [an_extent((32, 32), (1.0, 1.0), (2, 2), (30, 30))]
    grid, on_labels = choose_grid(extents, None, None, None)
    assert not on_labels
    assert choose_grid(extents, None, None, True)[1]
    assert min(grid.extent) >= 28


def test_given_shape_and_spacing_are_kept():
    extents = [an_extent((32, 32, 32), (1.0, 1.0, 1.0), (4, 4, 4), (28, 20, 12))]
    grid, _ = choose_grid(extents, (16, 24, 20), (2.0, 1.5, 3.0), None)
    assert (grid.shape, grid.spacing) == ((16, 24, 20), (2.0, 1.5, 3.0))
    assert choose_grid(extents, None, (2.0,), None)[0].spacing == (2.0, 2.0, 2.0)
    by_shape = choose_grid(extents, (16, 16, 16), None, None)[0]
    assert min(by_shape.extent) >= 24 * 1.25


@pytest.mark.parametrize(
    ("shape", "spacing"), [((16, 16), None), ((4, 16, 16), None), (None, (1.0, 2.0)), (None, (0.0,)), (None, (-1.0,))]
)
def test_impossible_grids_are_refused(shape, spacing):
    extents = [an_extent((32, 32, 32), (1.0, 1.0, 1.0), (4, 4, 4), (28, 20, 12))]
    with pytest.raises(ConfigError):
        choose_grid(extents, shape, spacing, None)

"""The commands `phantom` and `train`, and the options of `train`."""

from __future__ import annotations

import json
import signal
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib import training, training_command
from AtlasISTNLib.arguments import TRAIN_HELP, parse
from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.configs import TrainConfig
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.volume import Volume

QUICK = ("--epochs", 1, "--batch-size", 3, "--spacing", "8", "--shape", "16,16")


@pytest.fixture
def letters(tmp_path) -> tuple[str, ...]:
    """Words that find three letters in an nnU-Net folder, whose labels are 1 "letter B" and 4 "dot"."""
    folder = tmp_path / "Dataset001_Letters"
    for seed in range(3):
        letter = letter_b(seed)
        labels = letter.labels.array.copy()
        labels[0, 60:70, 60:70] = 4
        letter.image.write(folder / "imagesTr" / f"letter_{seed}_0000.nii.gz")
        Volume.from_array(labels, letter.image.grid).write(folder / "labelsTr" / f"letter_{seed}.nii.gz")
    described = {"channel_names": {"0": "ink"}, "labels": {"background": 0, "letter B": 1, "dot": 4}}
    (folder / "dataset.json").write_text(json.dumps({**described, "numTraining": 3, "file_ending": ".nii.gz"}))
    return ("--data", str(folder))


def test_phantom_then_train_then_segment(run, tmp_path):
    folder = tmp_path / "letters"
    assert run("phantom", "letter-b", "--output", folder, "--count", 3, "--seed", 5)[0] == 0
    assert sorted(p.name for p in (folder / "images").iterdir()) == [f"letter-b-000{n}.png" for n in (5, 6, 7)]
    words = ("--images", folder / "images", "--labels", folder / "labels", "--output", tmp_path / "b.zip")
    settings = (*QUICK, "--label", "1=letter B")
    code, out, err = run("train", "--name", "b", *words, *settings)
    assert code == 0, err
    bundle = load_bundle(tmp_path / "b.zip", "cpu")
    assert bundle.names == {1: "letter B"}
    assert bundle.grid.spacing == (8.0, 8.0)
    assert bundle.config.shape == (16, 16)
    assert bundle.training["config"]["batch_size"] == 3
    assert "letter B" in out
    assert run("train", "--name", "b", *words, *settings)[0] == 2  # it exists, and that is known before the training
    image = folder / "images" / "letter-b-0005.png"
    code, *_ = run("segment", image, "--model", tmp_path / "b.zip", "--output", tmp_path / "o", "--refine", 1)
    assert code == 0


def test_an_nnunet_folder_is_trained_and_names_the_labels(run, letters, tmp_path):
    code, out, err = run("train", *letters, "--output", tmp_path / "b", "--name", "b", *QUICK)
    assert code == 0, err
    bundle = load_bundle(tmp_path / "b", "cpu")
    assert bundle.names == {1: "letter B", 4: "dot"}
    assert len({label.color for label in bundle.labels}) == 3
    assert set(bundle.training["training"]) == {
        "letter_0",
        "letter_1",
        "letter_2",
    }
    assert "Dataset001_Letters" in out


def test_a_pattern_is_trained_like_its_folder(run, letters, tmp_path):
    assert run("train", *letters, "--output", tmp_path / "a", "--name", "n", *QUICK)[0] == 0
    pattern = ("--pattern", "imagesTr/{case}_0000.nii.gz", "labelsTr/{case}.nii.gz")
    code, _, err = run("train", *letters, *pattern, "--output", tmp_path / "b", "--name", "n", *QUICK)
    assert code == 0, err
    one, two = (load_bundle(tmp_path / name, "cpu") for name in "ab")
    assert np.array_equal(one.atlas_labels.array, two.atlas_labels.array)
    assert two.names == {1: "label 1", 4: "label 4"}


def test_what_is_said_of_the_model_and_of_its_parts_arrives(run, letters, tmp_path):
    said = {"title": "Letters", "description": "Three of them", "licence": "CC0-1.0", "citation": "none"}
    words = [word for name, text in said.items() for word in (f"--{name}", text)]
    parts = ("--no-affine", "--itn-channels", "4,4,8,8", "--stn-channels", "4,8,4", "--segmentation-loss")
    code, _, err = run(
        "train", *letters, "--output", tmp_path / "b", "--name", "b", *QUICK, *words, *parts, "cross-entropy-dice"
    )
    assert code == 0, err
    bundle = load_bundle(tmp_path / "b", "cpu")
    assert {name: getattr(bundle.about, name) for name in said} == said
    config = bundle.config
    assert (config.affine, config.nonrigid, config.itn_output) == (False, True, "softmax")
    assert (config.itn_channels, config.stn_channels) == ((4, 4, 8, 8), (4, 8, 4))


def test_folds_hold_out_other_cases_each(run, letters, tmp_path):
    held_out = []
    for fold in range(3):
        words = ("--output", tmp_path / str(fold), "--name", "n", *QUICK, "--folds", 3, "--fold", fold)
        assert run("train", *letters, *words)[0] == 0
        held_out += load_bundle(tmp_path / str(fold), "cpu").training["validation"]
    assert sorted(held_out) == ["letter_0", "letter_1", "letter_2"]


def test_cache_is_kept_and_found(run, letters, tmp_path):
    words = (*letters, "--name", "n", "--cache", tmp_path / "cache", *QUICK)
    assert run("train", *words, "--output", tmp_path / "a")[0] == 0
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npy")}
    assert files
    assert run("train", *words, "--output", tmp_path / "b")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npy")} == files


def test_tensorboard_gets_the_course(run, letters, tmp_path):
    pytest.importorskip("tensorboard")
    words = ("--output", tmp_path / "b", "--name", "n", *QUICK, "--tensorboard", tmp_path / "board")
    code, _, err = run("train", *letters, *words)
    assert code == 0, err
    assert [p for p in (tmp_path / "board").iterdir() if "tfevents" in p.name]


def test_report_is_written_beside_the_model(run, letters, tmp_path):
    words = ("--output", tmp_path / "b", "--name", "n", *QUICK, "--folds", 3, "--report", tmp_path / "report")
    code, _, err = run("train", *letters, *words)
    assert code == 0, err
    assert any((tmp_path / "report").iterdir())


def test_a_report_of_somebody_is_not_overwritten(run, letters, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.txt").write_text("mine")
    words = ("--output", tmp_path / "b", "--name", "n", *QUICK, "--report", tmp_path / "report")
    code, _, err = run("train", *letters, *words)
    assert code == 2
    assert "is not empty" in err
    assert not (tmp_path / "b").exists()


def test_interrupted_training_writes_what_the_last_epoch_gave(run, letters, tmp_path, monkeypatch):
    def pressed(*cases, report, **named):
        def reporting(progress):
            report(progress)
            if (progress.stage, progress.step) == ("train", 2):
                signal.raise_signal(signal.SIGINT)

        return training.run_training(*cases, report=reporting, **named)

    monkeypatch.setattr(training_command, "run_training", pressed)
    words = ("--output", tmp_path / "b", "--name", "b", *QUICK, "--epochs", 9, "--report", tmp_path / "report")
    code, _, err = run("train", *letters, *words)
    assert code == 130
    assert "epoch 2 of 9" in err
    assert "report was not written" in err
    assert load_bundle(tmp_path / "b", "cpu").training["epochs"] == 2
    assert not (tmp_path / "report").exists()


def test_only_the_first_of_many_processes_speaks_and_writes(run, letters, tmp_path, monkeypatch):
    words = ("train", *letters, "--name", "n", *QUICK, "--tensorboard", tmp_path / "board", "--output", tmp_path / "b")
    monkeypatch.setenv("RANK", "1")  # WORLD_SIZE is not set: it trains alone
    assert run(*words) == (0, "", "")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "board").exists()


def test_without_an_output_only_a_check_is_possible(run, letters):
    code, _, err = run("train", *letters)
    assert code == 2
    assert "output and name" in err
    assert run("train", *letters, "--check")[0] == 0


# ------------------------------------------------------------------------------------------------------------- options

TRAIN = ["train", "--data", "a", "--output", "c", "--name", "n"]


def another(field) -> tuple[list[str], object]:
    """Words that set a field to something else than its default, and what."""
    option, default = "--" + field.name.replace("_", "-"), field.default
    if field.type == "bool":
        return [option.replace("--", "--no-") if default else option], not default
    if field.type == "str":
        others = {"joint": "itn", "mse": "cross-entropy-dice", "averaged": "nearest", "last": "best"}
        other = {**others, "running": "separate"}[default]
        return [option, other], other
    value = 3 if field.type == "int" else 0.25
    return [option, str(value)], value


def test_every_training_setting_is_an_option_with_help(run):
    assert set(TRAIN_HELP) == {field.name for field in fields(TrainConfig)}
    told = run("train", "--help")[1]
    for field in fields(TrainConfig):
        words, value = another(field)
        options = parse([*TRAIN, *words])
        assert getattr(options, field.name) == value, field.name
        assert type(getattr(options, field.name)) is type(value)
        TrainConfig(**{field.name: value, **({"folds": 4} if field.name in {"fold"} else {})})
        assert words[0].replace("--no-", "--") in told
    assert not any(hasattr(parse(TRAIN), field.name) for field in fields(TrainConfig))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--part", "stn"], "--part"),
        (["--amp=yes"], "--amp"),
        (["--itn-channels", "8,16"], "itn_channels"),
        (["--stn-channels", "8,16,-3"], "stn_channels"),
        (["--stn-input", "atlas"], "--stn-input"),
        (["--no-affine", "--no-nonrigid"], "affine or a non-rigid"),
        (["--part", "itn", "--stn-input", "image"], "no segmentation network"),
        (["--shape", "4,4"], "--shape"),
        (["--spacing", "-2"], "--spacing"),
        (["--folds", "3", "--fold", "3"], "fold 3"),
        (["--channel", "0", "--pattern", "{case}", "{case}_seg"], "channels"),
        (["--pattern", "a", "b"], "{case}"),
        (["--pattern", "a"], "--pattern"),
        (["--images", "i"], "--data"),
        (["--cache", __file__], "not a folder"),
    ],
)
def test_senseless_options_are_refused_before_anything_is_read(run, letters, tmp_path, monkeypatch, words, says):
    def fail(*_: object) -> None:
        raise AssertionError("something was read")

    monkeypatch.setattr(Volume, "read", fail)
    code, out, err = run("train", *letters, "--output", tmp_path / "b", "--name", "n", *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert says in err
    assert " — " in err
    assert sorted(Path(p).name for p in tmp_path.iterdir()) == ["Dataset001_Letters"]

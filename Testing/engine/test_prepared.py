"""Prepared cases and splits: what training reads, kept on disk, and who is held out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.configs import NormalisationConfig, TrainConfig
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.errors import Cancelled, ConfigError, OutputError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.prepared import Prepared, margin_for, prepare
from AtlasISTNLib.splits import split_cases

GRID = Grid.centered((24, 20), (5.0, 6.0))
QUICK = TrainConfig(validation=0.0)


@pytest.fixture
def letters_on_disk(tmp_path) -> list[Case]:
    cases = []
    for seed in range(3):
        letter = letter_b(seed)
        image, labels = (tmp_path / f"{seed}-{kind}.nrrd" for kind in ("image", "labels"))
        cases.append(Case(f"letter {seed}", letter.image.write(image), letter.labels.write(labels)))
    return cases


def prepared(cases: list[Case], folder: Path, config: TrainConfig = QUICK, **options) -> Prepared:
    options = {"normalisation": NormalisationConfig(), **options}
    return prepare(cases, [0, 1], GRID, config=config, place_on_labels=False, folder=folder, **options)


def stages(cases: list[Case], folder: Path, **options) -> list[str]:
    """What the preparation reports of each case."""
    told: list[str] = []
    prepared(cases, folder, report=lambda p: told.append(p.message), **options)
    return told


class TestCache:
    def test_a_second_time_nothing_is_read(self, letters_on_disk, tmp_path):
        cache = tmp_path / "cache"
        first = prepared(letters_on_disk, cache)
        assert isinstance(first.images, np.memmap)
        images = np.array(first.images)
        for case in letters_on_disk:  # same size and time, other content: the cache is not even asked to read
            state = Path(case.image).stat()
            Path(case.image).write_bytes(b"x" * state.st_size)
            os.utime(case.image, ns=(state.st_atime_ns, state.st_mtime_ns))
        np.testing.assert_array_equal(prepared(letters_on_disk, cache).images, images)

    def test_what_changed_is_prepared_anew(self, letters_on_disk, tmp_path):
        cache = tmp_path / "cache"
        names = [case.name for case in letters_on_disk]
        assert stages(letters_on_disk, cache) == names
        assert stages(letters_on_disk, cache) == ["found prepared"]
        assert stages(letters_on_disk, cache, normalisation=NormalisationConfig("none")) == names
        assert stages(letters_on_disk, cache, config=replace(QUICK, label_blur=0.0)) == names
        assert stages(letters_on_disk, cache, config=replace(QUICK, rotation=10.0)) == names
        assert stages(letters_on_disk[:2], cache) == names[:2]
        letter_b(9).image.write(letters_on_disk[1].image)
        assert stages(letters_on_disk, cache) == names
        assert stages(letters_on_disk, cache, config=replace(QUICK, epochs=7, seed=3)) == ["found prepared"]

    def test_volumes_are_told_apart_by_their_voxels(self, tmp_path):
        one, two = (Case("letter", letter_b(seed).image, letter_b(seed).labels) for seed in (1, 2))
        a, b = prepared([one], tmp_path), prepared([two], tmp_path)
        assert np.abs(np.array(a.images) - np.array(b.images)).max() > 0.5

    def test_a_damaged_cache_is_made_anew(self, letters_on_disk, tmp_path):
        cache = tmp_path / "cache"
        images = np.array(prepared(letters_on_disk, cache).images)
        (place,) = cache.iterdir()
        (place / "images.npy").write_bytes(b"junk")
        np.testing.assert_array_equal(prepared(letters_on_disk, cache).images, images)

    def test_stopping_leaves_nothing(self, letters_on_disk, tmp_path):
        cache = tmp_path / "cache"
        calls = iter(range(9))
        with pytest.raises(Cancelled):
            prepared(letters_on_disk, cache, cancel=lambda: next(calls) == 2)
        assert list(cache.iterdir()) == []

    def test_errors(self, letters_on_disk, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError, match="cannot be kept"):
            prepared(letters_on_disk, tmp_path / "file")
        Path(letters_on_disk[1].labels).unlink()
        with pytest.raises(VolumeError, match="1-labels"):
            prepared(letters_on_disk, tmp_path / "cache")


class TestMargin:
    def test_it_holds_what_augmentation_reaches_for(self):
        assert margin_for(GRID, replace(QUICK, intensity=0.3, noise=0.2, blur=1.0, bias=0.5)) == 0
        assert margin_for(GRID, replace(QUICK, translation=9.0)) == 2  # 9 mm are 1.8 voxels of 5 mm
        assert margin_for(GRID, replace(QUICK, scale=0.25)) == 3
        assert margin_for(GRID, replace(QUICK, rotation=80.0, translation=500.0)) == 6  # no more than a quarter

    def test_prepared_cases_have_it(self, letters_on_disk, tmp_path):
        wide = prepared(letters_on_disk, tmp_path / "cache", replace(QUICK, translation=9.0))
        plain = prepared(letters_on_disk, tmp_path / "cache")
        assert wide.margin == 2
        assert wide.images.shape == (3, 1, 28, 24)
        np.testing.assert_allclose(wide.images[:, :, 2:-2, 2:-2], plain.images, atol=1e-5)


class TestSplits:
    def test_every_case_is_held_out_by_one_fold(self):
        config = TrainConfig(folds=3, seed=4)
        held_out = [split_cases(8, replace(config, fold=fold))[1] for fold in range(3)]
        assert sorted(case for fold in held_out for case in fold) == list(range(8))
        assert sorted(len(fold) for fold in held_out) == [2, 3, 3]
        for fold in range(3):
            training, validation = split_cases(8, replace(config, fold=fold))
            assert sorted(training + validation) == list(range(8))

    def test_shares_and_seeds(self):
        one = split_cases(40, TrainConfig(validation=0.25, seed=1))
        assert len(one[1]) == 10
        assert one == split_cases(40, TrainConfig(validation=0.25, seed=1))
        assert one != split_cases(40, TrainConfig(validation=0.25, seed=2))
        assert len(split_cases(5, TrainConfig(validation=0.01))[1]) == 1
        assert split_cases(4, TrainConfig(validation=0.5))[1] == []
        assert sorted(split_cases(9, TrainConfig(validation=0.0))[0]) == list(range(9))

    def test_too_few(self):
        with pytest.raises(ConfigError, match="two cases, not 1"):
            split_cases(1, QUICK)
        with pytest.raises(ConfigError, match="3 cases cannot be dealt out to 5 folds"):
            split_cases(3, TrainConfig(folds=5))

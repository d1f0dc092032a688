"""Label tables, recipes, and the command `train` on label maps alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib.bundle import load_bundle
from AtlasISTNLib.configs import TrainConfig
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.errors import ConfigError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.label_maps import MapCase, find_label_maps
from AtlasISTNLib.label_table import BACKGROUND, LabelTable, read_table, table_from_names, table_from_text
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.recipes import available_recipes, read_recipe
from AtlasISTNLib.volume import Volume

QUICK = ("--epochs", 1, "--batch-size", 2, "--spacing", "4", "--shape", "16,16")
GRID = Grid.centered((40, 48), (1.0, 1.0))


def a_map(shift: float = 0.0, both: bool = True) -> Volume:
    """A disc (20) with a spot on its left (5) and, if wanted, one on its right (6)."""
    points = GRID.points() - np.array([shift, 0.0])
    codes = np.where(np.linalg.norm(points, axis=-1) < 17, 20, 0)
    for value, x in ((5, 7.0), (6, -7.0)):
        if value == 5 or both:
            codes[np.linalg.norm(points - np.array([x, 0.0]), axis=-1) < 5] = value
    return Volume.from_array(codes.astype(np.uint8), GRID)


@pytest.fixture
def maps(tmp_path) -> Path:
    """A folder of three label maps."""
    for n in range(3):
        a_map(n).write(tmp_path / "maps" / f"head_{n}.nii.gz")
    return tmp_path / "maps"


def table_file(folder: Path, **changes: object) -> Path:
    values = {
        "structures": [
            {"value": 5, "name": "left spot", "color": [200, 0, 0], "snomed_code": "123", "snomed_meaning": "Spot"},
            {"value": 6, "name": "right spot"},
        ],
        "pairs": [[5, 6]],
        "kept": [5, 6, 20],
        "greys": {"20": 0.5, "5": 0.9},
        **changes,
    }
    path = folder / "table.json"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


class TestTables:
    def test_text(self):
        table = table_from_text("10=left thalamus, 49=Right-Thalamus,16=brain stem")
        assert table.names == {10: "left thalamus", 16: "brain stem", 49: "Right-Thalamus"}
        assert table.structures[0] == BACKGROUND
        assert table.partners() == {10: 49, 49: 10}

    @pytest.mark.parametrize("text", ["thalamus", "0=air", "3=a,3=b", "3=", "-1=x", "3=left lung", ""])
    def test_texts_that_are_none(self, text):
        with pytest.raises(ConfigError):
            table_from_text(text)

    def test_file(self, tmp_path):
        table = read_table(table_file(tmp_path))
        assert table.structures[1] == Label(5, "left spot", (200, 0, 0), "123", "Spot")
        assert table.partners() == {5: 6, 6: 5}
        assert (table.grey(20), table.grey(5), table.grey(6), table.grey(0)) == (0.5, 0.9, 0.9, 0.0)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"structures": None}, "structures is missing"),
            ({"structures": []}, "at least one structure"),
            ({"structures": [{"value": 5, "name": "a"}, {"value": 5, "name": "b"}]}, "value 5 twice"),
            ({"structures": [{"value": 0, "name": "a"}]}, "at least 1"),
            ({"structures": [{"value": 70000, "name": "a"}], "pairs": [], "kept": []}, "70000"),
            ({"structures": [{"value": 5, "name": "a", "colour": [1, 2, 3]}]}, "colour is not known"),
            ({"structures": [{"value": 5, "name": "a", "color": [1, 2, 300]}]}, "0 to 255"),
            ({"structures": [{"value": 5, "name": "left a"}], "pairs": None}, "no partner 'right a'"),
            ({"pairs": [[5, 6], [6, 20]]}, "value 6 twice"),
            ({"pairs": [[5]]}, "not two values"),
            ({"pairs": [[5, 5]]}, "value 5 twice"),
            ({"pairs": [[5, "x"]]}, "not a list of label values"),
            ({"classes": [[0, 20]]}, "background 0"),
            ({"kept": [5, 20]}, "6 .right spot. would be stripped off"),
            ({"kept": [5, 6], "fringe": [6]}, "value 6 twice"),
            ({"greys": {"20": 1.5}}, "between 0 and 1"),
            ({"greys": {"white": 1}}, "not a label value"),
            ({"pear": 1}, "pear is not known"),
        ],
    )
    def test_files_that_are_none(self, tmp_path, changes, message):
        with pytest.raises(ConfigError, match=message):
            read_table(table_file(tmp_path, **changes))

    def test_partners_and_classes_make_one_group(self):
        table = LabelTable((BACKGROUND, Label(9, "a")), ((2, 41), (3, 42)), ((42, 8), (8, 47)))
        groups = table.groups([0, 2, 41, 3, 42, 8, 47, 9])
        assert groups[2] == groups[41]
        assert len({groups[v] for v in (3, 42, 8, 47)}) == 1
        assert len(set(groups.values())) == 4


class TestMaps:
    def test_they_are_found_in_a_folder_a_list_a_pattern_and_an_nnunet_folder(self, maps, tmp_path):
        found = find_label_maps(labels=maps)
        assert [case.name for case in found.cases] == ["head_0", "head_1", "head_2"]
        (tmp_path / "list.csv").write_text("labels\nmaps/head_1.nii.gz\n")
        assert [case.name for case in find_label_maps(labels=tmp_path / "list.csv").cases] == ["head_1"]
        by_pattern = find_label_maps(tmp_path, pattern=("{case}.nii.gz", "maps/head_{case}.nii.gz"))
        assert [case.name for case in by_pattern.cases] == ["0", "1", "2"]
        maps.rename(tmp_path / "labelsTr")  # and there are no images
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spot": 5}}))
        raw = find_label_maps(tmp_path)
        assert (len(raw.cases), dict(raw.names)) == (3, {5: "spot"})

    def test_where_there_are_none(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(VolumeError, match="no label maps"):
            find_label_maps(labels=tmp_path / "empty")
        with pytest.raises(VolumeError, match="does not exist"):
            find_label_maps(labels=tmp_path / "none")
        with pytest.raises(ConfigError, match=r"no dataset\.json"):
            find_label_maps(tmp_path / "empty")
        with pytest.raises(ConfigError):
            find_label_maps()

    def test_the_rendering_has_the_tables_greys(self):
        table = LabelTable((BACKGROUND, Label(5, "spot")), greys=((5, 1.0), (20, 0.25)))
        image, labels = MapCase.of(Case("a", a_map(both=False), a_map(both=False)), table).load()
        assert {float(image.array[labels.array == value].mean()) for value in (0, 20, 5)} == {0.0, 0.25, 1.0}
        assert image.grid == labels.grid


class TestRecipes:
    def test_the_one_that_comes_along(self):
        assert "brain-deep-grey" in available_recipes()
        recipe = read_recipe("brain-deep-grey")
        table = recipe.table
        assert set(table.names) == {10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58, 4, 43, 16}
        assert all(label.snomed_code and label.snomed_meaning for label in table.structures[1:])
        partners = table.partners()
        for value, name in table.names.items():
            if value != 16:
                assert name.split()[0] in ("left", "right")
                assert table.names[partners[value]].split()[1:] == name.split()[1:]
        assert max(table.kept) < 500  # what lies outside the brain is stripped off
        assert all(n % 8 == 0 for n in recipe.shape)  # what the networks pad to anyway
        assert recipe.synthesis is not None
        TrainConfig(**recipe.training)

    def test_others(self, tmp_path):
        path = tmp_path / "mine.json"
        for values, message in (
            ({"training": {"epoch": 3}}, "does not know epoch"),
            ({"synthesis": {"noise": -1}}, "noise"),
            ({"model": {"labels": 3}}, "labels or shape"),
            ({"grids": {}}, "grids is not known"),
            ({"table": {"structures": [{"value": 1, "name": "x"}], "title": "t"}}, "title is not known"),
        ):
            path.write_text(json.dumps(values))
            with pytest.raises(ConfigError, match=message):
                read_recipe(str(path))
        with pytest.raises(ConfigError, match="no recipe 'brain'"):
            read_recipe("brain")


class TestCommand:
    def test_label_maps_alone_make_a_model(self, run, maps, tmp_path):
        words = ("train", "--synthesise", "--labels", maps, "--structures", table_file(tmp_path), "--name", "spots")
        code, out, err = run(
            *words, "--output", tmp_path / "b", *QUICK, "--synthesis", "draws=2", "--report", tmp_path / "r"
        )
        assert code == 0, err
        assert "made of 3 labels, 2 of them segmented; 1 pairs" in out
        bundle = load_bundle(tmp_path / "b", "cpu")
        assert bundle.labels[1] == Label(5, "left spot", (200, 0, 0), "123", "Spot")
        assert bundle.labels[2].color != Label(6, "").color  # one of its own
        assert bundle.normalisation.kind == "percentile"
        assert bundle.training["synthesis"]["draws"] == 2
        assert bundle.training["synthesis"]["table"]["kept"] == [5, 6, 20]
        assert (tmp_path / "r" / "report.html").is_file()

    def test_structures_as_text_and_a_recipe_whose_settings_give_way(self, run, maps, tmp_path):
        recipe = tmp_path / "recipe.json"
        table = json.loads(table_file(tmp_path).read_text())
        grid = {"shape": [16, 24], "spacing": [2.0, 2.0], "place_on_labels": True}
        training, model = {"epochs": 2, "eta": 0.1}, {"squarings": 4, "itn_norm": "batch", "itn_channels": [4, 4, 8, 8]}
        parts = {"table": table, "grid": grid, "training": training, "model": model, "synthesis": {"draws": 3}}
        recipe.write_text(json.dumps(parts))
        words = ("train", "--recipe", recipe, "--labels", maps, "--name", "spots", "--epochs", 1)
        code, _, err = run(*words, "--output", tmp_path / "a", "--synthesis", "noise=0.5")
        assert code == 0, err
        record = load_bundle(tmp_path / "a", "cpu")
        assert record.grid.shape == (16, 24)
        # The normalisation is in the convolutions now.
        assert (record.config.squarings, record.config.itn_norm) == (4, "none")
        assert record.config.itn_channels == (4, 4, 8, 8)
        assert (record.training["epochs"], record.training["config"]["eta"]) == (1, 0.1)
        assert (record.training["synthesis"]["draws"], record.training["synthesis"]["noise"]) == (3, 0.5)
        code, _, err = run(*words, "--output", tmp_path / "b", "--structures", "20=disc")
        assert code == 0, err
        assert load_bundle(tmp_path / "b", "cpu").names == {20: "disc"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--structures", "5=left spot,6=right spot,9=cyst"), "9 (cyst) is in none of the cases"),
            (("--structures", "5=left spot"), "no partner"),
            (("--structures", "none.json"), "none.json"),
            (("--structures", "5=a", "--label", "5=a"), "--structures and --label"),
            (("--structures", "5=a", "--rotation", 10), "not augmented by rotation"),
            (("--structures", "5=a", "--window", "40,400"), "no units"),
            (("--structures", "5=a", "--synthesis", "colour=3"), "does not know colour"),
            (("--structures", "5=a", "--synthesis", "noise=9"), "noise"),
            (("--structures", "5=a", "--images", "x"), "--images"),
            (("--recipe", "no-such"), "no recipe"),
        ],
    )
    def test_what_makes_no_sense_is_refused_before_any_work(self, run, maps, tmp_path, words, message):
        code, _, err = run("train", "--synthesise", "--labels", maps, "--name", "x", "--output", tmp_path / "x", *words)
        assert code == 2
        assert message in err
        assert not (tmp_path / "x").exists()

    def test_half_a_pair_in_the_maps_is_a_problem(self, run, maps, tmp_path):
        table = table_file(tmp_path, pairs=[[5, 6], [20, 21]])
        code, _, err = run("train", "--synthesise", "--labels", maps, "--structures", table, "--check")
        assert code == 2
        assert "21, partner of 20, is in no label map" in err

    def test_the_same_map_twice_is_a_problem(self, run, maps):
        a_map(0).write(maps / "again.nii.gz")
        code, _, err = run("train", "--synthesise", "--labels", maps, "--check")
        assert code == 2
        assert "label maps of again, head_0 are identical" in err

    def test_settings_of_the_synthesis_alone_are_refused(self, run, maps):
        code, _, err = run("train", "--labels", maps, "--images", maps, "--synthesis", "noise=0.1", "--check")
        assert code == 2
        assert "--synthesise" in err


def test_a_table_of_names_takes_partners_from_them():
    table = table_from_names({7: "Left_Lung", 8: "Right_Lung", 9: "bright spot"})
    assert table.pairs == ((7, 8),)

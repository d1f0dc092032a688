"""Experiments as files: what the bundled ones hold, and what is refused before any work."""

from __future__ import annotations

import copy
import json

import pytest

from AtlasISTNLib.bundle import available_models
from AtlasISTNLib.errors import ConfigError, VolumeError
from AtlasISTNLib.experiment_data import CaseSet, FilePairs, Phantoms, RawFolder, cases_of, fewer, split
from AtlasISTNLib.experiment_reading import read_experiment
from AtlasISTNLib.experiments import available_experiments
from AtlasISTNLib.phantoms import heart_center, write_phantoms
from AtlasISTNLib.volume import Volume

SMALL = {
    "name": "small",
    "title": "Small letters",
    "labels": [{"value": 1, "name": "letter B"}],
    "grid": {"shape": [24, 20], "spacing": [5, 5]},
    "data": {"phantom": "letter-b", "count": 8, "seed": 0},
    "tests": {"clean": {"phantom": "letter-b", "count": 3, "seed": 50}},
    "train": {"epochs": 1, "validation": 0},
    "models": {"unet": {"train": {"part": "itn"}}, "joint": {}, "images": {"model": {"stn_input": "image"}}},
    "rows": [
        {"name": "unet", "model": "unet", "result": "prediction"},
        {"name": "refined", "model": "joint", "result": "refined", "refine": {"strength": 10}},
    ],
}


@pytest.fixture
def spec(tmp_path):
    """A function that writes the small experiment with some keys changed, named by dots; None removes one."""

    def write(changes=()):
        values = copy.deepcopy(SMALL)
        for path, value in dict(changes).items():
            *parents, key = path.split(".")
            place = values
            for parent in parents:
                place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
            if value is None:
                del place[key]
            else:
                place[int(key) if isinstance(place, list) else key] = value
        file = tmp_path / "small.json"
        file.write_text(json.dumps(values), encoding="utf-8")
        return file

    return write


# ---------------------------------------------------------------------------------------------- the bundled experiments


def test_both_experiments_come_along():
    assert list(available_experiments()) == ["letter-b", "phantom-heart"]


@pytest.mark.parametrize("name", ["letter-b", "phantom-heart"])
def test_the_papers_rows_are_settings(name):
    experiment = read_experiment(name)
    models, rows = experiment.models, experiment.rows
    base = models["proposed"]
    assert (base.train.part, base.model.stn_input, base.model.affine) == ("joint", "prediction", True)
    assert (base.train.eta, base.train.segmentation_weight) == (0.01, 1)
    assert models["unet"].train.part == "itn"
    assert models["vml"].model.stn_input == "image"
    assert models["no-ls"].train.segmentation_weight == 0
    assert models["fixed"].train.eta == 0
    assert (models["svf"].model.affine, models["svf"].model.nonrigid) == (False, True)
    assert (rows["id"].model, rows["id"].result) == ("proposed", "initial-atlas")
    assert rows["unet-1cc"].result == "largest-component"
    independent = [rows[f"independent-{n}"] for n in (100, 200)]
    assert [(r.model, r.result, r.refine.iterations) for r in independent] == [
        ("unet", "refined", 100),
        ("unet", "refined", 200),
    ]
    sweep = next(table for table in experiment.tables if table.name == "strengths").rows
    ratios = [rows[row].refine.strength / base.train.strength for row in sweep]
    assert ratios == [1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64]
    assert {entry.cases for entry in models.values()} >= {10, 30, None}
    # Only what the row is about differs from the proposed model.
    assert models["fixed"].train == type(base.train)(**{**vars(base.train), "eta": 0})
    assert models["unet"].model == models["no-ls"].model == base.model


def test_letter_b_has_the_published_settings():
    experiment = read_experiment("letter-b")
    train = experiment.models["proposed"].train
    assert (experiment.grid.shape, experiment.grid.spacing) == ((64, 64), (2.0, 2.0))
    assert (train.epochs, train.batch_size, train.learning_rate, train.halve_every) == (300, 10, 1e-3, 300)
    assert (train.omega_midpoint, train.strength, train.validation) == (25, 500, 0)
    assert (train.label_sampling, train.label_blur) == ("nearest", 0.5)
    augmentation = (train.rotation, train.translation, train.scale, train.elastic, train.intensity, train.noise)
    assert not any(augmentation)
    assert experiment.rows["refined"].refine.iterations == 50
    manifest = json.loads((available_models()["letter-b"] / "manifest.json").read_text(encoding="utf-8"))
    assert list(experiment.held_out) == manifest["training"]["held_out"]
    assert len(experiment.held_out) == 100


def test_phantom_heart_keeps_training_and_test_apart():
    experiment = read_experiment("phantom-heart")
    source = experiment.data.source
    assert (source.cases, source.seed) == (90, 1000)
    assert round(source.cases * experiment.models["proposed"].train.validation) == 10
    assert [(t.source.cases, t.source.seed, t.source.artefacts) for t in experiment.tests.values()] == [
        (19, 3000, False),
        (100, 5000, True),
    ]
    assert experiment.models["proposed"].train.translation == 8 * 3.5  # the paper's 8 voxels


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"titel": "x"}, "small.json: titel is not known here"),
        ({"title": None}, "small.json: title is missing"),
        ({"name": "a/b"}, "cannot name a file"),
        ({"labels": []}, "labels is empty"),
        ({"labels.0.value": "1"}, 'labels[0].value is "1", not a whole number'),
        ({"labels.0.color": [1, 2]}, "red, green and blue"),
        ({"grid.spacing": [5]}, "2 or 3 numbers for both"),
        ({"grid.shape": [4, 20]}, "8 voxels or more"),
        ({"data": {}}, "data does not say where its cases come from"),
        ({"data.phantom": "liver"}, "data.phantom is 'liver'"),
        ({"data.count": True}, "data.count is true, not a whole number"),
        ({"data.grid": {"shape": [9, 9, 9], "spacing": [1, 1, 1]}}, "needs 2 numbers"),
        ({"train.epoch": 3}, "TrainConfig does not know epoch"),
        ({"models.joint.train": {"eta": 2}}, "models.joint.train: eta lies between 0 and 1"),
        ({"models.joint.model": {"labels": 3}}, "comes from the experiment's labels and grid"),
        ({"models.joint.model": {"itn_channels": [8, "x", 1, 1]}}, "models.joint.model: "),
        ({"models.joint.cases": 1}, "models.joint.cases must be at least 2"),
        ({"models": {}}, "models is empty"),
        ({"rows": []}, "rows is empty"),
        ({"rows.0.model": "vnet"}, "rows[0].model is 'vnet'"),
        ({"rows.0.result": "best"}, "rows[0].result is 'best'"),
        ({"rows.0.refine": {}}, "rows[0].refine is not known here"),
        ({"rows.0.name": "refined"}, "'refined' stands there twice"),
        ({"rows.0.model": "images"}, "needs an ITN"),
        ({"rows.1.refine": {"iterations": -1}}, "rows[1].refine: iterations must be at least 0"),
        ({"comparisons": {"!": "refined"}}, "has the mark '!'"),
        ({"comparisons": {"*": "best"}}, "comparisons.* is 'best'"),
        ({"tests.clean.seed": 7}, "some of whose seeds are trained on"),
        ({"tests.clean": {"held_out": True}}, "the split holds none out"),
        ({"tests.clean.structures": [5]}, "has the label 5"),
        ({"split": {"share": 1.5}}, "lies between 0 and 1"),
        ({"split": {"share": 0.5, "held_out": ["a"]}}, "goes not with held_out"),
        ({"split": {"held_out": "nowhere.txt"}}, "does not exist"),
        ({"split": {"held_out": ["a", "a"]}}, "names a case twice"),
        ({"tables": [{"name": "t", "rows": ["x"]}]}, "tables[0].rows holds 'x'"),
        ({"tables": [{"name": "t", "measures": ["iou"]}]}, "tables[0].measures holds 'iou'"),
        ({"tables": [{"name": "t"}, {"name": "t"}]}, "tables holds 't' twice"),
        ({"figures": [{"kind": "pie", "name": "f", "rows": ["unet"]}]}, "figures[0].kind is 'pie'"),
        ({"figures": [{"kind": "strengths", "name": "f", "rows": ["unet"]}]}, "states no λ*"),
        ({"figures": [{"kind": "boxes", "name": "f", "rows": ["unet", "unet"]}]}, "holds 'unet' twice"),
    ],
)
def test_a_bad_experiment_is_refused_by_the_key(spec, changes, complaint):
    with pytest.raises(ConfigError) as caught:
        read_experiment(spec(changes))
    assert complaint in str(caught.value)
    assert "small.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"name": 1,}', "is not JSON"),
        ('{"name": "a", "name": "b"}', "gives 'name' twice"),
        ('{"name": NaN}', "no number"),
        ("[]", "not an object"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, text, complaint):
    file = tmp_path / "bad.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=complaint):
        read_experiment(file)


def test_an_unknown_name_lists_what_comes_along():
    with pytest.raises(ConfigError, match="letter-b, phantom-heart"):
        read_experiment("letter-c")


def test_held_out_names_may_stand_in_a_file(spec, tmp_path):
    (tmp_path / "names.txt").write_text("letter-b-0003\nletter-b-0001\n", encoding="utf-8")
    experiment = read_experiment(spec({"split": {"held_out": "names.txt"}, "tests.held": {"held_out": True}}))
    assert experiment.held_out == ("letter-b-0003", "letter-b-0001")


# ------------------------------------------------------------------------------------------------------------- cases


def test_pairs_come_from_folders_lists_and_raw_folders(tmp_path):
    written = write_phantoms("letter-b", 2, tmp_path / "p")
    names = [image.stem for image, _ in written]
    for column, name in ((0, "images.csv"), (1, "labels.csv")):
        lines = "\n".join(str(pair[column]) for pair in written)
        (tmp_path / name).write_text(f"path\n{lines}\n", encoding="utf-8")
    raw = tmp_path / "Dataset001"
    for kind, ending in (("imagesTr", "_0000.nrrd"), ("labelsTr", ".nrrd")):
        (raw / kind).mkdir(parents=True)
        for image, labels in written:
            Volume.read(image if kind == "imagesTr" else labels).write(raw / kind / f"{image.stem}{ending}")
    description = {"labels": {"background": 0, "B": 1}, "channel_names": {"0": "x"}, "file_ending": ".nrrd"}
    (raw / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    sources = [FilePairs("p/images", "p/labels"), FilePairs("$lists", "labels.csv"), RawFolder("Dataset001")]
    for source in sources:
        cases = cases_of(source, tmp_path, {"lists": tmp_path / "images.csv"}, tmp_path / "store")
        assert [case.name for case in cases] == names
        image, labels = cases[0].load()
        assert image.grid.shape == labels.grid.shape
    with pytest.raises(ConfigError, match="--data lists=PATH"):
        cases_of(sources[1], tmp_path, {}, tmp_path / "store")
    with pytest.raises(ConfigError, match="a folder and a list"):
        cases_of(FilePairs("p/images", "labels.csv"), tmp_path, {}, tmp_path / "store")
    with pytest.raises(VolumeError, match="does not exist"):
        cases_of(FilePairs("q", "q"), tmp_path, {}, tmp_path / "store")


def test_hearts_lie_in_the_middle_of_their_images():
    phantom = Phantoms("heart", 2, 7, False, (12, 12, 14), (12.0, 12.0, 12.0)).make(1)
    assert phantom.image.name == "heart-0008"
    assert phantom.image.grid.center == pytest.approx(heart_center(8))
    assert (phantom.labels.array > 0).any()


def test_splits_hold_out_what_they_say(tmp_path):
    cases = cases_of(Phantoms("letter-b", 10, 0), tmp_path, {}, tmp_path)
    kept, out = split(cases, 0.3, seed=4)
    assert (len(kept), len(out)) == (7, 3)
    assert sorted(case.name for case in [*kept, *out]) == [case.name for case in cases]
    assert split(cases, 0.3, seed=4) == (kept, out)
    assert split(cases, 0.3, seed=5) != (kept, out)
    kept, out = split(cases, ("letter-b-0004",), seed=0)
    assert [case.name for case in out] == ["letter-b-0004"]
    assert out[0] not in kept
    with pytest.raises(VolumeError, match="letter-b-0099"):
        split(cases, ("letter-b-0099",), seed=0)


def test_fewer_cases_are_part_of_more(tmp_path):
    cases = cases_of(Phantoms("letter-b", 12, 0), tmp_path, {}, tmp_path)
    sets = [{case.name for case in fewer(cases, n, 3, "m")} for n in (3, 6, 12)]
    assert [len(names) for names in sets] == [3, 6, 12]
    assert sets[0] < sets[1] < sets[2]
    with pytest.raises(ConfigError, match="wants 13 cases, but there are 12"):
        fewer(cases, 13, 3, "the model 'm'")


def test_a_case_set_takes_its_names_in_their_order(tmp_path):
    source = Phantoms("letter-b", 5, 0)
    cases = cases_of(source, tmp_path, {}, tmp_path)
    names = ("letter-b-0003", "letter-b-0000", "letter-b-0001")
    assert [c.name for c in CaseSet("t", "T", source, names, 2).chosen(cases)] == list(names[:2])
    with pytest.raises(VolumeError, match="no case letter-b-0009"):
        CaseSet("t", "T", source, ("letter-b-0009",)).chosen(cases)
    with pytest.raises(VolumeError, match="two cases of 't' are called letter-b-0002"):
        CaseSet("t", "T", source).chosen([*cases, cases[2]])

"""The training report: its figures are those of the cases, it says what is wrong with them, it is self-contained."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from math import isnan, nan
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from AtlasISTNLib import training_document, training_figures, training_report
from AtlasISTNLib.atlas_pictures import atlas_views, mixed
from AtlasISTNLib.bundle import About, Label
from AtlasISTNLib.case_scores import CaseScores, CohortScores, score_cases, stages_of
from AtlasISTNLib.configs import RefineConfig, TrainConfig, as_dict
from AtlasISTNLib.datasets import Case
from AtlasISTNLib.document import Document, Facts, Picture, Pictures, Section, Tables, Text, to_html, to_markdown
from AtlasISTNLib.errors import ConfigError, OutputError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import Spread, evaluate
from AtlasISTNLib.phantoms import letter_b
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.tables import Cell, Group, Row, Table
from AtlasISTNLib.training import Trained, run_training
from AtlasISTNLib.training_document import duration
from AtlasISTNLib.training_report import check_training_report, write_training_report
from AtlasISTNLib.volume import Volume

CONFIG = TrainConfig(epochs=3, batch_size=2, strength=10.0, keep="best")
HISTORY = tuple(
    {"loss": 1.0 / e, "segmentation": 0.5 / e, "a2s": 0.2 / e, "s2a": 0.2 / e, "reg": 0.01 / e, "omega": 1.0}
    | {"learning_rate": 1e-3, "seconds": 2.0 * e, "dice_itn": 0.5 + 0.1 * e, "dice_one_pass": 0.4}
    for e in (1, 2, 3)
)
SHIFTS = ((1.0, -1.5), (4.0, 2.0), (-2.0, 0.5), (0.0, 3.0))


@pytest.fixture(scope="module", autouse=True)
def coarse_pictures():
    """Drawing in full takes most of the time, and nothing here looks at details."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_figures, "_DPI", 40)
        patch.setattr(training_figures, "_PIXELS", 64)
        yield


@pytest.fixture
def blank_pictures(monkeypatch):
    """Pictures of one pixel, where only the words matter."""
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    monkeypatch.setattr(training_figures, "_png", lambda figure: pixel.getvalue())


words_only = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def flat_cases(make_image, oblique_flat_grid) -> list[Case]:
    """Blobs at various places, on an oblique grid; the truth is where their grey values are."""
    cases = []
    for number, shift in enumerate(SHIFTS):
        center = tuple(np.add(oblique_flat_grid.center, shift))
        image = make_image(oblique_flat_grid, center, 1.0 + 0.05 * number, f"blob {number}")
        truth = np.select([image.array > 65, image.array > 12], [7, 3], 0).astype(np.uint8)
        cases.append(Case(f"blob {number}", image, Volume.from_array(truth, image.grid, "truth")))
    return cases


@pytest.fixture(scope="module")
def flat_trained(a_flat_bundle) -> Trained:
    return trained_of(a_flat_bundle, ("blob 0",), ("blob 1", "blob 2", "blob 3"))


def trained_of(bundle, training: Sequence[str], validation: Sequence[str], config: TrainConfig = CONFIG) -> Trained:
    """What a training would have given with this bundle."""
    record = MappingProxyType({"config": as_dict(config)})
    bundle = replace(bundle, training=record, refinement=RefineConfig(3, 20.0, 1.0, 0.0, None, "network"))
    return Trained(bundle, HISTORY, (bundle.atlas_image, bundle.atlas_labels), tuple(training), tuple(validation), 2)


@pytest.fixture(scope="module")
def written(flat_trained, flat_cases, tmp_path_factory) -> Path:
    return write_training_report(flat_trained, flat_cases, tmp_path_factory.mktemp("report")).parent


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


class Reader(HTMLParser):
    """Tags, addresses, pictures and text of a page; `open` is what was not closed."""

    EMPTY = frozenset({"meta", "img", "source", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[bytes] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attributes:
            if name in {"src", "href", "srcset"}:
                self.addresses.append(value)
                if value.startswith("data:image/png;base64,"):
                    self.pictures.append(base64.b64decode(value.partition(",")[2], validate=True))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + "\n"


# --------------------------------------------------------------------------------------------------------- the figures


def test_scores_are_those_of_segmenting_and_refining_each_case(written, flat_trained, flat_cases):
    rows = table(written / "scores.csv")
    assert {row["case"] for row in rows} == {"blob 1", "blob 2", "blob 3"}, "only the held-out cases"
    assert len(rows) == 3 * 3 * 2
    case = flat_cases[2]
    first = segment(flat_trained.bundle, case.image)
    last = refine(flat_trained.bundle, first)
    maps = {"prediction": first.prediction, "one_pass": first.one_pass_labels, "final": last.labels}
    found = {(row["stage"], int(row["label"])): row for row in rows if row["case"] == case.name}
    for stage, labels in maps.items():
        for label in (3, 7):
            expected = evaluate(labels, case.labels)[label]
            for measure in ("dice", "assd", "hd95", "hd", "components", "reference_volume"):
                assert float(found[stage, label][measure]) == pytest.approx(expected.value(measure)), (stage, measure)
    assert first.labels.grid == case.image.grid
    assert float(found["one_pass", 3]["dice"]) != float(found["final", 3]["dice"])


def test_tables_show_mean_and_spread_over_the_cases(written):
    rows = table(written / "scores.csv")
    shown = (written / "report.md").read_text(encoding="utf-8")
    for label, name in ((3, "shell"), (7, "core")):
        line = re.search(rf"^\| Dice .*?^\| {name} \|(.*?)$", shown, re.DOTALL | re.MULTILINE).group(1)
        cells = [cell.replace("*", "").strip() for cell in line.strip(" |").split("|")]
        for cell, stage in zip(cells, ("prediction", "one_pass", "final"), strict=True):
            values = [float(row["dice"]) for row in rows if (row["stage"], row["label"]) == (stage, str(label))]
            assert cell == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    finals = [[float(r["dice"]) for r in rows if (r["case"], r["stage"]) == (f"blob {n}", "final")] for n in (1, 2, 3)]
    means = np.mean(finals, axis=1)
    assert f"- **{means.mean():.3f} ± {means.std(ddof=1):.3f}** mean Dice, refined, 3 held-out cases" in shown


def test_cases_stand_from_worst_to_best_and_the_worst_are_shown(written):
    shown = (written / "report.md").read_text(encoding="utf-8")
    values = [line.split("|") for line in shown.splitlines() if line.startswith("| blob ")]
    dices = [float(cells[4]) for cells in values]
    assert dices == sorted(dices)
    captions = re.findall(r"\(worst-(\d)\.png\)\n\n(blob \d)\. Dice", shown)
    assert captions == [(str(n), cells[1].strip()) for n, cells in enumerate(values, 1)]


def test_history_has_a_line_for_each_epoch(written):
    rows = table(written / "history.csv")
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for row, entry in zip(rows, HISTORY, strict=True):
        for name, value in entry.items():
            assert float(row[name]) == value


@words_only
def test_figures_that_do_not_exist_are_empty_fields(flat_trained, flat_cases, tmp_path):
    history = ({**HISTORY[0], "loss": nan}, {name: v for name, v in HISTORY[1].items() if name != "omega"}, HISTORY[2])
    write_training_report(replace(flat_trained, history=history), flat_cases, tmp_path, cancel=lambda: True)
    rows = table(tmp_path / "history.csv")
    assert [row["loss"] for row in rows] == ["", "0.5", str(1 / 3)]
    assert [row["omega"] for row in rows] == ["1.0", "", "1.0"]


def test_figures_of_the_training(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "- **12 s** training, 3 epochs" in text
    assert "| Epochs | 3 of 3 epochs; the model is that of epoch 2 |" in text
    assert "| Time | 12 s in all, 4.0 s per epoch (median) |" in text
    assert "| Held out | 3 cases: blob 1, blob 2, blob 3 |" in text
    assert "| Model grid | 28 × 20 voxels of 1.5 × 1.1 mm, 42 × 22 mm in all |" in text
    changed = re.search(r"\| Changed settings.*?\n\n", text, re.DOTALL).group()
    assert re.findall(r"^\| (\w[\w ]*) \| (\S+) \| (\S+) \|$", changed, re.MULTILINE)[1:] == [
        ("epochs", "3", "100"),
        ("batch size", "2", "4"),
        ("strength", "10", "500"),
        ("keep", "best", "last"),
    ], "all that differ and no others"


def test_loss_terms_add_up_as_the_caption_says():
    grid = Grid.centered((24, 20), (5.0, 6.0), (64.0, 64.0))
    cases = [Case(f"letter {s}", letter_b(s).image, letter_b(s).labels) for s in range(6)]
    config = TrainConfig(2, 2, strength=20.0, strength_size=64, omega_midpoint=3.0, segmentation_weight=2.0)
    labels = (Label(0, "background"), Label(1, "letter B"))
    done = run_training(cases, config, labels=labels, grid=grid, about=About("letters"), device="cpu")
    strength = config.strength_on(grid.shape)
    for entry in done.history:
        total = 2 * entry["segmentation"] + entry["omega"] * (entry["a2s"] + entry["s2a"] + strength * entry["reg"])
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


# ------------------------------------------------------------------------------------------------------ what it says


def notes_of(folder: Path) -> str:
    return Reader((folder / "report.html").read_text(encoding="utf-8")).text


@words_only
def test_scores_of_training_cases_are_called_too_good(a_flat_bundle, flat_cases, tmp_path):
    trained = trained_of(a_flat_bundle, ("blob 0", "blob 1"), (), TrainConfig(3, 2, validation=0.0))
    write_training_report(trained, flat_cases[:2], tmp_path)
    text = notes_of(tmp_path)
    assert "No cases were held out" in text
    assert "too good" in text
    assert "Scores of the training cases" in text
    assert {row["case"] for row in table(tmp_path / "scores.csv")} == {"blob 0", "blob 1"}


@words_only
def test_choosing_the_epoch_by_the_held_out_cases_is_said(written, a_flat_bundle, flat_cases, tmp_path):
    warning = "The held-out cases chose the epoch"
    assert warning in notes_of(written)
    trained = trained_of(a_flat_bundle, ("blob 0",), ("blob 1",), TrainConfig(3, 2))
    write_training_report(trained, flat_cases, tmp_path)
    assert warning not in notes_of(tmp_path)
    assert "Only 1 case was held out" in notes_of(tmp_path)


@words_only
def test_a_refined_atlas_behind_its_own_target_is_told(written, flat_trained, flat_cases, tmp_path, monkeypatch):
    itn, refined = (
        re.search(rf"\*\*(0\.\d+) [^*]*\*\* mean Dice, {stage}", (written / "report.md").read_text()).group(1)
        for stage in ("ITN", "refined")
    )
    words = "Refined, the atlas has a lower Dice than the ITN"
    assert float(refined) < float(itn)
    assert words in notes_of(written)
    assert f"({refined} against {itn})" in notes_of(written)
    monkeypatch.setattr(training_document, "_BEHIND", 1.0)
    write_training_report(flat_trained, flat_cases, tmp_path)
    assert words not in notes_of(tmp_path)


@words_only
def test_a_training_that_ended_early_is_told_with_the_reason(flat_trained, flat_cases, tmp_path):
    for config, words in (
        (replace(CONFIG, epochs=9), "ended after epoch 3 of 9: it was stopped"),
        (replace(CONFIG, epochs=9, patience=1), "ended after epoch 3 of 9: it was stopped"),  # epoch 3 is the best
    ):
        record = MappingProxyType({"config": as_dict(config)})
        trained = replace(flat_trained, bundle=replace(flat_trained.bundle, training=record))
        write_training_report(trained, flat_cases, tmp_path, cancel=lambda: True, overwrite=True)
        assert words in notes_of(tmp_path)
    falling = tuple({**entry, "dice_one_pass": 0.9 / n} for n, entry in enumerate(HISTORY, 1))
    write_training_report(replace(trained, history=falling), flat_cases, tmp_path, cancel=lambda: True, overwrite=True)
    assert "ended after epoch 3 of 9: no epoch was better in 1 epochs" in notes_of(tmp_path)


@words_only
def test_labels_that_the_truth_lacks_are_not_held_against_the_model(flat_trained, flat_cases, tmp_path):
    array = flat_cases[1].labels.array.copy()
    array[array == 7] = 3
    array[..., 0, 0] = 9  # a label that the model does not know
    cases = [flat_cases[0], replace(flat_cases[1], labels=flat_cases[1].labels.with_array(array)), *flat_cases[2:]]
    write_training_report(flat_trained, cases, tmp_path)
    assert "The truth of blob 1 has no core: not scored there." in notes_of(tmp_path)
    rows = table(tmp_path / "scores.csv")
    assert {row["label"] for row in rows} == {"3", "7"}
    dices = [float(r["dice"]) for r in rows if (r["label"], r["stage"]) == ("7", "final") and r["case"] != "blob 1"]
    shown = re.search(r"^\| Dice .*?^\| core \|(.*?)$", (tmp_path / "report.md").read_text(), re.DOTALL | re.MULTILINE)
    assert f"{np.mean(dices):.3f} ± {np.std(dices, ddof=1):.3f}" in shown.group(1)


@words_only
def test_cases_that_cannot_be_scored_are_named(flat_trained, flat_cases, tmp_path):
    gone = replace(flat_cases[2], image=tmp_path / "gone.nrrd")
    write_training_report(flat_trained, [*flat_cases[:2], gone, flat_cases[3]], tmp_path / "report")
    assert "blob 2 could not be scored" in notes_of(tmp_path / "report")
    assert {row["case"] for row in table(tmp_path / "report" / "scores.csv")} == {"blob 1", "blob 3"}


@words_only
def test_a_cut_in_the_number_of_cases_is_stated(flat_trained, flat_cases, tmp_path, monkeypatch):
    monkeypatch.setattr(training_report, "MOST_CASES", 2)
    write_training_report(flat_trained, flat_cases, tmp_path)
    assert "Of 3 held-out cases, 2 were scored" in notes_of(tmp_path)
    assert {row["case"] for row in table(tmp_path / "scores.csv")} == {"blob 1", "blob 3"}


@words_only
def test_cancelling_keeps_what_was_scored(flat_trained, flat_cases, tmp_path):
    seen = []
    path = write_training_report(
        flat_trained, flat_cases, tmp_path / "one", report=seen.append, cancel=lambda: len(seen) > 0
    )
    assert [(p.stage, p.step, p.total, p.message) for p in seen] == [("report", 1, 3, "blob 1")]
    assert "The scoring was stopped after 1 case." in notes_of(path.parent)
    assert {row["case"] for row in table(path.parent / "scores.csv")} == {"blob 1"}
    none = write_training_report(flat_trained, flat_cases, tmp_path / "none", cancel=lambda: True).parent
    assert "The scoring was stopped after 0 cases." in notes_of(none)
    assert (none / "loss.png").exists()
    assert not (none / "scores.png").exists()


def test_a_half_refined_case_is_not_scored(flat_trained, flat_cases):
    calls = iter(range(1000))
    # Asked before the case, then within it: here in the middle of the refinement.
    scores = score_cases(flat_trained.bundle, flat_cases[1:2], cancel=lambda: next(calls) >= 5)
    assert next(calls) > 5
    assert scores.cancelled
    assert scores.cases == ()


def test_models_without_itn_or_refinement_have_fewer_stages(make_bundle):
    assert stages_of(make_bundle(2, stn_input="image")) == ("one_pass",)
    assert stages_of(replace(make_bundle(2), refinement=RefineConfig(0, 1.0))) == ("prediction", "one_pass")


# ------------------------------------------------------------------------------------------------------- the files


def test_html_is_whole_in_itself(written):
    page = (written / "report.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert found.open == []
    assert not {"script", "link", "iframe", "object", "a"} & set(found.tags)
    assert all(address.startswith("data:") for address in found.addresses)
    assert not re.search(r"url\(|@import|https?:", page.split("</style>")[0]), "nothing is fetched"
    assert "prefers-color-scheme" in page
    assert "viewport" in page
    assert "@media print" in page
    for data in found.pictures:
        Image.open(io.BytesIO(data)).verify()
    assert found.tags.count("img") == len(list(written.glob("*.png"))) == 8
    assert "Not for clinical use" in found.text


def test_markdown_shows_the_pictures_beside_it(written):
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (written / "report.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in written.glob("*.png"))
    for name in shown:
        with Image.open(written / name) as picture:
            assert min(picture.size) > 40


def test_solid_cases_are_shown_in_three_planes(a_small_bundle, an_image, tmp_path):
    result = segment(a_small_bundle, an_image)
    cases = [Case("blob & <co>", an_image, result.prediction)]
    trained = trained_of(a_small_bundle, ("blob & <co>",), ())
    write_training_report(trained, cases, tmp_path)
    with Image.open(tmp_path / "worst-1.png") as picture:
        width, height = picture.size
    assert 0.9 < height / width < 1.3, "three rows of three"
    assert "blob & <co>" in notes_of(tmp_path)
    assert "1.000" in (tmp_path / "report.md").read_text(), "the truth is the prediction itself"


@words_only
def test_a_report_is_not_overwritten_unasked(flat_trained, flat_cases, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "worst-3.png").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(training_report, "score_cases", None)  # nothing is computed before
        with pytest.raises(OutputError, match=r"worst-3\.png exists") as caught:
            write_training_report(flat_trained, flat_cases, tmp_path)
    assert "--overwrite" in caught.value.hint
    write_training_report(flat_trained, flat_cases, tmp_path, cancel=lambda: True, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert not (tmp_path / "worst-3.png").exists(), "a picture of the old report is not taken for one of the new"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_places_that_cannot_be_written_are_refused(tmp_path):
    check_training_report(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists(), "asking makes nothing"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        check_training_report(tmp_path / "file" / "report")


def test_cases_of_another_training_are_refused(flat_trained, flat_cases, tmp_path):
    with pytest.raises(ConfigError, match=r"blob 3 .*not among the cases"):
        write_training_report(flat_trained, flat_cases[:3], tmp_path)
    assert list(tmp_path.iterdir()) == []


@words_only
def test_cases_of_one_name_are_not_mixed_up(flat_trained, flat_cases, tmp_path):
    twin = replace(flat_cases[0], name="blob 1")
    write_training_report(flat_trained, [*flat_cases, twin], tmp_path, cancel=lambda: False)
    assert "Several cases are called blob 1" in notes_of(tmp_path)
    assert {row["case"] for row in table(tmp_path / "scores.csv")} == {"blob 2", "blob 3"}


# ------------------------------------------------------------------------------------------------------- its pieces


def test_documents_mean_what_their_texts_say():
    """Names of cases and structures may hold anything."""
    odd = 'a<b> & "c" | *d* _e_ [f](g) `h`'
    cells = (Cell("1.0", "best"), Cell(odd))
    block = Tables((Table(odd, (Group("", ("x", "y")),), (Row(odd, (1, 2, 3), cells),)),), odd)
    png = io.BytesIO()
    Image.new("RGB", (2, 2)).save(png, "PNG")
    picture = Pictures(((Picture("one", odd, odd, png.getvalue()),),))
    document = Document(odd, odd, (Section(odd, (Text(odd), Facts(((odd, odd),)), block, picture)),), (odd,))
    found = Reader(to_html(document))
    assert found.text.count(odd) == 13
    assert found.open == []
    assert "b" not in found.tags
    lines = to_markdown(document).splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {2, 3}
    assert not re.search(r"(?<!\\)[*_`](?!\*)", "".join(rows[-1]).replace("**1.0**", ""))


def test_spread_leaves_out_what_does_not_exist():
    assert Spread.of([1.0, nan, 3.0]) == Spread(2.0, pytest.approx(2**0.5), 2)
    alone = Spread.of([0.5, nan])
    assert (alone.mean, alone.n) == (0.5, 1)
    assert isnan(alone.deviation)
    assert Spread.of([]).n == 0


def test_mean_over_structures_is_missing_where_one_of_them_is(a_flat_result):
    truth = a_flat_result.prediction
    missed = truth.with_array(np.where(truth.array == 7, 3, truth.array))
    scores = evaluate(missed, truth, a_flat_result.names)
    case = CaseScores("one", {"final": scores})
    assert case.mean("final", "dice") == pytest.approx(scores[3].dice / 2), "what was not found has Dice 0"
    assert isnan(case.mean("final", "assd")), "a mean of fewer structures would look better than it is"
    forgiven = CaseScores("one", {"final": scores}, frozenset({7}))
    assert forgiven.mean("final", "assd") == scores[3].assd
    assert CohortScores((case, forgiven), ("final",), {}).worst(1) == (case,)


def test_soft_labels_mix_their_colours():
    grid = Grid.centered((8, 12), (1.0, 1.0))
    soft = np.zeros((3, 8, 12), dtype=np.float32)
    soft[1, :, :6], soft[2, :, 6:] = 1.0, 0.5
    soft[0] = 1 - soft[1:].sum(axis=0)
    volume = Volume.from_array(soft, grid)
    (view,) = atlas_views(volume, 120)
    picture = mixed(volume, view, [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    np.testing.assert_allclose(picture[60, 20], (1, 0, 0), atol=1e-3)
    np.testing.assert_allclose(picture[60, 100], (0, 0, 0.5), atol=1e-3)
    np.testing.assert_allclose(picture[60, 60], (0.5, 0, 0.25), atol=0.06)
    assert picture[5].max() == 0, "beyond the grid"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200.2, "3 min 20 s"),
        (3599.6, "1 h"),
        (18600, "5 h 10 min"),
        (86390, "1 d"),
        (183600, "2 d 3 h"),
    ],
)
def test_times_for_people(seconds, text):
    assert duration(seconds) == text

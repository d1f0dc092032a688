"""Tables of experiments: means, missing structures, significance and its correction, marks and the best."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from AtlasISTNLib.errors import ConfigError, VolumeError
from AtlasISTNLib.experiment_figures import ranked
from AtlasISTNLib.experiment_reading import read_experiment
from AtlasISTNLib.experiment_scores import read_scores, score_case, write_scores
from AtlasISTNLib.experiment_tables import case_means, compare, write_table
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import Spread
from AtlasISTNLib.significance import holm, wilcoxon
from AtlasISTNLib.volume import Volume

GRID = Grid.centered((8, 9), (1.0, 2.0))
NAMES = {1: "left", 2: "right"}


def label_map(left=(), right=()):
    """Two labels, each given by its slices."""
    codes = np.zeros(GRID.shape, dtype=np.uint8)
    for value, place in ((1, left), (2, right)):
        if place:
            codes[place] = value
    return Volume.from_array(codes, GRID)


LEFT, RIGHT = (slice(1, 5), slice(1, 4)), (slice(2, 6), slice(5, 8))
TRUTH = label_map(LEFT, RIGHT)
LACKING = label_map(LEFT)


def lines_with(values, measure="dice", case="c{}"):
    """Lines of a perfect result whose measure is replaced by these values, a case for each."""
    (line, _) = score_case("c", TRUTH, TRUTH, NAMES, seconds=1.0)
    return tuple(replace(line, case=case.format(i), **{measure: v}) for i, v in enumerate(values))


# --------------------------------------------------------------------------------------------------------- significance


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 give 0.02, 0.03, 0.06, 0.04; the last one may not fall.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_tests_that_could_not_be_made_do_not_count_in_holms_family():
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.03)


def test_holm_refuses_what_is_no_p():
    with pytest.raises(ConfigError, match="between 0 and 1"):
        holm([0.5, 1.2])


def test_wilcoxon_is_exact_for_few_pairs():
    first = {f"c{i}": float(i) for i in range(1, 7)}
    found = wilcoxon(first, dict.fromkeys(first, 0.0))
    # All six differences point one way: 2 of the 2^6 signs are as extreme.
    assert (found.n, found.zeros, found.median_difference) == (6, 0, 3.5)
    assert found.p == pytest.approx(2 / 2**6)
    # Differences 1, 2, 3 and -4, against all 16 assignments of signs.
    signed = {"a": 1.0, "b": 2.0, "c": 3.0, "d": -4.0}
    sums = [sum(rank for rank, s in zip((1, 2, 3, 4), signs, strict=True) if s) for signs in product((0, 1), repeat=4)]
    expected = 2 * sum(total <= 4 for total in sums) / 16
    assert wilcoxon(signed, dict.fromkeys(signed, 0.0)).p == pytest.approx(min(1.0, expected))


def test_wilcoxon_leaves_out_cases_without_a_figure_on_either_side():
    first = {"a": 1.0, "b": 2.0, "c": math.nan, "d": 5.0, "e": 4.0}
    second = {"a": 0.0, "b": 2.0, "c": 1.0, "d": math.inf, "f": 4.0}
    found = wilcoxon(first, second)
    assert (found.n, found.zeros) == (2, 1)


def test_pairs_without_a_difference_make_nothing_significant():
    same = {f"c{i}": 0.1 * i for i in range(20)}
    assert wilcoxon(same, dict(same)).p == 1.0
    assert math.isnan(wilcoxon({}, same).p)
    # Twelve better cases among many ties are weaker evidence than twelve better cases alone.
    better = {case: value + (0.01 * (i + 1) if i < 12 else 0) for i, (case, value) in enumerate(same.items())}
    alone = {case: better[case] for case in list(better)[:12]}
    assert wilcoxon(alone, same).p < wilcoxon(better, same).p < 0.05


# --------------------------------------------------------------------------------------------------------------- scores


def test_a_missing_structure_counts_as_dice_0_and_has_no_distance():
    left, right = score_case("c", LACKING, TRUTH, NAMES)
    assert (left.dice, left.missing) == (1, False)
    assert (right.dice, right.missing, right.spurious) == (0, True, False)
    assert math.isnan(right.hd)
    assert math.isnan(right.assd)
    assert case_means([left, right], "dice") == {"c": 0.5}
    assert case_means([left, right], "hd") == {"c": 0.0}
    assert math.isnan(case_means([left, right], "hd", 2)["c"])


def test_a_structure_that_the_truth_lacks():
    _, right = score_case("c", TRUTH, LACKING, NAMES)
    assert (right.dice, right.missing, right.spurious) == (0, False, True)
    _, neither = score_case("c", LACKING, LACKING, NAMES)
    assert math.isnan(neither.dice)
    assert (neither.missing, neither.spurious) == (False, False)


def test_scores_come_back_from_their_file(tmp_path):
    lines = score_case("case, with a comma", LACKING, TRUTH, NAMES, 0.125, 1 / 3, "diverged")
    write_scores(tmp_path / "s.csv", lines)
    found = read_scores(tmp_path / "s.csv")
    assert repr(found) == repr(lines)  # nan is not equal to itself
    assert read_scores(tmp_path / "absent.csv") == ()


@pytest.mark.parametrize("text", ["case,dice\na,1\n", "", "{}"])
def test_a_foreign_file_is_no_scores(tmp_path, text):
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(VolumeError, match="not a file of scores"):
        read_scores(tmp_path / "s.csv")


def test_cut_off_scores_are_refused(tmp_path):
    path = tmp_path / "s.csv"
    write_scores(path, score_case("c", TRUTH, TRUTH, NAMES))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(VolumeError, match="remove it to measure again"):
        read_scores(path)


def test_means_and_spreads_are_the_samples():
    summary = Spread.of([1.0, 2.0, 4.0, math.nan])
    assert summary.n == 3
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert math.isnan(Spread.of([1.0]).deviation)


def test_cases_are_ranked_with_failures_last():
    values = {"a": 0.5, "b": math.nan, "c": 0.9}
    assert ranked(values, more=True) == ["c", "a", "b"]
    assert ranked(values, more=False) == ["a", "c", "b"]


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.fixture
def experiment():
    """The bundled hearts with two structures, cut to what the tables need."""
    found = read_experiment("phantom-heart")
    return replace(found, labels=(found.labels[0], *(replace(found.labels[i], name=NAMES[i]) for i in (1, 2))))


@pytest.fixture
def table(experiment):
    """Refined and U-net against each other."""
    entry = replace(experiment.tables[0], name="t", rows=("unet", "itn", "refined"), tests=("clean",))
    return replace(entry, measures=("dice", "hd"))


def test_marks_stand_where_the_corrected_test_says_so(experiment, table, tmp_path):
    base = np.linspace(0.6, 0.8, 30)
    measured = {
        ("clean", "refined"): lines_with(base),
        ("clean", "unet"): lines_with(base - np.linspace(0.01, 0.1, 30)),
        ("clean", "itn"): lines_with(base + np.where(np.arange(30) % 2, 0.01, -0.01)),
    }
    comparisons = compare(table, measured)
    # Three rows against two references, each of which is not compared with itself, in two measures.
    assert len(comparisons) == 2 * (3 * 2 - 2)
    marks = {(c.row, c.mark) for c in comparisons if c.significant and c.measure == "dice"}
    assert marks == {("unet", "*"), ("refined", "†"), ("itn", "†")}
    assert not any(c.significant for c in comparisons if c.measure == "hd")  # all of them are 0
    raw = sorted(c.paired.p for c in comparisons)
    assert min(c.p_holm for c in comparisons) == pytest.approx(raw[0] * len(comparisons))
    write_table(experiment, table, measured, None, tmp_path)
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.split("###")[0].splitlines() if line.startswith("|")]
    cells = {line[1].strip(): line[2].strip() for line in lines}
    assert cells["U-net"] == r"0.645 ± 0.033\*"  # 0.59 to 0.70 in 30 even steps
    assert cells["Refined"] == "**0.700 ± 0.061**†"
    assert cells["ITN"].startswith("**0.700 ± ")
    assert cells["ITN"].endswith("**†")
    assert r"\* against “Refined”; † against “U-net”" in text
    assert "over all 8 comparisons" in text
    with open(tmp_path / "t-tests.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["mark"] for row in rows if row["measure"] == "dice"] == ["*", "", "†", "†"]


def test_few_pairs_are_never_marked(table):
    measured = {("clean", "refined"): lines_with([0.9] * 4), ("clean", "unet"): lines_with([0.1, 0.2, 0.3, 0.4])}
    assert not any(c.significant for c in compare(table, measured))


def test_missing_structures_are_counted_in_the_table(experiment, table, tmp_path):
    full = [line for i in range(3) for line in score_case(f"c{i}", TRUTH, TRUTH, NAMES)]
    lacking = [line for i in range(3) for line in score_case(f"c{i}", TRUTH if i else LACKING, TRUTH, NAMES)]
    measured = {("clean", "unet"): lacking, ("clean", "refined"): full}
    write_table(experiment, table, measured, {1: (1, 0, 0), 2: (1, 0, 0)}, tmp_path)
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    head = rows[0]
    unet, refined = (dict(zip(head, row, strict=True)) for row in rows[2:4])
    assert (unet["missing"], refined["missing"]) == ("1", "0")
    assert (unet["cases"], refined["cases"]) == ("3", "3")
    assert unet["DSC ↑"].startswith("0.833")
    assert (unet["topology ↑"], refined["topology ↑"]) == ("67 %", "**100 %**")
    assert "Not measured yet: itn on clean" in text
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        found = {(r["row"], r["structure"], r["measure"]): r for r in csv.DictReader(file)}
    assert found["unet", "right", "hd"]["n"] == "2"
    assert found["unet", "right", "dice"]["mean"] == str(2 / 3)
    assert found["unet", "right", "missing_total"]["mean"] == "1"
    assert found["unet", "left", "missing_total"]["mean"] == "0"


def test_topology_is_asked_of_every_structure(experiment, table, tmp_path):
    pieces = TRUTH.array[0].copy()
    pieces[4, 1:4] = 0
    pieces[7, 0] = 1  # two pieces of the left one
    lines = [*score_case("a", TRUTH, TRUTH, NAMES), *score_case("b", TRUTH.with_array(pieces), TRUTH, NAMES)]
    assert [line.shape for line in lines] == [(1, 0, 0), (1, 0, 0), (2, 0, 0), (1, 0, 0)]
    for expected, percent in (((1, 0, 0), "50 %"), ((2, 0, 0), "50 %"), ((1, 1, 0), "0 %")):
        write_table(experiment, table, {("clean", "unet"): lines}, {1: expected, 2: (1, 0, 0)}, tmp_path)
        row = next(x for x in (tmp_path / "t.md").read_text(encoding="utf-8").splitlines() if x.startswith("| U-net"))
        assert row.split("|")[4].strip() == percent


def test_a_table_of_nothing_says_so(experiment, table, tmp_path):
    write_table(experiment, table, {}, None, tmp_path)
    assert "Nothing has been measured yet." in (tmp_path / "t.md").read_text(encoding="utf-8")

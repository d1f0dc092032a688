"""The report: its figures agree with the result, and its picture shows it as radiology would."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from AtlasISTNLib import __version__
from AtlasISTNLib.bundle import Label
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.correspondence import Correspondence
from AtlasISTNLib.errors import GeometryError, OutputError, VolumeError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.metrics import dice, evaluate, mask_volume
from AtlasISTNLib.panels import visible
from AtlasISTNLib.picture import draw
from AtlasISTNLib.report import summary, write_picture
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.tables import figure_tables
from AtlasISTNLib.topology import mask_topology, topology
from AtlasISTNLib.views import bounds, letters, outline, position, sampled, views_of
from AtlasISTNLib.volume import Volume


@pytest.fixture(scope="module")
def a_refined_result(a_small_bundle, a_result):
    return refine(a_small_bundle, a_result, RefineConfig(iterations=4, strength=30.0, learning_rate=1e-3))


@pytest.fixture(scope="module")
def a_truth(a_refined_result) -> Volume:
    """The prediction without its outermost slices of the core."""
    array = a_refined_result.prediction.array[0].copy()
    layers = np.flatnonzero((array == 7).any(axis=(1, 2)))
    array[layers[0]][array[layers[0]] == 7] = 3
    return a_refined_result.prediction.with_array(array)


@pytest.fixture(scope="module")
def figures(a_small_bundle, a_refined_result, a_truth):
    return summary(a_small_bundle, a_refined_result, a_truth, "images/blob.nrrd")


@pytest.fixture(scope="module")
def a_slice(an_image, a_flat_bundle, make_image):
    """An oblique image of one slice, and what the flat model makes of it."""
    flat = Grid.centered((30, 34), (1.3, 0.9))
    picture = make_image(flat, (1.0, -1.5), 1.1).array
    direction = np.array(an_image.grid.direction)
    grid = Grid.centered((1, 30, 34), (1.3, 0.9, 4.0), (10.0, 20.0, -30.0), direction)
    return segment(a_flat_bundle, Volume.from_array(picture.reshape(1, 1, 30, 34), grid, "slice"))


# --------------------------------------------------------------------------------------------------------- the figures


def test_summary_is_plain_json(figures):
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_where_it_comes_from(figures, an_image):
    assert figures["software"]["version"] == __version__
    age = datetime.now(timezone.utc) - datetime.fromisoformat(figures["date"])
    assert 0 <= age.total_seconds() < 600
    image = figures["image"]
    assert (image["name"], image["source"]) == (an_image.name, "images/blob.nrrd")
    assert image["size"] == image["shape"][::-1] == list(an_image.grid.size)
    for key in ("spacing", "origin", "direction"):
        np.testing.assert_array_equal(image[key], getattr(an_image.grid, key))
    assert figures["model"]["name"] == "small"
    assert figures["model"]["licence"] == "Apache-2.0"
    assert "Not for clinical use" in figures["model"]["intended_use"]
    assert figures["device"] == "cpu"
    assert set(figures["seconds"]) == {"place", "one_pass", "refine"}


def test_placement_says_where_the_model_grid_lies(figures, a_refined_result):
    placed = a_refined_result.placement
    assert figures["placement"]["how"] == placed.how
    np.testing.assert_allclose(figures["placement"]["center"], placed.grid.center)
    box = np.reshape(figures["placement"]["box"], (3, 2))
    np.testing.assert_allclose(box.mean(axis=1), placed.grid.center)
    np.testing.assert_allclose(box[:, 1] - box[:, 0], placed.grid.extent)  # its directions are the model's, straight
    assert figures["placement"]["grid"]["shape"] == list(placed.grid.shape)
    assert figures["placement"]["warnings"] == list(placed.warnings)


def test_refinement_has_its_settings_and_course(figures, a_refined_result):
    refinement, trace = figures["refinement"], a_refined_result.trace
    expected = {"iterations": 4, "strength": 30.0, "beta": 1.0, "gamma": 0.0, "learning_rate": 1e-3, "mode": "network"}
    assert refinement["config"] == expected
    assert refinement["strength"] == 30.0
    np.testing.assert_allclose(refinement["strength_voxel"], [30 * 4 / (n - 1) ** 2 for n in (12, 20, 16)])
    assert refinement["iterations"] == 4
    assert refinement["stopped"] == "finished"
    totals = [entry["total"] for entry in refinement["trace"]]
    assert totals == [step.total for step in trace.steps]
    assert refinement["best"] == int(np.argmin(totals))
    assert refinement["losses"]["best"]["total"] == min(totals)
    assert refinement["losses"]["first"]["total"] == totals[0]
    assert refinement["losses"]["last"]["total"] == totals[-1]


def test_defaults_of_the_model_are_filled_in(a_small_bundle, a_result):
    config = summary(a_small_bundle, refine(a_small_bundle, a_result))["refinement"]["config"]
    assert (config["iterations"], config["strength"], config["learning_rate"]) == (8, 20.0, 1e-3)


def test_structures_agree_with_the_label_maps(figures, a_refined_result):
    maps = {
        "prediction": a_refined_result.prediction,
        "one_pass": a_refined_result.one_pass_labels,
        "final": a_refined_result.labels,
    }
    assert [(e["value"], e["name"], e["color"]) for e in figures["structures"]] == [
        (3, "shell", [200, 80, 80]),
        (7, "core", [80, 80, 200]),
    ]
    for entry in figures["structures"]:
        assert entry["volume"]["unit"] == "mL"
        for stage, volume in maps.items():
            mask = volume.array[0] == entry["value"]
            assert mask.any()
            assert entry["volume"][stage] == mask_volume(mask, volume.grid.spacing)
            assert entry["topology"][stage] == vars(topology(volume)[entry["value"]])
        agreement = dice(maps["prediction"].array == entry["value"], maps["final"].array == entry["value"])
        assert entry["dice_prediction_final"] == agreement


def test_topology_of_the_atlas_is_its_own(figures, a_small_bundle):
    labels = a_small_bundle.atlas_labels.array.argmax(axis=0)
    for channel, entry in enumerate(figures["structures"], 1):
        assert entry["topology"]["atlas"] == vars(mask_topology(labels == channel))
        assert entry["topology"]["atlas"]["components"] > 0


def test_scores_against_a_reference(figures, a_refined_result, a_truth):
    expected = evaluate(a_refined_result.labels, a_truth, a_refined_result.names).to_dict()
    assert figures["scores"]["final"] == expected
    core = figures["scores"]["prediction"]["labels"][1]
    assert core["name"] == "core"
    assert 0.5 < core["dice"] < 1
    assert set(figures["scores"]) == {"prediction", "one_pass", "final"}


def test_without_refinement_and_reference_there_are_none(a_small_bundle, a_result):
    plain = summary(a_small_bundle, a_result)
    assert plain["refinement"] is None
    assert plain["scores"] is None
    for entry in plain["structures"]:
        assert entry["volume"]["final"] == entry["volume"]["one_pass"]


def test_reference_must_fit(a_small_bundle, a_result, an_image):
    elsewhere = Grid.centered(an_image.grid.shape, an_image.grid.spacing)
    with pytest.raises(GeometryError, match="truth"):
        summary(a_small_bundle, a_result, Volume.from_array(np.zeros(elsewhere.shape), elsewhere, "truth"))
    with pytest.raises(VolumeError, match="blob"):
        summary(a_small_bundle, a_result, an_image)


def mapped(result, field: np.ndarray | None, scale: float = 1.0) -> Correspondence:
    """A correspondence with a known displacement in voxels (x only) and a scaling."""
    grid = result.placement.grid
    array = None
    if field is not None:
        array = np.zeros((3, *grid.shape))
        array[0] = field * 2 / (grid.size[0] - 1)
    theta = np.diag([scale] * 3 + [1.0])
    return Correspondence.build("atlas_from_image", theta, array, array, grid, result.correspondence.atlas_grid)


def test_folding_of_known_maps(a_small_bundle, a_result):
    n = a_result.placement.grid.size[0]
    x = np.arange(n, dtype=np.float64)

    def of(field: np.ndarray | None, scale: float = 1.0) -> dict:
        return summary(a_small_bundle, replace(a_result, correspondence=mapped(a_result, field, scale)))["folding"]

    smooth = of(None, 0.5)
    assert smooth["volume_voxels"] == 0
    assert smooth["smallest_jacobian"] == pytest.approx(0.125)
    stretched = of(np.broadcast_to(-0.25 * (x - 5), (16, 20, n)))
    assert stretched["smallest_jacobian"] == pytest.approx(0.75)
    # One layer of cells is turned inside out: its far side lies one voxel before its near side.
    folded = of(np.broadcast_to(np.where(x > 5, -2.0, 0.0), (16, 20, n)))
    assert folded["smallest_jacobian"] == pytest.approx(-1)
    assert folded["volume_voxels"] == pytest.approx(15 * 19)
    assert folded["percent"] == pytest.approx(100 / (n - 1))


def test_single_slice_is_measured_as_the_flat_image_it_is(a_flat_bundle, a_slice):
    figures = summary(a_flat_bundle, a_slice, a_slice.prediction)
    shell, core = figures["structures"]
    assert shell["volume"]["unit"] == "mm²"
    assert core["volume"]["final"] == pytest.approx(1.3 * 0.9 * np.count_nonzero(a_slice.labels.array == 7))
    assert shell["topology"]["atlas"] == {"components": 1, "holes": 1, "tunnels": 0, "euler": 0}
    assert shell["topology"]["prediction"]["holes"] == 1
    # Seen in 3D all voxels of a slice would be surface, and the distances of what overlaps nearly zero.
    final = figures["scores"]["final"]["labels"][0]
    assert final["assd"] > 0.5 * (1 - final["dice"])


def test_folding_of_a_single_slice_is_that_of_the_flat_image(a_flat_bundle, make_image):
    flat = make_image(Grid.centered((30, 34), (1.3, 0.9)), (1.0, -1.5), 1.1)
    thick = Grid.centered((1, 30, 34), (1.3, 0.9, 4.0), (0.0, 0.0, 25.0))
    images = (flat, Volume.from_array(flat.array.reshape(1, *thick.shape), thick))
    found = [summary(a_flat_bundle, segment(a_flat_bundle, image))["folding"] for image in images]
    assert found[1]["smallest_jacobian"] == pytest.approx(found[0]["smallest_jacobian"])
    assert found[1]["volume_voxels"] == pytest.approx(found[0]["volume_voxels"])


# ---------------------------------------------------------------------------------------------------------- the tables


def test_tables_mark_the_best_and_what_contradicts_the_atlas(figures):
    changed = json.loads(json.dumps(figures))
    changed["structures"][0]["topology"]["prediction"]["components"] = 4
    for stage, value in (("prediction", 0.9), ("one_pass", 0.5), ("final", 0.90004)):
        changed["scores"][stage]["labels"][0]["dice"] = value
    structures, scores = figure_tables(changed)
    odd = [cell.text for cell in structures.rows[0].cells if cell.style == "odd"]
    assert odd[0] == "4"
    marks = [(cell.text, cell.style) for cell in scores.rows[0].cells[:3]]
    assert marks == [("0.900", "best"), ("0.500", ""), ("0.900", "best")], "what looks the same is marked the same"
    heads = [head for group in scores.groups for head in group.heads]
    assert all(len(row.cells) == len(heads) for row in scores.rows)


def test_mean_of_fewer_structures_is_not_shown_as_the_best(figures):
    changed = json.loads(json.dumps(figures))
    changed["scores"]["prediction"]["labels"][1] |= {"dice": 0.0, "assd": None, "hd": None}
    changed["scores"]["prediction"]["mean"]["assd"] = 0.01
    mean = figure_tables(changed)[1].rows[-1]
    assert mean.name == "mean"
    assert mean.cells[3].text == "–"


def test_many_structures_are_cut_short(figures):
    changed = json.loads(json.dumps(figures | {"scores": None}))
    changed["structures"] *= 40
    rows = figure_tables(changed)[0].rows
    assert len(rows) == 31
    assert rows[-1].name == "and 50 more: see report.json"


# ----------------------------------------------------------------------------------------------------------- the views


@pytest.mark.parametrize(
    ("direction", "expected"), [((1, 0, 0), "L"), ((0, 0, -2), "I"), ((-0.8, 0.6, 0), "RP"), ((0.2, -0.97, 0.1), "A")]
)
def test_letters_of_directions(direction, expected):
    assert letters(direction) == expected


def test_positions_are_named_as_radiology_does():
    assert [position(0, -12.2), position(1, 3.0), position(2, -7.6)] == ["R 12 mm", "P 3 mm", "I 8 mm"]


def spot(grid: Grid, at: np.ndarray) -> Volume:
    """A soft bright spot at a WORLD point."""
    distance = np.linalg.norm(grid.points() - at, axis=-1)
    return Volume.from_array(np.exp(-((distance / 4) ** 2)).astype(np.float32), grid)


@pytest.mark.parametrize("oblique", [False, True])
def test_radiological_display_of_any_grid(oblique_grid, oblique):
    center = np.array(oblique_grid.center)
    grid = oblique_grid if oblique else Grid.centered((22, 24, 26), (1.2, 1.3, 1.4), center)
    axial, coronal, sagittal = views_of(grid, center, center - 12, center + 12, 48)
    assert [view.title for view in (axial, coronal, sagittal)] == ["Axial", "Coronal", "Sagittal"]
    assert axial.sides == ("R", "L", "A", "P")
    assert coronal.sides == ("R", "L", "S", "I")
    assert sagittal.sides == ("A", "P", "S", "I")

    def brightest(view, offset):
        return np.unravel_index(sampled(spot(grid, center + offset), view, "linear", 0.0).argmax(), (48, 48))

    # 5 mm to the patient's left is 10 pixels to the right of the middle; anterior and superior are up.
    for view, offset, row, column in (
        (axial, (5, -3, 0), 24 - 6, 24 + 10),
        (coronal, (5, 0, 3), 24 - 6, 24 + 10),
        (sagittal, (0, -5, 3), 24 - 6, 24 - 10),
    ):
        np.testing.assert_allclose(brightest(view, np.array(offset)), (row, column), atol=2)


def test_views_lie_where_they_say(oblique_grid):
    at = np.array([31.0, -20.0, 55.0])
    for axis, view in zip((2, 1, 0), views_of(oblique_grid, at, at - 10, at + 20, 16), strict=True):
        points = view.grid.points().reshape(-1, 3)
        np.testing.assert_allclose(points[:, axis], at[axis])
        np.testing.assert_allclose(np.delete(points.mean(axis=0), axis), np.delete(at + 5, axis))
        assert view.side == pytest.approx(30)


@pytest.mark.parametrize(
    ("title", "axes", "sides"),
    [
        ("Axial", ((1, 0, 0), (0, 1, 0)), ("R", "L", "A", "P")),
        ("Axial", ((0, -1, 0), (-1, 0, 0)), ("R", "L", "A", "P")),
        ("Coronal", ((1, 0, 0), (0, 0, 1)), ("R", "L", "S", "I")),
        ("Coronal", ((0, 0, -1), (-1, 0, 0)), ("R", "L", "S", "I")),
        ("Sagittal", ((0, 1, 0), (0, 0, 1)), ("A", "P", "S", "I")),
    ],
)
def test_single_slice_is_turned_as_radiology_shows_it(title, axes, sides):
    direction = np.stack([*axes, np.cross(*axes)], axis=1)
    grid = Grid.centered((1, 20, 24), (1.0, 1.5, 3.0), (5.0, 6.0, 7.0), direction)
    center = np.array(grid.center)
    (view,) = views_of(grid, center, center - 15, center + 15, 60)
    assert (view.title, view.sides) == (title, sides)


def test_oblique_single_slice_is_shown_in_its_own_plane(a_slice):
    image = a_slice.image
    center = np.array(image.grid.center)
    # The box lies beside the slice: its plane counts, not the box's middle.
    normal = np.array(image.grid.direction)[:, 2]
    (view,) = views_of(image.grid, center, center - 15 + 3 * normal, center + 15 + 3 * normal, 60)
    np.testing.assert_allclose((view.grid.points().reshape(-1, 3) - center) @ normal, 0, atol=1e-9)
    assert sampled(image, view, "linear", -999.0).max() == pytest.approx(image.array.max(), rel=0.2)


def test_bounds_hold_the_voxels_of_labels(oblique_grid):
    array = np.zeros(oblique_grid.shape, dtype=np.uint8)
    array[4, 5, 6] = array[9, 8, 7] = 7
    low, high = bounds(Volume.from_array(array, oblique_grid), 0)
    ends = oblique_grid.transform_points([[6.0, 5.0, 4.0], [7.0, 8.0, 9.0]], "world", "voxel")
    half = np.abs(oblique_grid.direction) @ np.array(oblique_grid.spacing) / 2
    np.testing.assert_allclose(low, ends.min(axis=0) - half)
    np.testing.assert_allclose(high, ends.max(axis=0) + half)
    assert bounds(Volume.from_array(np.zeros_like(array), oblique_grid), 0) is None


def test_outline_is_where_the_label_is_and_keeps_single_voxels():
    grid = Grid.centered((40, 40), (2.0, 2.0))
    points = grid.points()
    array = np.where(np.linalg.norm(points + 10, axis=-1) < 15, 5, 0)
    array[35, 30] = 5
    (view,) = views_of(grid, grid.center, [-40, -40], [40, 40], 160)
    inside = outline(Volume.from_array(array, grid), view, 5) > 0.5
    pixels = view.grid.points()
    disc = np.linalg.norm(pixels + 10, axis=-1)
    assert inside[disc < 13].all()
    island = np.abs(pixels - points[35, 30]).max(axis=-1)
    assert not inside[(disc > 17) & (island > 2)].any()
    assert inside[island < 0.3].all()
    # Smooth, and as large as what it is the outline of.
    area = (np.count_nonzero(array) - 1) * grid.voxel_volume
    assert np.count_nonzero(inside & (disc < 20)) * view.pixel**2 == pytest.approx(area, rel=0.03)


def test_dark_colours_become_visible_and_bright_ones_stay():
    assert visible((240, 178, 62)) == pytest.approx((240 / 255, 178 / 255, 62 / 255))
    assert np.array(visible((0, 0, 0))) @ [0.2126, 0.7152, 0.0722] >= 0.3


# --------------------------------------------------------------------------------------------------------- the picture


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(picture: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(picture - color).max(axis=-1) < 25).mean())


def test_picture_shows_the_structures_in_their_colours(a_small_bundle, a_refined_result, a_truth, figures, tmp_path):
    picture = pixels_of(write_picture(a_small_bundle, a_refined_result, tmp_path / "r.png", a_truth, figures))
    assert picture.shape[1] == 2000
    assert 1500 < picture.shape[0] < 3500
    for label in a_refined_result.structures[1:]:
        assert share_of(picture, tuple(round(255 * c) for c in visible(label.color))) > 5e-4
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_written_beyond_the_page(a_small_bundle, a_refined_result, a_truth, figures):
    known = json.loads(json.dumps(figures))
    known["image"]["name"] = "a $very$ long name " * 9
    known["placement"]["warnings"] = ["This is a warning that goes on and on and on. " * 9]
    names = ("x" * 60, "a structure with a rather long name")
    labels = [replace(label, name=name) for label, name in zip(a_refined_result.structures[1:], names, strict=True)]
    for entry, name in zip(known["structures"], names, strict=True):
        entry["name"] = name
    result = replace(a_refined_result, structures=(a_refined_result.structures[0], *labels))
    canvas = draw(result, a_small_bundle.normalisation, known, a_truth)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba()).astype(int)
    back = picture[0, 0]
    for edge in (picture[:25], picture[-25:], picture[:, :25], picture[:, -25:]):
        assert (edge == back).all()


def test_empty_segmentation_has_a_report_and_a_picture(a_small_bundle, a_result, tmp_path):
    def nothing(soft: Volume) -> Volume:
        array = np.zeros_like(soft.array)
        array[0] = 1
        return soft.with_array(array)

    empty = replace(
        a_result, soft_prediction=nothing(a_result.soft_prediction), soft_atlas=nothing(a_result.soft_atlas)
    )
    figures = summary(a_small_bundle, empty, empty.prediction)
    assert not empty.labels.array.any()
    for entry in figures["structures"]:
        assert entry["volume"]["final"] == 0
        assert entry["dice_prediction_final"] is None
    picture = pixels_of(write_picture(a_small_bundle, empty, tmp_path / "r.png", empty.prediction, figures))
    assert picture.std() > 10, "the image itself is still shown"


def test_flat_picture_and_single_slice(a_flat_bundle, a_flat_result, a_slice, tmp_path):
    for result in (a_flat_result, a_slice):
        picture = pixels_of(write_picture(a_flat_bundle, result, tmp_path / "r.png"))
        assert picture.shape[1] == 1600  # three panels: not refined
        assert share_of(picture, (200, 80, 80)) > 5e-4


def test_many_structures_fit_on_the_page(a_flat_bundle, a_flat_result, tmp_path):
    many = tuple(Label(100 + i, f"structure {i}", (9 * i, 255 - 9 * i, 120)) for i in range(25))
    pad = np.zeros((25, *a_flat_result.soft_atlas.grid.shape), dtype=np.float32)

    def widened(soft: Volume) -> Volume:
        return soft.with_array(np.concatenate([soft.array, pad]))

    result = replace(
        a_flat_result,
        structures=(*a_flat_result.structures, *many),
        soft_prediction=widened(a_flat_result.soft_prediction),
        soft_atlas=widened(a_flat_result.soft_atlas),
    )
    picture = pixels_of(write_picture(a_flat_bundle, result, tmp_path / "many.png"))
    assert picture.shape[0] > 1900
    assert share_of(picture, tuple(round(255 * c) for c in visible((9 * 20, 255 - 9 * 20, 120)))) > 0


def test_picture_that_cannot_be_written(a_flat_bundle, a_flat_result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_picture(a_flat_bundle, a_flat_result, tmp_path / "file" / "r.png")

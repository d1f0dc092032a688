"""The command line: what it segments, shows, tells programs, and answers."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from AtlasISTNLib import __version__, batch
from AtlasISTNLib.bundle import save_bundle
from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.errors import DivergenceError
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.segmentation import refine, segment
from AtlasISTNLib.terminal import Console, Guard
from AtlasISTNLib.volume import Volume

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {"labels", "prediction", "one-pass", "atlas-image"}
OTHERS = {"image-from-atlas.h5", "atlas-from-image.h5", "report.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory, a_small_bundle, a_flat_bundle, an_image, a_flat_image) -> Path:
    """A folder with a 3D and a 2D model and images that they can read."""
    folder = tmp_path_factory.mktemp("cli")
    save_bundle(a_small_bundle, folder / "small.zip")
    save_bundle(a_flat_bundle, folder / "flat")
    an_image.write(folder / "head.nii.gz")
    an_image.write(folder / "again.mha")
    a_flat_image.write(folder / "picture.nrrd")
    there = Grid.centered(an_image.grid.shape, an_image.grid.spacing, -np.array(an_image.grid.center))
    Volume.from_array(an_image.array, there).write(folder / "mirrored.nrrd")
    (folder / "text.nii.gz").write_text("not an image")
    return folder


@pytest.fixture
def segmenting(run, data, tmp_path):
    """A function that runs `segment` with the 3D model into `tmp_path`/out, without a picture."""

    def call(*words: object, images=("head.nii.gz",)) -> tuple[int, str, str]:
        paths = [data / name for name in images]
        return run(
            "segment", *paths, "--model", data / "small.zip", "--output", tmp_path / "out", "--no-picture", *words
        )

    return call


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------- segment


def test_segment_writes_what_the_api_gives(segmenting, tmp_path, a_small_bundle, an_image):
    code, out, err = segmenting("--refine", 3, "--strength", 7, "--mode", "field", "--format", "nrrd")
    assert code == 0, err
    folder = tmp_path / "out" / "head"
    assert {p.name for p in folder.iterdir()} == {f"{stem}.nrrd" for stem in FILES} | OTHERS
    config = RefineConfig(iterations=3, strength=7.0, mode="field")
    expected = refine(a_small_bundle, segment(a_small_bundle, an_image), config)
    written = Volume.read(folder / "labels.nrrd")
    assert written.grid.same_as(an_image.grid)
    assert np.array_equal(written.array, expected.labels.array)
    assert np.unique(written.array).tolist() == [0, 3, 7]
    assert np.array_equal(Volume.read(folder / "one-pass.nrrd").array, expected.one_pass_labels.array)
    assert report_of(folder)["refinement"]["config"]["strength"] == 7
    assert "shell" in out
    assert "core" in out


def test_refine_zero_is_one_pass_only(segmenting, tmp_path):
    assert segmenting("--refine", 0)[0] == 0
    folder = tmp_path / "out" / "head"
    assert report_of(folder)["refinement"] is None
    labels, one_pass = (Volume.read(folder / f"{stem}.nii.gz").array for stem in ("labels", "one-pass"))
    assert np.array_equal(labels, one_pass)


def test_without_options_the_models_own_settings_hold(segmenting, tmp_path, a_small_bundle):
    assert segmenting()[0] == 0
    config = report_of(tmp_path / "out" / "head")["refinement"]["config"]
    assert (config["iterations"], config["strength"]) == (
        a_small_bundle.refinement.iterations,
        a_small_bundle.refinement.strength,
    )
    assert (config["beta"], config["gamma"], config["mode"]) == (1, 0, "network")


def test_picture_is_written_unless_refused(run, data, tmp_path):
    words = ("segment", data / "picture.nrrd", "--model", data / "flat", "--output", tmp_path, "--refine", 1)
    assert run(*words)[0] == 0
    assert (tmp_path / "picture" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words, "--overwrite", "--no-picture")[0] == 0
    assert not (tmp_path / "picture" / "report.png").exists()


@pytest.mark.parametrize("words", [("--center", "-40.5,25,-60"), ("--center=-40.5,25,-60",)])
def test_center_with_a_minus_sign(segmenting, tmp_path, words):
    assert segmenting("--refine", 0, *words, images=["mirrored.nrrd"])[0] == 0
    placement = report_of(tmp_path / "out" / "mirrored")["placement"]
    assert placement["how"] == "given"
    assert placement["center"] == pytest.approx([-40.5, 25, -60])


def test_box_places_the_grid_on_its_middle(segmenting, tmp_path, an_image):
    x, y, z = an_image.grid.center
    box = f"{x - 3:g},{x + 5:g},{y - 3:g},{y + 3:g},{z - 3:g},{z + 1:g}"
    assert segmenting("--refine", 0, "--box", box)[0] == 0
    assert report_of(tmp_path / "out" / "head")["placement"]["center"] == pytest.approx([x + 1, y, z - 1])


def test_reference_is_measured_at_every_stage(segmenting, tmp_path):
    assert segmenting("--refine", 2)[0] == 0
    truth = tmp_path / "truth.nii.gz"
    (tmp_path / "out" / "head" / "labels.nii.gz").rename(truth)
    code, out, _ = segmenting("--refine", 2, "--overwrite", "--reference", truth)
    assert code == 0
    rows = [line.split() for line in out.splitlines() if "ITN" in line or "one pass" in line or "refined" in line]
    assert len(rows) == 6
    refined = [row for row in rows if row[0] == "refined"]
    assert [row[1:4] for row in refined] == [["1.000", "0.00", "0.00"]] * 2
    assert all(float(row[-4]) < 1 for row in rows if row not in refined)


def test_a_batch_goes_on_after_a_failure(segmenting, tmp_path):
    code, out, err = segmenting("--refine", 0, images=("head.nii.gz", "text.nii.gz", "again.mha"))
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "text.nii.gz" in errors[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["again", "head"]
    assert "2 of 3 images" in out


def test_a_batch_leaves_out_results_that_are_there(segmenting, tmp_path):
    assert segmenting("--refine", 0)[0] == 0
    before = (tmp_path / "out" / "head" / "report.json").stat().st_mtime_ns
    code, out, err = segmenting("--refine", 0, images=("head.nii.gz", "again.mha"))
    assert code == 2
    assert "--overwrite" in err or "overwrit" in err
    assert (tmp_path / "out" / "head" / "report.json").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "again" / "report.json").exists()
    assert "1 of 2 images" in out


def test_images_after_options_belong_to_the_batch(run, data, tmp_path):
    words = ("--model", data / "small.zip", "--no-picture", "--refine", 0, data / "again.mha")
    assert run("segment", data / "head.nii.gz", "--output", tmp_path, *words)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "head"]


def test_placement_warnings_are_shown(segmenting, an_image):
    box = ",".join(f"{x + side:g}" for x in an_image.grid.center for side in (-30, 30))
    code, _, err = segmenting("--refine", 1, "--box", box)
    warnings = [line for line in err.splitlines() if line.startswith("warning:") and "box is larger" in line]
    assert code == 0
    assert len(warnings) == 1
    assert "head.nii.gz" in warnings[0]


# ------------------------------------------------------------------------------------------- what is shown, and to whom


def test_events_are_json_lines_and_nothing_else(segmenting, tmp_path):
    code, out, err = segmenting("--refine", 3, "--events", "jsonl", images=("head.nii.gz", "text.nii.gz"))
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert events[0] == {"event": "start", "command": "segment", "version": __version__}
    assert events[-1] == {"event": "end", "exit_code": code} == {"event": "end", "exit_code": 2}
    steps = [event for event in events if event.get("stage") == "refine"]
    assert [(event["step"], event["total"]) for event in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert all(set(event["values"]) == {"total", "a2s", "s2a", "reg"} for event in steps)
    assert all(event["image"].endswith("head.nii.gz") for event in steps)
    (result,) = (event for event in events if event["event"] == "result")
    assert Path(result["folder"]) == tmp_path / "out" / "head"
    assert [entry["name"] for entry in result["structures"]] == ["shell", "core"]
    (failure,) = (event for event in events if event["event"] == "error")
    assert failure["type"] == "VolumeError"
    assert failure["image"].endswith("text.nii.gz")
    assert failure["message"]
    assert failure["hint"]
    assert "refine" not in err


def test_a_command_line_that_makes_no_sense_is_an_event_too(run):
    code, out, err = run("segment", "--events", "jsonl")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert [event["event"] for event in events] == ["error", "end"]
    assert events[0]["type"] == "ConfigError"
    assert err.count("\n") == 1


def test_quiet_says_nothing_when_all_is_well(segmenting):
    assert segmenting("--refine", 1, "--quiet") == (0, "", "")


def test_lines_where_there_is_no_terminal(segmenting):
    _, _, err = segmenting("--refine", 2)
    assert "head: refine 2/2, total " in err
    assert "\r" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_with_time_left_on_a_terminal(segmenting, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert segmenting("--refine", 12)[0] == 0
    shown = terminal.getvalue()
    assert "head: refine" in shown
    assert "12 [" in shown or "/12" in shown  # steps and, in brackets, time gone and left
    assert "<" in shown


def test_log_is_shown_on_demand(segmenting, monkeypatch):
    def speaking(*arguments, **named):
        logging.getLogger("AtlasISTNLib.segmentation").info("heard")
        return segment(*arguments, **named)

    monkeypatch.setattr(batch, "segment", speaking)
    assert "heard" not in segmenting("--refine", 0)[2]
    assert "heard" in segmenting("--refine", 0, "--overwrite", "--verbose")[2]


# ------------------------------------------------------------------------------------- interrupts and unforeseen errors


def interrupted_at(monkeypatch, step: int, times: int) -> None:
    """Let Ctrl-C be pressed `times` at a step of the refinement."""

    def pressed(bundle, result, config, report, cancel, steering):
        def reporting(progress):
            report(progress)
            for _ in range(times if progress.step == step else 0):
                signal.raise_signal(signal.SIGINT)

        return refine(bundle, result, config, reporting, cancel, steering)

    monkeypatch.setattr(batch, "refine", pressed)


def test_first_interrupt_keeps_the_best_so_far(segmenting, tmp_path, monkeypatch):
    interrupted_at(monkeypatch, step=2, times=1)
    handler = signal.getsignal(signal.SIGINT)
    code, _, err = segmenting("--refine", 50, images=("head.nii.gz", "again.mha"))
    assert code == 130
    refinement = report_of(tmp_path / "out" / "head")["refinement"]
    assert (refinement["stopped"], refinement["iterations"]) == ("cancelled", 2)
    assert not (tmp_path / "out" / "again").exists()
    assert "Ctrl-C again" in err
    assert signal.getsignal(signal.SIGINT) is handler


def test_second_interrupt_stops_at_once(segmenting, tmp_path, monkeypatch):
    interrupted_at(monkeypatch, step=2, times=2)
    code, _, err = segmenting("--refine", 50)
    assert code == 130
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in err


def test_divergence_keeps_the_last_good_result(segmenting, tmp_path, monkeypatch):
    def diverging(bundle, result, config, report, cancel, steering):
        good = refine(bundle, result, RefineConfig(2), report, cancel)
        raise DivergenceError("not finite", "", replace(good, trace=replace(good.trace, stopped="diverged")))

    monkeypatch.setattr(batch, "refine", diverging)
    code, _, err = segmenting()
    assert code == 2
    assert report_of(tmp_path / "out" / "head")["refinement"]["stopped"] == "diverged"
    assert [line for line in err.splitlines() if line.startswith("error:") and "head" in line]


@pytest.mark.parametrize("debug", [False, True])
def test_unforeseen_errors_are_one_line_unless_debugging(segmenting, monkeypatch, tmp_path, debug):
    calls = []

    def broken(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("oh")
        return segment(*arguments, **named)

    monkeypatch.setattr(batch, "segment", broken)
    code, _, err = segmenting("--refine", 0, *["--debug"] * debug, images=("head.nii.gz", "again.mha"))
    assert code == 1
    assert ("Traceback" in err) == debug
    assert "ZeroDivisionError: oh" in err
    assert ("--debug" in err) != debug
    assert (tmp_path / "out" / "again" / "report.json").exists()


def test_guard_lets_interrupts_through(capsys):
    with pytest.raises(KeyboardInterrupt), Guard(Console()):
        raise KeyboardInterrupt


def test_an_unreadable_file_is_bad_input(capsys):
    with Guard(Console()) as guard:
        raise PermissionError(13, "Permission denied", "scan.nrrd")
    assert guard.code == 2
    assert capsys.readouterr().err.startswith("error: scan.nrrd: Permission denied — ")


# ------------------------------------------------------------------------------------------------- help, entry points


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom AtlasISTNLib.cli import main\nassert main(['segment', '--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'SimpleITK', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--strength" in done.stdout


@pytest.mark.parametrize("command", ["segment", "demo", "models", "evaluate", "phantom", "train", "import-reference"])
def test_every_command_has_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: atlas-istn {command}")


def test_version(run):
    assert run("--version") == (0, f"atlas-istn {__version__}\n", "")


def test_python_m_runs_the_same(data, tmp_path):
    words = ["segment", data / "text.nii.gz", "--model", data / "small.zip", "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "AtlasISTNLib", *map(str, words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()

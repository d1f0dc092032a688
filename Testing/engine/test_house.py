"""The house holds together: floors, habits, file lists, versions and the descriptions of the extension."""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from house import (
    ENGINE,
    HOST,
    MODULE,
    NEVER_IN_HOST,
    REPOSITORY,
    WIDGET_ROOMS,
    absolute_complaints,
    habit_complaints,
    host_complaints,
    imports,
    lookups,
    package_of,
    python_files,
    text_complaints,
)

# A room imports only rooms on lower floors, or earlier on its own.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "progress", "configs", "synthesis_config", "strict_json", "resources"),
    (
        *("geometry", "nifti", "volume", "correspondence", "exchange", "manifest"),
        *("topology", "metrics", "folding", "views"),
        *("implicit", "heart_phantom", "chest_phantom", "heart_scan", "letter_phantom", "phantoms"),
        *("nnunet", "datasets", "label_table", "label_maps", "recipes"),
        *("splits", "prepared", "grids", "dataset_checks", "steering", "landmark_files"),
        "experiment_data",
    ),
    ("distributed", "warp", "synthesis_fields", "networks", "losses"),
    ("model", "compaction", "bundle", "reference"),
    (
        *("placement", "result", "moving", "guidance", "segmentation", "disagreements"),
        *("checkpoint", "augmentation", "synthesis"),
        *("atlas_updates", "objective", "training"),
    ),
    (
        *("panels", "tables", "picture", "report", "outputs"),
        *(
            "significance",
            "experiments",
            "experiment_reading",
            "experiment_scores",
            "experiment_runs",
            "experiment_tables",
        ),
        *("experiment_drawing", "experiment_figures"),
        *("atlas_pictures", "tracking", "document", "case_scores", "score_tables"),
        *("training_figures", "training_document", "training_report"),
        *("terminal", "steering_arguments", "arguments", "steering_files", "batch", "demo", "commands"),
        *("training_command", "experiment_command"),
        *("worker_channel", "worker_progress", "worker_steering", "worker_requests", "worker_states"),
        *("worker_cases", "worker_training"),
        *("worker_jobs", "worker", "cli"),
    ),
    ("__init__", "__main__"),
)
# What a floor adds to the packages of the floors below, and what one room alone may use besides.
PACKAGES: tuple[set[str], ...] = (
    set(),
    {"numpy", "SimpleITK", "scipy"},
    {"torch"},
    {"safetensors"},
    set(),
    set(),
    set(),
)
ROOM_PACKAGES = {
    "panels": {"matplotlib"},
    "picture": {"matplotlib"},
    "report": {"matplotlib"},
    "terminal": {"tqdm"},
    "experiment_drawing": {"matplotlib"},
    "experiment_figures": {"matplotlib"},
    "training_figures": {"matplotlib"},
}
HOST_FLOORS = 2  # the panel knows the floors 0 and 1: it opens before torch is installed

ORDER = {room: index for index, room in enumerate(room for floor in FLOORS for room in floor)}
FLOOR_OF = {room: level for level, floor in enumerate(FLOORS) for room in floor}


def room_of(path: Path) -> str:
    return path.relative_to(ENGINE).parts[0].removesuffix(".py")


def floor_complaints(source: str, room: str, package: tuple[str, ...] = ("AtlasISTNLib",)) -> list[str]:
    """What the imports of one engine file break."""
    level = FLOOR_OF[room]
    allowed = set().union(*PACKAGES[: level + 1], ROOM_PACKAGES.get(room, set()))
    complaints = []
    for line, name in imports(ast.parse(source), package):
        top, _, rest = name.partition(".")
        inner = rest.split(".")[0]
        if name == "(computed)":
            if room != "__init__":
                complaints.append(f"line {line}: imports a computed name; only the front door does")
        elif top == "AtlasISTNLib":
            if inner in {"", "__version__"} or inner == room:
                continue
            if inner not in ORDER:
                complaints.append(f"line {line}: imports {inner!r} from the package; import it from its room")
            elif ORDER[inner] >= ORDER[room] and room != "__init__":
                complaints.append(f"line {line}: {room} (floor {level}) imports {inner} (floor {FLOOR_OF[inner]})")
        elif top not in sys.stdlib_module_names and top not in allowed:
            complaints.append(f"line {line}: {room} (floor {level}) may not import {top}")
    return complaints


HOST_ENGINE_ROOMS = {room for floor in FLOORS[:HOST_FLOORS] for room in floor}

engine_files = pytest.mark.parametrize("path", python_files(ENGINE), ids=lambda p: str(p.relative_to(ENGINE)))
module_files = pytest.mark.parametrize("path", python_files(MODULE), ids=lambda p: str(p.relative_to(MODULE)))


# ---------------------------------------------------------------------------------------------------------- the rules


@engine_files
def test_room_has_a_floor_and_stays_on_it(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR_OF, f"{room} has no floor: give it one in FLOORS of {Path(__file__).name}"
    assert floor_complaints(path.read_text(encoding="utf-8"), room, package_of(path, ENGINE)) == []


@engine_files
def test_engine_habits(path: Path) -> None:
    assert habit_complaints(path.read_text(encoding="utf-8")) == []


@module_files
def test_module_habits_and_imports(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert habit_complaints(source) + host_complaints(source, path.stem, HOST_ENGINE_ROOMS) == []


@module_files
def test_module_texts_can_be_translated(path: Path) -> None:
    assert text_complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", python_files(HOST), ids=lambda p: p.name)
def test_host_rooms_know_each_other_by_relative_names(path: Path) -> None:
    assert absolute_complaints(path.read_text(encoding="utf-8")) == []


def test_widget_rooms_are_there_and_need_qt() -> None:
    rooms = {path.stem: path.read_text(encoding="utf-8") for path in python_files(HOST)}
    assert set(rooms) >= WIDGET_ROOMS
    for room in WIDGET_ROOMS:
        names = {name for _, name in imports(ast.parse(rooms[room]), ("AtlasISTNHost",))}
        inner = {name.partition(".")[2].split(".")[0] for name in names if name.startswith("AtlasISTNHost.")}
        assert names & {"qt", "ctk"} or inner & WIDGET_ROOMS, f"{room} needs no Qt: take it out of WIDGET_ROOMS"


@pytest.mark.parametrize(
    ("room", "source", "complaint"),
    [
        ("errors", "import numpy", "may not import numpy"),
        ("geometry", "from .warp import sample", "geometry (floor 1) imports warp (floor 2)"),
        ("geometry", "from . import volume", "geometry (floor 1) imports volume (floor 1)"),
        ("volume", "def f():\n    import torch", "may not import torch"),
        ("volume", "import importlib\nimportlib.import_module('torch')", "may not import torch"),
        ("volume", "import importlib\nimportlib.import_module('.warp', __package__)", "imports warp"),
        ("volume", "import importlib\nimportlib.import_module(name)", "computed name"),
        ("training", "import matplotlib.pyplot as plt", "may not import matplotlib"),
        ("training", "from AtlasISTNLib import Volume", "import it from its room"),
        ("training", "from . import segmentation, report", "imports report"),
        ("worker", "import slicer", "may not import slicer"),
        ("cli", "import vtk", "may not import vtk"),
        ("__init__", "from qt import QLabel", "may not import qt"),
    ],
)
def test_floor_rule_catches(room: str, source: str, complaint: str) -> None:
    assert any(complaint in text for text in floor_complaints(source, room))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("volume", "import json\nimport numpy as np\nfrom .geometry import Grid\nfrom AtlasISTNLib import errors"),
        ("report", "from matplotlib.figure import Figure\nfrom .training import train"),
        ("cli", "from . import __version__\nfrom .worker import serve"),
        ("terminal", "from tqdm import tqdm"),
        ("__init__", "import importlib\nimportlib.import_module(name)"),
    ],
)
def test_floor_rule_allows(room: str, source: str) -> None:
    assert floor_complaints(source, room) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("print(1)", "calls print"),
        ("eval('1')", "calls eval"),
        ("exec('1')", "calls exec"),
        ("def f():\n    import pickle", "imports pickle"),
        ("from pickle import loads, UnpicklingError", "imports pickle.loads"),
        ("torch.load(path)", "weights_only"),
        ("torch.load(path, weights_only=False)", "weights_only"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("try:\n    f()\nexcept:\n    pass", "catches every exception"),
        ("try:\n    f()\nexcept Exception as e:\n    raise ValueError from e", "catches every exception"),
        ("try:\n    f()\nexcept (OSError, BaseException):\n    pass", "catches every exception"),
        ("def f(a, *, b=[]):\n    pass", "mutable default"),
        ("f = lambda a=dict(): a", "mutable default"),
    ],
)
def test_habit_rule_catches(source: str, complaint: str) -> None:
    assert any(complaint in text for text in habit_complaints(source))


def test_habit_rule_allows() -> None:
    fine = "from pickle import UnpicklingError\nmodel.eval()\n"
    fine += "torch.load(p, weights_only=True)\ntry:\n    f()\nexcept BaseException:\n    tidy()\n    raise"
    assert habit_complaints(fine) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("frames", "import torch"),
        ("frames", "import scipy.ndimage"),
        ("frames", "from AtlasISTNLib import segment"),
        ("frames", "import AtlasISTNLib.model"),
        ("frames", "import qt"),
        ("frames", "def f():\n    from ctk import ctkSettings"),
        ("frames", "from .panel import Panel"),
        ("frames", "from . import panel"),
        ("panel", "import PySide6"),
        ("panel", "import SampleData"),
    ],
)
def test_host_rule_catches(room: str, source: str) -> None:
    assert host_complaints(source, room, HOST_ENGINE_ROOMS)


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("frames", "import slicer, vtk, AtlasISTNLib\nfrom AtlasISTNLib.volume import Volume\nfrom . import nodes"),
        ("panel", "import qt, ctk\nfrom . import frames"),
        ("samples", "def f():\n    import SampleData"),
        ("AtlasISTN", "import qt\nfrom AtlasISTNHost.panel import Panel"),
    ],
)
def test_host_rule_allows(room: str, source: str) -> None:
    assert host_complaints(source, room, HOST_ENGINE_ROOMS) == []


@pytest.mark.parametrize(
    "source",
    [
        "_(f'{n} steps')",
        "_('a' + name)",
        "_('{n} steps'.format(n=n))",
        "translate('context', text)",
        "label.text = 'No model chosen'",
        "label.toolTip = f'Step {n} of {total}'",
    ],
)
def test_text_rule_catches(source: str) -> None:
    assert text_complaints(source)


def test_text_rule_allows() -> None:
    fine = "label.text = _('{n} steps').format(n=n)\nlabel.text = ''\nlabel.text = f'{n:.1f} mm'\nlabel.text = text\n"
    fine += "_('a long text '\n  'in two pieces')\ntranslate('qSlicerAbstractCoreModule', 'Segmentation')"
    assert text_complaints(fine) == []


# ------------------------------------------------------------------------------------------------------ the front door


def test_every_exported_name_resolves() -> None:
    import AtlasISTNLib

    missing = [name for name in AtlasISTNLib.__all__ if not hasattr(AtlasISTNLib, name)]
    assert missing == []
    assert sorted(set(AtlasISTNLib.__all__)) == sorted(AtlasISTNLib.__all__), "a name stands twice in __all__"


def test_readme_imports_what_is_exported() -> None:
    import AtlasISTNLib

    example = re.search(r"^```python\n(.*?)^```", text("README.md"), re.DOTALL | re.MULTILINE)
    assert example, "the README shows no Python"
    names = {name.partition(".")[2] for _, name in imports(ast.parse(example.group(1)), ())}
    assert names <= set(AtlasISTNLib.__all__), f"the README imports {sorted(names - set(AtlasISTNLib.__all__))}"


def test_panel_rooms_open_without_torch() -> None:
    rooms = [room for floor in FLOORS[:HOST_FLOORS] for room in floor if (ENGINE / f"{room}.py").exists()]
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in sorted(NEVER_IN_HOST))
    code += "import AtlasISTNLib\n" + "".join(f"import AtlasISTNLib.{room}\n" for room in rooms)
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_bundled_files_lie_in_the_repository() -> None:
    from AtlasISTNLib.resources import experiments_folder, models_folder, samples_folder

    assert experiments_folder() == REPOSITORY / "Resources" / "Experiments"
    assert models_folder() == REPOSITORY / "Resources" / "Models"
    assert samples_folder() == REPOSITORY / "Resources" / "Samples"


# ------------------------------------------------------------------------------------------- lists and descriptions


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def cmake_list(folder: Path, name: str) -> list[str]:
    listed = re.search(rf"set\({name}\s+(.*?)\)", (folder / "CMakeLists.txt").read_text(encoding="utf-8"), re.DOTALL)
    assert listed, f"{folder.name}/CMakeLists.txt has no list {name}"
    return sorted(listed.group(1).split())


def cmake_value(name: str) -> str:
    value = re.search(rf'^set\({name} "([^"\n]*)"\)$', text("CMakeLists.txt"), re.MULTILINE)
    assert value, f"CMakeLists.txt: {name} must be one quoted string on one line, as the Extensions Index reads it"
    return value.group(1)


def s4ext() -> dict[str, str]:
    lines = [line for line in text("AtlasISTN.s4ext").splitlines() if line.strip() and not line.startswith("#")]
    return {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}


@pytest.mark.parametrize("folder", [ENGINE, MODULE], ids=lambda p: p.name)
def test_cmake_lists_every_script(folder: Path) -> None:
    disk = sorted(path.relative_to(folder).as_posix() for path in python_files(folder))
    assert cmake_list(folder, "MODULE_PYTHON_SCRIPTS") == disk, f"{folder.name}/CMakeLists.txt and the disk disagree"


def test_cmake_lists_every_file_of_the_module() -> None:
    made = {MODULE / "CMakeLists.txt", *python_files(MODULE)}
    files = [p for p in MODULE.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p not in made]
    assert cmake_list(MODULE, "MODULE_PYTHON_RESOURCES") == sorted(p.relative_to(MODULE).as_posix() for p in files)


def test_descriptions_of_the_extension_agree() -> None:
    entry = json.loads(text("AtlasISTN.json"))
    described = s4ext()
    assert "project(AtlasISTN)" in text("CMakeLists.txt")
    for key in ("homepage", "category", "contributors", "description", "iconurl", "screenshoturls", "depends"):
        assert described[key] == cmake_value(f"EXTENSION_{key.upper()}"), key
    assert entry["category"] == described["category"]
    assert entry["scm_url"] == described["scmurl"]
    assert entry["scm_revision"] == described["scmrevision"]
    assert entry["build_dependencies"] == described["depends"].split()
    assert entry["build_subdirectory"] == described["build_subdirectory"]
    assert str(entry["tier"]) == described["tier"]
    assert described["scmurl"].removesuffix(".git") == described["homepage"]


def test_index_entry_has_only_what_the_schema_knows() -> None:
    required = {"$schema", "category", "scm_url"}
    optional = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "enabled", "tier"}
    keys = set(json.loads(text("AtlasISTN.json")))
    assert required <= keys <= required | optional


def test_icon_and_screenshot_urls_point_into_the_repository() -> None:
    prefix = "https://raw.githubusercontent.com/AtlasISTN/AtlasISTN/main/"
    icon = cmake_value("EXTENSION_ICONURL").removeprefix(prefix)
    header = (REPOSITORY / icon).read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:24]) == (128, 128)
    assert cmake_value("EXTENSION_SCREENSHOTURLS").startswith(prefix + "Resources/Screenshots/")


def test_one_version() -> None:
    import AtlasISTNLib

    project = re.search(r'^version = "([^"]+)"$', text("pyproject.toml"), re.MULTILINE)
    citation = re.search(r"^version: (\S+)$", text("CITATION.cff"), re.MULTILINE)
    assert project
    assert citation
    assert project.group(1) == citation.group(1) == AtlasISTNLib.__version__


def test_wheel_carries_every_package() -> None:
    packages = {".".join(package_of(path, ENGINE)) for path in ENGINE.rglob("__init__.py")} | {"AtlasISTNLib.Resources"}
    listed = re.search(r"^packages = \[([^\]]*)\]", text("pyproject.toml"), re.MULTILINE)
    assert listed
    assert set(re.findall(r'"([^"]+)"', listed.group(1))) == packages


def test_tutorial_speaks_of_what_is_there() -> None:
    tutorial = text("docs/tutorial.md")
    form = ElementTree.parse(MODULE / "Resources" / "UI" / "AtlasISTN.ui")
    known = {"".join(node.itertext()).strip() for node in form.iter("string")} | set(lookups(MODULE))
    models = (REPOSITORY / "Resources" / "Models").glob("*/manifest.json")
    known |= {json.loads(path.read_text(encoding="utf-8"))["about"]["title"] for path in models}
    known = {name.removesuffix(":") for name in known} | {"Not for clinical use.", "bold"}
    named = {name.replace("\\*", "*") for name in re.findall(r"\*\*((?:[^*\\]|\\.)+)\*\*", tutorial)}
    assert named - known == set(), "the tutorial names what the panel has not"
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", tutorial) + re.findall(r'src="([^":]+)"', tutorial)
    assert [link for link in links if not (REPOSITORY / "docs" / link).exists()] == []


def test_every_dependency_is_pinned() -> None:
    def named(line: str) -> str:
        return re.split(r"[<>=;\s]", line)[0].lower()

    lists = re.findall(r"^(?:dependencies|dev|host) = \[([^\]]*)\]", text("pyproject.toml"), re.MULTILINE)
    wanted = {named(item) for block in lists for _, item in re.findall(r"""^ *(["'])(.+)\1,$""", block, re.MULTILINE)}
    pinned = {named(line) for line in text("constraints.txt").splitlines() if line and not line.startswith("#")}
    assert len(lists) == 3
    assert wanted <= pinned, f"constraints.txt has no pin for {sorted(wanted - pinned)}"

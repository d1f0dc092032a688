"""The extension as an installation lays it out: CMake ships what runs, and what is shipped runs without a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from house import ENGINE, MODULE, REPOSITORY

TESTING = REPOSITORY / "Testing"
STAND_IN = TESTING / "slicer-cmake"
DRIVER = Path(__file__).with_name("drive_installed.py")
MODULES = Path("lib", "Slicer-5.12", "qt-scripted-modules")


def tool(name: str) -> str:
    """Path of CMake's program `name`: the environment's own, else the system's; the test is skipped without one."""
    found = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not here: pip install cmake (it comes with the extra 'host')")
    return found


def call(*words: object, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ATLASISTN"))}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 or not check, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done


def configure(source: Path, build: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    if os.name != "posix" or not shutil.which("make"):
        pytest.skip("make is not here")
    return call(
        tool("cmake"),
        *("-S", source, "-B", build, "-G", "Unix Makefiles"),
        *(f"-DSlicer_DIR={STAND_IN}", f"-DSlicer_PYTHON={sys.executable}"),
        f"-DCMAKE_TOOLCHAIN_FILE={STAND_IN / 'no-compiler.cmake'}",
        check=check,
    )


def install(source: Path, folder: Path) -> Path:
    """Configures, builds and installs `source`; the folder of the installation."""
    configure(source, folder / "build")
    call(tool("cmake"), "--build", folder / "build")
    call(tool("cmake"), "--install", folder / "build", "--prefix", folder / "Slicer")
    return folder / "Slicer"


def files_below(folder: Path) -> dict[str, Path]:
    """Relative name → file, without byte code."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path for path in files}


@pytest.fixture(scope="module")
def build_and_prefix(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("extension")
    return folder / "build", install(REPOSITORY, folder)


@pytest.fixture(scope="module")
def installed(build_and_prefix: tuple[Path, Path]) -> Path:
    """Slicer's folder of scripted modules, with the extension in it."""
    return build_and_prefix[1] / MODULES


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the packages of this one and knows no checkout.

    An editable installation is a hook of the folder of packages; here that folder is a plain entry of the path, and
    hooks of such are not run.
    """
    home = tmp_path_factory.mktemp("python")
    call(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / "bin" / "python"
    packages = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    own = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(own, "packages.pth").write_text("\n".join(dict.fromkeys(packages)) + "\n", encoding="utf-8")
    found = call(python, "-c", "import importlib.util as u; print(u.find_spec('AtlasISTNLib'))", cwd=home).stdout
    assert found.strip() == "None", "this Python would find AtlasISTNLib by itself, and prove nothing"
    return python


# ------------------------------------------------------------------------------------------------ what the files are


def test_what_is_installed_is_what_runs(installed: Path) -> None:
    expected = {name: path for name, path in files_below(MODULE).items() if path.name != "CMakeLists.txt"}
    expected |= {f"AtlasISTNLib/{path.name}": path for path in ENGINE.glob("*.py")}
    for folder in ("Experiments", "Models", "Recipes", "Samples"):
        files = files_below(REPOSITORY / "Resources" / folder)
        expected |= {f"AtlasISTNLib/Resources/{folder}/{name}": path for name, path in files.items()}
    shipped = files_below(installed)
    assert sorted(shipped) == sorted(expected)
    assert [name for name, path in shipped.items() if path.read_bytes() != expected[name].read_bytes()] == []
    assert {"AtlasISTN.py", "AtlasISTNHost/__init__.py", "Resources/UI/AtlasISTN.ui"} <= set(shipped)
    assert {"AtlasISTNEffects/AtlasFitEffect.py", "AtlasISTNEffects/AtlasFitEffect.png"} <= set(shipped)
    # All modules share one path: a folder called like a package of Slicer's would stand in its way.
    assert {name.split("/")[0] for name in shipped if "/" in name} == {
        *("AtlasISTNEffects", "AtlasISTNHost", "AtlasISTNLib", "Resources"),
    }


def test_every_script_is_compiled(installed: Path) -> None:
    scripts = [path for name, path in files_below(installed).items() if name.endswith(".py")]
    tag = sys.implementation.cache_tag
    assert scripts
    assert [s for s in scripts if not (s.parent / "__pycache__" / f"{s.stem}.{tag}.pyc").is_file()] == []


def test_description_is_installed(build_and_prefix: tuple[Path, Path]) -> None:
    def entries(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        return {key: value.strip() for key, _, value in (line.partition(" ") for line in lines)}

    ours = entries(REPOSITORY / "AtlasISTN.s4ext")
    made = entries(build_and_prefix[1] / "share" / "Slicer-5.12" / "AtlasISTN.s4ext")
    differing = {key for key in ours if ours[key] != made[key]}
    assert differing <= {"scm", "scmurl", "scmrevision", "status"}  # of the checkout; Slicer's build sets the last


def test_slicer_is_given_its_tests(build_and_prefix: tuple[Path, Path]) -> None:
    listed = call(tool("ctest"), "-N", cwd=build_and_prefix[0]).stdout
    assert "py_AtlasISTN " in listed
    assert "py_nomainwindow_qSlicerAtlasISTNModuleGenericTest " in listed


# ------------------------------------------------------------------------ what Slicer's macro does with a list of files


@pytest.fixture
def make_extension(tmp_path: Path):
    """A function that writes an extension of two scripts and a resource, with a line for its module; its folder."""

    def make(module: str) -> Path:
        source = tmp_path / "Small"
        for name in ("Small/Small.py", "Small/Rooms/told.py", "Small/Rooms/untold.py", "Small/Resources/UI/Small.ui"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text("", encoding="utf-8")
        (source / "other.py").write_text("", encoding="utf-8")
        (source / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.20)\nproject(Small)\nfind_package(Slicer REQUIRED)\n"
            "include(${Slicer_USE_FILE})\nadd_subdirectory(Small)\n",
            encoding="utf-8",
        )
        line = f"slicerMacroBuildScriptedModule(NAME Small {module})\n"
        (source / "Small" / "CMakeLists.txt").write_text(line, encoding="utf-8")
        return source

    return make


def test_only_listed_files_are_shipped_and_keep_their_folders(make_extension, tmp_path: Path) -> None:
    source = make_extension("SCRIPTS Small.py Rooms/told.py RESOURCES Resources/UI/Small.ui")
    assert sorted(files_below(install(source, tmp_path) / MODULES)) == [
        "Resources/UI/Small.ui",
        "Rooms/told.py",
        "Small.py",
    ]


def test_with_subdir_goes_into_a_folder_of_its_own(make_extension, tmp_path: Path) -> None:
    source = make_extension("SCRIPTS Small Rooms/told WITH_SUBDIR")
    assert sorted(files_below(install(source, tmp_path) / MODULES)) == ["Small/Rooms/told.py", "Small/Small.py"]


@pytest.mark.parametrize(
    "module", ["SCRIPTS Small.py absent.py", "SCRIPTS Small.py ../other.py", "UNKNOWN SCRIPTS Small.py"]
)
def test_a_wrong_list_stops_the_configuration(make_extension, tmp_path: Path, module: str) -> None:
    done = configure(make_extension(module), tmp_path / "build", check=False)
    assert done.returncode != 0
    assert "Small" in done.stderr


def test_a_script_that_cannot_be_compiled_stops_the_build(make_extension, tmp_path: Path) -> None:
    source = make_extension("SCRIPTS Small.py")
    (source / "Small" / "Small.py").write_text("def f(:\n", encoding="utf-8")
    configure(source, tmp_path / "build")
    assert call(tool("cmake"), "--build", tmp_path / "build", check=False).returncode != 0


# ------------------------------------------------------------------------------------------------- what runs from there


def test_engine_runs_from_the_installed_tree(installed: Path, bare_python: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from AtlasISTNLib import manifest, resources\n"
        "import json\n"
        "places = [resources.models_folder(), resources.samples_folder(), resources.experiments_folder()]\n"
        "print(json.dumps([[str(place) for place in places], sorted(manifest.available_models())]))\n"
    )
    places, models = json.loads(call(bare_python, "-c", code, installed, cwd=installed.parent).stdout)
    inside = installed / "AtlasISTNLib" / "Resources"
    assert places == [str(inside / name) for name in ("Models", "Samples", "Experiments")]
    assert {"letter-b", "phantom-heart"} <= set(models)


def drive(python: Path, module: Path, report: Path) -> dict:
    """What the panel of `module` did, driven by a process that has no other file of ours on its path."""
    pytest.importorskip("slicer_core", reason="the wheel slicer-core is not installed")
    done = call(python, DRIVER, module, TESTING, report, cwd=report.parent)
    assert report.is_file(), done.stderr
    return json.loads(report.read_text(encoding="utf-8"))


def assert_segmented(seen: dict) -> None:
    assert "message" not in seen, seen["message"]
    assert seen["slot_errors"] == []
    assert len(seen["models"]) >= 2
    assert (seen["without_input"], seen["with_input"]) == (False, True)
    assert len(seen["segments"]) == 1
    assert seen["dice"] > 0.9
    assert not seen["engine_in_here"], "torch came into the panel's process"


def test_panel_segments_from_the_installed_tree(installed: Path, bare_python: Path, tmp_path: Path) -> None:
    seen = drive(bare_python, installed / "AtlasISTN.py", tmp_path / "seen.json")
    assert_segmented(seen)
    assert [file for file in seen["files"] if not Path(file).is_relative_to(installed)] == []
    assert seen["effects"] == {"Atlas fit": str(installed / "AtlasISTNEffects" / "AtlasFitEffect.py")}


def test_panel_segments_in_developer_mode(bare_python: Path, tmp_path: Path) -> None:
    """A clone whose folder AtlasISTN/ alone was added to Slicer's module paths."""
    seen = drive(bare_python, MODULE / "AtlasISTN.py", tmp_path / "seen.json")
    assert_segmented(seen)
    assert [file for file in seen["files"] if not Path(file).is_relative_to(REPOSITORY)] == []
    assert list(seen["effects"]) == ["Atlas fit"]

"""What the tests of the house read in source files: imports, calls and habits. No test lies here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENGINE = REPOSITORY / "AtlasISTNLib"
MODULE = REPOSITORY / "AtlasISTN"

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
ERRORS_OF_UNPICKLERS = {"pickle.UnpicklingError"}  # torch.load raises it on foreign files
NEVER_IN_HOST = {"torch", "safetensors", "matplotlib", "tqdm"}


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in `tree`, those in functions and by name of a string included.

    `package` holds the parts of the dotted name of the package that the file lies in.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                relative = name.value.startswith(".")
                yield node.lineno, ".".join([*package, name.value.lstrip(".")]) if relative else name.value
            else:
                yield node.lineno, "(computed)"


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def habit_complaints(source: str) -> list[str]:
    """Prints, code run from data, swallowed errors and mutable defaults in one file."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(source)
    for line, name in imports(tree, ()):
        if name.split(".")[0] in UNPICKLERS and name not in ERRORS_OF_UNPICKLERS:
            found.append((line, f"imports {name}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [(node.lineno, text) for text in call_complaints(node)]
        elif isinstance(node, ast.ExceptHandler) and is_broad(node):
            found.append((node.lineno, "catches every exception"))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*node.args.defaults, *(default for default in node.args.kw_defaults if default)]
            found += [(default.lineno, "mutable default") for default in defaults if is_mutable(default)]
    return [f"line {line}: {text}" for line, text in sorted(found)]


def call_complaints(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in {"print", "eval", "exec"}:
        yield f"calls {node.func.id}"
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if ast.unparse(node.func) == "torch.load" and not is_constant(keywords.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if "allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False):
        yield "allow_pickle"


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def is_broad(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False  # tidies up and lets the exception go on
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)


def is_mutable(node: ast.expr) -> bool:
    literal = isinstance(node, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
    return literal or (isinstance(node, ast.Call) and called(node) in {"list", "dict", "set", "defaultdict"})


def package_of(path: Path, root: Path) -> tuple[str, ...]:
    return path.parent.relative_to(root.parent).parts


# --------------------------------------------------------------------------------------------------- rules of the panel

HOST = MODULE / "AtlasISTNHost"
HOST_PACKAGES = {"numpy", "SimpleITK", "vtk", "vtkmodules", "slicer"}
WIDGET_PACKAGES = {"qt", "ctk"}
# Modules of Slicer that one room alone may ask for
HOST_ROOM_PACKAGES = {
    "samples": {"SampleData"},
    "torch_setup": {"PyTorchUtils"},
    "AtlasISTN": {"qSlicerSegmentationsEditorEffectsPythonQt"},
    "AtlasFitEffect": {"SegmentEditorEffects", "qSlicerSegmentationsEditorEffectsPythonQt", "AtlasISTN", "qt"},
}
# The rooms that show something or run a process. All others are tested with a scene and without Qt.
WIDGET_ROOMS = {
    *("panel", "drawing", "input_section", "refine_section", "review_section", "export_section", "session"),
    *("scripting", "settings", "torch_setup", "engine", "inbox", "worker_process", "batch", "batch_run", "training"),
    *("disagreement_section", "fit_effect", "fit_widgets", "live", "loss_chart"),
    *("steer_section", "steer_tables", "pull_section", "history_section", "comparison_table"),
}

# Attributes and methods by which a widget shows a text to the user
SHOWN_ATTRIBUTES = {"text", "toolTip", "windowTitle", "title", "placeholderText", "statusTip", "helpText"}
TRANSLATORS = {"_", "tr", "translate"}


def host_complaints(source: str, room: str, engine_rooms: set[str]) -> list[str]:
    """What the imports of one file of the Slicer module break.

    `room` is the file's name without ending: that of a file in AtlasISTNHost, or AtlasISTN for the module itself.
    `engine_rooms` are the modules of AtlasISTNLib that the panel may know.
    """
    is_module = room == "AtlasISTN"
    allowed = HOST_PACKAGES | HOST_ROOM_PACKAGES.get(room, set())
    if is_module or room in WIDGET_ROOMS:
        allowed |= WIDGET_PACKAGES
    complaints = []
    for line, name in imports(ast.parse(source), ("AtlasISTNHost",)):
        top, _, rest = name.partition(".")
        inner = rest.split(".")[0]
        if top == "AtlasISTNLib":
            if inner not in engine_rooms | {"", "__version__"}:
                complaints.append(f"line {line}: the panel may not import {name}: it goes through the worker")
        elif top == "AtlasISTNHost":
            if inner in WIDGET_ROOMS and not (is_module or room in WIDGET_ROOMS):
                complaints.append(f"line {line}: {room} is tested without Qt and may not import {inner}")
        elif top in WIDGET_PACKAGES - allowed:
            complaints.append(f"line {line}: {room} is tested without Qt and may not import {top}")
        elif name == "(computed)" and is_module:
            continue  # the module asks for its rooms when it is used, not when Slicer starts
        elif top not in sys.stdlib_module_names and top not in allowed:
            complaints.append(f"line {line}: the panel may not import {top}")
    return complaints


def absolute_complaints(source: str) -> list[str]:
    """Rooms of the panel that are imported by their full name: Slicer's reload would leave those as they were."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        found += [f"line {node.lineno}: imports {n} by its full name" for n in names if n.startswith("AtlasISTNHost")]
    return found


def text_complaints(source: str) -> list[str]:
    """Texts that the user reads and a translator cannot: computed inside `_()`, or shown without it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and called(node) in TRANSLATORS:
            texts = node.args[1:] if called(node) == "translate" else node.args
            if not texts or not all(isinstance(t, ast.Constant) and isinstance(t.value, str) for t in texts):
                found.append((node.lineno, f"{ast.unparse(node)[:60]}: only a plain text can be looked up"))
        elif isinstance(node, ast.Assign) and is_wording(node.value):
            shown = [t for t in node.targets if isinstance(t, ast.Attribute) and t.attr in SHOWN_ATTRIBUTES]
            found += [(node.lineno, f"{ast.unparse(t)} shows a text that is not translated") for t in shown]
    return [f"line {line}: {text}" for line, text in sorted(found)]


def lookups(folder: Path) -> Iterator[str]:
    """The texts that the files below `folder` look up for the user."""
    for path in python_files(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called(node) in TRANSLATORS:
                yield from (t.value for t in node.args if isinstance(t, ast.Constant) and isinstance(t.value, str))


def is_wording(node: ast.expr) -> bool:
    """Whether the value is a text with words in it, written where it stands."""
    if isinstance(node, ast.JoinedStr):
        return any(is_wording(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return any(len(word) > 2 and word.isalpha() for word in node.value.split())
    return False

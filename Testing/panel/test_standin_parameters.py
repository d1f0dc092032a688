"""slicer.parameterNodeWrapper as recorded in a running Slicer: strings in the node, refusals, and bound widgets."""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated, Any

import ctk
import numpy as np
import pytest
import qt
import slicer
import standin
from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import (
    Choice,
    Default,
    FloatRange,
    Maximum,
    Minimum,
    RangeBounds,
    WithinRange,
    parameterNodeWrapper,
    parameterPack,
)
from standin import record


class Mode(enum.Enum):
    LABELS = "labels"
    FIELD = "field"


@parameterPack
class Box:
    width: Annotated[float, Minimum(0)] = 1.5
    count: int = 2


@parameterNodeWrapper
class Parameters:
    """The class of the recording, word for word, so far as the recorded strings tell."""

    inputVolume: vtkMRMLScalarVolumeNode
    iterations: Annotated[int, WithinRange(1, 100)] = 5
    strength: Annotated[float, WithinRange(1, 1000)] = 800.0
    live: bool = True
    mode: Mode = Mode.FIELD
    choice: Annotated[str, Choice(["a", "b"])] = "b"
    names: list[str]
    table: dict[str, float]
    maybe: vtkMRMLScalarVolumeNode | None


@parameterNodeWrapper
class MoreParameters:
    box: Box
    bounds: Annotated[FloatRange, RangeBounds(0, 10), Default(FloatRange(1, 3))]
    folder: pathlib.Path
    size: tuple[int, float]
    level: Annotated[float, Minimum(0), Maximum(9)] = 3
    name: str = "heart"


@pytest.fixture
def node() -> Any:
    slicer.mrmlScene.Clear()
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")


@pytest.fixture
def a_volume(node: Any) -> Any:
    return slicer.util.addVolumeFromArray(np.zeros((2, 3, 4), np.float32), name="CT")


def strings(node: Any) -> dict[str, str]:
    names = node.GetParameterNamesAsCommaSeparatedList().split(",")
    return {name: node.GetParameter(name) for name in names if name}


def test_the_node_holds_the_recorded_strings_and_references(node: Any, a_volume: Any) -> None:
    parameters = Parameters(node)
    parameters.names = ["x", "y"]
    parameters.table = {"a": 1.5}
    parameters.inputVolume = a_volume
    assert strings(node) == record.behaviour()["parameters"]
    references = {name: node.GetNodeReferenceID(name) for name in record.behaviour()["references"]}
    assert references == record.behaviour()["references"]


def test_values_read_as_recorded(node: Any) -> None:
    parameters = Parameters(node)
    parameters.names = ["x", "y"]
    parameters.table = {"a": 1.5}
    read = {name: repr(getattr(parameters, name)) for name in record.behaviour()["reading"]}
    assert read == record.behaviour()["reading"]


def test_the_wrapper_has_the_recorded_members(node: Any) -> None:
    members = [name for name in dir(Parameters(node)) if not name.startswith("__")]
    assert members == record.behaviour()["wrapper members"]


@pytest.mark.parametrize(("value", "what"), [(5000, "out of range"), ("x", "wrong type")])
def test_refusals_have_the_recorded_words_and_change_nothing(node: Any, value: Any, what: str) -> None:
    parameters = Parameters(node)
    with pytest.raises((ValueError, TypeError)) as refused:
        parameters.strength = value
    assert f"{refused.type.__name__}: {refused.value}" == record.behaviour()[what]
    assert parameters.strength == 800.0


def test_an_unknown_name_is_accepted_as_recorded(node: Any) -> None:
    parameters = Parameters(node)
    parameters.nonsense = 3
    assert record.behaviour()["unknown name"] == "accepted"
    assert "nonsense" not in strings(node)


def test_a_second_wrapper_of_the_node_sees_what_the_first_wrote(node: Any, a_volume: Any) -> None:
    parameters = Parameters(node)
    parameters.maybe = a_volume
    parameters.mode = Mode.LABELS
    parameters.names.append("z")
    again = Parameters(node)
    assert (again.maybe, again.mode, again.names) == (a_volume, Mode.LABELS, ["z"])
    slicer.mrmlScene.RemoveNode(a_volume)
    assert again.maybe is None


def test_lists_and_dictionaries_write_through_and_refuse_whole(node: Any) -> None:
    parameters = Parameters(node)
    parameters.names = ["a", "b", "c"]
    del parameters.names[1:]
    parameters.table["x"] = 2.0
    assert (strings(node)["names.len"], "names.1" in strings(node)) == ("1", False)
    assert parameters.table == {"x": 2.0}
    with pytest.raises(TypeError):
        parameters.names = ["good", 3]
    assert parameters.names == ["a"]


def test_packs_ranges_paths_and_tuples(node: Any) -> None:
    parameters = MoreParameters(node)
    parameters.box.width = 4.0
    parameters.bounds = FloatRange(2, 5)
    parameters.folder = pathlib.Path("/data")
    parameters.size = (3, 0.5)
    again = MoreParameters(node)
    assert again.box == Box(4.0, 2)
    assert (again.bounds.minimum, again.bounds.maximum) == (2, 5)
    assert (again.folder, again.size) == (pathlib.Path("/data"), (3, 0.5))
    with pytest.raises(ValueError, match="greater than 0"):
        parameters.box.width = -1
    assert parameters.getValue("box.width") == 4.0
    with pytest.raises(ValueError, match="Cannot find a param"):
        parameters.getValue("nowhere")


def named(widget: Any, parameter: str) -> Any:
    widget.setProperty("SlicerParameterName", parameter)
    return widget


class Form:
    """Widgets as attributes, as slicer.util.childWidgetVariables gives them."""

    def __init__(self) -> None:
        self.spin = named(qt.QSpinBox(), "iterations")
        self.slider = named(ctk.ctkSliderWidget(), "strength")
        self.check = named(qt.QCheckBox(), "live")
        self.mode = named(qt.QComboBox(), "mode")
        self.choice = named(ctk.ctkComboBox(), "choice")
        self.selector = named(slicer.qMRMLNodeComboBox(), "inputVolume")
        self.selector.noneEnabled = True
        self.selector.setMRMLScene(slicer.mrmlScene)


def test_widgets_take_bounds_items_and_values_from_the_parameters(node: Any) -> None:
    parameters, form = Parameters(node), Form()
    parameters.connectGui(form)
    assert (form.spin.minimum, form.spin.maximum, form.spin.value) == (1, 100, 5)
    assert (form.slider.maximum, form.slider.value, form.check.checked) == (1000, 800, True)
    assert [form.mode.itemText(i) for i in range(form.mode.count)] == ["LABELS", "FIELD"]
    assert (form.mode.currentText, form.choice.currentText) == ("FIELD", "b")
    assert form.selector.nodeTypes == ("vtkMRMLScalarVolumeNode",)


def test_widgets_and_parameters_follow_each_other_until_disconnected(node: Any, a_volume: Any) -> None:
    parameters, form = Parameters(node), Form()
    tag = parameters.connectGui(form)
    form.spin.value = 12
    form.slider.value = 30.5
    form.check.checked = False
    form.mode.currentIndex = 0
    form.choice.currentText = "a"
    form.selector.setCurrentNode(a_volume)
    assert (parameters.iterations, parameters.strength, parameters.live) == (12, 30.5, False)
    assert (parameters.mode, parameters.choice, parameters.inputVolume) == (Mode.LABELS, "a", a_volume)
    with slicer.util.NodeModify(parameters):
        parameters.iterations = 7
        parameters.inputVolume = None
        assert form.spin.value == 12  # told at the end of the block only
    assert (form.spin.value, form.selector.currentNode()) == (7, None)
    parameters.disconnectGui(tag)
    form.spin.value = 50
    parameters.live = True
    assert (parameters.iterations, form.check.checked) == (7, False)
    assert standin.slot_errors == []


def test_children_of_a_widget_are_found(node: Any) -> None:
    parent = qt.QWidget()
    layout = qt.QVBoxLayout(parent)
    spin = named(qt.QSpinBox(), "iterations")
    layout.addWidget(spin)
    layout.addWidget(qt.QLabel("no parameter"))
    parameters = Parameters(node)
    parameters.connectGui(parent)
    spin.value = 9
    assert parameters.iterations == 9


@pytest.mark.parametrize(
    ("make", "parameter", "why"),
    [
        (lambda: qt.QRadioButton(), "live", "Unable to create GUI connector"),
        (lambda: qt.QSlider(), "strength", "Unable to create GUI connector"),
        (lambda: qt.QComboBox(), "name", "Choice annotation"),
    ],
)
def test_widgets_that_slicer_cannot_bind_are_refused(node: Any, make: Any, parameter: str, why: str) -> None:
    wrapper = MoreParameters(node) if parameter == "name" else Parameters(node)
    with pytest.raises(RuntimeError, match=why):
        wrapper.connectParametersToGui({parameter: make()})


def test_a_slider_without_bounds_is_refused(node: Any) -> None:
    @parameterNodeWrapper
    class Unbounded:
        strength: float = 1.0

    with pytest.raises(RuntimeError, match="unbounded"):
        Unbounded(node).connectParametersToGui({"strength": ctk.ctkSliderWidget()})

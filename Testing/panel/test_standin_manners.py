"""PythonQt's manners in the stand-in host: what code may write, what it is refused; nothing waits for a user."""

from __future__ import annotations

from pathlib import Path

import ctk
import pytest
import qt
import slicer
import standin
from standin import dialogs


def test_properties_are_read_and_written_without_parentheses() -> None:
    box = qt.QSpinBox()
    box.maximum, box.value = 500, 70.9
    assert box.value == 70  # PythonQt makes whole numbers of others
    label = qt.QLabel("first")
    label.text = 5
    assert label.text == "5"
    label.alignment = qt.Qt.AlignCenter
    assert label.alignment == qt.Qt.AlignHCenter | qt.Qt.AlignVCenter
    assert type(label.alignment) is int


@pytest.mark.parametrize(
    ("make", "name", "value", "text"),
    [
        (lambda: qt.QSlider(), "value", "many", "of type 'int' does not accept an object of type str"),
        (lambda: qt.QCheckBox(), "checked", "yes", "of type 'bool' does not accept"),
        (lambda: slicer.qMRMLNodeComboBox(), "nodeTypes", "vtkMRMLModelNode", "of type 'QStringList' does not accept"),
        (lambda: qt.QTimer(), "active", True, "Property 'active' of QTimer object is not writable"),
        (lambda: qt.QTimer(), "singleShot", True, "Slot 'singleShot' can not be overwritten on QTimer object"),
        (lambda: qt.QLabel(), "setText", 1, "Slot 'setText' can not be overwritten"),
        (lambda: qt.QProcess(), "NotRunning", 1, "EnumValue 'NotRunning' can not be overwritten"),
        (lambda: ctk.ctkSliderWidget(), "maximun", 3.0, "'maximun' does not exist on ctkSliderWidget"),
    ],
)
def test_what_cannot_be_set_raises(make, name: str, value: object, text: str) -> None:
    with pytest.raises(AttributeError, match=text.replace("(", r"\(")):
        setattr(make(), name, value)


def test_names_that_only_pyside_has_are_not_there() -> None:
    for owner, name in (
        (ctk.ctkSliderWidget(), "setMaximum"),
        (qt.QLabel(), "setObjectname"),
        (qt.QWidget(), "create"),
    ):
        with pytest.raises(AttributeError, match="has no attribute named"):
            getattr(owner, name)
    for name in ("Signal", "Slot", "Property", "QNothing"):
        with pytest.raises(AttributeError):
            getattr(qt, name)
    with pytest.raises(NotImplementedError):
        ctk.ctkCoordinatesWidget()
    with pytest.raises(AttributeError):
        _ = ctk.ctkNothing


def test_wrong_arguments_raise_as_in_pythonqt() -> None:
    with pytest.raises(ValueError, match="Could not find matching overload"):
        qt.QLabel().setText("a", "b")
    with pytest.raises(TypeError, match="keyword"):
        qt.QLabel(text="a")
    with pytest.raises(ValueError, match="no Python function"):
        qt.QMenu().addAction("go", print)
    with pytest.raises(ValueError, match="QImage of bytes"):
        qt.QImage(b"\0" * 16, 2, 2, 8, qt.QImage.Format_RGB888)


def test_words_of_python_may_end_in_an_underscore() -> None:
    widget = qt.QWidget()
    widget.raise_()
    dialogs.answer("QDialog", 1)
    assert qt.QDialog().exec_() == 1


def test_one_object_is_one_object() -> None:
    parent = qt.QWidget()
    child = qt.QLabel(parent)
    child.name = "myLabel"
    assert child.objectName == "myLabel"
    assert parent.myLabel is child  # named children are attributes
    assert parent.children() == (child,)
    assert parent.findChild(qt.QLabel, "myLabel") is child
    assert type(parent.children()[0]) is qt.QLabel
    child.setProperty("SlicerParameterName", "threshold")
    child.SlicerParameterName = "other"
    assert child.property("SlicerParameterName") == "other"
    assert {child: 1}[parent.myLabel] == 1


def test_a_deleted_widget_says_so() -> None:
    parent = qt.QWidget()
    child = qt.QLabel("text", parent)
    parent.delete()
    assert not child
    with pytest.raises(ValueError, match="from a destroyed QLabel object"):
        _ = child.text
    with pytest.raises(ValueError, match="on a destroyed QLabel object"):
        child.clear()


def test_classes_derived_in_python_may_have_attributes() -> None:
    class Panel(qt.QWidget):
        def __init__(self) -> None:
            qt.QWidget.__init__(self)
            self.answer = 42

    panel = Panel()
    panel.windowTitle = "Panel"
    assert (panel.answer, panel.windowTitle, isinstance(panel, qt.QWidget)) == (42, "Panel", True)


# --- signals


def test_a_function_gets_as_many_arguments_as_it_takes() -> None:
    button, got = qt.QPushButton(), []

    class Holder:
        def none(self) -> None:
            got.append(())

        def one(self, checked: bool) -> None:
            got.append((checked,))

    button.checkable = True
    button.clicked.connect(lambda: got.append(()))
    button.clicked.connect(Holder().none)
    button.connect("toggled(bool)", Holder().one)
    button.click()
    assert sorted(got) == [(), (), (True,)]


def test_disconnecting() -> None:
    box, got = qt.QSpinBox(), []
    assert box.connect("valueChanged(int)", got.append)
    box.value = 1
    assert box.disconnect("valueChanged(int)", got.append) is True
    assert box.disconnect("valueChanged(int)", got.append) is False
    box.value = 2
    box.valueChanged.connect(got.append)
    box.valueChanged.disconnect(got.append)
    box.value = 3
    box.valueChanged.connect(got.append)
    assert box.disconnect("valueChanged(int)")
    box.value = 4
    assert got == [1]


def test_a_slot_may_be_named_by_a_string() -> None:
    box, label = qt.QCheckBox(), qt.QLabel()
    assert box.connect("toggled(bool)", label, "setDisabled(bool)")
    box.checked = True
    assert label.enabled is False


def test_the_form_of_an_overloaded_signal_is_chosen_by_string() -> None:
    slicer.mrmlScene.Clear()
    combo, nodes, valid = slicer.qMRMLNodeComboBox(), [], []
    combo.nodeTypes = ["vtkMRMLModelNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    combo.connect("currentNodeChanged(bool)", valid.append)
    combo.currentNodeChanged.connect(nodes.append)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "heart")
    assert (nodes, valid) == ([node], [True])


def test_a_timer_calls_once() -> None:
    got, timer = [], qt.QTimer()
    qt.QTimer.singleShot(5, lambda: got.append("static"))
    timer.setSingleShot(True)
    timer.interval = 5
    timer.connect("timeout()", lambda: got.append("own"))
    timer.start()
    assert standin.wait_until(lambda: len(got) == 2)
    standin.process_events(0.05)
    assert sorted(got) == ["own", "static"]


# --- values and services


def test_a_process_is_a_real_one() -> None:
    process, lines = qt.QProcess(), []
    process.connect("readyReadStandardOutput()", lambda: lines.append(process.readAllStandardOutput().data().decode()))
    environment = qt.QProcessEnvironment.systemEnvironment()
    environment.insert("GREETING", "hello")
    process.setProcessEnvironment(environment)
    process.start("sh", ["-c", 'read line; echo "$GREETING $line"'])
    assert process.waitForStarted(5000)
    assert process.state() == qt.QProcess.Running
    process.write(b"world\n")
    assert standin.wait_until(lambda: process.state() == qt.QProcess.NotRunning)
    standin.process_events()
    assert "".join(lines) == "hello world\n"
    assert process.exitStatus() == qt.QProcess.NormalExit


def test_settings_are_not_the_users() -> None:
    settings = qt.QSettings()
    settings.setValue("AtlasISTN/Test", ["a", "b"])
    settings.sync()
    assert qt.QSettings().value("AtlasISTN/Test") == ("a", "b")
    assert qt.QSettings().value("AtlasISTN/None", 3) == 3
    assert not settings.fileName().startswith(str(Path.home()))
    assert Path(settings.fileName()).is_file()
    with pytest.raises(ValueError, match="a key and a default"):
        settings.value("AtlasISTN/Test", None, str)


def test_the_clipboard_pictures_and_colours(tmp_path: Path) -> None:
    qt.QApplication.clipboard().setText("report")
    assert qt.QApplication.clipboard().text() == "report"
    picture = qt.QPixmap(8, 4)
    picture.fill(qt.QColor("#ff0000"))
    assert picture.save(str(tmp_path / "red.png"))
    label = qt.QLabel()
    label.setPixmap(qt.QPixmap(str(tmp_path / "red.png")))
    assert (label.pixmap.width(), label.pixmap.height()) == (8, 4)
    assert label.pixmap.toImage().pixelColor(0, 0).name() == "#ff0000"
    assert qt.QIcon(str(tmp_path / "red.png")).isNull() is False


def test_an_address_is_kept_and_not_opened() -> None:
    assert qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile("/some/folder"))
    assert standin.opened_urls == ["file:///some/folder"]


def test_a_table() -> None:
    table = qt.QTableWidget()
    table.setColumnCount(2)
    table.setHorizontalHeaderLabels(["Label", "Dice"])
    table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
    table.rowCount = 1
    item = qt.QTableWidgetItem("heart")
    item.setData(qt.Qt.UserRole, 7)
    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
    table.setItem(0, 0, item)
    assert (table.item(0, 0).text(), table.item(0, 0).data(qt.Qt.UserRole)) == ("heart", 7)
    assert table.item(0, 1) is None


# --- dialogs


def test_a_dialog_that_nobody_expected_raises() -> None:
    for show in (
        lambda: qt.QMessageBox().exec_(),
        lambda: qt.QMessageBox.question(None, "Title", "Really?"),
        lambda: qt.QFileDialog.getExistingDirectory(None, "Folder"),
        lambda: qt.QInputDialog.getText(None, "Name", "Name:"),
        lambda: qt.QMenu().exec_(),
        lambda: ctk.ctkMessageBox().exec_(),
        lambda: ctk.ctkPathLineEdit().browse(),
    ):
        with pytest.raises(standin.UnansweredDialogError):
            show()


def test_dialogs_are_answered_by_the_test() -> None:
    dialogs.answer("QFileDialog.getSaveFileName", "/tmp/report.png")
    dialogs.answer("QMessageBox.question", qt.QMessageBox.Yes)
    assert qt.QFileDialog.getSaveFileName(None, "Save report", "", "*.png") == "/tmp/report.png"
    assert qt.QMessageBox.question(None, "Replace", "Replace it?") == qt.QMessageBox.Yes
    assert [(shown.kind, shown.text) for shown in dialogs.asked][-1] == ("QMessageBox.question", "Replace it?")


def test_a_message_box_is_answered_by_button_text_or_function() -> None:
    box = qt.QMessageBox()
    box.text = "Keep the file?"
    keep = box.addButton("Keep", qt.QMessageBox.AcceptRole)
    drop = box.addButton("Drop", qt.QMessageBox.RejectRole)
    dialogs.answer("QMessageBox", "Drop")
    box.exec_()
    assert box.clickedButton() is drop
    dialogs.answer("QMessageBox", lambda shown: "Keep" if shown.text == "Keep the file?" else "Drop")
    box.exec_()
    assert box.clickedButton() is keep
    dialogs.answer("QMessageBox", qt.QMessageBox.Yes)
    with pytest.raises(standin.UnansweredDialogError, match="has no button"):
        box.exec_()


def test_a_dialog_of_ones_own_can_be_clicked() -> None:
    dialog = qt.QDialog()
    button = qt.QPushButton("Go", dialog)
    button.connect("clicked()", dialog.accept)
    dialogs.answer("QDialog", lambda shown: standin.click(button))
    assert dialog.exec_() == qt.QDialog.Accepted


def test_a_menu_is_answered_by_the_text_of_its_action() -> None:
    menu, got = qt.QMenu(), []
    menu.addAction("CT").connect("triggered()", lambda: got.append("CT"))
    menu.addAction("MR").enabled = False
    dialogs.answer("QMenu", "CT")
    menu.exec_()
    assert got == ["CT"]
    dialogs.answer("QMenu", "MR")
    with pytest.raises(standin.UnansweredDialogError, match="'MR'"):
        menu.exec_()


# --- clicks and pictures


def test_only_what_a_user_can_click_is_clicked() -> None:
    window, got = qt.QWidget(), []
    layout = qt.QVBoxLayout(window)
    button, box = qt.QPushButton("Go"), qt.QCheckBox("Refine")
    for child in (button, box):
        layout.addWidget(child)
    button.connect("clicked()", lambda: got.append("clicked"))
    with pytest.raises(standin.ClickError, match="not visible"):
        standin.click(button)
    window.show()
    standin.click(button)
    standin.click(box)
    assert (got, box.checked) == (["clicked"], True)
    button.enabled = False
    with pytest.raises(standin.ClickError, match="disabled"):
        standin.click(button)
    window.close()


def test_a_picture_of_a_widget(tmp_path: Path) -> None:
    label = qt.QLabel("Atlas")
    label.resize(120, 40)
    path = standin.grab(label, tmp_path / "deep" / "label.png")
    picture = qt.QPixmap(str(path))
    assert (picture.width(), picture.height()) == (120, 40)
    image = picture.toImage()
    assert len({image.pixelColor(x, 20).name() for x in range(120)}) > 1  # there is text on it

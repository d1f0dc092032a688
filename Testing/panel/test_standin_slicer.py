"""slicer.app, modules, texts, samples and packages of the stand-in behave as Slicer's do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import SampleData
import slicer
import standin
from slicer.i18n import tr, translate
from standin import application, i18n, messages, packages, record, sample_data

MODULE = """
import slicer
from slicer.ScriptedLoadableModule import *

class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Small one"

class SmallWidget(ScriptedLoadableModuleWidget):
    calls = []
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.calls.append("setup")
        self.logic = SmallLogic()
    def enter(self): self.calls.append("enter")
    def exit(self): self.calls.append("exit")
    def cleanup(self): self.calls.append("cleanup")

class SmallLogic(ScriptedLoadableModuleLogic):
    pass

class SmallTest(ScriptedLoadableModuleTest):
    def test_one(self): self.delayDisplay("one")
    def test_two(self): self.delayDisplay("two")
"""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "Small.py").write_text(MODULE)
    opened = standin.open_module(tmp_path / "Small.py")
    yield opened
    standin.close_module(opened)
    for name in ("small", "SmallInstance", "SmallWidget"):
        delattr(slicer.modules, name)
    del sys.modules["Small"]


# --- the application ------------------------------------------------------------------------------------------------


def test_the_application_has_recorded_names_only() -> None:
    assert set(dir(slicer.app)) == set(record.widgets()["slicer.app"])
    own = {name for name in vars(type(slicer.app)) if not name.startswith("_")} | set(application.VALUES)
    assert own <= set(record.widgets()["slicer.app"])
    with pytest.raises(AttributeError, match="no attribute named 'temporaryFolder'"):
        _ = slicer.app.temporaryFolder
    with pytest.raises(AttributeError, match="not allowed"):
        slicer.app.myState = 1


@pytest.mark.parametrize("name", ["applicationName", "majorVersion", "platform", "os", "revision", "temporaryPath"])
def test_the_applications_values_are_of_the_recorded_types(name: str) -> None:
    assert type(getattr(slicer.app, name)).__name__ == record.widgets()["slicer.app"][name]


def test_modules_of_slicer_have_logics_and_no_unrecorded_names() -> None:
    known = {name for name, value in vars(slicer.modules).items() if isinstance(value, standin.mrml.Module)}
    assert known <= set(record.widgets()["slicer.modules"])
    assert slicer.util.getModuleLogic("Segmentations") is slicer.modules.segmentations.logic()
    with pytest.raises(RuntimeError):
        slicer.util.getModule("NoSuchModule")


def test_settings_are_those_of_the_application_and_not_the_users(tmp_path: Path) -> None:
    qt.QSettings().setValue("Sample/Threads", 4)
    assert slicer.util.settingsValue("Sample/Threads", 0, converter=int) == 4
    assert int(slicer.app.userSettings().value("Sample/Threads")) == 4
    assert not Path(qt.QSettings().fileName()).is_relative_to(Path.home())


def test_errors_are_shown_to_users_and_not_in_testing_mode() -> None:
    with pytest.raises(ValueError, match="no"), slicer.util.tryWithErrorDisplay("It failed.", waitCursor=True):
        raise ValueError("no")
    assert messages.texts("error") == ["It failed.\n\nno"]
    application.state.testing = True
    with pytest.raises(ValueError, match="no"), slicer.util.tryWithErrorDisplay("It failed."):
        raise ValueError("no")
    assert messages.texts("error") == ["It failed.\n\nno"]
    assert slicer.util.confirmYesNoDisplay("Really?")
    assert slicer.util.mainWindow() is None


# --- a module's life ------------------------------------------------------------------------------------------------


def test_a_module_is_opened_entered_left_and_cleaned_up(opened: Any) -> None:
    calls = opened.module.SmallWidget.calls
    assert calls == ["setup", "enter"]
    assert (slicer.modules.small.title, slicer.modules.small.widgetRepresentation()) == ("Small one", opened.parent)
    opened.parent.exit()
    slicer.app.moduleManager().unload("Other")
    assert calls == ["setup", "enter", "exit"]
    slicer.app.moduleManager().unload("Small")
    slicer.app.moduleManager().unload("Small")
    assert calls == ["setup", "enter", "exit", "cleanup"]


def test_a_reloaded_module_has_a_new_panel_in_the_same_place(opened: Any, tmp_path: Path) -> None:
    before = opened.module.SmallWidget.calls
    (tmp_path / "Small.py").write_text(MODULE.replace("Small one", "Small two"))
    opened.widget.onReload()
    assert before == ["setup", "enter", "cleanup"]
    again = slicer.modules.SmallWidget
    assert (again is opened.widget, again.parent) == (False, opened.parent)
    assert type(again) is sys.modules["Small"].SmallWidget
    assert again.calls == ["setup"]


def test_the_parameter_node_is_one_for_the_module_and_survives_closing_the_scene(opened: Any) -> None:
    node = opened.widget.logic.getParameterNode()
    assert opened.module.SmallLogic().getParameterNode() is node
    assert (node.GetSingletonTag(), node.GetAttribute("ModuleName")) == ("Small", "Small")
    slicer.mrmlScene.Clear()
    assert opened.widget.logic.getParameterNode().GetAttribute("ModuleName") == "Small"
    assert len(opened.widget.logic.getAllParameterNodes()) == 1


def test_a_modules_own_tests_are_run_by_slicer(opened: Any) -> None:
    slicer.selfTests["Small"]()
    assert messages.texts("delay") == ["one", "two"]


def test_selecting_a_module_is_noticed(opened: Any) -> None:
    slicer.util.selectModule("Small")
    assert application.state.selected_modules == ["Small"]
    with pytest.raises(RuntimeError):
        slicer.util.selectModule("NoSuchModule")


# --- texts ----------------------------------------------------------------------------------------------------------


def test_texts_are_translated_in_the_context_of_their_file() -> None:
    assert tr("Apply") == "Apply"
    with i18n.translating(lambda context, text: f"{context}: {text}"):
        assert tr("Apply") == "test_standin_slicer: Apply"
        assert translate("Other", "Apply") == "Other: Apply"
    with i18n.translating(lambda context, text: text.replace("{count}", "{nombre}")):
        assert tr("{count} files").format(count=3) == "3 files"


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_sample(tmp_path: Path) -> Iterator[Path]:
    slicer.mrmlScene.Clear()
    sample_data.sources().clear()
    path = tmp_path / "hearts" / "CT heart.nrrd"
    path.parent.mkdir()
    node = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    slicer.util.saveNode(node, str(path))
    slicer.mrmlScene.Clear()
    yield path
    sample_data.sources().clear()


def register(path: Path, **more: Any) -> None:
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Atlas", sampleName="Heart", uris=path.as_uri(), fileNames=path.name, nodeNames="My heart", **more
    )


def test_a_sample_is_registered_once_and_loaded_by_name(a_sample: Path) -> None:
    for _ in range(2):
        register(a_sample, thumbnailFileName="heart.png")
    logic = SampleData.SampleDataLogic()
    assert len(logic.sampleDataSourcesByCategory("Atlas")) == 1
    node = SampleData.downloadSample("Heart")
    assert (node.GetName(), node.GetStorageNode()) == ("My heart", None)
    assert slicer.util.arrayFromVolume(node)[1, 2, 3] == 23


def test_a_sample_with_another_checksum_is_not_loaded(a_sample: Path) -> None:
    digest = slicer.util.computeChecksum("SHA256", str(a_sample))
    register(a_sample, checksums=f"SHA256:{digest}")
    assert len(SampleData.downloadSamples("Heart")) == 1
    sample_data.sources().clear()
    register(a_sample, checksums=f"SHA256:{digest[::-1]}")
    assert SampleData.downloadSamples("Heart") == []


def test_the_button_of_a_sample_asks_its_own_downloader(a_sample: Path) -> None:
    asked = []
    register(a_sample, customDownloader=asked.append)
    sample_data.click("Heart")
    assert [source.sampleName for source in asked] == ["Heart"]


def test_nothing_is_fetched_over_the_network() -> None:
    with pytest.raises(ValueError, match="network"):
        SampleData.SampleDataLogic().downloadFromURL(uris="https://example.org/ct.nrrd", fileNames="ct.nrrd")


# --- packages -------------------------------------------------------------------------------------------------------


def test_packages_are_asked_for_before_they_are_installed() -> None:
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure("safetensors>=0.4", requester="Atlas-ISTN")
    messages.answers.append(True)
    slicer.packaging.pip_ensure("safetensors>=0.4", requester="Atlas-ISTN")
    assert slicer.packaging.pip_check("safetensors")
    slicer.packaging.pip_ensure("safetensors")
    assert len(messages.texts("question")) == 2
    packages.packages.failing = True
    with pytest.raises(subprocess.CalledProcessError):
        slicer.util.pip_install("tqdm")


def test_torch_is_there_or_not_or_half() -> None:
    with packages.pytorch("absent") as logic:
        import PyTorchUtils

        assert not PyTorchUtils.PyTorchUtilsLogic.torchInstalled()
        assert logic().installTorch(askConfirmation=True) is None
        assert logic().installTorch().__version__
        assert logic.torchInstalled()
    with packages.pytorch("half") as logic, pytest.raises(OSError, match="libtorch"):
        logic.torchInstalled()
    with packages.pytorch("absent", installs=False) as logic, pytest.raises(subprocess.CalledProcessError):
        logic().installTorch()
    with packages.pytorch("no extension"), pytest.raises(ImportError):
        import PyTorchUtils

"""The sample scans that come with the module, as Slicer's SampleData knows them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.resources import samples_folder

CATEGORY = "Atlas-ISTN"


@dataclass(frozen=True)
class Sample:
    """A scan, or the true labels of one.

    Attributes:
        name: of the node, and what SampleData lists it as; the same in every language, so that scripts find it.
        title: what people read here.
        file: below the folder of the samples.
        model: the bundled model that it is for.
        kind: SampleData's type of file.
    """

    name: str
    title: str
    file: str
    model: str
    kind: str = "VolumeFile"

    @property
    def path(self) -> Path:
        """Where the file is."""
        return samples_folder() / self.file


def samples() -> tuple[Sample, ...]:
    """The samples whose files came along."""
    known = (
        Sample("Phantom heart", _("Phantom heart"), "phantom-heart-clean.nrrd", "phantom-heart"),
        Sample(
            "Phantom heart with artefacts",
            _("Phantom heart with artefacts"),
            "phantom-heart-corrupted.nrrd",
            "phantom-heart",
        ),
        Sample("Letter B", _("Letter B"), "letter-b.png", "letter-b"),
    )
    return tuple(sample for sample in known if sample.path.is_file())


def register() -> None:
    """Tell SampleData of the samples; called once, when Slicer has started."""
    try:
        import SampleData
    except ImportError:
        logging.getLogger(__name__).warning("SampleData is absent; the samples are in the panel only")
        return
    for sample in samples():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample.name,
            uris=sample.path.as_uri(),
            fileNames=sample.file,
            nodeNames=sample.name,
            loadFileType=sample.kind,
            thumbnailFileName=None,
        )


def load(sample: Sample) -> Any:
    """Load a sample as a new node that is not bound to the file it came from, and show it in the slice views.

    Raises:
        RuntimeError: Slicer could not read it.
    """
    node = slicer.util.loadVolume(str(sample.path), {"name": sample.name, "show": False, "singleFile": True})
    storage = node.GetStorageNode()
    if storage is not None:
        # Saving the scene must not write into the module's own folder.
        node.SetAndObserveStorageNodeID(None)
        slicer.mrmlScene.RemoveNode(storage)
    slicer.util.setSliceViewerLayers(background=node, foreground=None, label=None, fit=True)
    return node

"""The sample scans that come with the module, as Slicer's SampleData knows them."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from AtlasISTNLib.manifest import available_models
from AtlasISTNLib.resources import samples_folder

CATEGORY = "Atlas-ISTN"
#: The mean T1 of 152 people (Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033), as nilearn carries it.
_ICBM152 = Path("datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")


@dataclass(frozen=True)
class Sample:
    """A scan, or the true labels of one.

    Attributes:
        name: of the node, and what SampleData lists it as; the same in every language, so that scripts find it.
        title: what people read here.
        file: below the folder of the samples, or a path elsewhere.
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
    """The samples whose files and models are here: those that came along, and a real head where there is nilearn."""
    known = (
        Sample("Phantom heart", _("Phantom heart"), "phantom-heart-clean.nrrd", "phantom-heart"),
        Sample(
            "Phantom heart with artefacts",
            _("Phantom heart with artefacts"),
            "phantom-heart-corrupted.nrrd",
            "phantom-heart",
        ),
        *_from_nilearn(),
        Sample("Letter B", _("Letter B"), "letter-b.png", "letter-b"),
    )
    models = available_models()
    return tuple(sample for sample in known if sample.model in models and sample.path.is_file())


def _from_nilearn() -> tuple[Sample, ...]:
    """What nilearn carries, where it is installed; it is looked for and not imported, which would take seconds."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        return ()
    path = Path(spec.submodule_search_locations[0]) / _ICBM152
    return (Sample("ICBM152 T1", _("Mean brain of 152 people (ICBM152 T1)"), str(path), "brain-deep-grey"),)


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
            fileNames=sample.path.name,
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

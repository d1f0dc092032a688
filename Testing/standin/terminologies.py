"""A few entries of Slicer's terminologies, written as the files that its terminologies logic reads at its start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GENERAL = "Segmentation category and type - 3D Slicer General Anatomy list"
MASTER = "Segmentation category and type - DICOM master list"
ANATOMY = "Anatomic codes - DICOM master list"
STRUCTURES = (
    ("80891009", "Heart", (206, 110, 84)),
    ("87878005", "Left ventricle", (152, 55, 13)),
    ("53085002", "Right ventricle", (181, 85, 57)),
    ("82471001", "Left atrium", (203, 108, 81)),
    ("73829009", "Right atrium", (159, 63, 27)),
    ("74281007", "Myocardium", (192, 104, 88)),
    ("15825003", "Aorta", (224, 97, 76)),
    ("12738006", "Brain", (250, 250, 225)),
)
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/{kind}-context-schema.json#"


def write(folder: Path) -> None:
    """The three files, under the names that the logic looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    structures = [_code(code, meaning) | {"recommendedDisplayRGBValue": color} for code, meaning, color in STRUCTURES]
    tissue = _code("85756007", "Tissue")
    categories = [
        tissue | {"showAnatomy": True, "Type": [tissue | {"recommendedDisplayRGBValue": (128, 174, 128)}]},
        _code("123037004", "Anatomical Structure") | {"showAnatomy": False, "Type": structures},
    ]
    regions = [_code(code, meaning) for code, meaning, _ in STRUCTURES]
    for context, stem in (
        (GENERAL, "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy"),
        (MASTER, "SegmentationCategoryTypeModifier-DICOM-Master"),
    ):
        content = {"SegmentationCategoryTypeContextName": context, "SegmentationCodes": {"Category": categories}}
        _write(folder, stem, {"@schema": SCHEMA.format(kind="segment")} | content)
    content = {"AnatomicContextName": ANATOMY, "AnatomicCodes": {"AnatomicRegion": regions}}
    _write(folder, "AnatomicRegionAndModifier-DICOM-Master", {"@schema": SCHEMA.format(kind="anatomic")} | content)


def _code(value: str, meaning: str) -> dict[str, Any]:
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning}


def _write(folder: Path, stem: str, content: dict[str, Any]) -> None:
    for ending in (".json", ".term.json"):
        (folder / (stem + ending)).write_text(json.dumps(content), encoding="utf-8")

"""Names of structures: what people, atlases and other programs call the same thing, brought to the same words.

"heart_ventricle_left" (TotalSegmentator), "Left-Thalamus-Proper" (FreeSurfer) and "LV blood pool" are read as people
mean them. Case, underscores, the order of words, plurals and short forms do not matter; sides do.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import vtk

#: The words of a name in alphabetical order, sides written out.
Words = tuple[str, ...]

_SIDES = {
    **dict.fromkeys(("l", "lt", "lh", "sin", "sinister", "sinistra"), "left"),
    **dict.fromkeys(("r", "rt", "rh", "dex", "dexter", "dextra"), "right"),
}
#: SNOMED CT's codes of the modifiers that tell the two sides apart.
_SIDE_CODES = {"7771000": "left", "24028007": "right"}
#: Codes that Slicer gives to every new segment, or that stand for anything: Tissue, Anatomical Structure.
_GENERAL_CODES = frozenset({"", "85756007", "123037004"})
_FILLERS = frozenset({"of", "the", "and"})
#: Words that add nothing where there are others beside a side.
_WEAK = frozenset(
    {"area", "blood", "cavity", "chamber", "gland", "in", "label", "mask", "nucleus", "organ", "pool", "proper"}
    | {"segment", "segmentation", "structure"}
)
_WORDS = {
    "atria": ("atrium",),
    "atrial": ("atrium",),
    "bowel": ("intestine",),
    "cardiac": ("heart",),
    "cerebella": ("cerebellum",),
    "cerebellar": ("cerebellum",),
    "cerebral": ("cerebrum",),
    "dc": ("diencephalon",),
    "hippocampi": ("hippocampus",),
    "ivc": ("inferior", "vena", "cava"),
    "la": ("left", "atrium"),
    "lv": ("left", "ventricle"),
    "lvm": ("left", "ventricle", "myocardium"),
    "myo": ("myocardium",),
    "myocardial": ("myocardium",),
    "oesophagus": ("esophagus",),
    "postcava": ("inferior", "vena", "cava"),
    "pulmonic": ("pulmonary",),
    "ra": ("right", "atrium"),
    "rv": ("right", "ventricle"),
    "rvm": ("right", "ventricle", "myocardium"),
    "suprarenal": ("adrenal",),
    "svc": ("superior", "vena", "cava"),
    "thalami": ("thalamus",),
    "tumour": ("tumor",),
    "ventricular": ("ventricle",),
    "vertebrae": ("vertebra",),
    "wm": ("white", "matter"),
    "gm": ("gray", "matter"),
    "grey": ("gray",),
}
#: Words that mean the same together as others do.
_PHRASES = (
    (frozenset({"globus", "pallidus"}), frozenset({"pallidum"})),
    (frozenset({"gall", "bladder"}), frozenset({"gallbladder"})),
    (frozenset({"brain", "stem"}), frozenset({"brainstem"})),
    (frozenset({"urinary", "bladder"}), frozenset({"bladder"})),
    (frozenset({"myocardium", "left", "ventricle"}), frozenset({"myocardium"})),
    (frozenset({"myocardium", "left"}), frozenset({"myocardium"})),
)
_HEART = frozenset({"ventricle", "atrium", "myocardium", "valve"})
_LOBES = frozenset({"upper", "middle", "lower", "superior", "inferior", "lobe"})


@lru_cache(maxsize=4096)
def plain_words(name: str) -> Words:
    """The words of a name, sides written out, otherwise as they stand."""
    return tuple(sorted(_SIDES.get(word, word) for word in _split(name) if word not in _FILLERS))


@lru_cache(maxsize=4096)
def words(name: str) -> Words:
    """The words of what a name means: the same for all names of a structure that are known here."""
    found: set[str] = set()
    for word in _split(name):
        if word not in _FILLERS:
            found.update(_WORDS.get(word) or _WORDS.get(_singular(word)) or (_SIDES.get(word) or _singular(word),))
    strong = found - _WEAK
    if any(not word.isdecimal() for word in strong - {"left", "right"}):  # "Segment 1" is not "label 1"
        found = strong
    if found & _HEART:
        found.discard("heart")
    for phrase, meaning in _PHRASES:
        if phrase <= found:
            found = (found - phrase) | meaning
    return tuple(sorted(found))


def whole_of(found: Words) -> Words:
    """The words of the organ that a lobe is a part of; empty where the words are not those of a lobe."""
    return tuple(word for word in found if word not in _LOBES) if {"lung", "lobe"} <= set(found) else ()


@lru_cache(maxsize=4096)
def side(name: str) -> str:
    """ "left", "right", or "" where a name says neither or both."""
    sides = {"left", "right"} & set(words(name) + plain_words(name))
    return sides.pop() if len(sides) == 1 else ""


def specific(code: str) -> str:
    """A SNOMED CT code; empty where it could stand for anything."""
    return "" if code in _GENERAL_CODES else code


def code_and_side(segment: Any) -> tuple[str, str]:
    """A segment's SNOMED CT code, empty without a telling one, and its side as its modifier or else its name says."""
    # context ~ category ~ type ~ type modifier ~ anatomic context ~ region ~ region modifier; each scheme^code^meaning
    parts = _entry(segment)
    codes = [part[1] if len(part) > 1 and part[0] in {"SCT", "SRT"} else "" for part in parts]
    codes += [""] * (7 - len(codes))
    found = _SIDE_CODES.get(codes[3]) or _SIDE_CODES.get(codes[6]) or side(segment.GetName() or "")
    return specific(codes[2]), found


def meaning(segment: Any) -> str:
    """What a segment's terminology says it is, in words with its side; empty where it says nothing telling."""
    parts = [part[2] if len(part) > 2 else "" for part in _entry(segment)]
    if len(parts) < 4 or not code_and_side(segment)[0]:
        return ""
    return " ".join(part for part in parts[2:4] if part)


def _entry(segment: Any) -> list[list[str]]:
    entry = vtk.reference("")
    if not segment.GetTag(segment.GetTerminologyEntryTagName(), entry):
        return []
    return [part.split("^") for part in str(entry).split("~")]


def _split(name: str) -> list[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W_]+", parted)]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word

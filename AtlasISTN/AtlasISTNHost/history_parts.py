"""Parts of the history: a result of the engine as packed texts in a store, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from slicer.i18n import tr as _

from AtlasISTNLib.correspondence import ATLAS_FROM_IMAGE, Correspondence, carried, part_around, place_of
from AtlasISTNLib.errors import VolumeError
from AtlasISTNLib.exchange import grid_as_dict
from AtlasISTNLib.geometry import Grid
from AtlasISTNLib.manifest import Label
from AtlasISTNLib.volume import Volume

from . import packing, results, volumes
from .history_entries import Entry
from .history_store import Store

#: Label maps of a result that are kept.
LABELS = ("labels", "one_pass", "prediction")


def pack(store: Store, outcome: results.Outcome, picture: NDArray[np.uint8]) -> dict[str, str]:
    """Put a result into the store; gives the keys of its parts by what they are.

    Raises:
        VolumeError: a displacement is not finite.
    """
    parts = {name: _put(store, outcome.volumes[name], packing.pack_labels) for name in LABELS}
    for name, correspondence in (("first", outcome.one_pass), ("final", outcome.final)):
        parts[name] = _put(store, correspondence, packing.pack_correspondence)
    if outcome.disagreement is not None:
        parts["disagreement"] = _put(store, outcome.disagreement, packing.pack_volume)
    facts = {
        "case": outcome.case,
        "labels": [asdict(label) for label in outcome.labels],
        "figures": outcome.figures,
        "trace": outcome.trace,
    }
    texts = {"facts": packing.pack_values(facts), "picture": packing.pack_labels(_picture_volume(picture))}
    for name, text in texts.items():
        parts[name] = hashlib.sha256(text.encode()).hexdigest()
        store.put_part(parts[name], text)
    return parts


def unpack(store: Store, entry: Entry) -> results.Outcome:
    """The result of an entry, without the atlas on the patient.

    Raises:
        VolumeError: the entry is damaged or gone.
    """
    fresh = store.find(entry.key)
    if fresh is None:
        raise VolumeError(_("This entry of the history is gone"), _("choose another one"))
    text = {name: store.part(key) for name, key in fresh.parts.items()}
    facts = packing.unpack_values(text.get("facts", ""))
    found = {name: packing.unpack_labels(text.get(name, "")) for name in LABELS}
    first = packing.unpack_correspondence(text.get("first", ""))
    final = first if fresh.parts["first"] == fresh.parts["final"] else packing.unpack_correspondence(text["final"])
    return results.Outcome(
        case=facts["case"],
        labels=labels_of(facts),
        volumes=found,
        one_pass=first,
        final=final,
        figures=facts["figures"],
        trace=facts["trace"],
        refined=fresh.refined,
        disagreement=packing.unpack_volume(text["disagreement"]) if "disagreement" in text else None,
        state=fresh.state,
        warnings=fresh.notes,
    )


def labels_of(facts: Mapping[str, Any]) -> tuple[Label, ...]:
    """The labels of a result, background first, from its packed facts."""
    return tuple(Label(**{**entry, "color": tuple(entry["color"])}) for entry in facts["labels"])


def picture_of(text: str) -> NDArray[np.uint8]:
    """The thumbnail (rows, columns, 3) of its packed part.

    Raises:
        VolumeError: the text is damaged.
    """
    found = packing.unpack_labels(text).array[0]
    return np.ascontiguousarray(np.moveaxis(found, 0, -1)).astype(np.uint8)


def atlas_on_image(atlas: Volume, correspondence: Correspondence, grid: Grid) -> Volume:
    """The atlas image on the patient at the voxels of an image, as the engine makes it; 0 beyond the atlas.

    Args:
        atlas: 1 channel in atlas space; a 2D one lies at z = 0 of a 3D image's.
        correspondence: of the image.
        grid: of the image.
    """
    source = volumes.lifted(atlas) if grid.ndim == 3 else atlas
    points = correspondence.image_from_atlas(source.grid.points().reshape(-1, grid.ndim))
    where = part_around(grid, points, 4 * max(source.grid.spacing))
    full = np.zeros((1, *grid.shape), dtype=np.float32)
    if where is not None:
        transform: sitk.Transform = correspondence.transform(ATLAS_FROM_IMAGE)
        full[0][place_of(where, grid)] = carried(source, where, transform).array[0]
    return Volume.from_array(full, grid, "atlas-image")


def _put(store: Store, content: Any, pack: Callable[[Any], str]) -> str:
    """Keep a volume or a correspondence, unless the same one is kept already; gives its key."""
    key = _fingerprint(content)
    if not store.has_part(key):
        store.put_part(key, pack(content))
    return key


def _fingerprint(content: Any) -> str:
    """What tells a volume or a correspondence from every other."""
    found = hashlib.sha256()
    if isinstance(content, Correspondence):
        pieces: tuple[Any, ...] = (content.displacement, content.displacement_back)
        grids = [grid_as_dict(content.image_grid), grid_as_dict(content.atlas_grid)]
        found.update(repr([content.outward, content.theta.tolist(), grids]).encode())
    else:
        pieces = (content,)
    for volume in pieces:
        found.update(repr([grid_as_dict(volume.grid), volume.array.dtype.str]).encode())
        found.update(np.ascontiguousarray(volume.array).data)
    return found.hexdigest()


def _picture_volume(picture: NDArray[np.uint8]) -> Volume:
    """A picture (rows, columns, 3) as a volume, to pack it as one."""
    array = np.moveaxis(picture, -1, 0)
    unit = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    return Volume.from_array(array, Grid(array.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), unit), "picture")


__all__ = ["LABELS", "atlas_on_image", "labels_of", "pack", "picture_of", "unpack"]

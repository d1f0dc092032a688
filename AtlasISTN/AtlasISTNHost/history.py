"""The history: every result of an input and a model, kept in the scene, with a way back to each of them.

A result is recorded at once; what is large of it is packed soon after, when there is time (`settle`). Slicer tells
nobody that it is about to save a scene: until it is packed an entry is no part of what is saved. Going back writes the
same nodes as the result did. A new result after that does not displace the ones that came after: what it was made from
is its parent, undo leads there, and redo to where the last undo came from.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from slicer.i18n import tr as _

from AtlasISTNLib.configs import RefineConfig
from AtlasISTNLib.errors import AtlasISTNError, VolumeError
from AtlasISTNLib.manifest import Label, load_atlas
from AtlasISTNLib.volume import Volume

from . import comparison, frames, history_parts, packing, results, thumbnails
from .history_entries import Entry, described
from .history_store import Store, drop_orphans, tidy
from .models import Entry as Model

#: Entries of an input and a model, and characters of all their parts; the oldest ones that are not pinned make room.
MOST_ENTRIES, MOST_BYTES = 40, 256_000_000
#: Results that wait to be packed; of more, the oldest is packed at once.
_MOST_WAITING = 3


def atlas_image_of(model: Model) -> Volume:
    """The atlas image of a model, 1 channel in atlas space.

    Raises:
        BundleError: the model is absent or damaged.
    """
    return load_atlas(model.path)[0]


class History:
    """The results of one input and model at a time.

    Args:
        surfaces_of: gives the atlas's surfaces of a model, see `surfaces.atlas_surfaces`.
        image_of: gives the atlas image of a model.
    """

    def __init__(
        self, surfaces_of: Callable[[Model], Mapping[int, Any]], image_of: Callable[[Model], Volume] = atlas_image_of
    ) -> None:
        self._surfaces_of, self._image_of = surfaces_of, image_of
        self._store: Store | None = None
        self._model: Model | None = None
        self._waiting: OrderedDict[str, tuple[Store, results.Outcome]] = OrderedDict()
        self._pictures: dict[str, NDArray[np.uint8]] = {}

    def follow(self, input_node: Any, model: Model | None) -> None:
        """Turn to an input and a model; None for none."""
        if input_node is None or model is None or model.manifest is None:
            self._store, self._model = None, None
            return
        name = model.manifest.about.name
        if self._store is None or self._store.input_node is not input_node or self._store.model != name:
            self._store = Store(input_node, name)
            tidy(input_node.GetScene())
        self._model = model

    def forget(self) -> None:
        """Let go of everything, as when the scene is closed; what is in the scene goes with it."""
        self._store, self._model = None, None
        self._waiting.clear()
        self._pictures.clear()

    def entries(self) -> list[Entry]:
        """The entries, the first one first."""
        return [] if self._store is None else self._store.entries()

    @property
    def current(self) -> Entry | None:
        """The entry whose result is shown; None where the one that is shown is not kept."""
        return None if self._store is None else self._store.find(self._store.current)

    @property
    def is_in_scene(self) -> bool:
        """Whether the segmentation that shows the current result is there; the user may have deleted it."""
        store = self._store
        return (
            store is not None
            and store.scene is not None
            and results.find_nodes(store.input_node, store.model) is not None
        )

    # What adds to it, and goes about in it

    def record(
        self, outcome: results.Outcome, input_node: Any, model: Model, config: RefineConfig | None = None
    ) -> Entry:
        """Keep a result that is shown now.

        Args:
            outcome: the result.
            input_node: its scan.
            model: its model.
            config: what was asked for; None for one pass.

        Raises:
            VolumeError: it cannot be packed.
        """
        assert model.manifest is not None  # or there would be no result
        store = Store(input_node, model.manifest.about.name)
        drop_orphans(input_node.GetScene())
        before = store.find(store.current)
        entry = Entry(
            key=uuid.uuid4().hex,
            number=1 + max((other.number for other in store.entries()), default=0),
            time=datetime.now().isoformat(timespec="seconds"),
            state=outcome.state,
            notes=outcome.warnings,
            own_rate=config is None or config.learning_rate is None,
            parent="" if before is None else before.key,
        )
        entry = described(outcome, entry)
        picture = thumbnails.thumbnail(input_node, outcome.volumes["labels"], outcome.labels)
        self._pictures[entry.key] = picture
        store.write(entry)
        if before is not None:
            store.write(replace(before, following=entry.key))
        store.current = entry.key
        # The atlas on the patient is as large as the scan, and soon made again.
        kept = {name: volume for name, volume in outcome.volumes.items() if name in history_parts.LABELS}
        self._waiting[entry.key] = (store, replace(outcome, volumes=kept))
        while len(self._waiting) > _MOST_WAITING:
            self.settle(1)
        self._make_room(store)
        return entry

    def restore(self, entry: Entry) -> tuple[results.Outcome, results.Nodes]:
        """Bring our nodes to what they were when an entry was recorded; segmentations that the user edited stay apart.

        Raises:
            VolumeError: the entry is damaged or gone, or the scan has no voxels.
            GeometryError: the scan has other voxels by now.
            BundleError: the model is absent or damaged.
        """
        store, model = self._store, self._model
        if store is None or model is None or model.manifest is None:
            raise VolumeError(_("The scan or the model of this entry is not chosen"), _("choose them first"))
        outcome = self.outcome_of(entry)
        written = results.write_outcome(outcome, store.input_node, model.manifest, self._surfaces_of(model))
        self._step_to(store, entry)
        return outcome, written

    @property
    def undo_target(self) -> Entry | None:
        """Where undo leads: to what the current result was made from."""
        current = self.current
        return None if current is None or self._store is None else self._store.find(current.parent)

    @property
    def redo_target(self) -> Entry | None:
        """Where redo leads: to where undo came from."""
        current = self.current
        return None if current is None or self._store is None else self._store.find(current.following)

    def undo(self) -> tuple[results.Outcome, results.Nodes] | None:
        """Restore what the current result was made from; None where that is not kept. Raises as `restore`."""
        target = self.undo_target
        return None if target is None else self.restore(target)

    def redo(self) -> tuple[results.Outcome, results.Nodes] | None:
        """Restore where undo came from; None where it came from nowhere. Raises as `restore`."""
        target = self.redo_target
        return None if target is None else self.restore(target)

    # What changes an entry

    def rename(self, entry: Entry, name: str) -> None:
        """Give an entry a name; an empty one takes it away."""
        self._change(entry, name=name.strip())

    def pin(self, entry: Entry, on: bool) -> None:
        """Keep an entry however many follow, or no longer."""
        self._change(entry, pinned=on)

    def delete(self, entry: Entry) -> None:
        """Remove an entry; those that were made from it are then as if made from its parent."""
        store = self._store
        if store is None or store.find(entry.key) is None:
            return
        self._delete(store, entry)

    # What an entry holds

    def outcome_of(self, entry: Entry) -> results.Outcome:
        """The result of an entry.

        Raises:
            VolumeError: the entry is damaged or gone.
            BundleError: the model is absent or damaged.
        """
        store, model = self._store, self._model
        if store is None or model is None:
            raise VolumeError(_("The scan or the model of this entry is not chosen"), _("choose them first"))
        waiting = self._waiting.get(entry.key)
        outcome = history_parts.unpack(store, entry) if waiting is None else waiting[1]
        image = history_parts.atlas_on_image(self._image_of(model), outcome.final, outcome.volumes["labels"].grid)
        return replace(outcome, volumes={**outcome.volumes, "atlas_image": image})

    def compare(self, first: Entry, second: Entry) -> list[comparison.Row]:
        """Draw the second entry as outlines over the slices, each structure in the colour opposite to its own.

        Returns:
            how far the two agree, structure by structure.

        Raises:
            VolumeError: an entry is damaged or gone.
            GeometryError: they are not of the scan as it is now.
        """
        store = self._store
        if store is None:
            raise VolumeError(_("The scan or the model of this entry is not chosen"), _("choose them first"))
        one, two, structures = self.labels_of(first), self.labels_of(second), self.structures_of(second)
        figures = [{s.value: s.volume for s in entry.structures} for entry in (first, second)]
        sizes = [[found.get(label.value, 0.0) for found in figures] for label in structures[1:]]
        frames.frame_of_result(two.grid, store.input_node)
        rows = comparison.agreement(one, two, structures, sizes)
        comparison.show(two, structures, store.input_node, store.model)
        return rows

    def end_comparison(self) -> None:
        """Take the second entry's outlines away."""
        if self._store is not None:
            comparison.hide(self._store.input_node, self._store.model)

    def labels_of(self, entry: Entry) -> Volume:
        """The label map of an entry, without the rest of it.

        Raises:
            VolumeError: the entry is damaged or gone.
        """
        waiting = self._waiting.get(entry.key)
        if waiting is not None:
            return waiting[1].volumes["labels"]
        return packing.unpack_labels(self._part(entry, "labels"))

    def structures_of(self, entry: Entry) -> tuple[Label, ...]:
        """The labels of an entry, background first.

        Raises:
            VolumeError: the entry is damaged or gone.
        """
        waiting = self._waiting.get(entry.key)
        if waiting is not None:
            return waiting[1].labels
        return history_parts.labels_of(packing.unpack_values(self._part(entry, "facts")))

    def picture_of(self, entry: Entry) -> NDArray[np.uint8] | None:
        """The thumbnail of an entry (rows, columns, 3); None where it is damaged."""
        if entry.key not in self._pictures:
            try:
                self._pictures[entry.key] = history_parts.picture_of(self._part(entry, "picture"))
            except VolumeError:
                return None
        return self._pictures[entry.key]

    @property
    def size(self) -> int:
        """Characters of all parts of the input and model."""
        return 0 if self._store is None else sum(self._store.part_bytes().values())

    @property
    def unsettled(self) -> bool:
        """Whether there is something to pack."""
        return bool(self._waiting)

    def settle(self, most: int | None = None) -> None:
        """Pack results into the scene that were recorded since, the oldest first; all of them by default."""
        for _count in range(len(self._waiting) if most is None else most):
            if not self._waiting:
                return
            key, (store, outcome) = self._waiting.popitem(last=False)
            entry = store.find(key) if store.scene is not None else None
            if entry is None:
                continue  # deleted, or its scan has left the scene
            try:
                self._pack(store, entry, outcome)
            except AtlasISTNError:
                self._delete(store, entry)
                raise
            self._make_room(store)

    def _pack(self, store: Store, entry: Entry, outcome: results.Outcome) -> None:
        store.write(replace(entry, parts=history_parts.pack(store, outcome, self._pictures[entry.key])))

    def _part(self, entry: Entry, name: str) -> str:
        store = self._store
        fresh = None if store is None else store.find(entry.key)
        return "" if store is None or fresh is None else store.part(fresh.parts.get(name, ""))

    def _change(self, entry: Entry, **changes: Any) -> None:
        fresh = None if self._store is None else self._store.find(entry.key)
        if fresh is not None and self._store is not None:
            self._store.write(replace(fresh, **changes))

    def _step_to(self, store: Store, entry: Entry) -> None:
        before, found = store.find(store.current), store.find(entry.key)
        if found is None:
            return
        if before is not None and before.parent == found.key:  # an undo: redo leads back
            store.write(replace(found, following=before.key))
        else:
            parent = store.find(found.parent)
            if parent is not None:
                store.write(replace(parent, following=found.key))
        store.current = found.key

    def _delete(self, store: Store, entry: Entry) -> None:
        found = store.find(entry.key) or entry
        for other in store.entries():
            parent = found.parent if other.parent == found.key else other.parent
            following = found.following if other.following == found.key else other.following
            if (parent, following) != (other.parent, other.following):
                store.write(replace(other, parent=parent, following=following))
        store.delete(found)
        self._waiting.pop(found.key, None)
        self._pictures.pop(found.key, None)

    def _make_room(self, store: Store) -> None:
        """Drop the oldest entries that are neither pinned nor shown, while there are too many or they are too large."""
        while True:
            entries, current = store.entries(), store.current
            too_many = len(entries) > MOST_ENTRIES or sum(store.part_bytes().values()) > MOST_BYTES
            free = [entry for entry in entries if not entry.pinned and entry.key != current]
            if not too_many or not free:
                return
            self._delete(store, free[0])


__all__ = ["MOST_BYTES", "MOST_ENTRIES", "History"]

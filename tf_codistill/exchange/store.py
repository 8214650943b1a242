"""Snapshots on their way: one directory that all groups see, one writer for each group's part of it.

    <exchange>/
        run.json                                 the run that the groups are of
        group_0/
            model.json                           the weights that this group publishes: names, shapes, dtypes
            reader_1                             group 1 learns from this group
            snapshot_1700000000_000001/          the first one since the start at that time
                weights.index                    readable by tf.train.load_checkpoint
                weights.data-00000-of-00001
                manifest.json                    the commit, written last
            snapshot_1700000000_000002/...
        group_1/...

A snapshot's life: absent, being written, committed, superseded, deleted. Readers look only at committed ones
of their own run. The writer keeps the newest `keep` and deletes an older one only when it is `min_age_secs`
old, so that a slow reader is not robbed, or when there is no room for it. Nothing here ever waits for a peer:
late, dead or corrupt, it only leaves a teacher as it is.
`manifests` looks at whatever others have written before it is believed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_codistill import files, runs, weights
from tf_codistill.exchange import manifests
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Ref, Snapshot


class _Published(NamedTuple):
    ref: Ref
    at: float
    num_bytes: int


class Store:
    """One group's view of the directory: it writes its own part and reads the others'.

    Attributes:
        group: This group.
        min_age_secs: Age in seconds before a superseded snapshot is deleted.
        incarnation: Number of this start of the group; 0 before `announce`.
    """

    def __init__(
        self,
        directory: str,
        group: int,
        *,
        run_id: str | None = None,
        keep: int = 3,
        min_age_secs: float = 600.0,
        max_bytes: float = 4e9,
        precision: str = "float32",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of where to write; touches no file.

        Args:
            directory: The shared directory, local or of any scheme of ``tf.io.gfile``.
            group: This group.
            run_id: Names the run; without it that of the first group in the directory holds.
            keep: How many of the newest snapshots of this group always stay, at least 1.
            min_age_secs: Age in seconds before a superseded snapshot is deleted.
            max_bytes: Size of this group's snapshots from which on superseded ones go whatever their age.
            precision: How this group's snapshots hold weights, one of `precision.PRECISIONS`. Snapshots of
                any precision are read.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: A number is out of range, or there is no such precision.
        """
        if keep < 1 or min_age_secs < 0 or max_bytes < 0:
            raise ValueError(
                f"keep is {keep}, min_age_secs is {min_age_secs} and max_bytes is {max_bytes}; expected at "
                "least 1, 0 and 0"
            )
        self.group, self.min_age_secs = group, min_age_secs
        self._directory, self._clock = directory, clock
        self._given_run_id, self._run_id = run_id, run_id
        self._keep, self._max_bytes = keep, max_bytes
        self._precision = precisions.check(precision)
        self.incarnation, self._serial = 0, 0
        self._published: list[_Published] = []
        self._foreign: set[Ref] = set()

    def announce(self, model: weights.Description, step: int, classes: str = "") -> None:
        """Begins an incarnation: says which weights this group will publish, and clears its part.

        What has not been committed goes, what is of another run, and what is from after `step`: a group that
        resumes from an older checkpoint has not reached those steps yet.

        Args:
            model: What `weights.description` says of the model.
            step: The optimizer step that the group begins with.
            classes: Says what the classes of its predictions are, see `tasks.base.Task.classes`.

        Raises:
            ValueError: The directory holds another model's snapshots of this group, or no reader would
                believe the description of this one.
            OSError: The directory cannot be written to.
        """
        manifests.check_own(model)
        directory = files.ensure_directory(self._group_dir(self.group))
        self._run_id = manifests.agree_run_id(self._directory, self._given_run_id)
        found = {ref: self._own_manifest(ref) for ref in self._refs(self.group)}
        last, difference = 0, None
        with contextlib.suppress(files.CorruptError):  # of which nobody can make use any more
            last = (self._announcement(self.group) or {"incarnation": 0})["incarnation"]
            difference = self.difference(self.group, model, classes) if any(found.values()) else None
        kept = {
            ref: manifest
            for ref, manifest in found.items()
            if manifest and manifest["run_id"] == self._run_id and manifest["step"] <= step
        }
        if difference is not None:
            raise ValueError(
                f"exchange directory {directory!r} belongs to another model ({difference}); use an empty one"
            )
        for ref in found.keys() - kept.keys():
            files.remove(self._place(ref))
        self._published = [_Published(ref, m["published_at"], _num_bytes(m)) for ref, m in kept.items()]
        incarnation = max([int(self._clock()), last + 1, *(ref.incarnation + 1 for ref in found)])
        announcement = {
            "format_version": manifests.ANNOUNCED,
            "run_id": self._run_id,
            "incarnation": incarnation,
        }
        content = {"before": [[ref.incarnation, ref.serial] for ref in kept], "weights": model}
        files.write_json(files.join(directory, "model.json"), {**announcement, "classes": classes, **content})
        self.incarnation, self._serial = incarnation, 0

    def leave(self) -> None:
        """Takes back the announcement, if it is still this start's; what has been published stays."""
        if (self._announcement(self.group) or {}).get("incarnation") == self.incarnation:
            files.remove(files.join(self._group_dir(self.group), "model.json"))

    def members(self) -> frozenset[int]:
        """Looks for the groups of this run.

        Returns:
            Those that have announced themselves, have published, and have not left.

        Raises:
            OSError: The directory cannot be read.
        """
        matches = map(runs.GROUP.fullmatch, files.names(self._directory))
        return frozenset(group for match in matches if match and self._is_there(group := int(match.group(1))))

    def _is_there(self, group: int) -> bool:
        with contextlib.suppress(files.CorruptError):
            message = self._announcement(group)
            return bool(message and message["run_id"] == self._agreed_run_id() and self._refs(group))
        return False

    def difference(self, group: int, model: weights.Description, classes: str = "") -> str | None:
        """Compares a model with the one that a group has announced.

        Args:
            group: The group that has announced it.
            model: What `weights.description` says of the model to compare with.
            classes: As in `announce`; where one side says nothing, they count as equal.

        Returns:
            In words where they differ first; None if they do not, or if it has announced none for this run.

        Raises:
            CorruptError: The announcement cannot be read.
        """
        announced = self._announcement(group)
        if announced is None or announced["run_id"] != self._agreed_run_id():
            return None
        theirs = announced.get("classes", "")
        if classes and theirs and classes != theirs:
            return f"one predicts for {classes!r}, the other for {theirs!r}"
        return weights.first_difference(model, announced["weights"])

    def publish(
        self,
        step: int,
        model: weights.Description,
        arrays: Sequence[np.ndarray],
        states: Sequence[np.ndarray] = (),
    ) -> int:
        """Makes room, then writes and commits a snapshot of this group.

        Args:
            step: The optimizer step at which it was taken.
            model: What `weights.description` says of the model.
            arrays: The arrays of ``model.weights``.
            states: The recurrent state of this worker's lanes, if any.

        Returns:
            The size of the snapshot in bytes.

        Raises:
            OSError: The snapshot cannot be written; then nothing is left of it, if the storage lets.
        """
        self._delete_superseded(self._keep, self.min_age_secs)
        metadata = {
            "format_version": manifests.FORMAT_VERSION,
            "run_id": self._run_id,
            "step": step,
            "precision": self._precision,
            "weights": model,
            "states": weights.describe_arrays(states),
        }
        parts = {
            "weights": precisions.quantize_all(arrays, self._precision),
            "states": precisions.quantize_all(states, precisions.of_states(self._precision)),
        }
        try:
            num_bytes = self._write(metadata, parts)
        except OSError:
            # Perhaps there is no room: then the newest stay alone, and this one may be one of them.
            if not self._delete_superseded(max(self._keep - 1, 1), 0.0):
                raise
            num_bytes = self._write(metadata, parts)
        self._delete_superseded(self._keep, self.min_age_secs)
        return num_bytes

    def _write(self, metadata: dict[str, Any], parts: dict[str, list[np.ndarray]]) -> int:
        ref = Ref(self.group, self.incarnation, self._serial + 1)
        directory = self._place(ref)
        metadata |= {"group": ref.peer, "incarnation": ref.incarnation, "serial": ref.serial}
        try:
            files.remove(directory)  # of an attempt that could not be cleaned up
            files.ensure_directory(directory)
            listing = weights.write(files.join(directory, "weights"), **parts)
            metadata |= {"published_at": self._clock()}
            manifest = files.commit(directory, metadata, listing, seal=True)
        except BaseException:
            with contextlib.suppress(OSError):
                files.remove(directory)
            raise
        self._serial = ref.serial
        self._published.append(_Published(ref, manifest["published_at"], _num_bytes(manifest)))
        return _num_bytes(manifest)

    def _delete_superseded(self, keep: int, min_age_secs: float) -> bool:
        """Deletes what is old enough, or too much, if the storage lets; whether anything went."""
        before = len(self._published)
        with contextlib.suppress(OSError):
            for one in self._published[:-keep]:
                is_too_much = sum(other.num_bytes for other in self._published) > self._max_bytes
                if is_too_much or self._clock() - one.at >= min_age_secs:
                    files.remove(self._place(one.ref))
                    self._published.remove(one)
        return len(self._published) < before

    def announce_reader(self, peer: int) -> None:
        """Announces that this group learns from a peer."""
        directory = files.ensure_directory(self._group_dir(peer))
        files.write(files.join(directory, f"{runs.READER}{self.group}"), b"")

    def has_readers(self) -> bool:
        """Whether any group has announced that it learns from this one."""
        return any(name.startswith(runs.READER) for name in files.names(self._group_dir(self.group)))

    def newest(self, peer: int, held: Ref | None = None) -> Ref | None:
        """A peer's newest committed snapshot.

        Args:
            peer: The group that publishes.
            held: One that is known, and so need not be looked into.

        Returns:
            Which one it is; None if there is none of this run.

        Raises:
            OSError: The directory cannot be read.
            CorruptError: The manifest of the newest cannot be read.
        """
        is_its_own = self._fence(peer)
        for ref in reversed(self._refs(peer)):
            if not is_its_own(ref):
                continue
            if ref == held:
                return held
            run = None if ref in self._foreign else manifests.run_of(self._path(ref))
            if run is None:
                continue
            if self._is_ours(run):
                return ref
            self._foreign.add(ref)
        return None

    def read(self, ref: Ref, model: weights.Description, pool: weights.Pool | None = None) -> Snapshot:
        """Reads a committed snapshot, once, and checks it against its manifest and the model.

        Args:
            ref: Which one.
            model: What `weights.description` says of the model that shall take it.
            pool: Where its arrays come from.

        Returns:
            The snapshot, every byte of it as it was published; weights in its own precision.

        Raises:
            ValueError: It has been deleted, is damaged, of another run, holds another model's weights, or
                such as are not finite; says which one.
            OSError: The storage fails.
        """
        directory = self._path(ref)
        manifest = manifests.read(directory, ref)
        if manifest is None:
            raise ValueError(f"snapshot {directory!r} is not there any more")
        if not self._is_ours(manifest["run_id"]):
            raise ValueError(f"snapshot {directory!r} is of another run than {self._run_id!r}")
        if difference := weights.first_difference(model, manifest["weights"]):
            raise ValueError(f"snapshot {directory!r} holds another model: {difference}")
        precision = manifest["precision"]
        of_states = precisions.of_states(precision)
        described = {
            "weights": precisions.quantized_description(model, precision),
            "states": precisions.quantized_description(manifest["states"], of_states),
        }
        manifests.check(directory, manifest, described)
        parts = weights.read(files.join(directory, "weights"), manifest["files"], pool, **described)
        for name, arrays in parts.items():
            if (position := weights.first_not_finite(arrays)) is not None:
                raise ValueError(
                    f"snapshot {directory!r} has values that are not finite, in {name} "
                    f"{described[name][position]['name']!r}; its teacher stays as it is"
                )
        return Snapshot(
            ref,
            step=manifest["step"],
            published_at=float(manifest["published_at"]),
            weights=parts["weights"],
            states=precisions.dequantize_all(parts["states"], manifest["states"], of_states),
            num_bytes=_num_bytes(manifest),
            precision=precision,
        )

    def _is_ours(self, run: str) -> bool:
        return run == self._run_id or run == self._agreed_run_id()

    def _agreed_run_id(self) -> str | None:
        """The run of this group; where none has been given that of the directory, None before the first."""
        if self._given_run_id is None:
            self._run_id = manifests.run_id(self._directory) or self._run_id
        return self._run_id

    def _announcement(self, group: int) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            return manifests.announcement(files.join(self._group_dir(group), "model.json"))
        return None

    def _fence(self, group: int) -> Callable[[Ref], bool]:
        """Tells a group's snapshots from what an earlier incarnation has published after its end."""
        try:
            message = self._announcement(group) or {}
            incarnation, before = message.get("incarnation"), message.get("before")
            known = None if before is None else {(int(one), int(serial)) for one, serial in before}
        except (files.CorruptError, TypeError, ValueError, OverflowError):
            known = None
        if known is None:
            return lambda ref: True
        return lambda ref: ref.incarnation == incarnation or (ref.incarnation, ref.serial) in known

    def _own_manifest(self, ref: Ref) -> dict[str, Any] | None:
        """That of this group's own snapshot, None also for one that no peer can make use of any more."""
        try:
            return manifests.read(self._path(ref), ref)
        except files.CorruptError:
            return None

    def _refs(self, group: int) -> list[Ref]:
        matches = (runs.SNAPSHOT.fullmatch(name) for name in files.names(self._group_dir(group)))
        return sorted(Ref(group, int(match.group(1)), int(match.group(2))) for match in matches if match)

    def _group_dir(self, group: int) -> str:
        return manifests.check_directory(self._directory, f"group_{group}")

    def _place(self, ref: Ref) -> str:
        """Where a snapshot of this group goes, or has to go from, whatever lies there."""
        return files.join(self._group_dir(ref.peer), _name(ref))

    def _path(self, ref: Ref) -> str:
        return manifests.check_directory(self._directory, f"group_{ref.peer}", _name(ref))


def _name(ref: Ref) -> str:
    return runs.snapshot_name(ref.incarnation, ref.serial)


def _num_bytes(manifest: dict[str, Any]) -> int:
    return sum(entry["bytes"] for entry in manifest["files"].values())

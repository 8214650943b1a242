"""Snapshots on their way: one directory that all groups see, one writer for each group's part of it.

    <exchange>/
        group_0/
            model.json                           the weights that this group publishes: names, shapes, dtypes
            snapshot_00000050/
                weights.index                    written by tf.train.Checkpoint
                weights.data-00000-of-00001
                manifest.json                    the commit mark, written last
            snapshot_00000100/...
        group_1/...

A snapshot's life: absent, being written, committed, superseded, deleted. Readers look only at committed ones.
The writer keeps the newest `keep` and deletes an older one only when it is `min_age_secs` old, so that a slow
reader is not robbed. Nothing here ever waits for a peer: late, dead or corrupt, it only leaves a teacher as
it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tf_codistill import files, weights
from tf_codistill.exchange import precision as precisions
from tf_codistill.exchange.snapshot import Snapshot

FORMAT_VERSION = 1

_SNAPSHOT = re.compile(r"snapshot_(\d{8,})")


class Store:
    """One group's view of the directory: it writes its own part and reads the others'."""

    def __init__(
        self,
        directory: str,
        group: int,
        *,
        keep: int = 3,
        min_age_secs: float = 600.0,
        precision: str = "float32",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes note of where to write; touches no file.

        Args:
            directory: The shared directory, local or of any scheme of ``tf.io.gfile``.
            group: This group.
            keep: How many of the newest snapshots of this group always stay, at least 1.
            min_age_secs: Age in seconds before a superseded snapshot is deleted.
            precision: How this group's snapshots hold weights, one of `precision.PRECISIONS`. Snapshots of
                any precision are read.
            clock: Returns seconds since the epoch.

        Raises:
            ValueError: `keep` or `min_age_secs` is out of range, or there is no such precision.
        """
        if keep < 1 or min_age_secs < 0:
            raise ValueError(f"keep is {keep} and min_age_secs is {min_age_secs}; expected at least 1 and 0")
        self.directory = directory
        self.group = group
        self._keep = keep
        self._min_age_secs = min_age_secs
        self._precision = precisions.check(precision)
        self._clock = clock

    def announce(self, model: weights.Description, step: int) -> None:
        """Says which weights this group will publish, and withdraws its snapshots from after `step`.

        A group that resumes from an older checkpoint has not reached those steps yet.

        Args:
            model: What `weights.description` says of the model.
            step: The optimizer step that the group begins with.

        Raises:
            ValueError: The directory cannot be written to, or holds another model's snapshots of this group.
        """
        directory = files.make_directory(self._group_dir(self.group))
        difference = self.difference(self.group, model)
        if difference is not None and self._steps(self.group):
            raise ValueError(
                f"exchange directory {directory!r} belongs to another model ({difference}); use an empty one"
            )
        for name in files.names(directory):
            match = _SNAPSHOT.fullmatch(name)
            if match and int(match.group(1)) > step:
                files.remove(files.join(directory, name))
        files.write_json(files.join(directory, "model.json"), model)

    def withdraw(self) -> None:
        """Takes back what `announce` said, unless snapshots of this group lie there already."""
        if not self._steps(self.group):
            files.remove(files.join(self._group_dir(self.group), "model.json"))

    def difference(self, group: int, model: weights.Description) -> str | None:
        """Compares a model with the one that a group has announced.

        Args:
            group: The group that has announced it.
            model: What `weights.description` says of the model to compare with.

        Returns:
            In words where they differ first; None if they do not, or if the group has announced none.

        Raises:
            CorruptError: The announcement cannot be read.
        """
        path = files.join(self._group_dir(group), "model.json")
        try:
            return weights.first_difference(model, files.read_json(path))
        except FileNotFoundError:
            return None
        except (KeyError, TypeError) as error:
            raise files.CorruptError(
                f"file {path!r} describes no model ({error!r}); delete it or write it again"
            ) from error

    def publish(
        self,
        step: int,
        model: weights.Description,
        arrays: Sequence[np.ndarray],
        states: Sequence[np.ndarray] = (),
    ) -> int:
        """Writes and commits this group's snapshot of a step, then deletes superseded ones.

        Args:
            step: The optimizer step, which names the snapshot. One that is committed already stays as it is.
            model: What `weights.description` says of the model.
            arrays: The arrays of ``model.weights``.
            states: The recurrent state of this worker's lanes, if any.

        Returns:
            The size of the snapshot in bytes; 0 if it was there already.

        Raises:
            ValueError: The directory cannot be written to.
            OSError: The snapshot cannot be written.
        """
        directory = self._snapshot_dir(self.group, step)
        if _readable_mark(directory) is not None:
            return 0
        files.remove(directory)
        files.make_directory(directory)
        weights.write(
            files.join(directory, "weights"),
            weights=precisions.pack_all(arrays, self._precision),
            states=precisions.pack_all(states, precisions.of_states(self._precision)),
        )
        facts = {
            "format_version": FORMAT_VERSION,
            "group": self.group,
            "step": step,
            "published_at": self._clock(),
            "fingerprint": weights.fingerprint(model),
            "precision": self._precision,
            "weights": model,
            "states": weights.describe_arrays(states),
        }
        mark = files.commit(directory, facts)
        self._delete_superseded()
        return _num_bytes(mark)

    def latest(self, group: int) -> int | None:
        """The step of a group's newest committed snapshot, or None if there is none."""
        for step in reversed(self._steps(group)):
            if files.exists(files.join(self._snapshot_dir(group, step), files.MARK)):
                return step
        return None

    def read(self, group: int, step: int, model: weights.Description) -> Snapshot:
        """Reads a committed snapshot and checks it against its mark and the model.

        Args:
            group: The group that published it.
            step: Its step.
            model: What `weights.description` says of the model that shall take it.

        Returns:
            The snapshot, every byte of it as it was published, unpacked from the precision that its mark
            names.

        Raises:
            ValueError: It has been deleted, is damaged, or holds another model's weights; says which one.
        """
        directory = self._snapshot_dir(group, step)
        mark = files.read_mark(directory)
        if mark is None:
            raise ValueError(f"snapshot {directory!r} is not there any more")
        if mark.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"snapshot {directory!r} has format version {mark.get('format_version')!r}; "
                f"expected {FORMAT_VERSION}"
            )
        precision = mark.get("precision", "float32")
        if precision not in precisions.PRECISIONS:
            raise ValueError(
                f"snapshot {directory!r} has precision {precision!r}; expected one of {precisions.PRECISIONS}"
            )
        try:
            if difference := weights.first_difference(model, mark["weights"]):
                raise ValueError(f"snapshot {directory!r} holds another model: {difference}")
            files.verify(directory, mark)
            arrays = _read_packed(
                files.join(directory, "weights"),
                precision,
                weights=model,
                states=mark["states"],
            )
            published_at = float(mark["published_at"])
        except (KeyError, TypeError) as error:
            raise files.CorruptError(f"mark of snapshot {directory!r} is damaged ({error!r})") from error
        return Snapshot(
            group=group, step=step, published_at=published_at, num_bytes=_num_bytes(mark), **arrays
        )

    def _delete_superseded(self) -> None:
        for step in self._steps(self.group)[: -self._keep]:
            directory = self._snapshot_dir(self.group, step)
            mark = _readable_mark(directory)
            if mark is None or self._clock() - mark["published_at"] >= self._min_age_secs:
                files.remove(directory)

    def _steps(self, group: int) -> list[int]:
        matches = (_SNAPSHOT.fullmatch(name) for name in files.names(self._group_dir(group)))
        return sorted(int(match.group(1)) for match in matches if match)

    def _group_dir(self, group: int) -> str:
        return files.join(self.directory, f"group_{group}")

    def _snapshot_dir(self, group: int, step: int) -> str:
        return files.join(self._group_dir(group), f"snapshot_{step:08d}")


def _read_packed(prefix: str, precision: str, **arrays: weights.Description) -> dict[str, list[np.ndarray]]:
    """Reads what `publish` wrote in a precision, as it was before."""
    kinds = {"weights": precision, "states": precisions.of_states(precision)}
    packed = {name: precisions.packed_description(arrays[name], kind) for name, kind in kinds.items()}
    parts = weights.read(prefix, **packed)
    return {name: precisions.unpack_all(parts[name], arrays[name], kind) for name, kind in kinds.items()}


def _readable_mark(directory: str) -> dict[str, Any] | None:
    """The mark of this group's own snapshot, None also for one that no peer can make use of any more."""
    try:
        mark = files.read_mark(directory)
    except files.CorruptError:
        return None
    return mark if mark and isinstance(mark.get("published_at"), float | int) else None


def _num_bytes(mark: dict[str, Any]) -> int:
    return sum(int(entry["bytes"]) for entry in mark["files"].values())

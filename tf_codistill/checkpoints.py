"""A group's own resumable state, private to the group.

    checkpoints/
        checkpoint_00000500/
            shared.index, shared.data-...        by the chief: what all workers hold alike
            worker_0.index, worker_0.data-...    by each worker: its own, such as the state of its lanes
            worker_0.json                        worker 0 has written all of its part
            worker_1.index, ...
            manifest.json                        the commit, by the chief when all parts are there

Values are arrays by name, so what a checkpoint holds is decided by the caller (`training.checkpoint`).
Workers find out by files that the others are done, so that writing needs no collective and can be done by a
thread beside training. A checkpoint that is damaged is passed over for the one before it, and written anew
when training comes to its step once more.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from absl import logging

from tf_codistill import files, runs, weights

FORMAT_VERSION = 2

Arrays = Mapping[str, Sequence[np.ndarray]]

ByName: TypeAlias = dict[str, list[np.ndarray]]

_SEAL = "seal"
_OF_WORKER = re.compile(r"worker_(\d+)\.")
_POLL_SECS = 0.05


class Checkpoints:
    """The checkpoints of one group, as one of its workers writes them.

    Attributes:
        directory: Where they are.
        worker: This worker; worker 0 commits.
        num_workers: Workers of the group.
        start: A number that all workers of one start of the group share, and no other start: by it the chief
            tells a part that is new from what an earlier start has left.
    """

    def __init__(
        self,
        directory: str,
        keep: int = 2,
        keep_every_steps: int | None = None,
        timeout_secs: float = 600.0,
    ) -> None:
        """Takes note of where checkpoints are; touches no file.

        Args:
            directory: Directory of the group's checkpoints.
            keep: How many of the newest stay, at least 1.
            keep_every_steps: Checkpoints of multiples of this stay for ever; None for none of them.
            timeout_secs: Seconds that the chief waits for the parts of others.

        Raises:
            ValueError: A number is out of range.
        """
        for name, value in (("keep", keep), ("keep_every_steps", keep_every_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        files.check_scheme(directory)
        self.directory = directory
        self.worker, self.num_workers, self.start = 0, 1, 0
        self._keep, self._keep_every_steps = keep, keep_every_steps
        self._timeout_secs = timeout_secs

    def prepare(self) -> None:
        """Makes the directory, and removes what was never committed; the chief does it before any write."""
        files.make_directory(self.directory)
        for step in set(_steps(self.directory)).difference(committed_steps(self.directory)):
            files.remove(path_of(self.directory, step))

    def save(self, step: int, shared: Arrays, own: Arrays, metadata: Mapping[str, Any]) -> None:
        """Writes this worker's part of a checkpoint; the chief commits it, then deletes superseded ones.

        Args:
            step: The step, which names the checkpoint.
            shared: Arrays that all workers hold alike; the chief's are written.
            own: Arrays that belong to this worker.
            metadata: What else is to be known of it, for JSON; the chief's is written.

        Raises:
            OSError: It cannot be written, or another worker does not write its part in time.
        """
        path = path_of(self.directory, step)
        try:
            files.make_directory(path)
        except ValueError as error:
            raise OSError(str(error)) from error
        listing: files.Listing = {}
        if self.worker == 0:
            self._remove_damaged(path)
            listing = weights.write(files.join(path, "shared"), **shared)
        listing |= weights.write(files.join(path, f"worker_{self.worker}"), **own)
        described = {"start": self.start, "arrays": _describe(own), "files": listing}
        files.write_json(_part_of(path, self.worker), described)
        if self.worker == 0:
            self._wait_for_parts(path)
            for worker in range(1, self.num_workers):
                listing |= files.read_json(_part_of(path, worker))["files"]
            described = {"format_version": FORMAT_VERSION, "step": step, "num_workers": self.num_workers}
            described |= {"shared": _describe(shared), "metadata": dict(metadata)}
            files.commit(path, _sealed(described), listing)
            self._delete_superseded()

    def update_metadata(self, step: int, metadata: Mapping[str, Any]) -> None:
        """Adds to the metadata of the checkpoint of a step, if it was committed; the chief does it."""
        path = path_of(self.directory, step)
        manifest = files.read_manifest(path) if self.worker == 0 else None
        if manifest is not None:
            manifest["metadata"].update(metadata)
            files.write_json(files.join(path, files.MANIFEST), _sealed(manifest))
            self._delete_superseded()

    def _remove_damaged(self, path: str) -> None:
        """Takes away the commit of a damaged one, and parts of workers that there are no more."""
        files.remove(files.join(path, files.MANIFEST))
        for name in files.names(path):
            part = _OF_WORKER.match(name)
            if part and int(part.group(1)) >= self.num_workers:
                files.remove(files.join(path, name))

    def _wait_for_parts(self, path: str) -> None:
        deadline = time.monotonic() + self._timeout_secs
        for worker in range(1, self.num_workers):
            while not self._is_new(_part_of(path, worker)):
                if time.monotonic() > deadline:
                    raise OSError(f"worker {worker} has not written its part of checkpoint {path!r} in time")
                time.sleep(_POLL_SECS)

    def _is_new(self, part: str) -> bool:
        try:
            return bool(files.read_json(part)["start"] == self.start)
        except (FileNotFoundError, files.CorruptError):
            return False

    def _delete_superseded(self) -> None:
        best = best_step(self.directory)
        for step in committed_steps(self.directory)[: -self._keep]:
            for_ever = self._keep_every_steps and step % self._keep_every_steps == 0
            if step != best and not for_ever:
                files.remove(path_of(self.directory, step))


def path_of(directory: str, step: int) -> str:
    """The directory of a checkpoint."""
    return files.join(directory, f"checkpoint_{step:08d}")


def committed_steps(directory: str) -> list[int]:
    """Steps of the committed checkpoints in a directory, in ascending order."""
    manifests = {step: files.join(path_of(directory, step), files.MANIFEST) for step in _steps(directory)}
    return [step for step, manifest in manifests.items() if files.exists(manifest)]


def best_step(directory: str) -> int | None:
    """The step of the checkpoint with the best value of what is monitored; None if none has any."""
    values = {}
    for step in committed_steps(directory):
        try:
            metadata = manifest_of(directory, step).get("metadata", {})
        except files.CorruptError:
            continue
        if "rank" in metadata:
            values[step] = metadata["rank"]
    return min(values, key=lambda step: values[step]) if values else None


def manifest_of(directory: str, step: int) -> dict[str, Any]:
    """The manifest of a committed checkpoint that somebody else has checked."""
    return files.read_manifest(path_of(directory, step)) or {}


def newest_complete(directory: str) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint of which every byte is there; damaged ones are passed over with a warning.

    Args:
        directory: Directory of the group's checkpoints.

    Returns:
        Its step and manifest; None if there is none.

    Raises:
        ValueError: It is of another version.
        OSError: It cannot be read now.
    """
    for step in reversed(committed_steps(directory)):
        try:
            return step, _checked_manifest(path_of(directory, step))
        except files.CorruptError as error:
            logging.warning("the checkpoint of step %d is passed over: %s", step, error)
    return None


def read_latest(directory: str) -> tuple[int, ByName, list[ByName]]:
    """Reads the newest complete checkpoint of a group, however many workers wrote it.

    Args:
        directory: Directory of the group's checkpoints.

    Returns:
        Its step, the shared arrays, and the own arrays of each worker.

    Raises:
        ValueError: There is none.
    """
    found = newest_complete(directory)
    if found is None:
        raise ValueError(f"there is no complete checkpoint in {directory!r}; has the group been trained?")
    return _read(directory, *found)


def served(shared: ByName) -> list[np.ndarray]:
    """Of a checkpoint's shared arrays the weights to be served: averages, if the optimizer made some."""
    return list(shared.get("served") or shared["weights"])


def read_best(directory: str) -> tuple[int, ByName, list[ByName]]:
    """Reads the checkpoint with the best value of what is monitored, as `read_latest` reads the newest.

    Args:
        directory: Directory of the group's checkpoints.

    Returns:
        Its step, the shared arrays, and the own arrays of each worker.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    step = best_step(directory)
    if step is None:
        raise ValueError(
            f"no checkpoint in {directory!r} has a monitored value; give Checkpointing `monitor`"
        )
    return _read(directory, step, _checked_manifest(path_of(directory, step)))


def read_shared(path: str, manifest: Mapping[str, Any]) -> ByName:
    """Reads what all workers hold alike from the directory of a checkpoint."""
    return weights.read(files.join(path, "shared"), manifest["files"], **manifest["shared"])


def read_own(path: str, manifest: Mapping[str, Any], worker: int) -> ByName:
    """Reads what belongs to one worker from the directory of a checkpoint."""
    arrays = files.read_json(_part_of(path, worker))["arrays"]
    return weights.read(files.join(path, f"worker_{worker}"), manifest["files"], **arrays)


def _read(directory: str, step: int, manifest: Mapping[str, Any]) -> tuple[int, ByName, list[ByName]]:
    path = path_of(directory, step)
    owns = [read_own(path, manifest, worker) for worker in range(manifest["num_workers"])]
    return step, read_shared(path, manifest), owns


def _part_of(path: str, worker: int) -> str:
    return files.join(path, f"worker_{worker}.json")


def _checked_manifest(path: str) -> dict[str, Any]:
    manifest = files.read_manifest(path)
    if manifest is None:
        raise files.CorruptError(f"checkpoint {path!r} is not committed")
    if _SEAL in manifest and _sealed(manifest) != manifest:
        raise files.CorruptError(f"file {files.join(path, files.MANIFEST)!r} is damaged")
    if manifest.get("format_version") != FORMAT_VERSION or _SEAL not in manifest:
        raise ValueError(
            f"checkpoint {path!r} has format version {manifest.get('format_version')!r}; expected "
            f"{FORMAT_VERSION}: it is of another version of tf_codistill, name another directory"
        )
    files.verify(path, manifest)
    return manifest


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with a checksum of what it says, but for the files, which have their own."""
    sealed = {name: value for name, value in manifest.items() if name not in (_SEAL, "files")}
    text = json.dumps(sealed, sort_keys=True)
    return {**manifest, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def _describe(arrays: Arrays) -> dict[str, weights.Description]:
    return {name: weights.describe_arrays(group) for name, group in arrays.items()}


def _steps(directory: str) -> list[int]:
    matches = (runs.CHECKPOINT.fullmatch(name) for name in files.names(directory))
    return sorted(int(match.group(1)) for match in matches if match)

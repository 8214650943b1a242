"""Where the bytes of each image are: class folders or records, ours or those of others.

    data = open_images("photos")          photos/train/<class>/*.jpg  ...  or records, see `image_files`
    data.class_names                      ["cat", "dog"]
    part = data.parts["train"]
    part.labels                           int32 [N]
    part.read([7, 3])                     the bytes of two image files
    part.name(7)                          "photos/train/dog/2.jpg", for messages

The number of an image is its place in the sorted names, or in the record files one after another: the same in
every process, as long as the data are the same, which `ImageData.fingerprint` says.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging

from tf_codistill import files
from tf_codistill.image_files import folders, formats, records
from tf_codistill.inputs.images import others

Labels = npt.NDArray[np.int32]

_SMALL_BYTES = 1 << 28
_NUM_WEIGHED = 32
_NUM_CHECKED = 256
_START_BYTES = 32


class ImagePart(abc.ABC):
    """The images of one part of a data set.

    Attributes:
        labels: The class of each image, int32 [N].
    """

    labels: Labels

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.labels)

    @abc.abstractmethod
    def read_one(self, image: int) -> bytes:
        """The bytes of the file of an image."""

    @abc.abstractmethod
    def name(self, image: int) -> str:
        """What to call an image in messages."""

    @abc.abstractmethod
    def num_bytes(self) -> int:
        """How large all files are together, at least about."""

    @functools.cached_property
    def _kept(self) -> dict[int, bytes] | None:
        """What has been read of a part that is small; None for a large one."""
        return {} if self.num_bytes() <= _SMALL_BYTES else None

    def read(self, images: Sequence[int] | npt.NDArray[np.int64]) -> list[bytes]:
        """The bytes of the files of some images; those of a small part are kept in memory.

        Args:
            images: Their numbers.

        Returns:
            Bytes in the same order.

        Raises:
            OSError: A file is not there any more, or cannot be read.
        """
        numbers = [int(image) for image in images]
        if self._kept is None:
            return [self.read_one(image) for image in numbers]
        for image in numbers:
            if image not in self._kept:
                self._kept[image] = self.read_one(image)
        return [self._kept[image] for image in numbers]


@dataclasses.dataclass(frozen=True, eq=False)
class FolderPart(ImagePart):
    """Images in class folders.

    Attributes:
        labels: The class of each image, int32 [N].
        folders: Path of the folder of each class.
        names: Name of each image's file in UTF-8, [N].
    """

    labels: Labels
    folders: Sequence[str]
    names: npt.NDArray[np.bytes_]

    def read_one(self, image: int) -> bytes:
        """The whole file."""
        return files.read(self.name(image))

    def num_bytes(self) -> int:
        """Of some files that say it, times the number of all."""
        some = range(0, self.num_images, max(1, self.num_images // _NUM_WEIGHED))
        return sum(files.size_bytes(self.name(image)) for image in some) * self.num_images // len(some)

    def name(self, image: int) -> str:
        """The file's path."""
        name = self.names[image].decode("utf-8", "surrogateescape")
        return files.join(self.folders[self.labels[image]], name)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordPart(ImagePart):
    """Images in record files.

    Attributes:
        labels: The class of each image, int32 [N].
        paths: The record files.
        first_images: Number of the first image of each file, int64 [F].
        spans: Offset and number of bytes of each image in its file, int64 [N, 2].
    """

    labels: Labels
    paths: Sequence[str]
    first_images: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]

    def read_one(self, image: int) -> bytes:
        """A range of the file."""
        return files.read(self._path(image), *map(int, self.spans[image]))

    def num_bytes(self) -> int:
        """Of all images, exactly."""
        return int(self.spans[:, 1].sum())

    def name(self, image: int) -> str:
        """File, and where in it."""
        return f"{self._path(image)}, image at byte {self.spans[image][0]}"

    def _path(self, image: int) -> str:
        return self.paths[int(np.searchsorted(self.first_images, image, side="right")) - 1]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of images.

    Attributes:
        directory: Where it is.
        class_names: Names of the classes, by label.
        parts: Its parts: ``train``, and what else there is of ``validation`` and ``test``.
        fingerprint: SHA-256 of what it consists of, names and sizes, or the checksums that the manifest has.
    """

    directory: str
    class_names: Sequence[str]
    parts: Mapping[str, ImagePart]
    fingerprint: str

    def part(self, name: str) -> ImagePart:
        """A part of it.

        Args:
            name: ``train``, ``validation`` or ``test``.

        Returns:
            Its images.

        Raises:
            ValueError: There is no such part.
        """
        if name not in self.parts:
            raise ValueError(
                f"images {self.directory!r} have no part {name!r}, only {', '.join(map(repr, self.parts))}; "
                "add it, "
                "or let prepare_images hold out a share of the images"
            )
        return self.parts[name]


def open_images(directory: str, max_damaged_share: float = 0.01) -> ImageData:
    """Opens a data set of images; looks at names and headers, not at pixels.

    Args:
        directory: Holds class folders ``train/<class>/`` and ``validation/<class>/``, or record files.
        max_damaged_share: The largest share of what cannot be used: records without image or label, classes
            without images, images of classes that training lacks. What is left out is told.

    Returns:
        The data set.

    Raises:
        ValueError: There are no images, something is not what its manifest says, or more than that share
            cannot be used.
    """
    manifest = files.read_manifest(directory)
    if manifest is not None:
        return _prepared(directory, manifest)
    if found := others.record_files(directory):
        return _of_records(directory, found, max_damaged_share)
    return _of_folders(directory, max_damaged_share)


def _prepared(directory: str, manifest: Mapping[str, Any]) -> ImageData:
    """What `prepare_images` has written."""
    if manifest.get("format") != folders.MANIFEST_FORMAT:
        raise ValueError(
            f"{directory!r} holds something else than images; name what prepare_images has written"
        )
    files.verify(directory, dict(manifest), contents=False)
    parts = {}
    for part, shards in manifest["parts"].items():
        paths = [files.join(directory, shard["name"]) for shard in shards]
        rows = [records.read_index(path + records.INDEX) for path in paths]
        parts[part] = record_part([path + records.ENDING for path in paths], rows)
    fingerprint = _fingerprint(manifest["files"])
    return ImageData(directory, list(manifest["class_names"]), parts, fingerprint)


def record_part(
    paths: Sequence[str], rows: Sequence[npt.NDArray[np.int64]], first_label: int = 0
) -> RecordPart:
    """The images of record files.

    Args:
        paths: The files.
        rows: The index of each: offset, number of bytes and label of each image, int64 [N, 3].
        first_label: Label of the first class.

    Returns:
        All their images, one file after another.
    """
    first_images = np.cumsum([0, *map(len, rows)])[:-1]
    together = np.concatenate(rows)
    labels = (together[:, 2] - first_label).astype(np.int32)
    return RecordPart(labels, list(paths), first_images, np.ascontiguousarray(together[:, :2]))


def _of_records(directory: str, found: Mapping[str, Sequence[str]], max_damaged_share: float) -> ImageData:
    """Record files that somebody else has written."""
    indices = {part: others.index_of(directory, part, paths) for part, paths in found.items()}
    for part, index in indices.items():
        others.check_damage(directory, part, index, max_damaged_share)
    first_label, class_names = others.classes(indices)
    numbers: dict[str, dict[str, int]] = {}
    for part, index in indices.items():
        counts = collections.Counter(
            label - first_label for rows in index.rows for label in rows[:, 2].tolist()
        )
        numbers[part] = {name: counts.pop(label, 0) for label, name in enumerate(class_names)}
        numbers[part] |= {f"label {label + first_label}": number for label, number in counts.items()}
    _, empty, unknown = folders.check_classes(numbers, max_damaged_share, directory)
    _tell(directory, empty, unknown)
    known = np.array(sorted(set(range(len(class_names))) - {class_names.index(name) for name in empty}))
    parts = {}
    for part, index in indices.items():
        rows = [each[np.isin(each[:, 2] - first_label, known)] for each in index.rows]
        parts[part] = record_part(found[part], rows, first_label)
    return ImageData(
        directory, class_names, parts, _fingerprint([index.signatures for index in indices.values()])
    )


def _of_folders(directory: str, max_damaged_share: float) -> ImageData:
    found = folders.scan(directory)
    numbers = {
        part: {name: len(images) for name, images in classes.items()}
        for part, classes in found.images.items()
    }
    class_names, empty, unknown = folders.check_classes(numbers, max_damaged_share, directory)
    _tell(directory, empty, unknown)
    if found.others:
        logging.warning(
            "%d files in %r are no images by their names and left out, the first is %r",
            len(found.others),
            directory,
            found.others[0],
        )
    parts = {}
    for part, classes in found.images.items():
        names = [classes.get(name, []) for name in class_names]
        labels = np.repeat(np.arange(len(names), dtype=np.int32), [len(each) for each in names])
        encoded = np.array([one.encode("utf-8", "surrogateescape") for each in names for one in each])
        parts[part] = FolderPart(labels, [found.folders[part].get(name, "") for name in class_names], encoded)
        _check_some(parts[part], max_damaged_share)
    return ImageData(directory, class_names, parts, _fingerprint(found.images))


def _check_some(part: FolderPart, max_damaged_share: float) -> None:
    """Raises an error early if the first bytes of many files are not those of images."""
    some = range(0, part.num_images, max(1, part.num_images // _NUM_CHECKED))
    names = [part.name(image) for image in some]
    bad = [name for name in names if formats.kind_of(files.read(name, 0, _START_BYTES)) is None]
    if len(bad) > max(1, max_damaged_share * len(names)):
        raise ValueError(
            f"{len(bad)} of {len(names)} files that were looked at are no images, among them {bad[0]!r}; "
            "take them "
            f"out, as prepare_images does, or allow a larger max_damaged_share, which is {max_damaged_share}"
        )


def _tell(directory: str, empty: Sequence[str], unknown: Mapping[str, Sequence[str]]) -> None:
    if empty:
        logging.warning("classes of %r without images, left out: %s", directory, ", ".join(empty))
    for part, names in unknown.items():
        logging.warning(
            "classes in part %r of %r that training lacks, left out: %s", part, directory, ", ".join(names)
        )


def _fingerprint(content: object) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()

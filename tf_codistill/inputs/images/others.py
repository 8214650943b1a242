"""Record files that others have written, such as ImageNet as TFRecord of the TensorFlow models.

    imagenet/train-00000-of-01024              found by their names, also in folders train/ and validation/,
    imagenet/validation-00000-of-00128         and with .tfrecord at the end
    imagenet/image_index-train.npz             made at the first time, where the directory can be written to:
                                               headers of a million records take a minute or more

Labels may begin at 0 or at 1, as those of the TensorFlow models do; names of classes are those in the
records.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from absl import logging

from tf_codistill import files
from tf_codistill.image_files import folders, records

_SHARD = re.compile(r"([A-Za-z]+)(?:[-_.].*)?(?:-of-\d+|\.tfrecords?)(?:\.tfrecords?)?")
_NUM_TOLD = 3
_SIGNED_BYTES = 1 << 12


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """What is known of the record files of a part.

    Attributes:
        rows: Offset, number of bytes and label of each image, int64 [N, 3], for each file.
        damaged: File, number and kind of each record that has no image or no label.
        texts: How the files call their classes, by label.
        signatures: Size of each file and CRC-32 of its first and last bytes, by name.
    """

    rows: Sequence[npt.NDArray[np.int64]]
    damaged: Sequence[tuple[str, int, str]]
    texts: Mapping[int, str]
    signatures: Mapping[str, list[int]]


def record_files(directory: str) -> dict[str, list[str]]:
    """Finds record files by their names.

    Args:
        directory: Holds them, or folders for the parts that do.

    Returns:
        Paths by part, sorted; empty if there are none for training.
    """
    found: dict[str, list[str]] = {}
    for name in files.names(directory):
        path = files.join(directory, name)
        if (matched := _SHARD.fullmatch(name)) and (part := folders.part_of(matched[1])):
            found.setdefault(part, []).append(path)
        elif part := folders.part_of(name):
            inside = [inner for inner in files.names(path) if _SHARD.fullmatch(inner)]
            if inside:
                found.setdefault(part, []).extend(files.join(path, inner) for inner in inside)
    return found if found.get("train") else {}


def index_of(directory: str, part: str, paths: Sequence[str]) -> Index:
    """The index of the record files of a part, made now or before.

    Args:
        directory: Where to keep it, if it can be written to.
        part: Name of the part.
        paths: The record files.

    Returns:
        The index.

    Raises:
        ValueError: A file is no TFRecord file, or ends inside a record.
    """
    signatures = {_name(path, directory): _signature(path) for path in paths}
    kept = files.join(directory, f"image_index-{part}.npz")
    if files.exists(kept) and (index := _read(kept)).signatures == signatures:
        return index
    logging.info("looking for images in %d record files of part %r of %r", len(paths), part, directory)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        scans = list(threads.map(records.scan, paths))
    texts: dict[int, str] = {}
    for found in scans:
        texts = {**found.texts, **texts}
    damaged = [
        (name, number, kind)
        for name, found in zip(signatures, scans, strict=True)
        for number, kind in found.damaged
    ]
    index = Index([found.rows for found in scans], damaged, texts, signatures)
    try:
        files.write(kept, _packed(index))
    except OSError as error:
        logging.warning("index %r cannot be kept (%s): it will be made anew at each start", kept, error)
    return index


def check_damage(directory: str, part: str, index: Index, max_damaged_share: float) -> None:
    """Tells of records that have no image or no label.

    Args:
        directory: Where the record files are, for messages.
        part: Name of the part.
        index: Its index.
        max_damaged_share: The largest share of them.

    Raises:
        ValueError: There are more, or there is no image at all.
    """
    num_images = sum(map(len, index.rows))
    named = "; ".join(f"{name}, record {number}: {kind}" for name, number, kind in index.damaged[:_NUM_TOLD])
    number = len(index.damaged)
    sentence = (
        f"{number} of {number + num_images} records in part {part!r} of {directory!r} have no image or no "
        f"label: {named}"
    )
    if number > max_damaged_share * (number + num_images):
        raise ValueError(
            f"{sentence}; expected the features {records.IMAGE} and {records.LABEL}: write the files anew, "
            "or allow "
            f"a larger max_damaged_share, which is {max_damaged_share}"
        )
    if not num_images:
        raise ValueError(f"the record files in part {part!r} of {directory!r} hold no image; write them anew")
    if number:
        logging.warning("%s", sentence)


def classes(indices: Mapping[str, Index]) -> tuple[int, list[str]]:
    """The classes of record files.

    Args:
        indices: Indices by part.

    Returns:
        The label of the first class, and the names of all up to the last.

    Raises:
        ValueError: Labels of training begin neither at 0 nor at 1, or two classes have one name.
    """
    labels = np.concatenate([rows[:, 2] for rows in indices["train"].rows])
    first, last = int(labels.min()), int(labels.max())
    if first not in (0, 1):
        raise ValueError(f"the labels to train on are {first} to {last}; expected 0 or 1 for the first class")
    if first == 1:
        logging.info("labels begin at 1: 1 is taken off each")
    texts = {label: text for index in indices.values() for label, text in index.texts.items()}
    names = [texts.get(label, str(label)) for label in range(first, last + 1)]
    if len(set(names)) < len(names):
        names = [f"{name} ({label})" for label, name in enumerate(names, first)]
    return first, names


def _name(path: str, directory: str) -> str:
    return path.removeprefix(directory).lstrip("/")


def _signature(path: str) -> list[int]:
    size = files.size_bytes(path)
    start, end = files.read(path, 0, _SIGNED_BYTES), files.read(path, max(0, size - _SIGNED_BYTES))
    return [size, zlib.crc32(start + end)]


def _packed(index: Index) -> bytes:
    content = io.BytesIO()
    texts = {str(label): text for label, text in index.texts.items()}
    about = json.dumps({"signatures": index.signatures, "damaged": index.damaged, "texts": texts})
    np.savez(
        content,
        about=np.frombuffer(about.encode("utf-8"), np.uint8),
        numbers=np.array([len(rows) for rows in index.rows], np.int64),
        rows=np.concatenate(index.rows),
    )
    return content.getvalue()


def _read(path: str) -> Index:
    """An index that was kept; an empty one if it is damaged, so that it is made anew."""
    try:
        with np.load(io.BytesIO(files.read(path))) as arrays:
            about = json.loads(arrays["about"].tobytes())
            rows = np.split(arrays["rows"], np.cumsum(arrays["numbers"])[:-1])
        texts = {int(label): text for label, text in about["texts"].items()}
        damaged = [(name, number, kind) for name, number, kind in about["damaged"]]
        return Index(rows, damaged, texts, about["signatures"])
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return Index([], [], {}, {})

"""Writes image records; what cannot be decoded is counted, named and put into quarantine.

    plan --> bytes --> what is it? --+-- RGB or grey JPEG: as it is, once it has been decoded whole
                                     +-- CMYK JPEG, PNG, GIF, BMP, WebP: stored as RGB JPEG, counted
                                     +-- cannot be decoded, cut off, no image at all: quarantine

    <output_dir>/train-00000-of-00004.tfrecord      tf.train.Example, see `image_files.records`
    <output_dir>/train-00000-of-00004.index

Images are decoded by TensorFlow, which is what training decodes them by: what passes here passes there.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import multiprocessing
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf_codistill import files
from tf_codistill.image_files import formats, records
from tf_codistill.image_preparation import archives, plan
from tf_codistill.image_preparation.archives import Located
from tf_codistill.jobs import quarantine
from tf_codistill.jobs.quarantine import MAX_STRETCH_BYTES, Damage, Quarantine
from tf_codistill.jobs.stages import Advance, Stage
from tf_codistill.jobs.written import Written

ENDINGS = (records.ENDING, records.INDEX)
"""Endings of the files of a shard."""

AS_THEY_ARE = ("jpeg", "grey_jpeg")
"""Kinds of images that are stored as they are."""


@dataclasses.dataclass(frozen=True)
class RecordStage(Stage):
    """Writes record files; a task is one of them.

    Attributes:
        directory: The folder of its results, apart from the records.
        plan_dir: Where the plan is.
        shards: Number of images of each shard, by task.
        jpeg_quality: With which images are stored that are no RGB JPEG.
        output: The directory of the records.
        quarantine_dir: Where to keep what cannot be decoded; None keeps nothing.
    """

    title = "writing images"
    unit = "images"
    units_per_process = 500
    preload = (__name__, "tensorflow")

    plan_dir: str
    shards: Mapping[str, int]
    jpeg_quality: int
    output: Written
    quarantine_dir: str | None = None

    def sizes(self) -> Mapping[str, int]:
        """The tasks with the number of their images."""
        return self.shards

    def done(self) -> set[str]:
        """Names of the tasks whose facts and records are there, and damage in quarantine if it shall be."""
        there = set(files.names(self.output.directory))
        done = set()
        for task in super().done():
            facts = self.facts(task)
            is_done = there.issuperset(facts["sha256"])
            if facts["damaged"]:
                is_done &= self.quarantine_dir is None or quarantine.has(self.quarantine_dir, task)
                is_done = is_done and self._is_as_damaged(task, facts["damaged"])
            if is_done:
                done.add(task)
        return done

    def do(self, task: str, advance: Advance) -> Mapping[str, Any]:
        """Writes a record file and its index."""
        # Whoever writes the same shard at the same time does so elsewhere, and what is there is whole.
        aside = files.make_directory(self.output.claim(f"{task}.{uuid.uuid4().hex}.partial"))
        path = files.join(aside, task)
        counted = _Counts()
        with contextlib.ExitStack() as stack:
            kept = None
            if self.quarantine_dir is not None:
                kept = stack.enter_context(Quarantine(self.quarantine_dir, task))
            _write(path + records.ENDING, counted.noting(self._images(task, advance), kept))
        records.write_index(path + records.INDEX, records.scan(path + records.ENDING).rows)
        checksums = {}
        for ending in ENDINGS:
            checksums[task + ending] = files.checksum(path + ending)
            files.move(path + ending, self.output.claim(task + ending))
        files.remove(aside)
        return {**counted.facts(), "sha256": checksums}

    def _is_as_damaged(self, task: str, damaged: Sequence[Sequence[Any]]) -> bool:
        """Whether what could not be decoded has not been replaced since."""
        located = {one.name: one for one, _, _ in plan.read(self.plan_dir, task)}
        return all(_crc(located[name]) == crc for name, _, crc in damaged)

    def _images(self, task: str, advance: Advance) -> Iterator[_Image | Damage]:
        for located, name, label in plan.read(self.plan_dir, task):
            yield _converted(located, name, label, self.jpeg_quality)
            advance(1)


def _crc(located: Located) -> int | None:
    """CRC-32 of the beginning of a file; that of nothing where its archive is damaged there."""
    try:
        return zlib.crc32(archives.content(located)[:MAX_STRETCH_BYTES])
    except archives.DamagedError:
        return zlib.crc32(b"")
    except OSError:
        return None


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image as it is stored."""

    content: bytes
    kind: str
    path: str
    class_name: str
    label: int


def _converted(located: Located, name: str, label: int, jpeg_quality: int) -> _Image | Damage:
    """Reads and decodes an image."""
    found, kind = b"", None
    try:
        found = archives.content(located)
        kind = formats.kind_of(found)
        if kind is None:
            raise archives.DamagedError("unknown_format" if found else "empty")
        content = _as_jpeg(found, kind, jpeg_quality)
    except archives.DamagedError as error:
        content = found[:MAX_STRETCH_BYTES]
        return Damage(str(error), located.offset, len(found), content, located.name)
    return _Image(content, kind, located.name, name, label)


def _as_jpeg(content: bytes, kind: str, jpeg_quality: int) -> bytes:
    """The image as RGB or grey JPEG, after it has been decoded whole."""
    import tensorflow as tf

    _leave_gpus()
    try:
        with tf.device("CPU"):
            if "jpeg" in kind:
                pixels = tf.io.decode_jpeg(content, channels=3)
            else:
                pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
            if kind in AS_THEY_ARE and formats.shape_of_jpeg(content) == tuple(pixels.shape[:2]):
                return content
            encoded = tf.io.encode_jpeg(pixels, quality=jpeg_quality, chroma_downsampling=False)
            return bytes(encoded.numpy())
    except tf.errors.OpError as error:
        raise archives.DamagedError(f"damaged_{kind}") from error


@functools.cache
def _leave_gpus() -> None:
    """In a process of an engine: takes no memory of GPUs, which are of no use here."""
    if multiprocessing.parent_process() is not None:
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # TensorFlow has begun: this was called before
            tf.config.set_visible_devices([], "GPU")


def _write(path: str, images: Iterator[_Image]) -> None:
    """Writes a record file."""
    import tensorflow as tf

    def texts(*values: str) -> Any:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))

    def integers(*values: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    with tf.io.TFRecordWriter(path) as writer:
        for image in images:
            height, width = formats.shape_of_jpeg(image.content)
            features = {
                records.IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.content])),
                records.LABEL: integers(image.label),
                records.CLASS_TEXTS[1]: texts(image.class_name),
                records.FILENAME: texts(image.path),
                "image/height": integers(height),
                "image/width": integers(width),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString(deterministic=True))


class _Counts:
    """What became of the images of a shard."""

    def __init__(self) -> None:
        self._classes: collections.Counter[str] = collections.Counter()
        self._kinds: collections.Counter[str] = collections.Counter()
        self._damaged: list[tuple[str, str, int]] = []

    def noting(self, items: Iterator[_Image | Damage], kept: Quarantine | None) -> Iterator[_Image]:
        """Passes on images, and keeps what is none."""
        for item in items:
            if isinstance(item, _Image):
                self._classes[item.class_name] += 1
                self._kinds[item.kind] += 1
                yield item
            else:
                self._damaged.append((item.url, item.kind, zlib.crc32(item.content)))
                if kept:
                    kept.keep(item)

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {"classes": dict(self._classes), "kinds": dict(self._kinds), "damaged": self._damaged}

"""Which image goes to which record file: decided from names alone, before any image is read.

    photos.zip
        photos/train/cat/1.jpg      part train, class cat       the folder above the file is the class, the
        nearest photos/val/cat/9.jpg        part validation             one above it that is called so, the
        part photos/notes.txt            no image by its name: counted

    <work_dir>/plan-3f0c.../train-00000.plan      JSON lines: name, label, where the bytes are

Images stand in the order of a hash of class and name, which mixes the classes, and which says what is held
out where the source does not: so the records do not depend on the order of the files in an archive.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from tf_codistill import files
from tf_codistill.image_files import folders
from tf_codistill.image_preparation import archives
from tf_codistill.image_preparation.archives import Located
from tf_codistill.image_preparation.settings import ImageSettings
from tf_codistill.jobs.stages import fingerprint

ENDING = ".plan"
"""Ending of the file with the images of a shard."""

_KEY_BYTES = 16

_Image: TypeAlias = tuple[str, str, bytes, Located]  # part, class, key, where its bytes are


@dataclasses.dataclass(frozen=True)
class Sources:
    """What images are prepared from.

    Attributes:
        main: Folder or archive with all parts, or with what is trained on.
        validation: Folder or archive with what is held out; None if it is in `main`, or to be chosen.
        validation_labels: A text file with the class of each image of `validation` in the order of their
            names, a line each, where these are in no class folders, as those of ImageNet.
    """

    main: str
    validation: str | None = None
    validation_labels: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which images there are, and where they shall go.

    Attributes:
        directory: Holds a file for each shard.
        key: What it consists of, in 16 digits.
        class_names: Names of the classes by label.
        shards: Number of images of each shard, by name such as ``train-00000-of-00004``.
        left_out: How many files are no image by their names (``not_an_image``), or are of a class that
            training lacks (``unknown_class``).
        empty_classes: Classes of which there is a folder, but no image to train on.
        unknown_classes: Classes that training lacks, by part.
    """

    directory: str
    key: str
    class_names: list[str]
    shards: Mapping[str, int]
    left_out: Mapping[str, int]
    empty_classes: list[str]
    unknown_classes: Mapping[str, list[str]]


@dataclasses.dataclass
class _Found:
    """Images by part and class, before anything is checked."""

    images: list[tuple[str | None, str, Located]] = dataclasses.field(default_factory=list)
    folders: dict[str, str | None] = dataclasses.field(default_factory=dict)  # part by path
    num_others: int = 0


def make(sources: Sources, settings: ImageSettings, work_dir: str) -> Plan:
    """Makes a plan, and writes its files unless they are there.

    Args:
        sources: Folders or archives.
        settings: What is held out, and how large a record file is.
        work_dir: Where the plan is to be; archives are unpacked there, too.

    Returns:
        The plan.

    Raises:
        ValueError: Something in the sources does not fit, see `folders.check_classes`.
        FileNotFoundError: A source does not exist.
    """
    found = _found(sources, work_dir)
    images, empty = _with_parts(found, settings)
    numbers: dict[str, collections.Counter[str]] = {"train": collections.Counter()}
    for part, name, _, _ in images:
        numbers.setdefault(part, collections.Counter())[name] += 1
    for part, name in empty:
        if part in numbers:
            numbers[part].setdefault(name, 0)
    class_names, empty_classes, unknown = folders.check_classes(
        numbers, settings.max_damaged_share, sources.main
    )
    counted = {part: of_class.total() for part, of_class in numbers.items()}
    folders.check_counts(settings.expected_counts, {"classes": len(class_names), **counted}, sources.main)
    labels = {name: label for label, name in enumerate(class_names)}
    known = [image for image in images if image[1] in labels]
    left_out = {"not_an_image": found.num_others, "unknown_class": len(images) - len(known)}
    shards = _shards(known, labels, settings.images_per_shard)
    key = _fingerprint(known, labels, settings.images_per_shard)
    directory = files.make_directory(files.join(work_dir, f"plan-{key}"))
    for shard, (_, lines) in shards.items():
        files.write(files.join(directory, shard + ENDING), lines.encode("ascii"))
    sizes = {shard: number for shard, (number, _) in shards.items()}
    return Plan(directory, key, class_names, sizes, left_out, empty_classes, unknown)


def _shards(images: list[_Image], labels: Mapping[str, int], most: int) -> dict[str, tuple[int, str]]:
    """Number of images and lines of each shard, by its name."""
    shards = {}
    for part in folders.PARTS:
        members = [image for image in images if image[0] == part]
        number = -(-len(members) // most)
        for index in range(number):
            own = members[index * most : (index + 1) * most]
            lines = [json.dumps([name, labels[name], *located]) + "\n" for _, name, _, located in own]
            shards[f"{part}-{index:05d}-of-{number:05d}"] = len(own), "".join(lines)
    return shards


def _fingerprint(images: list[_Image], labels: Mapping[str, int], most: int) -> str:
    """What the records will depend on: not where the source is."""
    digest = hashlib.sha256()
    for part, name, _, located in images:
        row = [part, labels[name], located.name, located.num_bytes, located.crc]
        digest.update(json.dumps(row).encode("ascii"))
    return fingerprint(digest.hexdigest(), list(labels), most)


def read(directory: str, shard: str) -> Iterator[tuple[Located, str, int]]:
    """The images of a shard.

    Args:
        directory: The plan's.
        shard: Name of the shard.

    Yields:
        Where an image is, its class and its label.
    """
    for line in files.read(files.join(directory, shard + ENDING)).decode("utf-8").splitlines():
        name, label, *located = json.loads(line)
        yield Located(*located), name, label


def _found(sources: Sources, work_dir: str) -> _Found:
    """All images of all sources."""
    found = _Found()
    is_alone = sources.validation is None
    _add(found, _located(sources.main, work_dir), None if is_alone else "train", None)
    if sources.validation is not None:
        labels = None
        if sources.validation_labels is not None:
            lines = files.read(sources.validation_labels).decode("utf-8").split("\n")
            labels = [line.strip() for line in lines if line.strip()]
        _add(found, _located(sources.validation, work_dir), "validation", labels)
    if not found.images:
        raise ValueError(
            f"{sources.main!r} holds no image by the names of its files; expected <class>/<name>.jpg in it"
        )
    return found


def _located(source: str, work_dir: str) -> Iterable[Located]:
    if archives.packer_of(source) is None:
        return archives.located_files(source)
    name = f"unpacked-{fingerprint(source, files.size_bytes(source))}.tar"
    return archives.located_files(archives.unpacked(source, files.join(files.make_directory(work_dir), name)))


def _add(found: _Found, located: Iterable[Located], part: str | None, labels: list[str] | None) -> None:
    """Adds the images of a source, all of one part if that is given; of one name that an archive has last."""
    flat: list[Located] = []
    for one in {one.name: one for one in located}.values():
        *above, name = one.name.split("/")
        if any(map(folders.is_hidden, filter(None, (*above, name)))):
            continue
        if not name:
            if folders.part_of(above[-1]) is None:
                found.folders["/".join(above)] = part or _part_among(above[:-1])
        elif not folders.is_image(name):
            found.num_others += 1
        elif labels is not None or not above or folders.part_of(above[-1]) is not None:
            flat.append(one)
        else:
            found.images.append((part or _part_among(above[:-1]), above[-1], one))
    if flat and labels is None:
        raise ValueError(
            f"image {flat[0].name!r} is in no class folder; expected "
            f"<class>/{flat[0].name.rpartition('/')[2]}, or "
            "--validation_source with --validation_labels, a file with the class of each image"
        )
    if labels is not None:
        if len(labels) != len(flat):
            raise ValueError(
                f"there are {len(labels)} labels for {len(flat)} images; expected one a line for each"
            )
        flat.sort(key=lambda one: one.name.rpartition("/")[2])
        found.images += [(part, label, one) for label, one in zip(labels, flat, strict=True)]


def _part_among(above: list[str]) -> str | None:
    return next((part for name in reversed(above) if (part := folders.part_of(name))), None)


def _with_parts(found: _Found, settings: ImageSettings) -> tuple[list[_Image], set[tuple[str, str]]]:
    """Images with their parts and keys, in the order of these; and classes without images."""
    parts = {part for part, _, _ in found.images}
    if None in parts and len(parts) > 1:
        one = next(located.name for part, _, located in found.images if part is None)
        raise ValueError(
            f"image {one!r} is in no part, but others are in {', '.join(sorted(filter(None, parts)))}; put "
            "all into "
            "folders train, validation and test, or none"
        )
    is_chosen = parts <= {None, "train"}
    keyed = []
    for part, name, located in found.images:
        key = _key(name, located.name)
        keyed.append((settings.part(key) if is_chosen else str(part), name, key, located))
    keyed.sort(key=lambda image: (image[2], image[3].name))
    return keyed, _empty_classes(found)


def _empty_classes(found: _Found) -> set[tuple[str, str]]:
    """Part and class of folders without images that stand where those of classes do."""
    classes = {located.name.rpartition("/")[0] for _, _, located in found.images}
    places = {folder.rpartition("/")[0] for folder in classes}
    above = {
        "/".join(parts[:depth]) for parts in (c.split("/") for c in classes) for depth in range(len(parts))
    }
    return {
        (part or "train", folder.rpartition("/")[2])
        for folder, part in found.folders.items()
        if folder.rpartition("/")[0] in places and folder not in classes | above
    }


def _key(name: str, path: str) -> bytes:
    """A hash of the class of an image and the name of its file, the same wherever the folders are."""
    text = f"{name}/{path.rpartition('/')[2]}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:_KEY_BYTES]


def counts(plan: Plan) -> dict[str, Any]:
    """What the plan leaves out, for the manifest.

    Args:
        plan: The plan.

    Returns:
        Numbers and names.
    """
    return {
        "left_out": dict(plan.left_out),
        "empty_classes": plan.empty_classes,
        "unknown_classes": dict(plan.unknown_classes),
    }

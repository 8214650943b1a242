"""Class folders: which images there are, in which part, of which class.

photos/train/cat/1.jpg   photos/train/dog/7.jpg   photos/validation/cat/3.jpg   photos/train/notes.txt

found = scan("photos")
found.images["train"]["cat"]     ["1.jpg", ...], sorted
found.folders["train"]["cat"]    ["photos/train/cat", ...]
found.others                     ["photos/train/notes.txt"], which are no images by their names
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tf_codistill import files

PARTS = ("train", "validation", "test")
"""The parts of a data set, as they are called in what we write."""

MANIFEST_FORMAT = "image_records"
"""What the manifest of a directory that `prepare_images` has written gives as ``format``."""

_PART_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation"}
_PART_NAMES |= {"valid": "validation", "test": "test"}
_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp")
_NUM_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """What lies in class folders.

    Attributes:
        images: Names of the images by part and class, each list sorted; classes sorted, too. A class of which
            there is a folder without images has an empty list.
        folders: Path of the folder by part and class.
        others: Paths of files that are no images by their names, hidden ones left out.
    """

    images: Mapping[str, Mapping[str, list[str]]]
    folders: Mapping[str, Mapping[str, str]]
    others: list[str]


def part_of(folder: str) -> str | None:
    """The part that a folder of this name holds: ``validation`` for ``val``; None if it is not one."""
    return _PART_NAMES.get(folder.lower())


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder is one that archives and systems leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def is_image(name: str) -> bool:
    """Whether a file is an image by its name; its content may say otherwise."""
    return name.lower().endswith(_ENDINGS)


def scan(directory: str) -> ClassFolders:
    """Looks through class folders; no image is opened.

    Args:
        directory: Holds a folder for each part, or, with another name for it, ``train/``, ``val/`` and so on.

    Returns:
        What is there.

    Raises:
        ValueError: There is no folder ``train``, or two folders are of one part.
    """
    images: dict[str, dict[str, list[str]]] = {}
    folders: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for entry in files.names(directory):
        part = part_of(entry)
        if part is None or is_hidden(entry):
            continue
        if part in images:
            raise ValueError(
                f"{directory!r} has two folders for the part {part!r}, one is {entry!r}; keep one"
            )
        images[part], folders[part] = {}, {}
        for name in files.names(files.join(directory, entry)):
            path = files.join(directory, entry, name)
            if is_hidden(name):
                continue
            if is_image(name):
                raise ValueError(
                    f"image {path!r} is in no class folder; expected "
                    f"{files.join(directory, entry)}/<class>/{name}"
                )
            if not files.is_directory(path):
                others.append(path)
                continue
            inside = [inner for inner in files.names(path) if not is_hidden(inner)]
            images[part][name] = [inner for inner in inside if is_image(inner)]
            folders[part][name] = path
            others += [files.join(path, inner) for inner in inside if not is_image(inner)]
    if not images.get("train"):
        raise ValueError(
            f"{directory!r} has no class folders train/<class>/ and no image records; name a directory that "
            "has, or make one by prepare_images, which can also hold out a part for validation"
        )
    return ClassFolders(images, folders, others)


def check_classes(
    numbers: Mapping[str, Mapping[str, int]], max_damaged_share: float, where: str
) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Compares the classes of the parts.

    Args:
        numbers: Number of images by part and class.
        max_damaged_share: The largest share of classes that may be empty, and of the images of a part that
            may be of classes which training lacks.
        where: What is looked at, for messages.

    Returns:
        The classes, sorted; those that have a folder but no image to train on; and by part those that
        training lacks, whose images have to be left out.

    Raises:
        ValueError: One of the shares is larger, there are fewer than two classes, a part has no image, or the
            name of a class is no text in UTF-8.
    """
    training = {name: number for name, number in numbers["train"].items() if number}
    classes, empty = sorted(training), sorted(numbers["train"].keys() - training.keys())
    if len(empty) > max_damaged_share * len(numbers["train"]):
        raise ValueError(
            f"{len(empty)} of {len(numbers['train'])} classes of {where!r} have no image to train on, among "
            "them "
            f"{_shown(empty)}; add images, remove their folders, or allow a larger max_damaged_share, which "
            f"is {max_damaged_share}"
        )
    if odd := [name for name in classes if name.encode("utf-8", "replace").decode() != name]:
        raise ValueError(f"class {odd[0]!r} of {where!r} has a name that is no UTF-8; rename its folder")
    if len(classes) < 2:
        raise ValueError(f"{where!r} has {len(classes)} classes with images; expected at least 2")
    unknown = {}
    for part, of_class in numbers.items():
        lacking = sorted(name for name, number in of_class.items() if number and name not in training)
        lost, total = sum(of_class[name] for name in lacking), sum(of_class.values())
        if not total:
            raise ValueError(f"part {part!r} of {where!r} has no image; add some, or remove its folder")
        if lost > max_damaged_share * total:
            raise ValueError(
                f"{lost} of {total} images in part {part!r} of {where!r} are of classes that training lacks, "
                f"among them {_shown(lacking)}; give training the same classes, or allow a larger "
                f"max_damaged_share, which is {max_damaged_share}"
            )
        if lacking:
            unknown[part] = lacking
    return classes, empty, unknown


def check_counts(expected: Mapping[str, int], found: Mapping[str, int], where: str) -> None:
    """Compares numbers of images with those that a data set is known to have.

    Args:
        expected: Number of ``classes``, and of images by part; what is not named is not checked.
        found: The same, counted.
        where: What is looked at, for messages.

    Raises:
        ValueError: A number is another one, or there is no such part.
    """
    for name, number in expected.items():
        if name not in ("classes", *PARTS):
            raise ValueError(f"expected_counts has {name!r}; expected classes, {', '.join(PARTS)}")
        if found.get(name, 0) != number:
            what = "classes" if name == "classes" else f"images in part {name!r}"
            difference = found.get(name, 0) - number
            raise ValueError(
                f"{where!r} has {found.get(name, 0):,} {what}; expected {number:,}: {abs(difference):,} "
                f"{'are missing' if difference < 0 else 'too many'}; get the data again, or change "
                "expected_counts"
            )


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:_NUM_SHOWN])) + (", ..." if len(names) > _NUM_SHOWN else "")

"""Class folders and what may be wrong with them."""

from __future__ import annotations

import pathlib

import pytest

from tests.toy_images import write_folders
from tf_codistill.image_files import folders


def test_a_scan_finds_parts_classes_and_others(tmp_path: pathlib.Path) -> None:
    names = ("train/b/2.JPEG", "train/b/1.jpg", "train/a/1.png", "val/b/9.jpg", "val/b/x.txt", "notes.txt")
    hidden = (
        "train/.DS_Store",
        "train/b/.1.jpg",
        "train/b/Thumbs.db",
        "__MACOSX/train/a/1.jpg",
        "train/list.txt",
    )
    write_folders(tmp_path, dict.fromkeys((*names, *hidden), b""))
    (tmp_path / "train/c").mkdir()
    found = folders.scan(str(tmp_path))
    assert found.images == {
        "train": {"a": ["1.png"], "b": ["1.jpg", "2.JPEG"], "c": []},
        "validation": {"b": ["9.jpg"]},
    }
    assert found.folders["validation"] == {"b": f"{tmp_path}/val/b"}
    assert found.others == [f"{tmp_path}/train/list.txt", f"{tmp_path}/val/b/x.txt"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a/1.jpg"], r"no class folders train/<class>/ and no image records; .*prepare_images"),
        (["val/a/1.jpg"], "no class folders train/<class>/"),
        (["train/1.jpg"], r"train/1\.jpg' is in no class folder; expected .*train/<class>/1\.jpg"),
        (["train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"], "two folders for the part 'validation'"),
    ],
)
def test_folders_that_are_no_classes_are_named(tmp_path: pathlib.Path, names: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        folders.scan(write_folders(tmp_path, dict.fromkeys(names, b"")))


def test_classes_that_do_not_fit_are_counted() -> None:
    numbers = {"train": {"a": 9, "b": 9, "c": 0}, "validation": {"a": 8, "d": 2, "e": 0}}
    found = folders.check_classes(numbers, 0.5, "photos")
    assert found == (["a", "b"], ["c"], {"validation": ["d"]})


@pytest.mark.parametrize(
    ("numbers", "share", "told"),
    [
        ({"train": {"a": 1, "b": 1, "c": 0}}, 0.3, "1 of 3 classes of 'photos' have no image.* 'c'; .* 0.3"),
        ({"train": {"a": 1}}, 0.0, "1 classes with images; expected at least 2"),
        ({"train": {"a": 1, "b": 1}, "test": {}}, 0.0, "part 'test' of 'photos' has no image"),
        (
            {"train": {"a": 1, "caf\udce9": 1}},
            0.0,
            r"class 'caf\\udce9' of 'photos' has a name that is no UTF-8; rename its folder",
        ),
        (
            {"train": {"a": 1, "b": 1}, "validation": {"a": 8, "d": 2}},
            0.19,
            "2 of 10 images in part 'validation' .* that training lacks, among them 'd'",
        ),
    ],
)
def test_too_much_of_no_use_is_an_error(numbers: dict[str, dict[str, int]], share: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        folders.check_classes(numbers, share, "photos")


def test_counts_that_are_known_are_checked() -> None:
    found = {"classes": 10, "train": 1800, "validation": 200}
    folders.check_counts({}, found, "photos")
    folders.check_counts(found, found, "photos")
    for expected, told in (
        ({"train": 1801}, "'photos' has 1,800 images in part 'train'; expected 1,801: 1 are missing"),
        ({"classes": 8}, "has 10 classes; expected 8: 2 too many"),
        ({"test": 5}, "has 0 images in part 'test'; expected 5: 5 are missing"),
        ({"trian": 5}, "expected_counts has 'trian'"),
    ):
        with pytest.raises(ValueError, match=told):
            folders.check_counts(expected, found, "photos")

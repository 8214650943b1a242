"""Which image goes where, from names alone."""

from __future__ import annotations

import io
import pathlib
import tarfile
from collections.abc import Mapping

import pytest

from tests.toy_images import write_folders, write_zip
from tf_codistill.image_preparation import plan
from tf_codistill.image_preparation.plan import Plan, Sources
from tf_codistill.image_preparation.settings import ImageSettings

MANY = {f"top/{name}/{number}.jpg": b"" for name in ("a", "b") for number in range(100)}


def make(tmp_path: pathlib.Path, names: Mapping[str, bytes] | list[str], **settings: float) -> Plan:
    source = write_folders(
        tmp_path / "source", names if isinstance(names, Mapping) else dict.fromkeys(names, b"")
    )
    return plan.make(Sources(source), ImageSettings(**settings), str(tmp_path / "work"))


def images(made: Plan) -> dict[str, list[tuple[str, str, int]]]:
    found: dict[str, list[tuple[str, str, int]]] = {}
    for shard in made.shards:
        rows = [(located.name, name, label) for located, name, label in plan.read(made.directory, shard)]
        assert len(rows) == made.shards[shard]
        found.setdefault(shard.partition("-")[0], []).extend(rows)
    return found


def test_parts_and_classes_are_folders(tmp_path: pathlib.Path) -> None:
    names = ["x/train/a/1.jpg", "x/train/b/1.jpg", "x/val/a/2.jpg", "x/test/b/3.png", "x/readme.txt"]
    made = make(tmp_path, [*names, "x/train/a/.hidden.jpg", "__MACOSX/x/train/a/1.jpg"])
    assert made.class_names == ["a", "b"]
    assert made.left_out == {"not_an_image": 1, "unknown_class": 0}
    found = images(made)
    assert sorted(found["train"]) == [("x/train/a/1.jpg", "a", 0), ("x/train/b/1.jpg", "b", 1)]
    assert found["validation"] == [("x/val/a/2.jpg", "a", 0)]
    assert found["test"] == [("x/test/b/3.png", "b", 1)]


def test_of_a_file_that_an_archive_has_twice_the_last_counts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "added_to.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("train/a/1.jpg", b"old"), ("train/b/1.jpg", b""), ("train/a/1.jpg", b"newer")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    made = plan.make(Sources(str(path)), ImageSettings(validation_share=0.0), str(tmp_path / "work"))
    rows = plan.read(made.directory, "train-00000-of-00001")
    assert sorted((one.name, one.num_bytes) for one, _, _ in rows) == [
        ("train/a/1.jpg", 5),
        ("train/b/1.jpg", 0),
    ]


def test_a_share_is_held_out_by_a_hash(tmp_path: pathlib.Path) -> None:
    found = images(make(tmp_path, MANY, validation_share=0.2, test_share=0.1))
    assert 25 <= len(found["validation"]) <= 55
    assert 10 <= len(found["test"]) <= 30
    assert sorted(name for rows in found.values() for name, _, _ in rows) == sorted(MANY)
    fewer = images(make(tmp_path / "2", dict(list(MANY.items())[::2]), validation_share=0.2, test_share=0.1))
    assert {name for name, _, _ in fewer["test"]} <= {name for name, _, _ in found["test"]}
    assert list(images(make(tmp_path / "3", MANY, validation_share=0.0))) == ["train"]


def test_what_is_held_out_of_a_train_folder(tmp_path: pathlib.Path) -> None:
    below = {name.replace("top", "train"): b"" for name in MANY}
    found = images(make(tmp_path, below, validation_share=0.2))
    assert {name.replace("train", "top") for name, _, _ in found["validation"]} == {
        name for name, _, _ in images(make(tmp_path / "2", MANY, validation_share=0.2))["validation"]
    }


def test_the_order_of_files_does_not_matter(tmp_path: pathlib.Path) -> None:
    work = str(tmp_path / "work")
    one = write_zip(tmp_path / "1.zip", MANY)
    other = write_zip(tmp_path / "2.zip", dict(reversed(MANY.items())))
    found = [images(plan.make(Sources(source), ImageSettings(), work)) for source in (one, other)]
    assert found[0] == found[1]
    order = [name for name, _, _ in found[0]["train"]]
    assert order != sorted(order)


def test_shards_have_their_size(tmp_path: pathlib.Path) -> None:
    made = make(tmp_path, MANY, images_per_shard=64, validation_share=0.0)
    assert list(made.shards.values()) == [64, 64, 64, 8]
    assert list(made.shards)[-1] == "train-00003-of-00004"


def test_validation_may_be_elsewhere_with_a_file_of_labels(tmp_path: pathlib.Path) -> None:
    train = write_folders(tmp_path / "train", {"b/1.jpg": b"", "a/1.jpg": b""})
    held_out = write_folders(tmp_path / "val", {"v_2.jpg": b"", "v_1.jpg": b"", "v_3.jpg": b""})
    labels = tmp_path / "labels.txt"
    labels.write_text("b\na\nb\n")
    sources = Sources(train, held_out, str(labels))
    found = images(plan.make(sources, ImageSettings(), str(tmp_path / "work")))
    assert sorted(found["validation"]) == [("v_1.jpg", "b", 1), ("v_2.jpg", "a", 0), ("v_3.jpg", "b", 1)]
    assert len(found["train"]) == 2
    labels.write_text("b\na\n")
    with pytest.raises(ValueError, match="there are 2 labels for 3 images"):
        plan.make(sources, ImageSettings(), str(tmp_path / "work"))
    with pytest.raises(ValueError, match=r"'v_\d\.jpg' is in no class folder; .*--validation_labels"):
        plan.make(Sources(train, held_out), ImageSettings(), str(tmp_path / "work"))


def test_a_line_of_the_file_of_labels_is_a_class_with_all_its_words(tmp_path: pathlib.Path) -> None:
    train = write_folders(tmp_path / "train", {"big cat/1.jpg": b"", "dog/1.jpg": b""})
    held_out = write_folders(tmp_path / "val", {"v_1.jpg": b"", "v_2.jpg": b""})
    (tmp_path / "labels.txt").write_bytes(b"dog\r\nbig cat \r\n\r\n")
    sources = Sources(train, held_out, str(tmp_path / "labels.txt"))
    found = images(plan.make(sources, ImageSettings(), str(tmp_path / "work")))
    assert sorted(found["validation"]) == [("v_1.jpg", "dog", 1), ("v_2.jpg", "big cat", 0)]


def test_classes_without_images_and_unknown_ones_are_counted(tmp_path: pathlib.Path) -> None:
    names = [
        "train/a/1.jpg",
        "train/b/1.jpg",
        "train/c/notes.txt",
        "val/a/1.jpg",
        "val/d/1.jpg",
        "val/d/2.jpg",
    ]
    for is_zip in (False, True):
        files = dict.fromkeys(names, b"")
        if is_zip:
            source = write_zip(
                tmp_path / "a.zip", {**files, "train/c/": b"", "train/e/": b"", "train/a/": b""}
            )
        else:
            source = write_folders(tmp_path / "a", files)
            (tmp_path / "a/train/e").mkdir()
        with pytest.raises(
            ValueError, match="2 of 4 classes .* have no image to train on, among them 'c', 'e'"
        ):
            plan.make(Sources(source), ImageSettings(), str(tmp_path / "work"))
        with pytest.raises(ValueError, match="2 of 3 images in part 'validation' .* lacks, among them 'd'"):
            plan.make(Sources(source), ImageSettings(max_damaged_share=0.5), str(tmp_path / "work"))
        made = plan.make(Sources(source), ImageSettings(max_damaged_share=0.7), str(tmp_path / "work"))
        assert made.left_out == {"not_an_image": 1, "unknown_class": 2}
        assert (made.empty_classes, made.unknown_classes) == (["c", "e"], {"validation": ["d"]})


def test_counts_that_are_known_are_checked_before_the_work(tmp_path: pathlib.Path) -> None:
    source = write_folders(
        tmp_path / "source", {"train/a/1.jpg": b"", "train/b/1.jpg": b"", "val/a/1.jpg": b""}
    )
    settings = ImageSettings(expected_counts={"train": 2, "validation": 2})
    with pytest.raises(ValueError, match="1 images in part 'validation'; expected 2: 1 are missing"):
        plan.make(Sources(source), settings, str(tmp_path / "work"))
    assert not list((tmp_path / "work").glob("plan-*"))


def test_some_images_in_a_part_and_some_in_none_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"image 'b/1\.jpg' is in no part, but others are in train"):
        make(tmp_path, ["train/a/1.jpg", "b/1.jpg"])
    with pytest.raises(ValueError, match="holds no image"):
        make(tmp_path / "2", ["a.txt"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"images_per_shard": 0}, "images_per_shard is 0"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"validation_share": 0.6, "test_share": 0.5}, r"validation_share \+ test_share is 1.1"),
        ({"jpeg_quality": "best"}, "jpeg_quality is 'best'; expected an integer"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ImageSettings(**settings)  # type: ignore[arg-type]

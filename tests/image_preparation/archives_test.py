"""Files of folders and archives, each read by itself."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pathlib
import tarfile
import zipfile
from collections.abc import Callable, Mapping

import pytest

from tests.toy_images import write_folders, write_zip
from tf_codistill.image_preparation import archives

FILES = {"a/1.jpg": b"one" * 500, "a/2.jpg": b"", "b/c/3.txt": bytes(range(256)) * 9}


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, each in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(each)
            archive.addfile(info, io.BytesIO(each))
    return content.getvalue()


def read(source: str) -> dict[str, bytes]:
    return {
        one.name: archives.content(one)
        for one in archives.located_files(source)
        if not one.name.endswith("/")
    }


def test_a_folder(tmp_path: pathlib.Path) -> None:
    source = write_folders(tmp_path, FILES)
    assert read(source) == FILES
    assert {one.name for one in archives.located_files(source)} == {"a/", "b/", "b/c/", *FILES}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file(tmp_path: pathlib.Path, compression: int) -> None:
    assert read(write_zip(tmp_path / "a.zip", FILES, compression)) == FILES


def test_a_tar_of_tars(tmp_path: pathlib.Path) -> None:
    inner = {"x.jpg": b"x" * 1000, "deep/y.jpg": b"y"}
    (tmp_path / "a.tar").write_bytes(
        tar_bytes({**FILES, "n01.tar": tar_bytes(inner), "k/n02.tar": tar_bytes(inner)})
    )
    expected = {f"{folder}/{name}": each for folder in ("n01", "k/n02") for name, each in inner.items()}
    assert read(str(tmp_path / "a.tar")) == {**FILES, **expected}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_unpacked_once(tmp_path: pathlib.Path, pack: Callable[[bytes], bytes]) -> None:
    source, path = tmp_path / "a.tar.x", str(tmp_path / "plain.tar")
    source.write_bytes(pack(tar_bytes(FILES)))
    assert archives.packer_of(str(source)) is not None
    assert read(archives.unpacked(str(source), path)) == FILES
    source.write_bytes(source.read_bytes()[:50])
    assert read(archives.unpacked(str(source), path)) == FILES
    with pytest.raises(ValueError, match="cannot be unpacked .*fetch it again"):
        archives.unpacked(str(source), str(tmp_path / "other.tar"))
    assert not (tmp_path / "other.tar").exists()


def test_a_damaged_file_in_a_zip_is_told(tmp_path: pathlib.Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = pathlib.Path(write_zip(tmp_path / "a.zip", FILES, compression))
        content = bytearray(path.read_bytes())
        content[content.index(b"a/1.jpg") + 7 : content.index(b"a/1.jpg") + 12] = b"other"
        path.write_bytes(content)
        found = {one.name: one for one in archives.located_files(str(path))}
        with pytest.raises(archives.DamagedError, match="bad_checksum"):
            archives.content(found["a/1.jpg"])
        assert archives.content(found["b/c/3.txt"]) == FILES["b/c/3.txt"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04 cut off", "zip file .*a' cannot be read"),
        (b"no archive at all" * 100, "is no folder, zip file or whole tar"),
        (tar_bytes({"a.jpg": bytes(5000)})[:2000], "is no folder, zip file or whole tar"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path: pathlib.Path, content: bytes, told: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        list(archives.located_files(str(tmp_path / "a")))


@pytest.mark.parametrize("depth", [0, 1])
def test_a_tar_that_is_damaged_between_two_files_is_not_taken_for_a_shorter_one(
    tmp_path: pathlib.Path, depth: int
) -> None:
    content = bytearray(tar_bytes({"1.jpg": b"x", "2.jpg": b"y", "3.jpg": b"z"}))
    content[content.index(b"2.jpg")] ^= 1
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes({"n01.tar": bytes(content)}) if depth else content)
    with pytest.raises(ValueError, match=r"a.tar' is no .* whole tar \(no file begins at byte \d+\)"):
        list(archives.located_files(str(path)))


def test_what_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(str(tmp_path / "nowhere"))


def test_an_encrypted_file_is_named(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(write_zip(tmp_path / "a.zip", {"a.jpg": b"1"}))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'a\.jpg' .* is encrypted"):
        read(str(path))

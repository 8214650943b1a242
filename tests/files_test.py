from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
import tensorflow as tf

from tests import faults
from tf_codistill import files
from tf_codistill.files import storage


@pytest.fixture(autouse=True, params=["with TensorFlow", "without"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What serves local paths, as it depends on whether TensorFlow has been imported."""
    if request.param == "without":
        monkeypatch.setattr(storage, "local", lambda: storage.Disk)
        return storage.Disk
    return tf.io.gfile


def no_room(place: Any) -> Exception:
    message = "No space left on device"
    if place is storage.Disk:
        return OSError(errno.ENOSPC, message)
    return tf.errors.ResourceExhaustedError(None, None, message)


def write_directory(directory: pathlib.Path) -> dict[str, object]:
    directory.mkdir(parents=True)
    (directory / "a.bin").write_bytes(b"\x00\x01\x02\x03")
    (directory / "b.txt").write_bytes(b"text")
    return files.commit(str(directory), {"step": 50})


def test_write_replaces_and_read_returns_all_bytes(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "file")
    for content in (b"first", b"", bytes(range(256)) * 1000):
        files.write(path, content)
        assert files.read(path) == content
        assert files.size_bytes(path) == len(content)
        assert abs(files.modified_at(path) - time.time()) < 600
        assert files.checksum(path) == hashlib.sha256(content).hexdigest()
    assert files.names(str(tmp_path)) == ["file"]


@pytest.mark.parametrize("exists", [False, True], ids=["new file", "old file"])
def test_a_writer_that_dies_leaves_the_old_content_or_the_new(tmp_path: pathlib.Path, exists: bool) -> None:
    for operation in itertools.count():
        path = tmp_path / str(operation) / "file"
        path.parent.mkdir()
        if exists:
            path.write_bytes(b"old content")
        died = faults.dies_at(operation, lambda: files.write(str(path), b"new content"))  # noqa: B023
        if not died:
            break
        assert (path.read_bytes() if path.exists() else None) == (b"old content" if exists else None)
    assert operation == 2, "a file is written aside, then renamed"
    assert path.read_bytes() == b"new content"


def test_a_write_that_fails_cleans_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    def full(*_: object, **__: object) -> None:
        raise no_room(place)

    files.write(str(tmp_path / "file"), b"old")
    monkeypatch.setattr(place, "rename", full)
    with pytest.raises(OSError, match=r"file '.*/file' cannot be used: No space left on device"):
        files.write(str(tmp_path / "file"), b"new")
    assert files.names(str(tmp_path)) == ["file"]
    assert files.read(str(tmp_path / "file")) == b"old"


_KILLED_WRITER = """
import os, signal, sys
if sys.argv[2] == "with TensorFlow":
    import tensorflow
from tf_codistill import files
from tf_codistill.files import storage
files.write(sys.argv[1], b"old content")
storage.of("").rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
files.write(sys.argv[1], b"new content")
"""


@pytest.mark.parametrize("which", ["with TensorFlow", "without"])
def test_a_killed_process_leaves_the_old_content(tmp_path: pathlib.Path, which: str) -> None:
    path = str(tmp_path / "file")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_WRITER, path, which], timeout=120, stderr=subprocess.DEVNULL
    )
    assert done.returncode == -signal.SIGKILL
    assert files.read(path) == b"old content"
    assert len(files.names(str(tmp_path))) == 2, "the new content was written aside"
    assert sorted(files.commit(str(tmp_path), {})["files"]) == ["file"], "what is aside belongs to no commit"


def test_a_directory_is_there_from_its_manifest_on(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        directory.mkdir()
        (directory / "a.bin").write_bytes(b"1234")
        if not faults.dies_at(operation, lambda: files.commit(str(directory), {"step": 50})):  # noqa: B023
            break
        assert files.read_manifest(str(directory)) is None
    assert operation == 2
    manifest = files.read_manifest(str(directory))
    assert manifest == {
        "step": 50,
        "files": {"a.bin": {"bytes": 4, "sha256": hashlib.sha256(b"1234").hexdigest()}},
    }
    files.verify(str(directory), manifest)


@pytest.mark.parametrize("name", ["a.bin", "b.txt"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "longer"])
def test_verify_names_the_damaged_file(tmp_path: pathlib.Path, name: str, damage: str) -> None:
    directory = tmp_path / "directory"
    manifest = write_directory(directory)
    files.verify(str(directory), manifest)
    path = directory / name
    if damage == "truncated":
        faults.halve(path)
    elif damage == "flipped":
        faults.flip(path, 2)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(files.CorruptError, match=f"{name}.* is (damaged|missing)"):
        files.verify(str(directory), manifest)
    if damage == "flipped":
        files.verify(str(directory), manifest, contents=False)
    else:
        with pytest.raises(files.CorruptError, match=name):
            files.verify(str(directory), manifest, contents=False)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"files": []}', b'{"files": {"a.bin": 4}}', b"\xff\xfe"],
    ids=str,
)
def test_a_manifest_that_is_rubbish_is_corrupt_and_named(tmp_path: pathlib.Path, content: bytes) -> None:
    write_directory(tmp_path / "directory")
    (tmp_path / "directory" / files.MANIFEST).write_bytes(content)
    with pytest.raises(files.CorruptError, match="manifest.json"):
        files.read_manifest(str(tmp_path / "directory"))


def test_an_entry_without_numbers_fits_no_file(tmp_path: pathlib.Path) -> None:
    manifest = write_directory(tmp_path / "directory")
    manifest["files"]["a.bin"] = {}
    with pytest.raises(files.CorruptError, match="a.bin"):
        files.verify(str(tmp_path / "directory"), manifest)


def test_a_directory_without_manifest_or_that_is_absent_has_none(tmp_path: pathlib.Path) -> None:
    assert files.read_manifest(str(tmp_path)) is None
    assert files.read_manifest(str(tmp_path / "absent")) is None


def test_remove_takes_the_manifest_first(tmp_path: pathlib.Path) -> None:
    for operation in itertools.count():
        directory = tmp_path / str(operation)
        write_directory(directory)
        if not faults.dies_at(operation, lambda: files.remove(str(directory))):  # noqa: B023
            break
        manifest = files.read_manifest(str(directory))
        if manifest is not None:
            files.verify(str(directory), manifest)
    assert operation == 2
    assert not directory.exists()
    files.remove(str(directory))
    file = tmp_path / "file"
    file.write_bytes(b"")
    files.remove(str(file))
    assert not file.exists()


def test_json_round_trip_and_error(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "facts.json")
    content = {"b": [1, 2.5, None], "a": {"ü": "\u2028"}}
    files.write_json(path, content)
    assert files.read_json(path) == content
    assert files.read(path).endswith(b"\n")
    assert json.loads(pathlib.Path(path).read_text("utf-8")) == content
    files.write(path, b'{"a": ')
    with pytest.raises(files.CorruptError, match=r"facts\.json' is not JSON .*; delete it"):
        files.read_json(path)


@pytest.mark.parametrize("remote", [False, True], ids=["disk", "ram"])
def test_append_adds_to_what_is_there(tmp_path: pathlib.Path, remote: bool, place: Any) -> None:
    path = f"ram://files_test/{tmp_path.name}_{place}" if remote else str(tmp_path / "file")
    for expected in (b"a", b"ab", b"abc"):
        files.append(path, expected[-1:])
        assert files.read(path) == expected


def test_what_is_not_there(tmp_path: pathlib.Path) -> None:
    absent = str(tmp_path / "absent")
    assert not files.exists(absent)
    assert files.names(absent) == []
    assert files.glob(str(tmp_path / "*.gz")) == []
    for look in (files.read, files.read_json, files.size_bytes, files.checksum, files.modified_at):
        with pytest.raises(FileNotFoundError, match="absent' does not exist"):
            look(absent)


def test_errors_of_tensorflow_become_errors_of_the_system(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot be used"):
        files.read(str(tmp_path))
    with pytest.raises(OSError, match="file/below"):
        files.write(str(tmp_path / "file" / "below"), b"")


def test_an_error_of_the_block_passes_as_it_is(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "file")
    files.write(path, b"old")

    def fail(kind: type[Exception]) -> None:
        with files.writing(path) as file:
            file.write(b"new")
            raise kind(None, None, "something else")

    for kind in (tf.errors.NotFoundError, tf.errors.InternalError):
        with pytest.raises(kind, match="something else"):
            fail(kind)
    assert files.names(str(tmp_path)) == ["file"]
    assert files.read(path) == b"old"


@pytest.mark.parametrize("operation", ["write", "close"])
def test_a_full_disk_raises_an_error_that_names_the_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, operation: str, place: Any
) -> None:
    def full(*_: object) -> None:
        raise no_room(place)

    class Full:
        def __init__(self, path: str, mode: str) -> None:
            self._file = pathlib.Path(path).open(mode)  # noqa: SIM115
            for name in ("write", "close"):
                setattr(self, name, full if name == operation else getattr(self._file, name))

    path = str(tmp_path / "file")
    monkeypatch.setattr(place, "GFile", Full)
    with (
        pytest.raises(OSError, match=r"file '.*/file' cannot be used: No space left on device"),
        files.writing(path) as file,
    ):
        file.write(b"new")
    assert files.names(str(tmp_path)) == []


def test_make_directory_says_which_one_cannot_be_written_to(tmp_path: pathlib.Path) -> None:
    directory = str(tmp_path / "a" / "b")
    assert files.make_directory(directory) == directory
    assert files.make_directory(directory) == directory
    assert os.listdir(directory) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"directory '.*/file/below' cannot be written to .*; name another one"
    ):
        files.make_directory(str(tmp_path / "file" / "below"))


def test_a_scheme_of_gfile() -> None:
    directory = "ram://files_test/directory"
    files.make_directory(directory)
    files.write(files.join(directory, "a.bin"), b"1234")
    manifest = files.commit(directory, {"step": 1})
    assert files.read_manifest(directory) == manifest
    assert sorted(manifest["files"]) == ["a.bin"]
    files.verify(directory, manifest)
    assert files.names(directory) == ["a.bin", files.MANIFEST]
    files.write(files.join(directory, "a.bin"), b"1235")
    with pytest.raises(files.CorruptError, match=r"ram://.*a\.bin"):
        files.verify(directory, manifest)
    files.remove(directory)
    assert files.read_manifest(directory) is None


@pytest.mark.parametrize(
    "path", ["s3://bucket/run", "hdfs://host/run", "https://host/run", "gss://x", "://x"]
)
def test_a_scheme_that_tensorflow_does_not_have_is_refused_in_words(path: str) -> None:
    sentence = (
        rf"'{path}.*' is of scheme '{path.split(':')[0]}', which .*; name a local path, .* gs:// or ram://"
    )
    for act in (files.check_scheme, files.read, files.make_directory, files.exists, files.names):
        with pytest.raises(ValueError, match=sentence):
            act(path)
    with pytest.raises(ValueError, match=sentence):
        files.write(path, b"")
    files.check_scheme("runs/two", "/runs/two", "file:///runs", "gs://bucket/run", "ram://run", None)


def test_local_paths_do_without_tensorflow(tmp_path: pathlib.Path) -> None:
    lines = f"""
        import sys
        from tf_codistill import files
        directory = files.make_directory({str(tmp_path / "a")!r})
        files.write_json(directory + "/facts.json", {{"a": 1}})
        files.verify(directory, files.commit(directory, {{}}))
        files.remove(directory)
        print("tensorflow" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_of_two_that_remove_a_file_at_once_neither_fails(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, place = tmp_path / "file", storage.of(str(tmp_path))
    path.touch()
    isdir = place.isdir
    monkeypatch.setattr(place, "isdir", staticmethod(lambda name: isdir(name) or path.unlink()))
    files.remove(str(path))
    assert not path.exists()

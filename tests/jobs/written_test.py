"""What a job has written is known whenever it is killed; what others have is never touched."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests import faults
from tf_codistill import files
from tf_codistill.jobs.written import RECORD, Written, work_dir


def opened(directory: Path) -> Written:
    written = Written.beside(str(directory))
    written.open()
    return written


def test_only_what_is_recorded_is_taken_away(tmp_path: Path) -> None:
    written = opened(tmp_path / "results")
    for name in ("shard-0", "shard-1"):
        files.write(written.claim(name), b"ours")
    Path(written.claim("shard-2.aside")).mkdir()
    (tmp_path / "results" / "shard-2.aside" / "half").write_bytes(b"ours")
    (tmp_path / "results" / f"shard-1.{'0a' * 16}.partial").write_bytes(b"on its way")
    theirs = ("shard-3", f"shard-3.{'0a' * 16}.partial", "shard-1.partial", ".probe-mine")
    for name in theirs:
        (tmp_path / "results" / name).write_bytes(b"theirs")
    (tmp_path / "results" / "notes").mkdir()
    (tmp_path / "results" / "notes" / "shard-1").write_bytes(b"theirs")
    Written.beside(str(tmp_path / "results")).remove_others(["shard-0"])
    assert files.names(str(tmp_path / "results")) == sorted(["shard-0", "notes", *theirs])
    assert (tmp_path / "results" / "notes" / "shard-1").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["thesis.tex", "shard-0", f"shard-0.{'0a' * 16}.partial"])
def test_what_others_have_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).write_bytes(b"theirs")
    with pytest.raises(ValueError, match=f"'.*' holds '{name}', which nobody is recorded to have written"):
        opened(tmp_path / "results")
    assert [path.name for path in tmp_path.rglob("*")] == ["results", name]


def test_what_others_put_there_later_is_not_overwritten(tmp_path: Path) -> None:
    written = opened(tmp_path / "results")
    (tmp_path / "results" / "shard-0").write_bytes(b"theirs")
    with pytest.raises(ValueError, match="'shard-0', which this job has not written and would overwrite"):
        written.claim("shard-0")
    assert (tmp_path / "results" / "shard-0").read_bytes() == b"theirs"
    (tmp_path / "results" / "shard-0").unlink()
    for content in (b"ours", b"anew"):
        files.write(written.claim("shard-0"), content)
    assert (tmp_path / "results" / "shard-0").read_bytes() == b"anew"


def test_a_job_that_is_killed_leaves_nothing_unknown(tmp_path: Path) -> None:
    def work(written: Written) -> None:
        written.open()
        files.write(written.claim("shard-0"), b"content")
        aside = files.make_directory(written.claim("shard-1.aside"))
        files.write(files.join(aside, "shard-1"), b"content")
        files.move(files.join(aside, "shard-1"), written.claim("shard-1"))
        files.remove(aside)

    for operation in itertools.count():
        written = Written.beside(str(tmp_path / str(operation)))
        if not faults.dies_at(operation, lambda: work(written)):  # noqa: B023
            break
        work(written)
        written.remove_others(["shard-0", "shard-1"])
        left = [name for name in files.names(written.directory) if not name.startswith(".probe-")]
        assert left == ["shard-0", "shard-1"]
    assert operation > 20


def test_the_record_goes_with_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert work_dir(".") == work_dir(str(tmp_path / "here/")) == str(tmp_path / "here.work")
    assert work_dir("gs://bucket/here/") == "gs://bucket/here.work"
    written = Written.beside(".")
    written.open()
    written.claim("shard-0")
    (tmp_path / "here.work" / "more").touch()
    written.forget()
    assert files.names(str(tmp_path / "here.work")) == ["more"]
    (tmp_path / "here.work" / "more").unlink()
    written.open()
    assert files.names(str(tmp_path / "here.work")) == [RECORD]
    written.forget()
    assert files.names(str(tmp_path)) == ["here"]

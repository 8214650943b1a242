from __future__ import annotations

import pathlib

import pytest

from tf_codistill import gpus


@pytest.mark.parametrize(
    ("names", "num_groups", "workers_per_group", "expected"),
    [
        ("01234567", 2, 1, ["0123", "4567"]),
        ("01234567", 2, 2, ["01", "23", "45", "67"]),
        ("01234567", 3, 1, ["01", "23", "45"]),
        ("3", 1, 1, ["3"]),
        ("7531", 2, 1, ["75", "31"]),
        ("0", 2, 1, ["0", "0"]),
        ("01", 4, 1, ["0", "1", "0", "1"]),
        ("01", 2, 2, ["0", "1", "0", "1"]),
        ("012", 2, 2, ["0", "1", "2", "0"]),
        ("", 2, 2, ["", "", "", ""]),
    ],
)
def test_every_worker_gets_as_many_side_by_side(
    names: str, num_groups: int, workers_per_group: int, expected: list[str]
) -> None:
    allocated = gpus.allocate(list(names), num_groups, workers_per_group)
    assert list(map("".join, allocated)) == expected
    for group in range(num_groups):
        own = [name for names in allocated[group * workers_per_group :][:workers_per_group] for name in names]
        assert len(set(own)) == len(own), "no two workers of a group share one"


def test_workers_of_a_group_cannot_share_one() -> None:
    with pytest.raises(ValueError, match=r"workers_per_group is 2, but the only GPUs are 4, .*; start fewer"):
        gpus.allocate(["4"], 1, 2)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2,5", ["2", "5"]),
        (" 2 , 5", ["2", "5"]),
        ("2,-1,5", ["2"]),
        ("GPU-8932f937,MIG-4", ["GPU-8932f937", "MIG-4"]),
    ],
)
def test_what_the_user_chose_is_respected(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, names: list[str]
) -> None:
    monkeypatch.setattr(gpus, "count", lambda: 3)
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(gpus.VISIBLE, chosen)
    assert gpus.visible() == names


@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("echo 'GPU 0: H200'; echo '  MIG 1g.18gb Device 0: (UUID: MIG-2)'; echo 'GPU 1: H200'", 2),
        ("echo 'No devices were found'", 0),
    ],
)
def test_gpus_are_counted_by_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, script: str, number: int
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus.count() == number


@pytest.mark.parametrize("script", ["exit 9", None], ids=["it fails", "it is not there"])
def test_else_by_the_driver(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, script: str | None
) -> None:
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus.glob, "glob", lambda pattern: ["a", "b"] if pattern.startswith("/proc") else [])
    assert gpus.count() == 2


def test_memory_is_taken_as_needed_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    gpus.take_memory_as_needed()
    assert gpus.os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    gpus.take_memory_as_needed()
    assert gpus.os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"

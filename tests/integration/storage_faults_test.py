"""Disks that are full, or can only be read from some moment on: real ones, in memory, under real programs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.integration.programs import Programs, experiment, log_of, metrics
from tf_codistill import checkpoints, runs
from tf_codistill.health import progress

NUM_STEPS = 60


@pytest.fixture(name="disk")
def fixture_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    mounted = subprocess.run(options, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a disk takes privileges")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_read_only(place: pathlib.Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def fill(place: pathlib.Path) -> None:
    """Leaves no room at all."""
    with contextlib.suppress(OSError), open(place / "filling", "wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def slow_flags(tmp_path: pathlib.Path, corpus: str) -> tuple[list[str], pathlib.Path]:
    hurry = tmp_path / "hurry"
    flags = experiment(
        tmp_path,
        corpus,
        f"Experiment.num_steps = {NUM_STEPS}",
        f"UnhurriedPeers.hurry = {str(hurry)!r}",
        teaching=("Experiment.teaching = @UnhurriedPeers",),
    )
    toy = tmp_path / "toy.gin"
    toy.write_text(f"import tests.integration.unhurried_peers\n{toy.read_text()}")
    return flags, hurry


def has_taken_a_snapshot(workdir: pathlib.Path, group: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "swap at step" in log_of(workdir, group)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fill, make_read_only], ids=["full", "read_only"])
def test_an_exchange_that_takes_nothing_any_more_stops_nobody(
    programs: Programs,
    corpus: str,
    tmp_path: pathlib.Path,
    disk: pathlib.Path,
    fault: Callable[[pathlib.Path], None],
) -> None:
    flags, hurry = slow_flags(tmp_path, corpus)
    workdir = tmp_path / "run"
    place = (f"--workdir={workdir}", f"--exchange_dir={disk / 'exchange'}")
    with programs.started("launch", *flags, *place) as running:
        running.wait_until(lambda: all(has_taken_a_snapshot(workdir, group) for group in (0, 1)))
        fault(disk)
        hurry.touch()
        ended = running.wait()
    assert ended.status == 0, ended
    assert progress.finished_steps(str(workdir), range(2)) == NUM_STEPS
    for group in range(2):
        records = metrics(workdir, group, "train")
        assert list(records) == list(range(5, NUM_STEPS + 1, 5))
        assert sum(record["failed_publications"] for record in records.values()) > 0
        assert metrics(workdir, group, "restart") == {}
    assert "of a snapshot failed" in ended.output


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fill, make_read_only], ids=["full", "read_only"])
def test_where_no_checkpoint_can_be_written_training_ends_with_a_sentence_and_the_last_one_stays(
    programs: Programs,
    corpus: str,
    tmp_path: pathlib.Path,
    disk: pathlib.Path,
    fault: Callable[[pathlib.Path], None],
) -> None:
    flags, hurry = slow_flags(tmp_path, corpus)
    workdir = tmp_path / "run"
    saved = pathlib.Path(runs.checkpoints_dir(str(workdir), 0))
    saved.parent.mkdir(parents=True)
    saved.symlink_to(disk)
    flags += [f"--workdir={workdir}", "--num_groups=1", "--max_restarts=1"]
    with programs.started("launch", *flags) as running:
        running.wait_until(lambda: checkpoints.committed_steps(str(saved)) != [])
        fault(disk)
        before = checkpoints.committed_steps(str(saved))
        hurry.touch()
        ended = running.wait()
    assert ended.status == 1
    assert "Traceback" not in ended.output + ended.error
    assert checkpoints.committed_steps(str(saved)) == before, "the last complete one is intact"
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    (disk / "filling").unlink(missing_ok=True)
    programs.succeed("launch", *flags)
    assert progress.finished_steps(str(workdir), range(1)) == NUM_STEPS
    assert list(metrics(workdir, 0, "train")) == list(range(5, NUM_STEPS + 1, 5)), "each step once"


@pytest.mark.slow
def test_a_workdir_that_is_full_to_the_last_byte_is_gone_on_with_when_there_is_room(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, disk: pathlib.Path
) -> None:
    flags, hurry = slow_flags(tmp_path, corpus)
    workdir = disk / "run"
    saved = runs.checkpoints_dir(str(workdir), 0)
    flags += [f"--workdir={workdir}", "--num_groups=1", "--max_restarts=1"]
    with programs.started("launch", *flags) as running:
        running.wait_until(lambda: os.path.isdir(saved) and checkpoints.committed_steps(saved) != [])
        fill(disk)
        hurry.touch()
        ended = running.wait()
    assert ended.status == 1
    assert "Traceback" not in ended.output + ended.error
    assert checkpoints.committed_steps(saved) != []
    (disk / "filling").unlink()
    programs.succeed("launch", *flags)
    assert progress.finished_steps(str(workdir), range(1)) == NUM_STEPS
    assert list(metrics(workdir, 0, "train")) == list(range(5, NUM_STEPS + 1, 5)), "each step once"

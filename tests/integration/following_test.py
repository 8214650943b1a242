"""`evaluate --continuous` beside a run that trains, which does not notice it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal

import pytest

from tests.integration.programs import Programs, experiment, metrics
from tf_codistill import runs

# Group 1 learns from nobody, so that its losses do not depend on when anybody does anything.
ONE_WAY = (
    *("PeerExchange.every_steps = 5", "PeerExchange.wait = True", "PeerExchange.publish = 'always'"),
    "PeerExchange.topology = {0: [1], 1: []}",
)
_OWN_NAMES = re.compile(r"snapshot_\d+_\d+|events\.out\..*|checkpoint_\d+|token_\d+")


def files_of(workdir: pathlib.Path) -> set[str]:
    """Names of all files of a run but those of its evaluation, without the numbers that differ each time."""
    paths = (path.relative_to(workdir) for path in workdir.rglob("*"))
    return {_OWN_NAMES.sub("...", str(path)) for path in paths if path.parts[0] != "evaluation"}


def losses(workdir: pathlib.Path, group: int) -> dict[tuple[str, int], float]:
    return {
        (kind, step): record["loss"]
        for kind in ("train", "validation")
        for step, record in metrics(workdir, group, kind).items()
    }


@pytest.mark.slow
def test_a_run_is_followed_to_its_end_and_does_not_notice(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    flags = experiment(tmp_path, corpus, "Experiment.num_steps = 30", teaching=ONE_WAY)
    slowly = [f"--inject=slow@{group}:0:6" for group in range(2)]
    workdir, alone = tmp_path / "run", tmp_path / "alone"
    follow = ("evaluate", "--continuous", f"--workdir={workdir}")
    with programs.started(*follow) as following:
        following.wait_until(lambda: "waiting for a group" in following.output_so_far())
        with programs.started("launch", f"--workdir={workdir}", *slowly, *flags) as training:
            following.wait_until(lambda: "step" in following.output_so_far())
            assert not training.is_over()
            os.kill(following.pid, signal.SIGINT)
            assert following.wait().status == 130
            with programs.started(*follow) as again:
                assert training.wait().status == 0, training.wait()
                ended = again.wait()
    assert ended.status == 0, ended.error
    assert "group 0, step 30: " in ended.output
    assert "all groups have finished, faults: 0" in ended.output
    lines = runs.read_metrics(str(workdir / "evaluation" / "metrics.jsonl"))
    scored = [tuple(line.get(f"group_{group}/snapshot") for group in range(2)) for line in lines]
    assert len(set(scored)) == len(scored) > 1, "nothing twice, and more than the end"
    assert (lines[-1]["group_0/step"], lines[-1]["group_1/step"]) == (30, 30)

    programs.succeed("evaluate", f"--runs=it={workdir}", f"--output={tmp_path / 'evaluation.json'}")
    for name, row in json.loads((tmp_path / "evaluation.json").read_text())["models"].items():
        found = lines[-1][f"{name.removeprefix('it, ').replace(' ', '_')}/carried_state_loss"]
        assert found == pytest.approx(row["carried_state_loss"], rel=1e-5)

    programs.succeed("launch", f"--workdir={alone}", *slowly, *flags)
    assert losses(workdir, 1) == losses(alone, 1), "to the bit"
    assert files_of(workdir) == files_of(alone)
    assert "exchange/group_1/reader_0" in files_of(workdir)


def test_flags_that_do_not_go_together_are_told(programs: Programs, tmp_path: pathlib.Path) -> None:
    for flags, sentence in (
        (["--continuous"], "--workdir is not set; name the directory of the run to follow"),
        (
            ["--continuous", f"--workdir={tmp_path}", "--runs=a=b"],
            "--runs has an effect only without --continuous",
        ),
        ([f"--workdir={tmp_path}", "--runs=a=b"], "--workdir has an effect only with --continuous"),
        (["--continuous", "--workdir=s3://bucket/run"], "is of scheme 's3', which TensorFlow cannot use"),
    ):
        assert sentence in programs.run("evaluate", *flags).sentence()

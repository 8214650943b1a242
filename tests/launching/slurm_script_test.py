"""The batch script, read; tests/integration/slurm_test.py runs it."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tf_codistill.launching import slurm, submitting

WORDS = [
    "--gin_bindings=a = 'b c'",
    "--gin_bindings=a = 'b' \"$c\" `d` \\\\",
    "--cluster=slurm",
    "two\nlines' $(e)",
]
TRAIN = ["python", "-m", "tf_codistill.train", *WORDS]


def script(**changes: Any) -> str:
    settings = {"workdir": "runs/two", "num_groups": 2, "workers_per_group": 4, **changes}
    return slurm.batch_script(TRAIN, **settings)


def options(**changes: Any) -> list[str]:
    return [line.split(" ", 1)[1] for line in script(**changes).splitlines() if line.startswith("#SBATCH")]


def test_each_group_is_a_task_of_an_array_that_is_requeued_and_warned_of_its_end() -> None:
    assert options() == [
        "--job-name=two",
        "--array=0-1",
        "--ntasks=4",
        "--requeue",
        f"--signal=TERM@{submitting.NOTICE_SECS}",
        "--open-mode=append",
    ]


def test_what_is_asked_of_slurm_is_in_the_script_and_further_options_are_last() -> None:
    found = options(
        gpus_per_worker=2, partition="gpu", account="lab", time_limit="1-0", sbatch=["--mem=4G", "-C h100"]
    )
    assert {"--gpus-per-task=2", "--partition=gpu", "--account=lab", "--time=1-0"} < {*found}
    assert found[-2:] == ["--mem=4G", "-C h100"]


@pytest.mark.parametrize("option", ["mem=4G", "", "--mem=4G\nrm -r runs"])
def test_what_is_no_option_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="--sbatch is .* expected an option of sbatch such as"):
        script(sbatch=[option])


def test_options_come_before_commands_and_bash_can_read_it() -> None:
    text = script(workdir="it's here", partition="a b")
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert """ "--gin_bindings=a = 'b c'" """ in text


def test_workers_get_their_words_as_they_were_given() -> None:
    text = script()
    shown = text[text.index("python -m") : text.index("status=$?")]
    command = shown.replace("python -m tf_codistill.train", r"printf '%s\0'")
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said.split("\0")[:-1] == WORDS


def test_a_run_in_a_bucket_leaves_its_logs_to_slurm() -> None:
    assert "worker_%t.log" in script()
    in_bucket = script(workdir="gs://bucket/two")
    assert "worker_%t.log" not in in_bucket
    assert "mkdir" not in in_bucket
    assert "--label" in in_bucket


def test_the_script_says_what_each_exit_status_leads_to() -> None:
    assert "if (( status == 75 || status > 128 )); then" in script()
    assert "if (( ${SLURM_RESTART_COUNT:-0} < 3 )); then" in script(max_restarts=3)

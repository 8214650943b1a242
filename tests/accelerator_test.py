"""The benchmark that measures every ratio: toy sizes, what fails, and the table that waits for figures."""

from __future__ import annotations

import math
import pathlib
import re
import subprocess
import tempfile
import time

import pytest

from benchmarks import accelerator
from tests.forks import REPOSITORY, forks

TOY = ("--num_lanes=4", "--window_tokens=3", "--num_units=8", "--vocabulary_size=40", "--num_steps=8")
NAMES = [name for measurement in accelerator.MEASUREMENTS for name in measurement.ratios]


def printed(directory: pathlib.Path, *flags: str, **environment: str) -> str:
    """What the benchmark prints."""
    output, error = (tempfile.mkstemp(dir=directory)[1] for _ in range(2))
    pid = forks().start(
        module="benchmarks.accelerator",
        arguments=[*TOY, *flags],
        output=output,
        error=error,
        environment=environment,
        timeout_secs=500,
    )
    while (status := forks().poll(pid)) is None:
        time.sleep(0.05)
    assert status == 0, pathlib.Path(error).read_text()
    return pathlib.Path(output).read_text()


def rows(text: str) -> list[tuple[str, str]]:
    """Names and cells of a table's rows."""
    return re.findall(r"^\| ([^|]+?) \| ([^|]*?) ?\|", text, re.MULTILINE)


@pytest.mark.parametrize("flags", [["--only=one_process"], pytest.param([], marks=pytest.mark.slow)])
def test_every_row_has_a_ratio(tmp_path: pathlib.Path, flags: list[str]) -> None:
    text = printed(tmp_path, *flags)
    assert text.startswith("TensorFlow finds no GPU: these are ratios of the CPU.\n")
    assert re.search(r"^\| \| CPU, \d+ cores \|$", text, re.MULTILINE)
    found = rows(text)
    assert [name for name, _ in found] == (
        NAMES if not flags else [name for name in NAMES if "fellow" in name]
    )
    assert all(0 < float(figure) < math.inf for _, figure in found), found


def test_what_fails_has_its_reason_and_the_others_go_on(tmp_path: pathlib.Path) -> None:
    found = rows(printed(tmp_path, "--only=one_process,side_by_side", "--vocabulary_size=0"))
    assert len(found) == 3
    assert {cell[:47] for _, cell in found} == {"error: vocabulary_size of a LanguageModel is 0;"}


def test_groups_beside_each_other_need_two_gpus(tmp_path: pathlib.Path) -> None:
    found = rows(printed(tmp_path, "--only=side_by_side", CUDA_VISIBLE_DEVICES="0"))
    assert [cell for _, cell in found] == ["one GPU: left out"] * 2


@pytest.mark.parametrize(
    ("status", "output", "error", "told"),
    [
        (
            1,
            "",
            "W0000 a warning\nTraceback (most recent call last):\n  File ...\n"
            "tensorflow.python.framework.errors_impl.ResourceExhaustedError: Graph | error:\n\n"
            "error: a group has failed\n",
            "ResourceExhaustedError: Graph / error:",
        ),
        (0, "one GPU: left out\n", "", "one GPU: left out"),
        (-9, "", "", "no figure, exit status -9"),
        (1, "", "error: " + 200 * "long", "error: " + 23 * "long" + "l"),
    ],
)
def test_reasons_fit_a_cell(status: int, output: str, error: str, told: str) -> None:
    assert accelerator.reason(subprocess.CompletedProcess([], status, output, error)) == told


def test_the_table_of_results_waits_for_each_ratio() -> None:
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"\n## On an accelerator\n(.*?)\n## ", page, re.DOTALL)
    assert [name for name, _ in rows(section)] == NAMES

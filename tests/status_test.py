"""The program, without TensorFlow, as a process of its own."""

import json
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from tests import toy_runs
from tests.help_test import _WITHOUT_TENSORFLOW

ROOT = pathlib.Path(__file__).parents[1]


def _command(*arguments):
    return [sys.executable, "-c", _WITHOUT_TENSORFLOW, "status", *arguments]


def _run(*arguments):
    return subprocess.run(
        _command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(name="workdir", scope="module")
def fixture_workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    toy_runs.write(workdir, time.time())
    return workdir


def test_tables_once_where_there_is_no_terminal(workdir):
    ended = _run(f"--workdir={workdir}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1350/2000" in ended.stdout
    assert "group 1, 50 behind" in ended.stdout


def test_json_of_another_exchange_with_another_limit(workdir, tmp_path):
    ended = _run(f"--workdir={workdir}", "--json", f"--exchange_dir={tmp_path}", "--silent_secs=0")
    figures = json.loads(ended.stdout)
    assert figures["silent_limit_secs"] == 0
    assert [(group["state"], group["snapshot_step"]) for group in figures["groups"]] == 2 * [("silent", None)]


def test_a_page(workdir, tmp_path):
    ended = _run(f"--workdir={workdir}", f"--html={tmp_path / 'run.html'}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1350/2000" in (tmp_path / "run.html").read_text("utf-8")


def test_serving_until_it_is_interrupted(workdir):
    serving = subprocess.Popen(
        _command(f"--workdir={workdir}", "--serve=0", "--host=localhost"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = next(word for word in serving.stdout.readline().split() if word.startswith("http://"))
        with urllib.request.urlopen(f"{url}status.json", timeout=30) as answer:
            assert len(json.load(answer)["groups"]) == 2
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert serving.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--workdir is not set; name the directory of a run"),
        (
            ("--workdir=/nowhere/at/all",),
            "--workdir is '/nowhere/at/all', which is no directory; name that of a run",
        ),
        (("--workdir=.", "--json", "--serve=0"), "--json and --serve are given; one of them at a time"),
        (
            ("--workdir=.", "--host=0.0.0.0"),
            "--host has an effect only with --serve; see to that, or leave it out",
        ),
    ],
)
def test_mistakes_are_told(arguments, told):
    ended = _run(*arguments)
    assert ended.returncode == 1
    assert ended.stderr == f"error: {told}\n"

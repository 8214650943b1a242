"""Every program tells its flags, and a wrong one, at once, without TensorFlow, which takes seconds."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from tests.architecture_test import PROGRAMS
from tf_codistill import distribution, runs
from tf_codistill import program as program_module
from tf_codistill.corpus.crawl import fetching

_ROOT = pathlib.Path(__file__).parents[1]
_WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None   # whoever imports them fails
sys.argv = sys.argv[1:]
runpy.run_module(f"tf_codistill.{sys.argv[0]}", run_name="__main__", alter_sys=True)
"""


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT_TENSORFLOW, program, *arguments]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_all_flags_of_the_program(program: str) -> None:
    source = (_ROOT / "tf_codistill" / f"{program}.py").read_text("utf-8")
    own = re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source)
    shared = {
        "workdir": "program.WORKDIR.value" in source or "program.workdir(" in source,
        "exchange_dir": "program.EXCHANGE_DIR.value" in source,
        "gin_file": "program.parse_gin(" in source,
        "gin_bindings": "program.parse_gin(" in source,
        **{name.name: "program.matrix_limits(" in source for name in program_module.MATRIX},
    }
    told = _run(program, "--help")
    assert told.stderr == ""
    shown = re.findall(r"^  --(?:\[no\])?(\w+):", told.stdout, re.MULTILINE)
    assert sorted(shown) == sorted([*own, *(name for name, is_used in shared.items() if is_used)])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_flag_is_told(program: str) -> None:
    told = _run(program, "--grup=1")
    assert told.returncode == 1
    assert "Unknown command line flag 'grup'" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_shared_flag_without_effect_is_a_wrong_flag() -> None:
    assert "Unknown command line flag 'gin_file'" in _run("report", "--gin_file=a.gin").stderr


def test_report_needs_no_tensorflow_at_all(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run" / "group_0").mkdir(parents=True)
    path = runs.metrics_path(str(tmp_path / "run"), 0)
    runs.append_metrics(path, "validation", 10, loss=2.5, elapsed_secs=1.0)
    written = _run("report", f"--runs=alone={tmp_path / 'run'}", f"--output_dir={tmp_path / 'report'}")
    assert (written.returncode, written.stderr) == (0, "")
    assert "| alone | 0 | 2.500 | 10 |" in (tmp_path / "report" / "report.md").read_text()


def test_what_help_says_of_modules_that_it_does_not_import() -> None:
    assert f"<{'|'.join(distribution.STRATEGIES)}>" in _run("train", "--help").stdout
    told = _run("prepare_corpus", "--help").stdout
    assert fetching.PAPER_CRAWL in told
    assert fetching.BASE_URL in told

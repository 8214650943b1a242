"""Programs print none of TensorFlow's first lines, and all of its errors."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from tf_codistill import quiet_start

_ROOT = pathlib.Path(__file__).parents[1]
_PROGRAM = """
import sys
from tf_codistill import program

def main():
    import tensorflow
    print("between", file=sys.stderr)
    tensorflow.constant(1.0) + 1.0

program.run(main)
"""


def _run(
    *arguments: str, level: str | None = None, path: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, (path, _ROOT))))
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_nothing_of_the_start_is_printed() -> None:
    ended = _run("-c", _PROGRAM)
    assert ended.returncode == 0
    assert ended.stderr == "between\n"


def test_all_is_printed_for_those_who_ask() -> None:
    lines = _run("-c", _PROGRAM, level="0").stderr.splitlines()
    assert "between" in lines
    assert len(lines) > 1, "which ones depends on the machine"


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_a_mistake_is_all_that_a_program_prints(program: str) -> None:
    ended = _run("-m", f"tf_codistill.{program}")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


_LINES = """
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795878365.205721    3657 port.cc:153] oneDNN custom operations are on.
W0000 00:00:1795878365.205721    3657 gpu_device.cc:1] Cannot dlopen some GPU libraries.
2026-11-01 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795878367.427424    3657 cuda_dnn.cc:1] Unable to register cuDNN factory
E0000 00:00:1795878367.427424    3657 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
E0000 00:00:1795878367.427424    3657 gpu.cc:1] out of memory
F0000 00:00:1795878367.427424    3657 cpu.cc:1] compiled to use AVX, but it is not available
it said so without a last newline"""


def _fake(directory: pathlib.Path, ending: str) -> pathlib.Path:
    (directory / "tensorflow").mkdir()
    said = f"import os, sys\nos.write(2, {_LINES.lstrip().encode()!r})\n"
    (directory / "tensorflow" / "__init__.py").write_text(said + textwrap.dedent(ending))
    return directory


def test_errors_and_a_crash_are_shown(tmp_path: pathlib.Path) -> None:
    ended = _run("-c", _PROGRAM, path=_fake(tmp_path, "os.abort()"))
    assert ended.returncode < 0
    shown = [line for line in _LINES.splitlines() if line[:1] in ("E", "F", "i") and "register" not in line]
    if not os.path.exists(quiet_start._NVIDIA_DRIVER):
        shown.remove(next(line for line in shown if "cuInit" in line))
    assert ended.stderr.startswith("\n".join(shown))


def test_an_import_that_fails_is_shown(tmp_path: pathlib.Path) -> None:
    ended = _run("-c", _PROGRAM, path=_fake(tmp_path, "raise ImportError('no libcuda')"))
    assert ended.returncode == 1
    assert "out of memory" in ended.stderr
    assert "ImportError: no libcuda" in ended.stderr

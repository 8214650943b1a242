"""A preparation that is killed goes on where it was and ends with the same bytes."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy_crawls import PAUSE_SECS, SETTINGS, contents, pause, write_crawl
from tf_codistill import files
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources.wet_files import WetFiles

ROOT = Path(__file__).parents[2]
QUICK = dataclasses.replace(SETTINGS, filters=(*SETTINGS.filters, pause))
DATA = os.environ.get("TF_CODISTILL_REAL_DATA", "")
SCRIPT = """
import sys
from tests.toy_crawls import SETTINGS, pause
from tf_codistill.corpus import pipeline
from tf_codistill.corpus.stages import reading, writing
from tf_codistill.jobs import engines
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.wet_files import WetFiles
if __name__ == "__main__":
    engine_name, output_dir, secs, *wet_files = sys.argv[1:]
    is_beam = engine_name == "beam"
    engine = engines.Beam(["--runner=DirectRunner"]) if is_beam else engines.Local(2)
    if float(secs):
        reading.ReadStage.units_per_process = writing.WriteStage.units_per_process = 1
        settings = CorpusSettings(**{**vars(SETTINGS), "filters": (*SETTINGS.filters, pause)})
    else:
        settings = CorpusSettings(num_pieces=2000, max_learning_characters=2_000_000, num_shards=3)
    print("begins", flush=True)
    pipeline.prepare(WetFiles(wet_files), output_dir, settings, engine)
"""


def start(
    tmp_path: Path, output_dir: Path, wet_files: list[str], engine: str, secs: float
) -> subprocess.Popen[str]:
    script = tmp_path / "prepare.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), engine, str(output_dir), str(secs), *wet_files]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", PAUSE_SECS: str(secs)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "begins", process.communicate()[1]
    return process


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return errors


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def killed_after(process: subprocess.Popen[str], secs: float) -> bool:
    """Kills a process after a while; False if it ended before."""
    end = time.monotonic() + secs
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_killed_while_reading_and_while_writing(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=4)
    output_dir, work_dir = tmp_path / "corpus", tmp_path / "corpus.work"
    first = start(tmp_path, output_dir, wet_files, "local", 0.02)
    kill_when(first, lambda: bool(list(work_dir.glob("read-*/*.json"))))
    assert files.read_manifest(str(output_dir)) is None
    finished = {path: path.stat().st_mtime_ns for path in work_dir.glob("read-*/*.json")}
    assert 1 <= len(finished) < 4
    second = start(tmp_path, output_dir, wet_files, "local", 0.02)
    kill_when(second, lambda: bool(list(work_dir.glob("write-*/*.json"))))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files.read_manifest(str(output_dir)) is None
    for directory in (output_dir, tmp_path / "whole"):
        prepare(WetFiles(wet_files), str(directory), QUICK)
    assert contents(output_dir) == contents(tmp_path / "whole")
    assert not work_dir.exists()


@pytest.mark.slow
def test_two_at_once_do_no_harm(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=3)
    both = [start(tmp_path, tmp_path / "corpus", wet_files, "local", 0.01) for _ in range(2)]
    for process in both:
        finish(process)
    prepare(WetFiles(wet_files), str(tmp_path / "whole"), QUICK)
    assert contents(tmp_path / "corpus") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="TF_CODISTILL_REAL_DATA is not set")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", ["local", "beam"])
def test_killed_at_ten_random_moments(tmp_path: Path, engine: str) -> None:
    if engine == "beam":
        pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    wet_files = files.glob(os.path.join(DATA, "crawl", "*.warc.wet.gz"))
    process = start(tmp_path, tmp_path / "whole", wet_files, "local", 0)
    begin = time.monotonic()
    finish(process)
    secs = time.monotonic() - begin
    rng = random.Random(engine)
    for moment in range(10):
        output_dir = tmp_path / f"corpus-{moment}"
        while not killed_after(start(tmp_path, output_dir, wet_files[::-1], engine, 0), rng.uniform(0, secs)):
            secs *= 0.9  # the machine is quicker now
            shutil.rmtree(output_dir)
        num_results = len(list(Path(f"{output_dir}.work").rglob("*.json")))
        print(f"{engine}, moment {moment}: {num_results} results were there", flush=True)
        finish(start(tmp_path, output_dir, wet_files, engine, 0))
        assert contents(output_dir) == contents(tmp_path / "whole")
        assert not Path(f"{output_dir}.work").exists()
        shutil.rmtree(output_dir)

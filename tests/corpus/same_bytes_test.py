"""The same bytes whoever runs the tasks of a preparation: this process, others, Beam, or Beam on Dask."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy_dask, toy_tokenizers
from tests.toy_crawls import SETTINGS, contents, write_chain, write_crawl
from tf_codistill.corpus.pipeline import prepare
from tf_codistill.corpus.sources.wet_files import WetFiles
from tf_codistill.corpus.stages import (
    contamination,
    duplicates,
    first_holders,
    near_duplicates,
    reading,
    writing,
)
from tf_codistill.jobs.engines import Beam, Local

ROOT = Path(__file__).parents[2]
STAGES = (
    reading.ReadStage,
    duplicates.DuplicatesStage,
    first_holders.UndecidedStage,
    near_duplicates.SketchStage,
    near_duplicates.MatchStage,
    contamination.HeldOutStage,
    contamination.ContaminationStage,
    writing.WriteStage,
)


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed")
def test_every_engine_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=3)
    wet_files.append(write_chain(tmp_path / "crawl" / "crawl-1-copies.warc.wet.gz"))
    for stage in STAGES:
        monkeypatch.setattr(stage, "units_per_process", 1)
    mark = prepare(WetFiles(wet_files), str(tmp_path / "one"), SETTINGS, Local(1))
    prepare(WetFiles(wet_files[::-1]), str(tmp_path / "two"), SETTINGS, Local(2))
    prepare(WetFiles(wet_files[1:] + wet_files[:1]), str(tmp_path / "beam"), SETTINGS, Beam())
    prepare(WetFiles(wet_files), str(tmp_path / "direct"), SETTINGS, Beam(["--runner=DirectRunner"]))
    assert (mark["counts"]["kept"], mark["counts"]["dropped"]["duplicate"]) == (60 + 10, 10)
    names = ["beam", "crawl", "direct", "one", "two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(contents(tmp_path / name) == contents(tmp_path / "one") for name in names if name != "crawl")


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_cluster_of_which_a_worker_is_killed_gives_the_same_bytes(tmp_path: Path) -> None:
    wet_files = write_crawl(tmp_path / "crawl", num_files=6)
    # A filter and a tokenizer of one's own: each worker has to find both.
    settings = dataclasses.replace(
        SETTINGS, filters=(*SETTINGS.filters, toy_dask.slow), tokenizer=toy_tokenizers.Letters()
    )
    prepare(WetFiles(wet_files), str(tmp_path / "one"), settings, Local(1))
    with (
        toy_dask.workers_are_slow(tmp_path / "pids") as pids,
        toy_dask.beam_on_dask() as engine,
        toy_dask.killing_one(pids) as at_work,
    ):
        prepare(WetFiles(wet_files), str(tmp_path / "dask"), settings, engine)
    assert len(at_work) == 2, "all tasks went to one worker"
    assert contents(tmp_path / "dask") == contents(tmp_path / "one")
    assert "tokenizer_class.json" in contents(tmp_path / "dask")


def test_preparing_imports_beam_only_when_asked_to() -> None:
    code = "import sys, tf_codistill.corpus.pipeline; print('apache_beam' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_processes_of_every_stage_find_the_last_one_loaded() -> None:
    for stage in STAGES:
        assert stage.preload == (writing.__name__,)

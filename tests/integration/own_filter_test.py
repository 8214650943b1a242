"""A filter of one's own: what docs/corpus_filters.md shows, as it stands there, works wherever tasks run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import http_server, toy_dask
from tests.forks import REPOSITORY
from tests.toy_crawls import page_text, write_crawl
from tf_codistill.corpus.wet import WetWriter

PAGE = REPOSITORY / "docs" / "corpus_filters.md"
SMALL = ["num_pieces = 120", "validation_share = 0.2", "num_shards = 2"]
NOTES_PIDS = '\nimport os, pathlib\npathlib.Path(f"{__file__}.{os.getpid()}").touch()\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the module and the gin file of the page are."""
    section = (
        PAGE.read_text(encoding="utf-8").partition("\n## A filter of your own\n")[2].partition("\n## ")[0]
    )
    (module,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (gin_file,) = re.findall(r"```gin\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my_filters.py").write_text(module + NOTES_PIDS)
    (tmp_path / "my_corpus.gin").write_text(gin_file)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http_server.Server]:
    """Two WET files, one with a page that says the same again and again; a server tells no sizes."""
    paths = write_crawl(tmp_path / "crawl", num_files=2)
    with WetWriter(paths[1], description="pages of a test") as writer:
        for number in range(20):
            writer.write(f"https://example.org/more/{number}", page_text(100 + number), "eng")
        writer.write("https://example.org/again", "\n".join([page_text(99).split("\n")[1]] * 9), "eng")
    with http_server.serve({f"/{Path(path).name}": Path(path).read_bytes() for path in paths}) as running:
        yield running


@pytest.mark.parametrize("engine", ["processes", "beam", "dask"])
def test_a_filter_of_ones_own_drops_pages(
    directory: Path, server: http_server.Server, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"processes": "os", "beam": "apache_beam", "dask": "distributed"}[engine]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    command = [sys.executable, "-m", "tf_codistill.prepare_corpus", "--gin_file=my_corpus.gin"]
    command += [
        f"--output_dir={directory / 'corpus'}",
        *(f"--files={server.url}{path}" for path in server.files),
    ]
    command += [f"--gin_bindings=CorpusSettings.{value}" for value in SMALL]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1"}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.syspath_prepend(str(directory))  # which worker processes of a cluster take over
    with toy_dask.beam_on_dask() if engine == "dask" else contextlib.nullcontext() as cluster:
        options = cluster.options[1:] if cluster else []
        command += {"processes": ["--num_processes=2"]}.get(engine, ["--runner=beam"])
        command += [f"--beam_options={option}" for option in options if option.startswith("--")]
        ended = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads((directory / "corpus" / "manifest.json").read_text())["counts"]
    assert counts["dropped"]["repetitive"] == 1
    described = json.loads((directory / "corpus" / "preparation.json").read_text())["filters"][-1]
    assert described == "my_filters.Repetitive(max_share=0.25)"
    pids = list(directory.glob("my_filters.py.*"))
    assert len(pids) > 1 or engine == "beam", "no process but the first has had the filter"

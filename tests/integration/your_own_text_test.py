"""The commands of docs/your_own_text.md, on toy data in place of what they name."""

from __future__ import annotations

import json
import mailbox
import os
import pathlib
import re
import shlex
import subprocess
import sys
from email.message import Message

import pytest

from tests.integration.programs import REPOSITORY, TIMEOUT_SECS
from tests.toy_crawls import page_text
from tests.toy_sources import PACKING, PAGES, WRITERS, json_lines

PAGE = pathlib.Path(REPOSITORY, "docs", "your_own_text.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line.replace("tf_codistill.", ""))[2:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
SMALL = [
    "--gin_bindings=CorpusSettings.num_pieces = 120",
    "--gin_bindings=CorpusSettings.validation_share = 0.2",
]
SHORT = ["num_steps = 4", "Experiment.log_every_steps = 2", "Experiment.validate_every_steps = 4"]
SHORT += ["Experiment.checkpoint_every_steps = 4", "BurnIn.steps = 1", "LanguageTask.num_lanes = 4"]


def run(program: str, *arguments: str, directory: pathlib.Path, status: int = 0) -> str:
    command = [sys.executable, "-m", f"tf_codistill.{program}", *arguments]
    paths = os.pathsep.join([str(directory), str(REPOSITORY)])
    ended = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": paths, "HF_HOME": str(directory / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Toy data under the names of the page."""
    place = tmp_path_factory.mktemp("your_own_text")
    WRITERS["text files"](place / "books")
    WRITERS["Parquet"](place / "fineweb")
    WRITERS["Hugging Face, folder"](place / "stories")
    (place / "c4").mkdir()
    (place / "c4" / "c4-train.json.gz").write_bytes(PACKING[".gz"](json_lines(PAGES)))
    rows = [{"content": text, "warc_headers": {"warc-target-uri": url}} for url, text in PAGES.items()]
    (place / "oscar").mkdir()
    (place / "oscar" / "a.jsonl.zst").write_bytes(PACKING[".zst"]("\n".join(map(json.dumps, rows)).encode()))
    return place


def of_programs(*programs: str) -> list[list[str]]:
    """The commands of some programs, the name on the Hub replaced by that of a folder."""
    found = [[part.replace("roneneldan/TinyStories", "stories") for part in parts] for parts in COMMANDS]
    return [parts for parts in found if parts[0] in programs]


@pytest.fixture(scope="module")
def corpora(place: pathlib.Path) -> dict[str, str]:
    """What is printed of each corpus of the page."""
    outputs = {}
    for program, *arguments in of_programs("prepare_corpus"):
        kept = [argument for argument in arguments if "num_pieces" not in argument]
        output_dir = next((one for one in arguments if one.startswith("--output_dir=")), "--explain")
        outputs[output_dir.partition("=")[2]] = run(program, *kept, *SMALL, directory=place)
    return outputs


def test_every_command_that_prepares_a_corpus_does(place: pathlib.Path, corpora: dict[str, str]) -> None:
    assert f"{len(PAGES)} pages read: {len(PAGES)} kept" in corpora.pop("")
    assert list(corpora) == [f"corpora/{name}" for name in ("books", "c4", "oscar", "fineweb", "stories")]
    for directory, output in corpora.items():
        assert re.search(rf"^  kept +{len(PAGES)}$", output, re.MULTILINE), output
        recorded = json.loads((place / directory / "preparation.json").read_text())
        assert "source" in recorded
    (inspection,) = of_programs("inspect_corpus")
    assert "train" in run(*inspection, directory=place)


@pytest.mark.slow
def test_every_command_that_trains_and_writes_does(place: pathlib.Path, corpora: dict[str, str]) -> None:
    for program, *arguments in of_programs("launch"):
        run(program, *arguments, *(f"--gin_bindings={binding}" for binding in SHORT), directory=place)
    for program, *arguments in of_programs("generate"):
        assert run(program, *arguments, "--num_tokens=5", directory=place).strip()


def test_the_source_of_the_page_goes_through_the_program(place: pathlib.Path) -> None:
    (module,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (binding,) = re.findall(r"```\n(import my_sources.*?)```", PAGE, re.DOTALL)
    assert len(module.split("class Mails")[1].splitlines()) <= 20
    (place / "my_sources.py").write_text(module)
    (place / "mails.gin").write_text(binding)
    (place / "mails").mkdir()
    for year in (2024, 2025):
        box = mailbox.mbox(place / "mails" / f"{year}.mbox")
        for number in range(20):
            mail = Message()
            mail["Message-ID"] = f"<{number}@{year}.example.org>"
            mail.set_payload(page_text(year + 100 * number))
            box.add(mail)
        box.flush()
    arguments = ["--gin_file=mails.gin", *SMALL]
    run("prepare_corpus", *arguments, "--output_dir=one", "--num_processes=2", directory=place)
    recorded = json.loads((place / "one" / "preparation.json").read_text())
    assert recorded["source"].startswith("my_sources.Mails(folder='mails', years=tuple(2024, 2025)) ")
    assert list(recorded["parts"]) == ["2024", "2025"]
    assert [part["passed"] for part in recorded["parts"].values()] == [20, 20]
    run("prepare_corpus", *arguments, "--output_dir=two", "--runner=beam", directory=place)
    names = {path.name for path in (place / "one").iterdir()}
    assert {
        name for name in names if (place / "one" / name).read_bytes() != (place / "two" / name).read_bytes()
    } == set()
    (place / "my_sources.py").write_text(module.replace("get_payload()", "get_payload().upper()"))
    run("prepare_corpus", *arguments, "--output_dir=one", directory=place, status=1)

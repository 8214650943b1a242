"""What bad input gets: one sentence with name, value and remedy, a status that is not 0, and no training."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.programs import REPOSITORY, TIMEOUT_SECS, Programs, experiment
from tf_codistill import runs, tokens
from tf_codistill.corpus.wet import WetWriter


@pytest.fixture
def corpus_copy(corpus: str, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(corpus, tmp_path / "corpus"))


@pytest.fixture
def port() -> Iterator[int]:
    """A port in use."""
    with contextlib.closing(socket.socket()) as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield busy.getsockname()[1]


def assert_nothing_trained(workdir: pathlib.Path, group: int = 0) -> None:
    assert runs.read_metrics(runs.metrics_path(str(workdir), group)) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--group=2", "--num_groups=2"], r"group is 2; expected 0 <= group < num_groups, which is 2"),
        (["--cluster=slurm", "--group=1"], r"--group has an effect only without --cluster; see to that"),
        (["--cluster=slurm"], r"SLURM_ARRAY_TASK_ID is not set; a worker is a task of srun"),
        (["--cluster=jobset"], r"JOBSET_NAME is not set; `launch --scheduler=kubernetes --dry_run` prints"),
        (["--group=-1"], r"group is -1; expected 0 <= group < num_groups, which is 1"),
        (["--num_groups=0"], r"group is 0; expected 0 <= group < num_groups, which is 0"),
        (
            ["--gin_bindings=Experiment.num_stepz = 1"],
            r"gin: Configurable 'Experiment' doesn't have a parameter named 'num_stepz'.*; correct the name",
        ),
        (
            ["--gin_bindings=BurnIn.steps = 5", "--gin_bindings=num_step = 5"],
            r"gin binds num_step, .*BurnIn\.steps, but nothing uses it; .* you mean Experiment\.num_steps\?$",
        ),
        (
            ["--gin_bindings=LanguageTask.num_lanes = 'many'"],
            r"LanguageTask\.num_lanes is 'many'; expected an integer",
        ),
        (
            ["--gin_bindings=LanguageModel.num_units = 2.5"],
            r"LanguageModel\.num_units is 2\.5; expected an integ",
        ),
        (["--gin_file=gin/absent.gin"], r"gin file not found .*gin/absent\.gin.*; looked below /"),
        (
            ["--gin_bindings=LanguageTask.corpus_dir = '/nowhere/corpus'"],
            r"'/nowhere/corpus'.*; (prepare|check|name|run)",
        ),
        (["--gin_bindings=LanguageTask.num_lanes = 9999"], r"num_lanes is 9999.*\d+"),
        (
            ["--gin_bindings=Experiment.num_steps = 7"],
            r"num_steps is 7; expected a positive multiple of log_ev",
        ),
        (["--gin_bindings=LanguageTask.data = 'other'"], r"data is 'other'; expected "),
        (["--workdir="], r"--workdir is not set; name the directory"),
        (["--inject=kill@0"], r"--inject=kill@0 is not understood; expected kind@group:worker:step"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_train_with_bad_flags(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, flags: list[str], sentence: str
) -> None:
    workdir = tmp_path / "run"
    ended = programs.run("train", f"--workdir={workdir}", *experiment(tmp_path, corpus), *flags)
    assert re.search(sentence, ended.sentence()), ended.sentence()
    assert_nothing_trained(workdir)


@pytest.mark.parametrize("program", ["train", "launch"])
def test_a_workdir_that_cannot_be_written_to(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, program: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    workdir = tmp_path / "file" / "run"
    ended = programs.run(program, f"--workdir={workdir}", *experiment(tmp_path, corpus), "--num_groups=1")
    assert str(workdir) in ended.sentence()
    assert re.search("cannot be written to.*; name another", ended.sentence()), ended.sentence()


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        (
            "train-00000-of-00001.tokens",
            lambda content: content[:-100],
            r"damaged: bytes is \d+, its manifest says \d+; prepare the corpus again",
        ),
        (
            "validation-00000-of-00001.starts",
            lambda content: content + content,
            r"damaged: bytes is \d+, its manifest says \d+; prepare the corpus again",
        ),
        ("word_pieces.model", lambda content: content[::-1], r"not the one .* written with.*; prepare"),
        ("manifest.json", lambda content: content[:50], r"is not JSON .*; delete it"),
        (
            "manifest.json",
            lambda content: content.replace(b'version": 1', b'version": 9'),
            "format_version 9; .*prepare",
        ),
        ("manifest.json", None, r"no manifest.*; run prepare"),
        ("train-00000-of-00001.tokens", None, r"missing.*; prepare"),
    ],
)
def test_a_corpus_that_does_not_match_its_manifest(
    programs: Programs, corpus_copy: pathlib.Path, tmp_path: pathlib.Path, name: str, damage, sentence: str
) -> None:
    path = corpus_copy / name
    if damage is None:
        path.unlink()
    else:
        damaged = damage(path.read_bytes())
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
    ended = programs.run("train", f"--workdir={tmp_path / 'run'}", *experiment(tmp_path, str(corpus_copy)))
    assert str(corpus_copy) in ended.sentence()
    assert re.search(sentence, ended.sentence()), ended.sentence()
    assert_nothing_trained(tmp_path / "run")


def test_two_groups_with_different_models(programs: Programs, corpus: str, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    flags = [f"--workdir={workdir}", "--num_groups=2", *experiment(tmp_path, corpus)]
    programs.succeed("train", "--group=0", *flags)
    ended = programs.run("train", "--group=1", *flags, "--gin_bindings=LanguageModel.num_units = 16")
    sentence = ended.sentence()
    assert "group 1 and group 0 train different models" in sentence
    assert "start all groups with the same model" in sentence
    assert "[24, 64] here" in sentence
    assert "[24, 128] there" in sentence
    (record,) = runs.read_metrics(runs.metrics_path(str(workdir), 1))
    assert (record["kind"], record["step"]) == ("start", 0)

    ended = programs.run("train", "--group=0", *flags, "--gin_bindings=LanguageModel.num_units = 16")
    assert re.search("LanguageModel.num_units was 32 and is 16.*another workdir", ended.sentence())


def test_a_worker_whose_port_is_in_use(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, port: int
) -> None:
    task = {
        "cluster": {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]},
        "task": {"type": "worker", "index": 0},
    }
    ended = programs.run(
        "train",
        f"--workdir={tmp_path / 'run'}",
        *experiment(tmp_path, corpus),
        environment={"TF_CONFIG": json.dumps(task)},
    )
    assert f"cannot serve at 127.0.0.1:{port}, its address in TF_CONFIG" in ended.sentence()
    assert_nothing_trained(tmp_path / "run")


def test_a_launch_whose_port_is_in_use(
    programs: Programs, corpus: str, tmp_path: pathlib.Path, port: int
) -> None:
    flags = ["--num_groups=1", "--workers_per_group=2", f"--base_port={port}"]
    ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", *experiment(tmp_path, corpus), *flags)
    assert re.search(rf"port {port} is in use .*; choose another --base_port", ended.sentence())
    assert not (tmp_path / "run").exists()


def test_launch_passes_on_what_its_workers_say(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    flags = ["--num_groups=1", "--gin_bindings=BurnIn.steps = 5"]
    ended = programs.run("launch", f"--workdir={tmp_path / 'run'}", *experiment(tmp_path, corpus), *flags)
    assert re.search(
        r"^worker 0 of group 0: gin binds .*BurnIn\.steps, but nothing uses it", ended.sentence()
    )
    assert_nothing_trained(tmp_path / "run")


@pytest.fixture
def wet_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "pages.warc.wet.gz"
    with WetWriter(str(path), description="pages of a test") as writer:
        for number in range(40):
            text = (
                f"Page {number} tells this at some length. "
                + "It goes on for a while, and then it ends. " * 9
            )
            writer.write(f"https://example.org/{number}", text, "eng")
    return path


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated|cut|damaged|ends"),
        (lambda path: path.write_bytes(b"no WET file at all"), "no WET|not a WET|damaged|gzip"),
    ],
    ids=["missing", "empty", "truncated", "something else"],
)
def test_a_bad_wet_file(
    programs: Programs, wet_file: pathlib.Path, tmp_path: pathlib.Path, damage, sentence: str
) -> None:
    good = tmp_path / "good.warc.wet.gz"
    shutil.copy(wet_file, good)
    damage(wet_file)
    files = [f"--files={path}" for path in (good, wet_file)]
    output_dir = tmp_path / "corpus"
    ended = programs.run("prepare_corpus", "--source=WetFiles", *files, f"--output_dir={output_dir}")
    assert str(wet_file) in ended.sentence()
    assert re.search(sentence, ended.sentence()), ended.sentence()
    with pytest.raises(ValueError, match=r"manifest|does not exist"):
        tokens.open_corpus(str(output_dir))


def test_a_process_of_its_own(corpus: str, tmp_path: pathlib.Path) -> None:
    """Once without the short cut of `Programs`."""
    command = [sys.executable, "-m", "tf_codistill.train", "--group=3", "--num_groups=2"]
    flags = [f"--workdir={tmp_path / 'run'}", *experiment(tmp_path, corpus)]
    ended = subprocess.run(
        [*command, *flags], cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_SECS, check=False
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    said = [line for line in ended.stderr.splitlines() if "error: group" in line]
    assert said == ["error: group is 3; expected 0 <= group < num_groups, which is 2"]
    assert_nothing_trained(tmp_path / "run", group=3)

"""A model is trained, its corpus goes away, and the programs that read and write text need the run alone."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from tests import toy_texts
from tests.integration.programs import Programs, experiment
from tf_codistill import tokens
from tf_codistill.tokenizer.word_pieces import WordPieces


@pytest.fixture(scope="module")
def place(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    place = tmp_path_factory.mktemp("text")
    corpus = toy_texts.write_text_corpus(str(place / "corpus"))
    flags = experiment(place, corpus, "LanguageTask.num_lanes = 8", "Experiment.num_steps = 10")
    programs.succeed("train", f"--workdir={place / 'run'}", *flags)
    programs.succeed("inspect_corpus", f"--corpus_dir={corpus}", f"--output_dir={place / 'page'}")
    shutil.move(corpus, place / "moved")
    (place / "a.txt").write_text("Anna went to the river.\nIt was cold.\n")
    (place / "b.txt").write_bytes(b"Gr\xfcn \xe6\x97\xa5!")
    return place


def score(programs: Programs, place: pathlib.Path, *arguments: str) -> dict[str, dict[str, float]]:
    ended = programs.succeed("score", f"--workdir={place / 'run'}", "--json", *arguments)
    return json.loads(ended.output)


def test_score_needs_the_workdir_alone(programs: Programs, place: pathlib.Path) -> None:
    a, b = str(place / "a.txt"), str(place / "b.txt")
    found = score(programs, place, a, b)
    assert set(found["files"]) == {a, b}
    assert found["total"]["num_words"] == 8 + 2
    assert found["files"][b]["num_invalid"] == 1
    assert found["files"][a] == score(programs, place, a)["total"]
    after_b = score(programs, place, a, f"--context_file={b}")["total"]
    assert after_b["log_likelihood"] != found["files"][a]["log_likelihood"]
    table = programs.succeed("score", f"--model={place / 'run' / 'group_0' / 'student.keras'}", a, b)
    assert f"{found['total']['loss']:.3f}" in table.output
    assert f" {a} " in table.output, "a name that is read from a pipe is in one piece"
    assert "b.txt: bytes that are no UTF-8, read as U+FFFD 1 times" in table.error
    nothing = programs.run("score", f"--workdir={place / 'run'}").sentence()
    assert nothing == "there is nothing to score; name text files, or - for standard input"
    assert "absent.txt" in programs.run("score", f"--workdir={place / 'run'}", "absent.txt").sentence()


def test_what_does_not_go_together_is_told(programs: Programs, place: pathlib.Path) -> None:
    run, model = f"--workdir={place / 'run'}", f"--model={place / 'run' / 'group_0' / 'student.keras'}"
    for flag in (run, "--group=1"):
        for program in (["score", str(place / "a.txt")], ["generate"]):
            sentence = programs.run(*program, model, flag).sentence()
            assert f"{flag.partition('=')[0]} has an effect only without --model" in sentence
    other = str(place / "other.model")
    WordPieces.train([text.upper() for text in toy_texts.DOCUMENTS], 105, other)
    sentence = programs.run("score", run, f"--tokenizer={other}", str(place / "a.txt")).sentence()
    assert "has fingerprint" in sentence
    assert "leave --tokenizer out" in sentence
    inside = [f"--corpus_dir={place / 'moved'}", f"--output_dir={place / 'moved' / 'page'}"]
    assert (
        "inside --corpus_dir, which holds nothing else" in programs.run("inspect_corpus", *inside).sentence()
    )


def test_evaluate_tells_before_it_evaluates(programs: Programs, place: pathlib.Path) -> None:
    run = f"--runs=run={place / 'run'}"
    assert "nothing to evaluate; name --runs" in programs.run("evaluate").sentence()
    nowhere = programs.run("evaluate", f"--runs=run={place / 'nowhere'}").sentence()
    assert "but no group has been trained there" in nowhere
    assert "--runs has the name 'run' 2 times" in programs.run("evaluate", run, run).sentence()
    twice = programs.run("evaluate", run, "--model=a=b.keras", "--model=a=c.keras")
    assert "--model has the name 'a' 2 times" in twice.sentence()
    assert "evaluating" not in twice.error
    output = f"--output={place / 'a.txt' / 'evaluation.json'}"
    unwritable = programs.run("evaluate", run, output)
    assert "a.txt' cannot be written to" in unwritable.sentence()
    assert "evaluating" not in unwritable.error
    moved = f"--gin_bindings=LanguageTask.corpus_dir = '{place / 'moved'}'"
    output = place / "new" / "evaluation.json"
    programs.succeed("evaluate", run, moved, f"--output={output}")
    assert list(json.loads(output.read_text())["models"]) == ["run, group 0"]
    failed = programs.run("evaluate", run, moved, f"--output={place / 'new'}")
    assert "new' cannot be used" in failed.sentence()
    assert "run, group 0" in failed.output, "what was computed is shown before it is written"


def test_generate_needs_the_workdir_alone(programs: Programs, place: pathlib.Path) -> None:
    arguments = [f"--workdir={place / 'run'}", "--prompt=Anna went", "--num_tokens=30", "--seed=2"]
    first, second = (programs.succeed("generate", *arguments) for _ in range(2))
    assert first.output == second.output
    assert first.output.startswith("Anna went")
    assert "per second" in first.error
    likeliest = [programs.succeed("generate", *arguments, "--temperature=0", f"--seed={i}") for i in (0, 1)]
    assert likeliest[0].output == likeliest[1].output != first.output


def test_generate_is_stopped_quietly(programs: Programs, place: pathlib.Path) -> None:
    endless = ["--num_tokens=100000000", "--continue_after_end"]
    with programs.started("generate", f"--workdir={place / 'run'}", "--prompt=Anna", *endless) as running:
        running.wait_until(lambda: len(running.output_so_far()) > 20)
        os.kill(running.pid, signal.SIGINT)
        ended = running.wait()
    assert ended.status == 130
    assert "Traceback" not in ended.error
    assert "per second" in ended.error


def test_evaluate_takes_its_settings_from_the_run_and_says_what_it_misses(
    programs: Programs, place: pathlib.Path
) -> None:
    run = f"--runs=run={place / 'run'}"
    sentence = programs.run("evaluate", run).sentence()
    assert f"corpus '{place / 'corpus'}' does not exist" in sentence
    assert "LanguageTask.corpus_dir = '...'" in sentence
    ended = programs.succeed("evaluate", run, f"--gin_bindings=LanguageTask.corpus_dir = '{place / 'moved'}'")
    assert "run, group 0" in ended.output
    other = tokens.open_corpus(toy_texts.write_text_corpus(str(place / "other"), num_pieces=100))
    trained_on = tokens.open_corpus(str(place / "moved")).fingerprint
    sentence = programs.run(
        "evaluate", run, f"--gin_bindings=LanguageTask.corpus_dir = '{other.directory}'"
    ).sentence()
    assert other.fingerprint in sentence
    assert trained_on in sentence


def test_a_run_is_not_continued_on_another_vocabulary(programs: Programs, place: pathlib.Path) -> None:
    other = toy_texts.write_text_corpus(str(place / "another"), num_pieces=100)
    flags = experiment(place, other, "LanguageTask.num_lanes = 8", "Experiment.num_steps = 15")
    sentence = programs.run("train", f"--workdir={place / 'run'}", *flags).sentence()
    assert "has another vocabulary" in sentence


def test_a_corpus_is_inspected(place: pathlib.Path) -> None:
    assert (place / "page" / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert (place / "page" / "corpus.png").stat().st_size > 10_000


_READER = """
import sys, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
found = served.serve([[1, 2, 3]])["probabilities"].numpy()
assert "tf_codistill" not in sys.modules
print(found.shape, found.sum(axis=-1).round(4).tolist())
"""


def test_export_gives_what_reads_without_us(programs: Programs, place: pathlib.Path) -> None:
    run, served = f"--workdir={place / 'run'}", place / "served"
    corpus = f"--gin_bindings=LanguageTask.corpus_dir = '{place / 'moved'}'"
    programs.succeed("export", run, f"--output_dir={served}", corpus)
    reader = [sys.executable, "-c", _READER, str(served)]
    ended = subprocess.run(reader, capture_output=True, text=True, check=False, cwd=place)
    assert ended.stdout.endswith("[[1.0, 1.0, 1.0]]\n"), ended.stderr
    assert "is not empty; name a new" in programs.run("export", run, f"--output_dir={served}").sentence()
    missing = programs.run("export", run, "--group=3", f"--output_dir={place / 'none'}").sentence()
    assert "group_3/student.keras'; let its run end" in missing

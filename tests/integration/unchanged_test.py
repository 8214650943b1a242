"""A run goes on as it began, or not at all: what has changed is named before anything is trained."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from tests.integration.programs import Programs, experiment, metrics
from tests.toy_experiments import write_language_corpus


@pytest.fixture(scope="module")
def run(programs: Programs, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that has been trained for 10 steps."""
    place = tmp_path_factory.mktemp("begun")
    programs.succeed("train", f"--workdir={place / 'run'}", *short(place, corpus))
    return place / "run"


def short(place: pathlib.Path, corpus: str, *bindings: str) -> list[str]:
    return experiment(place, corpus, "Experiment.num_steps = 10", *bindings)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--gin_bindings=Experiment.seed = 4"], "Experiment.seed was 3 and is 4"),
        (
            ["--gin_bindings=LanguageTask.data = 'disjoint'"],
            "LanguageTask.data was 'same' and is 'disjoint'",
        ),
        (
            ["--gin_bindings=keras.optimizers.Adam.learning_rate = 0.1"],
            "Adam.learning_rate was 0.002 and is 0.1",
        ),
        (["--num_groups=2"], "num_groups was '1' and is '2'"),
        (["--gin_bindings=PeerExchange.every_steps = 4"], "PeerExchange.every_steps was 5 and is 4"),
        (
            ["--gin_bindings=Experiment.seed = 4", "--gin_bindings=LanguageTask.data = 'disjoint'"],
            "Experiment.seed was 3 and is 4, LanguageTask.data was 'same' and is 'disjoint'",
        ),
        (["--gin_bindings=LanguageModel.num_units = 33"], "LanguageModel.num_units was 32 and is 33"),
        (["--gin_bindings=Experiment.log_every_steps = 2"], "Experiment.log_every_steps was 5 and is 2"),
    ],
    ids=["seed", "data", "learning_rate", "groups", "exchange", "two", "model", "interval"],
)
def test_what_may_not_change_is_named(
    programs: Programs,
    corpus: str,
    run: pathlib.Path,
    tmp_path: pathlib.Path,
    changes: list[str],
    sentence: str,
) -> None:
    more = "--gin_bindings=Experiment.num_steps = 20"
    ended = programs.run("train", f"--workdir={run}", *short(tmp_path, corpus), more, *changes)
    rest = f"the run in {str(run / 'group_0')!r} began otherwise; use the settings that it began with, or "
    assert ended.sentence() == f"{sentence}: {rest}another workdir"
    assert list(metrics(run, 0, "train")) == [5, 10]


def test_other_documents_of_the_same_vocabulary_are_refused(
    programs: Programs, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = write_language_corpus(str(tmp_path / "other"), num_documents=121)
    sentence = programs.run("train", f"--workdir={run}", *short(tmp_path, other)).sentence()
    assert sentence.startswith("the documents of '")
    assert str(run / "group_0" / "tokenizer") in sentence
    assert sentence.endswith("use the corpora that it began with, or another workdir")
    assert list(metrics(run, 0, "train")) == [5, 10]


def test_more_steps_other_periods_and_a_corpus_that_moved_are_no_change(
    programs: Programs, corpus: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = shutil.copytree(run, tmp_path / "run")
    moved = shutil.copytree(corpus, tmp_path / "moved")
    settings = [
        *("Experiment.num_steps = 20", "Experiment.validate_every_steps = 5"),
        *("Experiment.checkpoint_every_steps = 5", "Experiment.measure_every_steps = 5"),
    ]
    programs.succeed("train", f"--workdir={workdir}", *short(tmp_path, str(moved), *settings))
    assert list(metrics(workdir, 0, "train")) == [5, 10, 15, 20]
    assert list(metrics(workdir, 0, "validation")) == [10, 15, 20]

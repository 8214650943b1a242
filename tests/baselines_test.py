"""The gin files of the baselines: each is understood, and says what it is for."""

from __future__ import annotations

import pathlib
import re

import gin
import pytest
import tensorflow as tf
from absl import flags

from tf_codistill import experiment, program

pytestmark = pytest.mark.usefixtures("fresh_gin")

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_BASELINES = sorted((_REPOSITORY / "gin" / "baselines").glob("*.gin"))


def configured(name: str) -> experiment.Experiment:
    flags.FLAGS.gin_file = [f"gin/baselines/{name}.gin"]
    flags.FLAGS.gin_bindings = []
    program.parse_gin()
    return experiment.configured()


def test_groups_read_the_same_or_different_documents() -> None:
    assert configured("same_data").task.data == "same"
    gin.clear_config()
    assert configured("different_data").task.data == "disjoint"


def test_groups_of_an_ensemble_never_learn_from_each_other() -> None:
    teachers = configured("ensemble").teachers("/nowhere", group=0, num_groups=2, rows=32)
    assert teachers.names() == []
    assert not teachers.any_present(tf.constant(1500))
    gin.clear_config()
    assert configured("same_data").teachers("/nowhere", group=0, num_groups=2, rows=32).names() != []


@pytest.mark.parametrize("path", _BASELINES, ids=lambda path: path.stem)
def test_a_gin_file_is_a_page_of_a_lab_book(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert re.match(r"# Baseline: \w.+\n", header)
    for what in ("Paper", "Hardware", "Command"):
        assert re.search(rf"^# {what}  +\S", header, re.MULTILINE), what
    assert f"--gin_file=gin/baselines/{path.name}" in header

"""`prepare_clicks` as a user runs it, and a run of two groups with two workers each on what it made."""

from __future__ import annotations

import json
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.integration.programs import Programs, final_weights, log_of, metrics
from tests.toy_tables import EXPERIMENT, criteo_lines, write
from tf_codistill.tables import shards

CRITEO = """
TableSettings.schema = @criteo_schema()
TableSettings.min_count = 3
TableSettings.range_bytes = 16_384
"""


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "criteo.gin").write_text(CRITEO)
    write(tmp_path / "rows.txt", criteo_lines(600))
    return tmp_path


def flags(place: pathlib.Path, *more: str) -> list[str]:
    return [
        f"--gin_file={place / 'criteo.gin'}",
        f"--files={place / 'rows*.txt'}",
        f"--output_dir={place / 'table'}",
        *more,
    ]


def test_a_table_is_prepared_once(programs: Programs, place: pathlib.Path) -> None:
    first = programs.succeed("prepare_clicks", *flags(place))
    assert re.search(r"600 rows read\n.*kept +600\n", first.output)
    assert re.search(r"  train +480 rows, [\d.]+% of them 1\n", first.output)
    assert "encoding" in first.error
    again = programs.succeed("prepare_clicks", *flags(place))
    assert (again.output, "encoding" in again.error) == (first.output, False)
    assert "is there already" in again.error
    assert len(shards.open_table(str(place / "table"), verify_contents=True).part("test")) == 60


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--beam_options=--x=1"], "--beam_options has an effect only with --runner=beam"),
        (["--runner=beam", "--num_processes=2"], "--num_processes has an effect only with --runner=local"),
        (["--files=absent*"], "'absent*' matches no file"),
        (["--gin_bindings=TableSettings.min_count = 0"], "min_count is 0; expected at least 1"),
        (["--gin_bindings=TableSettings.min_cuont = 3"], "did you mean"),
        (["--gin_bindings=TableSchema.label = 'x'"], "gin binds .*label, but nothing uses it"),
        (["--gin_bindings=TableSettings.hash_buckets = {'C99': 3}"], r"hash_buckets names \['C99'\]"),
        (["--gin_bindings=TableSettings.test_share = 0.95"], "leave nothing for training"),
        (["--preprocessing=absent"], "there is no preprocessing.json in 'absent'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_flags_are_told_before_the_work(
    programs: Programs, place: pathlib.Path, more: list[str], sentence: str
) -> None:
    ended = programs.run("prepare_clicks", *flags(place, *more))
    assert re.search(sentence.replace("*' m", r"\*' m"), ended.sentence()), ended.error
    assert not (place / "table.work").exists()


def test_no_schema_is_told(programs: Programs, place: pathlib.Path) -> None:
    ended = programs.run("prepare_clicks", f"--files={place / 'rows.txt'}", f"--output_dir={place / 'table'}")
    assert "'schema'" in ended.sentence()


@pytest.mark.slow
def test_two_groups_of_two_workers_equal_groups_of_one(programs: Programs, place: pathlib.Path) -> None:
    programs.succeed("prepare_clicks", *flags(place))
    burn_in = "Experiment.distillation_weight = @BurnIn()\nBurnIn.steps = 5\n"
    (place / "toy.gin").write_text(EXPERIMENT + burn_in + f"ClickTask.data_dir = '{place / 'table'}'\n")
    ends = {}
    for number in (1, 2):
        run = place / f"workers_{number}"
        launched = [f"--workdir={run}", f"--gin_file={place / 'toy.gin'}", "--num_groups=2"]
        launched += [f"--workers_per_group={number}"]
        programs.succeed("launch", *launched)
        # Afterwards each learns from whatever the other has published by then.
        ends[number] = [metrics(run, group, "train")[5]["loss"] for group in range(2)]
        for group in range(2):
            weights = {final_weights(log_of(run, group, worker)) for worker in range(number)}
            assert len(weights) == 1
            assert (run / f"group_{group}" / "preprocessing" / "preprocessing.json").exists()
    np.testing.assert_allclose(ends[1], ends[2], rtol=1e-5)
    run, gin_file = place / "workers_2", f"--gin_file={place / 'toy.gin'}"
    evaluated = programs.succeed(
        "evaluate", f"--runs=clicks={run}", gin_file, f"--output={place / 'found.json'}"
    )
    assert "clicks, ensemble" in evaluated.output
    assert "On 60 examples that were held out" in evaluated.output
    assert all(
        0 < row["normalized_entropy"] < 2
        for row in json.loads((place / "found.json").read_text())["models"].values()
    )
    programs.succeed("export", f"--workdir={run}", gin_file, f"--output_dir={place / 'served'}")
    served = tf.saved_model.load(os.fspath(place / "served"))
    rows = [line.partition(b"\t")[2] for line in criteo_lines(600)[-60:]]
    assert served.serve(tf.constant(rows))["probabilities"].shape == (60,)

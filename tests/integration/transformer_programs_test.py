"""A Transformer by its gin file: two groups train by `launch`, and every program takes what they leave."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tests import toy_texts
from tests.integration.programs import Programs, metrics
from tf_codistill import runs

pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")


def test_two_groups_are_launched_evaluated_reported_and_read_and_write_text(
    programs: Programs, tmp_path: pathlib.Path
) -> None:
    corpus = toy_texts.write_text_corpus(str(tmp_path / "corpus"))
    bindings = [
        *(f"LanguageTask.corpus_dir = {corpus!r}", "LanguageTask.window_tokens = 16"),
        *("BurnIn.steps = 2", "PeerExchange.every_steps = 5", "PeerExchange.wait = True"),
        *("Experiment.log_every_steps = 5", "Experiment.validate_every_steps = 5"),
        *("Experiment.checkpoint_every_steps = 5", "Transformer.context_tokens = 16"),
        *("Transformer.dtype = 'mixed_bfloat16'", "LanguageTask.num_lanes = 8"),
    ]
    flags = ["--gin_file=gin/quickstart_transformer.gin", *(f"--gin_bindings={one}" for one in bindings)]
    workdir = tmp_path / "run"
    for num_steps in (5, 10):  # groups that go on are sure to find each other's snapshots
        steps = f"--gin_bindings=Experiment.num_steps = {num_steps}"
        programs.succeed("launch", f"--workdir={workdir}", "--num_groups=2", *flags, steps)
    for group in (0, 1):
        assert metrics(workdir, group, "train")[10]["distillation_loss"] > 0

    evaluated, saved = tmp_path / "evaluation.json", runs.student_path(str(workdir), 1)
    named = [f"--runs=two={workdir}", f"--model=saved={saved}"]
    programs.succeed("evaluate", *named, f"--output={evaluated}")
    rows = json.loads(evaluated.read_text())["models"]
    losses = [rows[f"two, {name}"]["loss"] for name in ("group 0", "group 1", "ensemble")]
    assert losses[1] == pytest.approx(rows["saved"]["loss"], rel=1e-5)
    assert losses[2] < sum(losses[:2]) / 2
    assert losses[1] == pytest.approx(metrics(workdir, 1, "validation")[10]["loss"], rel=1e-3)
    output = tmp_path / "report"
    programs.succeed("report", f"--runs=two={workdir}", f"--evaluation={evaluated}", f"--output_dir={output}")
    assert "| two, group 1 |" in (output / "report.md").read_text()

    text = tmp_path / "a.txt"
    text.write_text("Anna went to the river.\nIt was cold.\n" * 3)
    run = f"--workdir={workdir}"
    scored = json.loads(programs.succeed("score", run, "--json", str(text)).output)["total"]
    assert scored["num_words"] == 24
    assert 0 < scored["loss"] < 7
    other = programs.run("score", run, f"--context_file={text}", str(text)).sentence()
    assert "reads each document for itself" in other
    assert "leave --context_file out" in other
    generate = ["generate", run, "--prompt=Anna went", "--num_tokens=40", "--continue_after_end"]
    assert programs.succeed(*generate).output.startswith("Anna went")
    programs.succeed("export", run, f"--output_dir={tmp_path / 'served'}")
    served = tf.saved_model.load(str(tmp_path / "served"))
    probabilities = served.serve([[0, 7, 8], [0, 9, 10]])["probabilities"].numpy()
    np.testing.assert_allclose(probabilities.sum(axis=-1), np.ones((2, 3)), atol=1e-5)

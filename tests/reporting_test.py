import io
import json

import numpy as np
import pytest
from rich.console import Console

from tf_codistill import files, reporting
from tf_codistill.learning_curves import Curve, Run


def _run(name, *groups_losses):
    """A run with a validation every 100 steps, a minute apart."""
    curves = [
        Curve(
            group=group,
            steps=100 * np.arange(1, len(losses) + 1),
            secs=60.0 * np.arange(1, len(losses) + 1),
            losses=np.array(losses, np.float64),
            is_finished=group != 2,
        )
        for group, losses in enumerate(groups_losses)
    ]
    return Run(name, f"runs/{name}", tuple(curves))


ALONE = _run("alone", [5.0, 4.0, 3.5, 3.0, 3.1])


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (
            _run("codistillation", [5.0, 3.0, 2.9], [5.0, 4.0, 2.8]),
            "codistillation reached the best loss of the model trained alone after 62 % of its steps; in the "
            "mean its groups ended 0.150 below it",
        ),
        (
            _run("late", [4.0] * 5 + [3.0]),
            "late reached the best loss of the model trained alone after 150 % of its steps, and ended 0.000 "
            "below it",
        ),
        (
            _run("half", [4.0, 3.0], [4.0, 3.9, 3.8], [4.0, 4.0]),
            "1 of 3 groups of half reached the best loss of the model trained alone after 50 % of its steps, "
            "the rest did not within 300 steps; in the mean its groups ended 0.600 above it",
        ),
        (
            _run("bad", [4.0, 3.001]),
            "bad did not reach the best loss of the model trained alone within 200 steps, and ended "
            "0.001 above it",
        ),
    ],
)
def test_conclusion(run, sentence):
    assert reporting.conclusion(ALONE, run) == sentence


def test_conclusion_of_a_run_that_diverged_in_the_end():
    assert reporting.conclusion(ALONE, _run("wild", [3.0, np.nan])).endswith(
        "after 25 % of its steps, and ended with a loss that is not finite"
    )


def test_names_of_runs_are_text(tmp_path):
    names = ["[/b] a|b", r"$\x", r"$y^"]
    reporting.write_report([_run(name, [4.0, 3.0]) for name in names], [], str(tmp_path))
    assert r"| [/b] a\|b | 0 |" in (tmp_path / "report.md").read_text()
    text = io.StringIO()
    rows = {name: {"loss": 1.0} for name in names}
    Console(file=text, width=99).print(reporting.terminal_table(rows, "[/t]"))
    assert all(name in text.getvalue() for name in (*names, "[/t]"))


def test_conclusion_names_a_baseline_of_several_groups():
    pair = _run("independent pair", [4.0, 3.0], [4.0, 3.5])
    assert reporting.conclusion(pair, ALONE) == (
        "alone reached the best loss of independent pair after 200 % of its steps, and ended 0.100 above it"
    )


def _pair(name, *losses):
    return {f"{name}, group {group}": {"perplexity": 20.0, "loss": loss} for group, loss in enumerate(losses)}


def test_share_of_what_the_ensemble_gains():
    rows = _pair("alone", 3.5, 3.7) | {"alone, ensemble": {"loss": 3.4}} | _pair("two", 3.42, 3.48)
    assert reporting.share_of_ensemble("alone", "two", rows) == (
        "one model of two has 75 % of what the ensemble of alone, 3.400 in place of 3.600, gains"
    )
    rows["alone, ensemble"] = {"loss": 3.6}
    assert "gains nothing" in reporting.share_of_ensemble("alone", "two", rows)
    assert reporting.share_of_ensemble("two", "alone", rows) is None
    assert reporting.share_of_ensemble("alone", "three", rows) is None
    rows["three, group 0"] = {"carried_state_loss": 3.0}  # of another kind of model
    assert reporting.share_of_ensemble("alone", "three", rows) is None


def test_the_report_says_what_share_of_the_ensemble_one_model_has(tmp_path):
    models = _pair("alone", 3.0) | {"alone, ensemble": {"loss": 2.8}} | _pair("two", 2.9)
    evaluation = {"models": models, "num_units": 1, "units": "tokens"}
    sentences = reporting.write_report([ALONE, _run("two", [2.9])], [evaluation], str(tmp_path))
    assert len(sentences) == 2
    assert f"**{sentences[1][:1].upper()}{sentences[1][1:]}.**" in (tmp_path / "report.md").read_text()


def _evaluation(**changes):
    row = {"zero_state_loss": 3.25, "carried_state_loss": 3.125, "perplexity": 22.76, **changes}
    return {"models": {"alone": row}, "num_units": 12345, "units": "tokens"}


def test_report_has_sentence_picture_tables(tmp_path):
    two = _run("codistillation", [5.0, 3.0, 2.9], [5.0, 4.0, 2.8], [5.0, 4.0])
    sentences = reporting.write_report([ALONE, two], [_evaluation()], str(tmp_path / "report"))
    assert len(sentences) == 1
    report = (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "](learning_curves.png)" in report
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    assert "| alone | 0 | 3.000 | 400 | 3.100 | 500 | 5.0 min |  |" in rows
    assert "| codistillation | 0 | 2.900 | 300 | 2.900 | 300 | 3.0 min | 200 |" in rows
    assert "| codistillation | 2 | 4.000 | 200 | 4.000 | 200 (unfinished) | 2.0 min | never |" in rows
    assert "| codistillation | mean | 3.233 |  | 3.233 |  |  |  |" in rows
    assert "| alone | 3.125 | 3.250 | 22.76 |" in rows
    assert "12,345 tokens" in report
    assert sentences[0][1:] in report


def test_the_report_shows_the_figures_that_there_are(tmp_path):
    images = {"models": {"one": {"loss": 0.5, "top_5": 0.91}, "two": {"loss": 0.25}}, "num_units": 10_000}
    reporting.write_report([ALONE], [_evaluation(), {**images, "units": "images"}], str(tmp_path))
    report = (tmp_path / "report.md").read_text()
    assert "10,000 images" in report
    assert (
        "| model | loss | top 5 |\n| --- | ---: | ---: |\n| one | 0.500 | 0.910 |\n| two | 0.250 |  |"
        in report
    )
    assert "| model | loss, state carried on | loss, state from zero | perplexity |" in report


def test_report_of_a_single_run(tmp_path):
    assert reporting.write_report([ALONE], [], str(tmp_path)) == []
    assert (tmp_path / "report.md").read_text().startswith("# alone\n")


def test_names_must_differ(tmp_path):
    with pytest.raises(ValueError, match=r"runs are named \['alone', 'alone'\]; expected"):
        reporting.write_report([ALONE, ALONE], [], str(tmp_path))
    with pytest.raises(ValueError, match=r"runs are named \[\]; expected"):
        reporting.write_report([], [], str(tmp_path))


def test_evaluation_is_read_as_written(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(_evaluation()))
    assert reporting.read_evaluation(str(path)) == _evaluation()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"models": {}, "num_units": 1, "units": "tokens"},
        {"models": _evaluation()["models"]},
        {"models": _evaluation()["models"], "num_units": 1},
        {"models": _evaluation()["models"], "num_units": "many", "units": "tokens"},
        {"models": {"alone": {"carried_from": "checkpoint"}}, "num_units": 1, "units": "tokens"},
        {"models": {"alone": "good"}, "num_units": 1, "units": "tokens"},
        _evaluation(perplexity="high"),
    ],
)
def test_evaluation_of_another_form(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="evaluation .*evaluation.json' is not what `evaluate` writes"):
        reporting.read_evaluation(str(path))


def test_evaluation_that_is_not_json_or_not_there(tmp_path):
    path = tmp_path / "evaluation.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        reporting.read_evaluation(str(path))
    path.write_text('{"models": ')
    with pytest.raises(files.CorruptError, match="is not JSON"):
        reporting.read_evaluation(str(path))

"""What came out of a comparison of runs: a sentence, a picture and a table.

    <output_dir>/
        learning_curves.png     validation loss over steps and over time; where each group passes the baseline
        report.md               the sentence, the picture, a row per group, the evaluation

The first run is the *baseline*, usually one group alone. Every other run is measured against the lowest
validation loss that the baseline ever had: at which step did each of its groups first reach that?
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from tf_codistill import files, runs, terminal
from tf_codistill.learning_curves import Curve, Run, draw

PICTURE = "learning_curves.png"
REPORT = "report.md"

_RUN_COLUMNS = (
    *("run", "group", "best loss", "at step", "final loss", "steps", "training time"),
    "passes the baseline's best at step",
)
_ORIGIN = "carried_from"  # a word among the figures of a model: where the state came from that it carried on
_TITLES = {"carried_state_loss": "loss, state carried on", "zero_state_loss": "loss, state from zero"}


def columns(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The figures that an evaluation has of models, in the order in which to show them.

    Args:
        rows: Figures of each model by name.

    Returns:
        The title of each figure by name.
    """
    found = {name for row in rows.values() for name, value in row.items() if isinstance(value, (int, float))}
    order = [*(name for name in _TITLES if name in found), *sorted(found - set(_TITLES))]
    return {name: _TITLES.get(name, name.replace("_", " ")) for name in order}


def loss_among(names: Iterable[str]) -> str | None:
    """The figure that says how good a model is: the first that is a loss, None if there is none."""
    return next((name for name in names if name.endswith("loss")), None)


def cells(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The figures of one model as text; empty where it has none of a name."""
    return [f"{row[name]:.{2 if abs(row[name]) >= 10 else 3}f}" if name in row else "" for name in names]


def terminal_table(rows: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """What an evaluation found, for a terminal: a line for each model.

    Args:
        rows: Figures of each model by name.
        title: What stands above it.

    Returns:
        The table.
    """
    titles = columns(rows)
    figures = (Column(name, justify="right") for name in titles.values())
    shown = Table(Column("model", no_wrap=True), *figures, title=escape(title))
    for name, row in rows.items():
        shown.add_row(escape(terminal.visible(name)), *cells(row, titles))
    return shown


def conclusion(baseline: Run, run: Run) -> str:
    """Says in one sentence what a run adds: when it reached the baseline's lowest loss, and how far it came.

    Args:
        baseline: The run to compare with.
        run: The run to tell about.

    Returns:
        A sentence without its full stop. The percentage is the mean over those groups that reached that loss,
        the difference at the end that of the mean over all.
    """
    whose = "the model trained alone" if len(baseline.curves) == 1 else baseline.name
    target = f"the best loss of {whose}"
    reached = [step for curve in run.curves if (step := passing_step(curve, baseline)) is not None]
    num_steps = max(int(curve.steps[-1]) for curve in run.curves)
    if not reached:
        return f"{run.name} did not reach {target} within {num_steps} steps{_ending(baseline, run)}"
    when = f"after {100 * statistics.mean(reached) / baseline.best_step:.0f} % of its steps"
    if len(reached) == len(run.curves):
        return f"{run.name} reached {target} {when}{_ending(baseline, run)}"
    who = f"{len(reached)} of {len(run.curves)} groups of {run.name}"
    return f"{who} reached {target} {when}, the rest did not within {num_steps} steps{_ending(baseline, run)}"


def _ending(baseline: Run, run: Run) -> str:
    difference = statistics.fmean(curve.final for curve in run.curves) - baseline.best
    where = f"ended {abs(difference):.3f} {'below' if difference <= 0 else 'above'} it"
    if not math.isfinite(difference):
        where = "ended with a loss that is not finite"
    return f", and {where}" if len(run.curves) == 1 else f"; in the mean its groups {where}"


def share_of_ensemble(baseline: str, run: str, rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Says how much of what an ensemble gains one model of another run has: what codistillation is for.

    Args:
        baseline: Name of a run whose models never learned of each other.
        run: Name of a run.
        rows: Figures of each model by name, as `evaluate` returns them; the first that is a loss counts.

    Returns:
        A sentence without its full stop; None if there is no such ensemble.
    """
    models = [row for name, row in rows.items() if name.startswith(f"{run}, group")]
    alone = [row for name, row in rows.items() if name.startswith(f"{baseline}, group")]
    ensemble = rows.get(f"{baseline}, {runs.ENSEMBLE}", {})
    name = loss_among(columns(rows))
    needed = [*models, *alone, ensemble]
    if name is None or not models or not alone or any(name not in row for row in needed):
        return None
    single = statistics.mean(row[name] for row in alone)
    what = f"the ensemble of {baseline}, {ensemble[name]:.3f} in place of {single:.3f}"
    if ensemble[name] >= single:
        return f"{what}, gains nothing, so that there is nothing to be had from teaching each other"
    share = (single - statistics.mean(row[name] for row in models)) / (single - ensemble[name])
    return f"one model of {run} has {100 * share:.0f} % of what {what}, gains"


def passing_step(curve: Curve, baseline: Run) -> int | None:
    """The first step at which a group's validation loss is the baseline's lowest or less, or None."""
    index = curve.first_reaching(baseline.best)
    return None if index is None else int(curve.steps[index])


def read_evaluation(path: str) -> dict[str, Any]:
    """Reads what `evaluate` wrote about one or more models.

    Args:
        path: A JSON file.

    Returns:
        ``models``, the figures of each by name, ``num_units`` and ``units``, on how much of what.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not of that form.
    """
    evaluation = files.read_json(path)
    try:
        complete = all(map(_has_figures, evaluation["models"].values())) and evaluation["models"]
        complete = complete and isinstance(evaluation["num_units"], int) and "units" in evaluation
    except (TypeError, KeyError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(
            f"evaluation {path!r} is not what `evaluate` writes: expected figures of each model, num_units "
            "and units; evaluate the models again"
        )
    return dict(evaluation)


def write_report(shown: Sequence[Run], evaluations: Sequence[dict[str, Any]], output_dir: str) -> list[str]:
    """Writes the picture and the report.

    Args:
        shown: The runs, the baseline first.
        evaluations: What `read_evaluation` returned, in the order in which to show it.
        output_dir: Directory for the two files; created if it does not exist, older ones are replaced.

    Returns:
        The conclusions, one or two sentences for every run but the baseline.

    Raises:
        ValueError: There is no run, two have the same name, or the directory cannot be written to.
    """
    names = [run.name for run in shown]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"runs are named {names}; expected one or more, each with a name of its own")
    baseline, *others = shown
    sentences = [conclusion(baseline, run) for run in others]
    title = sentences[0] if len(sentences) == 1 else "Validation loss while training"
    rows = {name: row for evaluation in evaluations for name, row in evaluation["models"].items()}
    gains = [share_of_ensemble(baseline.name, run.name, rows) for run in others]
    sentences += [sentence for sentence in gains if sentence]
    files.make_directory(output_dir)
    files.write(files.join(output_dir, PICTURE), draw(shown, _capitalised(title)))
    report = _markdown(shown, sentences, evaluations)
    files.write(files.join(output_dir, REPORT), report.encode("utf-8"))
    return sentences


def _has_figures(row: Mapping[str, Any]) -> bool:
    figures = [value for name, value in row.items() if name != _ORIGIN]
    return bool(figures) and all(isinstance(value, (int, float)) for value in figures)


def _markdown(shown: Sequence[Run], sentences: Sequence[str], evaluations: Sequence[dict[str, Any]]) -> str:
    baseline = shown[0]
    parts = [
        f"# {' and '.join(run.name for run in shown)}",
        *(f"**{_capitalised(sentence)}.**" for sentence in sentences),
        f"![Validation loss over steps and over time]({PICTURE})",
        "## Learning curves",
        f"The baseline is *{baseline.name}*: {baseline.best:.3f} at step "
        f"{baseline.best_step}. The time is what each group spent in training on its part of the machine.",
        table(_RUN_COLUMNS, (row for run in shown for row in _run_rows(run, baseline))),
    ]
    for evaluation in evaluations:
        parts += [
            "## Evaluation",
            f"On {evaluation['num_units']:,} {evaluation['units']} that were held out.",
            _evaluation_table(evaluation["models"]),
        ]
    parts += ["## Where the figures are from", "\n".join(f"* {run.name}: `{run.workdir}`" for run in shown)]
    return "\n\n".join(parts) + "\n"


def _run_rows(run: Run, baseline: Run) -> list[list[str]]:
    rows = []
    for curve in run.curves:
        step = passing_step(curve, baseline) if run is not baseline else None
        rows.append(
            [
                *(run.name, str(curve.group), f"{curve.best:.3f}", str(curve.steps[curve.best_index])),
                f"{curve.final:.3f}",
                f"{curve.steps[-1]}{'' if curve.is_finished else ' (unfinished)'}",
                _minutes(float(curve.secs[-1])),
                "" if run is baseline else "never" if step is None else str(step),
            ]
        )
    if len(run.curves) > 1:
        best = statistics.mean(curve.best for curve in run.curves)
        final = statistics.mean(curve.final for curve in run.curves)
        rows.append([run.name, "mean", f"{best:.3f}", "", f"{final:.3f}", "", "", ""])
    return rows


def _evaluation_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    titles = columns(rows)
    return table(("model", *titles.values()), ([name, *cells(row, titles)] for name, row in rows.items()))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right of a first column of names.

    Args:
        header: Titles of the columns.
        rows: Cells of each row, as text.

    Returns:
        The table, without a line feed at its end.
    """
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = ([cell.replace("|", r"\|") for cell in cells] for cells in (header, rule, *rows))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _minutes(secs: float) -> str:
    return f"{secs / 60:.1f} min"


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

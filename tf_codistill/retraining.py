"""How far predictions change when everything is trained anew (Anil et al. 2018, section 3.5 and table 1).

    Retraining(settings={"lone": Setting(...), "codistilled": Setting(..., num_groups=2)},
               ensembles={"ensemble of two": "lone"}, rerun="lone")

    retrain          lone            ensemble of two          codistilled, two groups
    1                seed 1          seeds 1 and 2            seed 1: group 0, group 1
    2                seed 3          seeds 3 and 4            seed 2: group 0, group 1
    ...
    churn            between any two of a column, never between the peers of a run
    controls         lone, seed 1 again: no churn at all      group 0 and group 1 of a run: no churn either

A retrain is what would be served: one model, in the columns of several groups that of group 0. Figures are
means over retrains, or over pairs of them, plus or minus half the range, as in the paper's table; by which
share churn is lower than that of the first setting comes with a bootstrap interval over examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import gin
import matplotlib
import numpy as np

from tf_codistill import evaluation, experiment, files, pictures, reporting, runs
from tf_codistill.reproducibility import comparing, prediction_files
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.intervals import Bootstrap, Estimate
from tf_codistill.reproducibility.predictions import Predictions, check_alignment
from tf_codistill.run_matrix import Matrix, Trial, plan

CHURN = "mean_absolute_difference"
AGAIN = ", again"
PEERS = ", peers of a run"

_TITLES = {
    "log_loss": "log loss",
    "accuracy": "accuracy",
    "auc": "AUC",
    CHURN: "churn",
    "relative_difference": "relative difference",
    "flip_rate": "flips",
    "jsd": "JSD",
}

_NO_INTERVALS = Bootstrap(num_resamples=1)
"""Of single figures; that of how much less churn there is has one of its own."""

Predict = Callable[[Trial, int], Predictions]
"""What the group of a run predicts."""


class Spread(NamedTuple):
    """A figure of several retrains, or of pairs of them.

    Attributes:
        mean: Its mean.
        half_range: Half the distance from the lowest to the highest.
    """

    mean: float
    half_range: float

    def __str__(self) -> str:
        return f"{self.mean:.5f} ± {self.half_range:.5f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: A setting, an ensemble, a control.
        is_control: Whether its distance is no churn.
        figures: By name.
        number: Of how many retrains; of a control, of how many pairs.
        reduction: By which share its churn is lower than the first row's; None where that means nothing.
    """

    name: str
    is_control: bool
    figures: Mapping[str, Spread]
    number: int
    reduction: Estimate | None = None


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class Retraining(Matrix):
    """What is trained anew, and what is made of it.

    Attributes:
        rerun: The setting that is trained again with the same seed, as a control; None for none.
        first_seed: Seed of the first run of each setting.
    """

    rerun: str | None = None
    first_seed: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rerun is not None:
            self.check_setting("rerun", self.rerun)

    def trials(self, workdir: str, num_retrains: int) -> list[Trial]:
        """The runs that are needed.

        Args:
            workdir: Directory of all.
            num_retrains: Retrains of each row of the table.

        Returns:
            The runs, those of the first retrains first.

        Raises:
            ValueError: There are fewer than two retrains.
        """
        if num_retrains < 2:
            raise ValueError(f"num_retrains is {num_retrains}; expected at least 2, as churn is between two")
        by_name = self.complete_settings()
        seeds = {
            name: range(self.first_seed, self.first_seed + num_retrains * self._models_of(name))
            for name in by_name
        }
        if self.rerun is not None:
            by_name[self.rerun + AGAIN] = by_name[self.rerun]
            seeds[self.rerun + AGAIN] = range(self.first_seed, self.first_seed + 1)
        return plan(workdir, seeds, by_name)

    def rows(self, trials: Sequence[Trial], predict: Predict) -> list[Row]:
        """Measures runs that are done.

        Args:
            trials: What `trials` returned.
            predict: Gives the predictions of a group of a run on what is held out.

        Returns:
            A row for each setting, ensemble and control.

        Raises:
            ValueError: Predictions are not of the same examples.
        """
        by_name = {name: [one for one in trials if one.name == name] for name in (t.name for t in trials)}
        compared, controls = {}, []
        for name, setting in self.settings.items():
            own = by_name[name][:: self._models_of(name)]
            served = [predict(trial, 0) for trial in own]
            compared[name] = _compared(name, served)
            if self.rerun == name:
                controls.append(_control(name + AGAIN, [(served[0], predict(by_name[name + AGAIN][0], 0))]))
            if setting.num_groups > 1:
                peers = [(one, predict(trial, 1)) for one, trial in zip(served, own, strict=True)]
                controls.append(_control(name + PEERS, peers))
        for name, of in self.ensembles.items():
            members = [predict(trial, 0) for trial in by_name[of]]
            compared[name] = _compared(name, list(map(_mean, members[::2], members[1::2])))
        first = next(iter(compared.values()))
        found = [Row(name, False, _spreads([one]), len(one.scores)) for name, one in compared.items()]
        for place, one in enumerate(compared.values()):
            if one is not first:
                found[place] = dataclasses.replace(found[place], reduction=one.reduction_from(first))
        return [*found, *controls]

    def _models_of(self, name: str) -> int:
        return 2 if name in self.ensembles.values() else 1


class Predicting:
    """Predicts with the models that runs have left, and keeps what they say, as files for `churn`.

    Args:
        workdir: Workdir of a run, whose task all share.
        bindings: Further bindings of the task, such as which part is held out.
        output_dir: Where to keep ``predictions/<setting>_seed_<s>_group_<g>.parquet``.
    """

    def __init__(self, workdir: str, bindings: Sequence[str], output_dir: str) -> None:
        self._task = experiment.of_run(workdir, bindings).task
        self._directory = files.make_directory(files.join(output_dir, "predictions"))
        self._done: dict[tuple[str, int, int], Predictions] = {}

    def __call__(self, trial: Trial, group: int) -> Predictions:
        """What the model of a group of a run says of what is held out."""
        place = trial.name, trial.seed, group
        if place not in self._done:
            member = evaluation.from_saved_model(self._task, runs.student_path(trial.workdir, group))
            found = evaluation.predictions(self._task, [member], runs.run_id(trial.workdir))
            name = f"{trial.name}_seed_{trial.seed}_group_{group}.parquet".replace("/", "_")
            prediction_files.write(files.join(self._directory, name), found)
            self._done[place] = found
        return self._done[place]


def _mean(first: Predictions, second: Predictions) -> Predictions:
    check_alignment({"a member of an ensemble": first, "the other": second})
    probabilities = (np.asarray(first.probabilities) + np.asarray(second.probabilities)) / 2
    return dataclasses.replace(first, probabilities=probabilities, run=f"{first.run} and {second.run}")


def _compared(name: str, served: Sequence[Predictions]) -> ModelComparison:
    named = {f"{name} {place}": one for place, one in enumerate(served, start=1)}
    return comparing.compare(named, bootstrap=_NO_INTERVALS)


def _control(name: str, pairs: Sequence[tuple[Predictions, Predictions]]) -> Row:
    compared = [_compared(name, pair) for pair in pairs]
    return Row(name, True, _spreads(compared), len(pairs))


def _spreads(compared: Sequence[ModelComparison]) -> dict[str, Spread]:
    found = [one.values() for one in compared]
    figures = {name: np.concatenate([values[name] for values in found]) for name in found[0]}
    return {
        name: Spread(float(np.mean(all_of)), float(np.ptp(all_of)) / 2) for name, all_of in figures.items()
    }


def write(rows: Sequence[Row], output_dir: str) -> str:
    """Writes the table and the picture: ``retrain.json``, ``table.md``, ``churn.png``.

    Args:
        rows: What `Retraining.rows` returned.
        output_dir: Directory for them; older ones are replaced.

    Returns:
        The table, as text.
    """
    shown = [name for name in _TITLES if name in rows[0].figures]
    header = ["", *(_TITLES[name] for name in shown), f"churn less than {rows[0].name}"]
    lines = []
    for row in rows:
        less = "no churn" if row.is_control else ""
        if row.reduction:
            less = "{:.1%} ({:.1%} to {:.1%})".format(*dataclasses.astuple(row.reduction))
        lines.append([row.name, *(str(row.figures.get(name, "")) for name in shown), less])
    table = reporting.table(header, lines) + "\n"
    records = [
        {
            "name": row.name,
            "is_control": row.is_control,
            "number": row.number,
            "reduction": row.reduction.to_json() if row.reduction else None,
            **{name: spread._asdict() for name, spread in row.figures.items()},
        }
        for row in rows
    ]
    files.make_directory(output_dir)
    files.write(files.join(output_dir, "table.md"), table.encode("utf-8"))
    files.write_json(files.join(output_dir, "retrain.json"), {"rows": records})
    files.write(files.join(output_dir, "churn.png"), _picture(rows))
    return table


def _picture(rows: Sequence[Row]) -> bytes:
    with matplotlib.rc_context(pictures.STYLE):
        figure = pictures.new_figure("How far predictions change when everything is trained anew")
        axes = figure.subplots(1, 2, sharey=True)
        for place, row in enumerate(reversed(rows)):
            look = {"color": pictures.QUIET if row.is_control else pictures.COLOURS[2], "capsize": 3}
            for one, name in zip(axes, (CHURN, "log_loss"), strict=True):
                if spread := row.figures.get(name):
                    one.errorbar(spread.mean, place, xerr=spread.half_range, fmt="o", **look)
        axes[0].set_xlim(left=0)
        for one, title in zip(axes, ("mean |p - q| between retrains", "log loss"), strict=True):
            one.set_xlabel(title)
            one.grid(axis="x", color=pictures.GRID)
            one.set_axisbelow(True)
        axes[0].set_yticks(range(len(rows)), [pictures.plain(row.name) for row in reversed(rows)])
        return pictures.png(figure)

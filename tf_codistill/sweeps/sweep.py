"""A sweep: settings x axes x seeds, trained, measured, and kept as lines of JSON.

    Sweep.settings = {'lone': @lone/Setting(), 'two groups': @two/Setting()}
    Sweep.axes = {'WeightDecay.factor': [1e-4, 1e-3]}          # each setting with each; leave it out for none
    Sweep.ensembles = {'ensemble of two': 'lone'}
    Sweep.seeds = [1, 2, 3]
    Sweep.measured_with = ["ImageTask.held_out = 'test'"]

    <output_dir>/lone, factor = 0.0001/seed_1/                 a run, as `launch` makes it
    <output_dir>/results.jsonl                                 see `results`

A run whose result is there is not trained again, even if it has been deleted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin

from tf_codistill import evaluation, experiment, files, learning_curves
from tf_codistill.run_matrix import Matrix, Trial
from tf_codistill.runs import ENSEMBLE
from tf_codistill.sweeps import results
from tf_codistill.sweeps.results import Result

SECOND_MEMBERS = 1000
"""By how much the seed of an ensemble's second member is larger than that of its first."""

Measure = Callable[[Sequence[Trial], Sequence[str]], Mapping[str, Mapping[str, Any]]]
"""Figures of the models of runs and of their ensemble, by name, as `measure` returns them."""


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class Sweep(Matrix):
    """What is trained.

    Attributes:
        axes: Values by the name of what they are bound to; every setting is trained with all combinations.
        seeds: The seeds of every setting, below 1000.

    Raises:
        ValueError: There is no seed, one is out of its range or there twice, or an axis has no values, or two
            that cannot be told apart in the name of a directory.
    """

    axes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; expected one or more, each once")
        if not all(0 <= seed < SECOND_MEMBERS for seed in self.seeds):
            raise ValueError(
                f"seeds is {list(self.seeds)}; expected 0 to {SECOND_MEMBERS - 1}, as second members of "
                f"ensembles have {SECOND_MEMBERS} more"
            )
        for name, values in self.axes.items():
            if not values:
                raise ValueError(f"axes[{name!r}] is empty; expected the values to train with")
        names = [_named("", combination) for combination in self._combinations()]
        if same := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"axes has several combinations named {same[0]!r}; expected values that differ")

    def expected(self) -> list[Result]:
        """The results that there are to be, without what will be known of them.

        Seed by seed, setting by setting, and ensembles after the setting of their members: runs that have
        equally many workers are trained side by side.
        """
        found = []
        settings = self.complete_settings().items()
        for seed, (name, setting), combination in itertools.product(
            self.seeds, settings, self._combinations()
        ):
            bound = [*setting.bindings, *_bindings(combination)]
            one = Result(
                setting=_named(name, combination),
                seed=seed,
                trained_with=dataclasses.replace(setting, bindings=bound),
                measured_with=list(self.measured_with),
            )
            members = [[one.setting, seed + more] for more in (0, SECOND_MEMBERS)]
            ensembles = [ensemble for ensemble, of in self.ensembles.items() if of == name]
            found += [one] + [
                dataclasses.replace(one, setting=_named(ensemble, combination), members=members)
                for ensemble in ensembles
            ]
        return found

    def _combinations(self) -> list[dict[str, Any]]:
        values = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, combination, strict=True)) for combination in values]


def trials(expected: Sequence[Result], output_dir: str) -> list[Trial]:
    """The runs that results need.

    Args:
        expected: Results that there are to be.
        output_dir: Directory of all runs.

    Returns:
        The runs, each once.
    """
    needed = {run: one.trained_with for one in expected for run in one.runs}
    return [
        Trial(name, trained_with, seed, files.join(output_dir, name, f"seed_{seed}"))
        for (name, seed), trained_with in needed.items()
    ]


def finished(expected: Sequence[Result], output_dir: str, measure: Measure) -> Iterator[Result]:
    """Completes those results whose runs are done.

    Args:
        expected: Results that there are to be.
        output_dir: Directory of all runs.
        measure: Measures models.

    Yields:
        Each result as soon as it is complete.

    Raises:
        ValueError: A run has been trained with another setting than the result is to have.
    """
    done = {(one.name, one.seed): one for one in trials(expected, output_dir) if one.is_done()}
    for run in done.values():
        run.check_setting()
    for one in expected:
        if not all(run in done for run in one.runs):
            continue
        own = [done[run] for run in one.runs]
        held_out = measure(own, one.measured_with)
        if one.members:
            held_out = {ENSEMBLE: held_out[ENSEMBLE]}
        yield dataclasses.replace(
            one,
            commit=own[0].commit(),
            curves=() if one.members else learning_curves.read_run(one.setting, own[0].workdir).curves,
            held_out=held_out,
        )


def in_order(known: Sequence[Result], expected: Sequence[Result]) -> list[Result]:
    """Results as a sweep expects them, whichever run ended first; others behind them."""
    places = {(one.setting, one.seed): place for place, one in enumerate(expected)}
    return sorted(known, key=lambda one: places.get((one.setting, one.seed), len(places)))


def keep(path: str, one: Result, expected: Sequence[Result]) -> list[Result]:
    """Adds a result to a file, in which another sweep may have kept some meanwhile.

    Args:
        path: The file.
        one: The result.
        expected: Results that there are to be.

    Returns:
        All that the file has by now, in order.
    """
    known = in_order([*results.read(path), one], expected)
    results.write(path, known)
    return known


def measure(trials: Sequence[Trial], measured_with: Sequence[str]) -> dict[str, evaluation.Row]:
    """Measures all models of runs, as their newest checkpoints have them, and of several their ensemble.

    Args:
        trials: The runs, which share a task.
        measured_with: Further bindings of the task.

    Returns:
        Figures by name, as `evaluation.evaluate` returns them.
    """
    task = experiment.of_run(trials[0].workdir, measured_with).task
    members = {
        f"seed {trial.seed}, {name}" if len(trials) > 1 else name: member
        for trial in trials
        for group in range(trial.setting.num_groups)
        for name, member in evaluation.from_checkpoint(task, trial.workdir, group).items()
    }
    return evaluation.evaluate(task, members)


def _bindings(combination: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {value!r}" for name, value in combination.items()]


def _named(name: str, combination: Mapping[str, Any]) -> str:
    last = [bound.rpartition(".")[2] for bound in combination]  # CosineDecay.initial_learning_rate
    short = last if len(set(last)) == len(last) else combination
    values = dict(zip(short, combination.values(), strict=True))
    return ", ".join([name, *_bindings(values)]).replace("/", "_")

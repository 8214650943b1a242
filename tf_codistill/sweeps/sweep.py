"""A sweep: settings x axes x seeds, trained, measured, and kept as lines of JSON.

    Sweep.settings = {'lone': @lone/Setting(), 'two groups': @two/Setting()}
    Sweep.axes = {'WeightDecay.factor': [1e-4, 1e-3]}          # each setting with each; leave it out for none
    Sweep.ensembles = {'ensemble of two': 'lone'}
    Sweep.seeds = [1, 2, 3]
    Sweep.measured_with = ["ImageTask.held_out = 'test'"]

    <output_dir>/lone, WeightDecay.factor = 0.0001/seed_1/     a run, as `launch` makes it
    <output_dir>/results.jsonl                                 see `results`

A run whose result is there is not trained again, even if it has been deleted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin

from tf_codistill import evaluation, experiment, files, learning_curves, run_matrix, settings
from tf_codistill.run_matrix import Setting, Trial
from tf_codistill.sweeps.results import Result
from tf_codistill.sweeps.summary import ENSEMBLE

SECOND_MEMBERS = 1000
"""By how much the seed of an ensemble's second member is larger than that of its first."""

Measure = Callable[[Sequence[Trial], Sequence[str]], Mapping[str, Mapping[str, Any]]]
"""Figures of the models of runs and of their ensemble, by name, as `measure` returns them."""


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class Sweep:
    """What is trained.

    Attributes:
        settings: The settings by name; what the others are compared with is the first.
        axes: Values by the name of what they are bound to; every setting is trained with all combinations.
        seeds: The seeds of every setting, below 1000.
        ensembles: For each ensemble the setting whose models it consists of, two for each seed.
        bindings: Further bindings of every setting, such as where the data is.
        measured_with: Further bindings with which models are measured, such as which part is held out.

    Raises:
        ValueError: There is no seed, one is out of its range or there twice, an ensemble is of no setting, or
            an axis has no values.
    """

    settings: Mapping[str, Setting]
    axes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    ensembles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bindings: Sequence[str] = ()
    measured_with: Sequence[str] = ()

    def __post_init__(self) -> None:
        settings.check_types(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; expected one or more, each once")
        if not all(0 <= seed < SECOND_MEMBERS for seed in self.seeds):
            raise ValueError(
                f"seeds is {list(self.seeds)}; expected 0 to {SECOND_MEMBERS - 1}, as second members of "
                f"ensembles have {SECOND_MEMBERS} more"
            )
        for name, of in self.ensembles.items():
            if of not in self.settings:
                raise ValueError(
                    f"ensembles[{name!r}] is {of!r}; expected one of the settings {list(self.settings)}"
                )
        for name, values in self.axes.items():
            if not values:
                raise ValueError(f"axes[{name!r}] is empty; expected the values to train with")

    def expected(self) -> list[Result]:
        """The results that there are to be, without what will be known of them.

        Seed by seed, and ensembles after the setting of their members, so that these are trained side by
        side.
        """
        found = []
        for seed, combination in itertools.product(self.seeds, self._combinations()):
            for name, setting in self.settings.items():
                one = self._expected(name, setting, combination, seed)
                members = [[one.setting, seed + more] for more in (0, SECOND_MEMBERS)]
                found += [one] + [
                    dataclasses.replace(
                        one, setting=_named(ensemble, combination), num_groups=2, members=members
                    )
                    for ensemble, of in self.ensembles.items()
                    if of == name
                ]
        return found

    def trials(self, expected: Sequence[Result], output_dir: str) -> list[Trial]:
        """The runs that results need.

        Args:
            expected: Some of the expected results.
            output_dir: Directory of all runs.

        Returns:
            The runs, each once.
        """
        by_name = {
            _named(name, combination): dataclasses.replace(
                setting, bindings=[*self.bindings, *setting.bindings, *_bindings(combination)]
            )
            for name, setting in self.settings.items()
            for combination in self._combinations()
        }
        needed = [place for one in expected for place in one.members or [[one.setting, one.seed]]]
        return [
            Trial(name, by_name[name], seed, files.join(output_dir, name, f"seed_{seed}"))
            for name, seed in dict.fromkeys(map(tuple, needed))
        ]

    def _combinations(self) -> list[dict[str, Any]]:
        values = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, combination, strict=True)) for combination in values]

    def _expected(self, name: str, setting: Setting, combination: Mapping[str, Any], seed: int) -> Result:
        return Result(
            setting=_named(name, combination),
            seed=seed,
            num_groups=setting.num_groups,
            gin_files=list(setting.gin_files),
            bindings=[*self.bindings, *setting.bindings, *_bindings(combination)],
            measured_with=list(self.measured_with),
        )


def finished(
    expected: Sequence[Result], trials: Sequence[Trial], output_dir: str, measure: Measure
) -> Iterator[Result]:
    """Completes those results whose runs are done.

    Args:
        expected: The results that there are to be.
        trials: The runs that they need.
        output_dir: Directory of all runs.
        measure: Measures models.

    Yields:
        Each result as soon as it is complete.
    """
    done = {(trial.name, trial.seed): trial for trial in trials if trial.is_done()}
    commits = {(row["setting"], row["seed"]): row.get("commit") for row in run_matrix.rows(output_dir)}
    for one in expected:
        places = [tuple(place) for place in one.members or [[one.setting, one.seed]]]
        if not all(place in done for place in places):
            continue
        own = [done[place] for place in places]
        held_out = measure(own, one.measured_with)
        if one.members:
            held_out = {ENSEMBLE: held_out[ENSEMBLE]}
        yield dataclasses.replace(
            one,
            commit=commits.get(places[0]),
            curves=() if one.members else learning_curves.read_run(one.setting, own[0].workdir).curves,
            held_out=held_out,
        )


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
    return ", ".join([name, *_bindings(combination)]).replace("/", "_")

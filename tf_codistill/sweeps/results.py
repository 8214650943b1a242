"""What is kept of each run of a sweep: a line of JSON with its setting, its curves, and what was held out.

    {"setting": "lone", "seed": 1, "trained_with": {"gin_files": [...], "bindings": [...], ...},
     "members": [], "commit": "84666d6", "held_out": {"group 0": {"loss": 1.15, ...}}, "measured_with": [...],
     "curves": [{"group": 0, "steps": [100, ...], "secs": [20.1, ...], "losses": [...], "is_finished": true,
                 "figures": {"accuracy": [...]}}]}

    found = read("docs/results/cifar.jsonl")

An ensemble has members and no curves. Files of several sweeps may be put together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_codistill import files
from tf_codistill.learning_curves import Curve
from tf_codistill.run_matrix import Setting

_ARRAYS = {"steps": np.int64, "secs": np.float64, "losses": np.float64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a run, or of an ensemble of several.

    Attributes:
        setting: The name of its setting.
        seed: Its seed; of an ensemble that of its first member.
        trained_with: How it was trained, or each member of the ensemble.
        measured_with: Further bindings that it was measured with.
        commit: Which version of the code trained it, if that is known.
        members: Of an ensemble, setting and seed of each.
        curves: Of a run, the validations of each group.
        held_out: What was measured at the end: figures by name, of each group, and of the ensemble.
    """

    setting: str
    seed: int
    trained_with: Setting
    measured_with: Sequence[str] = ()
    commit: str | None = None
    members: Sequence[Sequence[Any]] = ()
    curves: Sequence[Curve] = ()
    held_out: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Setting and seed of each run that it is made of."""
        return [(setting, seed) for setting, seed in self.members or [(self.setting, self.seed)]]

    def is_of(self, other: Result) -> bool:
        """Whether it is what another describes: the same setting and seed, trained and measured alike."""
        return self._description() == other._description()

    def _description(self) -> str:
        return json.dumps([self.setting, self.seed, self.members, self._way()])

    def _way(self) -> str:
        return json.dumps([self.measured_with, dataclasses.asdict(self.trained_with)])


def check_alike(results: Sequence[Result]) -> None:
    """Checks that a mean over the seeds of a setting is one of runs that differ in nothing else.

    Args:
        results: Any results; of each setting and seed the last counts.

    Raises:
        ValueError: Two of a setting are of runs that were not trained and measured alike.
    """
    first: dict[str, Result] = {}
    for one in {(one.setting, one.seed): one for one in results}.values():
        if one._way() != first.setdefault(one.setting, one)._way():
            raise ValueError(
                f"results of {one.setting!r} with seeds {first[one.setting].seed} and {one.seed} are of runs "
                "that were not trained and measured alike; give one setting another name, or take the lines "
                "of the other out of the results"
            )


def read(path: str) -> list[Result]:
    """Reads results.

    Args:
        path: A file of JSON lines.

    Returns:
        The results in their order; none if there is no file.

    Raises:
        ValueError: A line is no result.
    """
    if not files.exists(path):
        return []
    lines = files.read(path).decode("utf-8").splitlines()
    return [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]


def write(path: str, results: Sequence[Result]) -> None:
    """Writes results; the file is replaced as a whole.

    Args:
        path: The file.
        results: The results.
    """
    files.write(path, b"".join(_line(one) for one in results))


def _line(result: Result) -> bytes:
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    values["trained_with"] = dataclasses.asdict(result.trained_with)
    values["curves"] = [_plain(curve) for curve in result.curves]
    return (json.dumps(values) + "\n").encode()


def _plain(curve: Curve) -> dict[str, Any]:
    values = {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve)}
    values |= {name: values[name].tolist() for name in _ARRAYS}
    return values | {"figures": {name: array.tolist() for name, array in curve.figures.items()}}


def _parsed(path: str, number: int, line: str) -> Result:
    try:
        values = json.loads(line)
        curves = tuple(
            Curve(
                **{
                    **curve,
                    **{name: np.array(curve[name], dtype) for name, dtype in _ARRAYS.items()},
                    "figures": {name: np.array(array) for name, array in curve["figures"].items()},
                }
            )
            for curve in values.pop("curves")
        )
        trained_with = Setting(**values.pop("trained_with"))
        return Result(**values, trained_with=trained_with, curves=curves)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"line {number} of {path!r} is no result of a sweep: {line[:80]!r}; delete it, and sweep again"
        ) from error

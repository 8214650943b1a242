"""What is to be compared, as somebody names it.

    predictions.parquet                  a file of predictions, see `prediction_files`
    runs/lone_1                          a run: its first group speaks for it
    runs/two_1/group_1                   another group of a run
    runs/two_1/group_0/student.keras     a saved model, of that run
    old=models/2024.keras                a saved model that shall be called "old"

Groups of one run taught each other. Whoever names two of them is told that their distance is not churn.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence

from tf_codistill import files, runs
from tf_codistill.reproducibility.prediction_files import KINDS, is_file_of_predictions

_NAMED = re.compile(r"([^/=]+)=(.+)")


@dataclasses.dataclass(frozen=True)
class PredictionSource:
    """One model of those to be compared.

    Attributes:
        name: What it is called.
        path: A file of predictions, a saved model, or the directory of a run.
        group: Of a directory, the group that is meant; None for a file.
        run: Names the run that trained it; None if that is not known.
    """

    name: str
    path: str
    group: int | None = None
    run: str | None = None

    @property
    def has_predictions(self) -> bool:
        """Whether it is a file of predictions, so that no model has to be loaded."""
        return self.group is None and is_file_of_predictions(self.path)

    @property
    def config_path(self) -> str | None:
        """The gin bindings that were in force when it was trained, if they are there."""
        if self.has_predictions:
            return None
        if self.group is None:
            path = files.join(os.path.dirname(self.path), "config.gin")
        else:
            path = runs.config_path(self.path, self.group)
        return path if files.exists(path) else None

    @property
    def note(self) -> str | None:
        """What a reader has to know of it."""
        groups = [] if self.group is None else runs.groups(self.path)
        if len(groups) < 2:
            return None
        return f"group {self.group} speaks for the run {self.name}, which has {len(groups)} groups"


def parse(arguments: Sequence[str]) -> list[PredictionSource]:
    """Finds out what is meant.

    Args:
        arguments: Paths, or name=path; at least two.

    Returns:
        A source for each, each with a name of its own.

    Raises:
        ValueError: There are fewer than two, something is not there, is of no kind that is known, or two have
            the same name.
    """
    if len(arguments) < 2:
        raise ValueError(
            f"{len(arguments)} of at least two things to compare are named; expected files of predictions "
            f"({', '.join(KINDS)}), saved models (.keras) or directories of runs"
        )
    named = [None if files.exists(one) else _NAMED.fullmatch(one) for one in arguments]
    given = [match.groups() if match else (None, one) for match, one in zip(named, arguments, strict=True)]
    paths = [path.rstrip("/") or path for _, path in given]
    short = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    names = [
        name or (brief if short.count(brief) == 1 else path)
        for (name, _), brief, path in zip(given, short, paths, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name!r} is named {names.count(name)} times; give each another name, as in first={paths[0]}"
            )
    return [_source(name, path) for name, path in zip(names, paths, strict=True)]


def _source(name: str, path: str) -> PredictionSource:
    if not files.exists(path):
        raise ValueError(f"there is nothing at {path!r}; expected predictions, a saved model or a run")
    if is_file_of_predictions(path):
        return PredictionSource(name, path)
    directory = os.path.dirname(path) if path.endswith(".keras") else path
    is_group = runs.GROUP.fullmatch(os.path.basename(directory))
    workdir = os.path.dirname(directory) or "." if is_group else directory
    if path.endswith(".keras"):
        return PredictionSource(name, path, run=_run_id(workdir) if is_group else None)
    groups = runs.groups(workdir)
    group = int(is_group[1]) if is_group else (groups or [0])[0]
    if group not in groups:
        raise ValueError(
            f"{path!r} is no run in which a group has been trained; expected a run, its group_0, a saved "
            f"model (.keras) or predictions ({', '.join(KINDS)})"
        )
    return PredictionSource(name, workdir, group, _run_id(workdir))


def _run_id(workdir: str) -> str:
    """The name of a run that may never have been given one, which only runs that exchange are."""
    path = files.join(workdir, "run.json")
    return runs.run_id(workdir) if files.exists(path) else os.path.realpath(workdir)

"""What was found, on disk: a line for each round, and TensorBoard's scalars by step.

    <workdir>/evaluation/
        metrics.jsonl                  lines of kind ``validation``, as `runs` has them
        tensorboard/group_0/...        a run of TensorBoard for each group, and one for the ensemble

    {"kind": "validation", "step": 1350, "time": 1700000000.0, "secs": 4.1, "faults": 0,
     "group_0/snapshot": "snapshot_1700000000_000027", "group_0/step": 1350, "group_0/loss": 3.71, ...,
     "group_1/snapshot": "snapshot_1700000003_000026", "group_1/step": 1300, "group_1/loss": 3.70, ...,
     "ensemble/loss": 3.61, ..., "ensemble/disagreement": 0.21}

The step of a line, and of the ensemble, is that of the group that is farthest. A line comes last in its
round: a round without one is made again, with the same figures at the same steps.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_codistill import evaluation, files, runs
from tf_codistill.exchange.snapshot import Ref
from tf_codistill.following.members import Followed

_SNAPSHOT = re.compile(r"group_(\d+)/snapshot")


class Findings:
    """The directory in which they are kept.

    Attributes:
        path: The file of lines.
        scored: The newest snapshot of each group that has a line.
    """

    def __init__(self, directory: str) -> None:
        """Makes the directory, and reads what has been scored before.

        Args:
            directory: The directory.

        Raises:
            ValueError: It cannot be written to, or holds other lines.
        """
        self._directory = files.make_directory(directory)
        self.path = files.join(directory, "metrics.jsonl")
        self._writers: dict[str, Any] = {}
        self.scored: dict[int, Ref] = {}
        for line in runs.read_metrics(self.path):
            for name, value in line.items():
                group, snapshot = _SNAPSHOT.fullmatch(name), runs.SNAPSHOT.fullmatch(str(value))
                if group and snapshot:
                    self._note(Ref(int(group[1]), int(snapshot[1]), int(snapshot[2])))

    def is_new(self, one: Followed) -> bool:
        """Whether the snapshot of a group has no line yet."""
        return one.held is not None and one.held > self.scored.get(one.group, Ref(one.group))

    def add(
        self, members: Sequence[Followed], rows: Mapping[str, evaluation.Row], secs: float, faults: int
    ) -> None:
        """Keeps what came out of a round.

        Args:
            members: The groups whose snapshots were scored.
            rows: Figures of each, and of the ensemble, as `evaluation` names them.
            secs: How long it took.
            faults: How many there were since the line before.

        Raises:
            OSError: It cannot be written.
        """
        figures = {name: _numbers(row) for name, row in rows.items()}
        step = max(one.step for one in members)
        steps = {runs.ENSEMBLE: step, **{one.name: one.step for one in members if self.is_new(one)}}
        for name in steps.keys() & figures.keys():
            self._draw(name, steps[name], figures[name])
        line: dict[str, Any] = {"time": round(time.time(), 3), "secs": round(secs, 3), "faults": faults}
        for one in members:
            _, incarnation, serial = one.held or Ref(one.group)
            told = {"snapshot": runs.snapshot_name(incarnation, serial), "step": one.step}
            figures[one.name] = told | figures[one.name]
        for name, values in figures.items():
            line |= {f"{_plain(name)}/{figure}": value for figure, value in values.items()}
        runs.append_metrics(self.path, "validation", step, **line)
        for one in members:
            self._note(one.held or Ref(one.group))

    def _note(self, ref: Ref) -> None:
        self.scored[ref.peer] = max(ref, self.scored.get(ref.peer, ref))

    def _draw(self, name: str, step: int, figures: Mapping[str, float]) -> None:
        """Scalars with names such as `MetricsLog` gives those of a validation."""
        if name not in self._writers:
            place = files.join(self._directory, "tensorboard", _plain(name))
            self._writers[name] = tf.summary.create_file_writer(place)
        with self._writers[name].as_default(step):
            for figure, value in figures.items():
                tf.summary.scalar(f"validation/{figure}", value)
        self._writers[name].flush()


def _numbers(row: evaluation.Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, str)}


def _plain(name: str) -> str:
    return name.replace(" ", "_")

"""Warnings of teachers that are of no use.

    epoch ends, logs {"teacher_kl": 3e-5, "teacher_task_loss": 8.1, "chance_task_loss": 6.9, ...}
    "group 0: the teacher from group 1 is worse than chance: task loss 8.1, 6.9 with equal probabilities"

The numbers are those of `training.measures`. Each condition is warned of once, and again only after
it has cleared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from absl import logging

from tf_codistill import distribution

IDENTICAL_KL = 1e-4


class Watch(keras.callbacks.Callback):
    """Warns of students that have nothing to learn, and of teachers that should not teach; `fit` adds it."""

    def __init__(self) -> None:
        """Has warned of nothing yet."""
        super().__init__()
        self._warned: set[tuple[str, str]] = set()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Warns, if need be."""
        if not logs or not distribution.is_chief(self.model.distribute_strategy):
            return
        learners, names = self.model.teachers.learners(), self.model.teachers.names()
        if len(learners) == 1:
            self._look(learners[0], logs, names)
            return
        for number, learner in enumerate(learners):
            parts = {part: f"student_{number}_{part}" for part in ("teacher_agreement", "teacher_kl")}
            self._look(learner, {part: logs[name] for part, name in parts.items()}, [])
        everybody = {name: value for name, value in logs.items() if name != "teacher_agreement"}
        self._look("students", everybody, names)

    def _look(self, who: str, logs: Mapping[str, float], teachers: Sequence[str]) -> None:
        for condition, sentence in _conditions(logs, teachers):
            if sentence is None:
                self._warned.discard((who, condition))
            elif (who, condition) not in self._warned:
                self._warned.add((who, condition))
                logging.warning("%s: %s", who, sentence)


def _conditions(logs: Mapping[str, float], teachers: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Conditions with what is wrong, or None if nothing is; one that was not measured is left out."""
    if logs.get("teacher_agreement", 0.0) > 0:  # 0 is also the mean of nothing
        kl = logs["teacher_kl"]
        wrong = (
            f"teachers and student have become nearly identical, KL {kl:.2g} nats; there is no more to learn "
            "from these teachers"
        )
        yield "identical", wrong if kl < IDENTICAL_KL else None
    chance = logs.get("chance_task_loss", 0.0)
    for index, teacher in enumerate(teachers):
        name = "teacher_task_loss" if len(teachers) == 1 else f"teacher_{index}_task_loss"
        task_loss = logs.get(name, 0.0)
        if chance > 0 and task_loss > 0:
            wrong = (
                f"the teacher from {teacher} is worse than chance: task loss {task_loss:.3g}, "
                f"{chance:.3g} with equal probabilities"
            )
            yield f"chance {teacher}", wrong if task_loss > chance else None
    if "dropped_teachers" in logs:
        dropped = logs["dropped_teachers"]
        wrong = (
            f"{dropped:.2g} teachers of a student dropped in the mean over steps, because their predictions "
            "are not finite; training goes on without them until they are"
        )
        yield "dropped", wrong if dropped > 0 else None

"""A run that nobody trains: groups publish what a test tells them to, and are followed meanwhile.

run = Run(tmp_path, toy_clicks.Clicks())
run.publish(0, step=10)                              a snapshot of random weights, returned as a member
run.follow(lambda: run.publish(0, 20), run.finish)   each is done when there is nothing left to score
run.lines()                                          what has been written, a dictionary for each round
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tests import toy_runs
from tf_codistill import evaluation, recurrent_state, runs, weights
from tf_codistill.exchange.store import Store
from tf_codistill.following import rounds
from tf_codistill.tasks.base import Task

NUM_STEPS = 100


class Run:
    """A run below a directory."""

    def __init__(self, directory: pathlib.Path, task: Task, num_groups: int = 2, **settings: Any) -> None:
        self.task, self.num_groups, self._settings = task, num_groups, settings
        self.workdir = directory / "run"
        self.exchange = self.workdir / "exchange"
        self.stores: dict[int, Store] = {}
        for group in range(num_groups):
            toy_runs.log(self.workdir, group, toy_runs.start(NUM_STEPS))

    def publish(self, group: int, step: int, seed: int = 0) -> evaluation.Member:
        """Publishes random weights, and of a model with a memory a random state."""
        model, source = (
            self.task.make_model(self.task.batch_size, group),
            np.random.default_rng([group, seed, step]),
        )
        model.set_weights([source.normal(size=one.shape) for one in model.get_weights()])
        states = recurrent_state.variables(model)
        lanes = [source.uniform(-1, 1, one.shape).astype("float32") for one in states]
        described = weights.description(model)
        if group not in self.stores:
            self.restart(group, step, described)
        self.stores[group].publish(step, described, model.get_weights(), lanes)
        return evaluation.Member(model, lanes or None)

    def restart(self, group: int, step: int, described: weights.Description) -> None:
        """A group begins, or begins again at a step."""
        self.stores[group] = Store(str(self.exchange), group, **self._settings)
        self.stores[group].announce(described, step)

    def finish(self) -> None:
        """All groups come to their end."""
        for group in range(self.num_groups):
            toy_runs.log(self.workdir, group, toy_runs.end(NUM_STEPS))

    def newest(self, group: int) -> pathlib.Path:
        """The directory of the snapshot that was published last."""
        return max((self.exchange / f"group_{group}").glob("snapshot_*"))

    def follow(self, *meanwhile: Callable[[], object], **settings: Any) -> list[str]:
        """Follows it, and does what is next in `meanwhile` each time that it waits; returns what it shows."""
        shown: list[str] = []
        acts = iter(meanwhile)

        def sleep(secs: float) -> None:
            del secs
            next(acts, _waits_in_vain)()

        rounds.follow(self.task, str(self.workdir), **{"show": shown.append, "sleep": sleep, **settings})
        return shown

    def lines(self) -> list[dict[str, Any]]:
        """What has been written."""
        path = os.path.join(runs.evaluation_dir(str(self.workdir)), "metrics.jsonl")
        return runs.read_metrics(path, "validation")

    def steps(self) -> list[list[int | None]]:
        """Of each line the steps of the groups."""
        return [
            [line.get(f"group_{group}/step") for group in range(self.num_groups)] for line in self.lines()
        ]


def _waits_in_vain() -> None:
    raise AssertionError("there is nothing to come, and it waits all the same")

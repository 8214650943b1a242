"""A stage that shows where and when its tasks run."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from tf_codistill import files
from tf_codistill.jobs.stages import Advance, Stage


@dataclasses.dataclass(frozen=True)
class ToyStage(Stage):
    """Its tasks are called by a number, their size; those below 0 cannot be done, those above 99 fail."""

    title = "trying"
    unit = "tries"
    units_per_process = 1

    tasks: tuple[str, ...]
    secs: float = 0.0

    def sizes(self) -> Mapping[str, int]:
        return {task: abs(int(task)) for task in self.tasks}

    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        files.write(self.path(task, ".pid"), str(os.getpid()).encode("ascii"))
        time.sleep(self.secs)
        if int(task) > 99:
            raise ValueError(f"task {task} is too much")
        advance(abs(int(task)))
        return {"task": task, "pid": os.getpid()} if int(task) >= 0 else None

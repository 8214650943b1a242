"""A stage: independent tasks whose results are committed files.

    <work_dir>/
        read-3f0c.../                 a folder for each stage, named by what its results depend on
            <task>.rows               what a task writes
            <task>.json               its facts, written last: the task is done
        write-91ab.../
        ...

A task gives the same bytes whoever runs it and however often, so it does no harm to run one twice, and one
whose facts are there need not run again. An engine runs the others.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from tf_codistill import files
from tf_codistill.jobs.progress import Progress

Advance = Callable[[int], None]
"""Is told how much more of a task has been done."""

_FACTS = ".json"


class Engine(Protocol):
    """Runs tasks, somewhere, in any order."""

    def run(self, stage: Stage, tasks: Sequence[str], advance: Advance) -> None:
        """Runs tasks of a stage and returns when all are done.

        Args:
            stage: What is called with each task.
            tasks: Their names.
            advance: Told of what has been done meanwhile, in units of the stage.
        """


@dataclasses.dataclass(frozen=True)
class Stage(abc.ABC):
    """One of the steps of a job, a dataclass. Can be pickled: an engine may send it anywhere.

    Attributes:
        directory: The folder of its results.
    """

    title: ClassVar[str]
    """What it does, as shown to people."""
    unit: ClassVar[str]
    """What its size is counted in."""
    units_per_process: ClassVar[int]
    """For fewer units it is not worth while to start a process."""
    preload: ClassVar[Sequence[str]] = ()
    """Modules that its processes find loaded, and those of later stages: the first to start any decides."""

    directory: str

    @abc.abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Its tasks, by name, with their sizes in units."""

    @abc.abstractmethod
    def do(self, task: str, advance: Advance) -> Mapping[str, Any] | None:
        """Does a task.

        Args:
            task: Its name.
            advance: Told of each unit.

        Returns:
            Its facts; None if the task cannot be done, which `do` has noted.
        """

    def __call__(self, task: str, advance: Advance) -> None:
        """Does a task and commits its facts."""
        facts = self.do(task, advance)
        if facts is not None:
            files.write_json(self.path(task, _FACTS), facts)

    def path(self, task: str, ending: str) -> str:
        """Path of a file that holds results of a task."""
        return files.join(self.directory, task + ending)

    def done(self) -> set[str]:
        """Names of the tasks whose results are there."""
        return {name.removesuffix(_FACTS) for name in files.names(self.directory) if name.endswith(_FACTS)}

    def facts(self, task: str) -> dict[str, Any]:
        """What a task that is done has to say."""
        return files.read_json(self.path(task, _FACTS))


def run(stage: Stage, engine: Engine) -> dict[str, dict[str, Any]]:
    """Runs those tasks of a stage that are not done yet.

    Args:
        stage: The stage.
        engine: What runs its tasks.

    Returns:
        The facts of each task, without those that could not be done.
    """
    sizes = stage.sizes()
    if not sizes:
        return {}
    files.make_directory(stage.directory)
    done = stage.done()
    num_units, num_done = sum(sizes.values()), 0
    with Progress(stage.title, num_units, stage.unit) as progress:

        def advance(number: int) -> None:
            nonlocal num_done
            num_done += number
            if num_done > num_units:  # some sizes were not known
                progress.expect(num_done)
            progress.advance(number)

        advance(sum(size for task, size in sizes.items() if task in done))
        waiting = [task for task in sizes if task not in done]
        if waiting:
            engine.run(stage, waiting, advance)
    done = stage.done()
    return {task: stage.facts(task) for task in sizes if task in done}


def fingerprint(*values: Any) -> str:
    """A short name for anything that results depend on.

    Args:
        *values: What JSON takes.

    Returns:
        16 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode("utf-8")).hexdigest()[:16]

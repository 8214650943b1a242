"""What a job has written into a directory in which others may keep something, too.

    corpus.work/names-written/
        train-00000-of-00004.tokens     without content; there before what it names
    corpus/
        train-00000-of-00004.tokens     the job's own: it may overwrite it and take it away
        thesis.tex                      somebody's, which no job touches

    written = Written.beside("corpus")
    with written.opened():                                          nothing of anybody is in the way
        files.write(written.claim("train-00000-of-00004.tokens"), content)
        written.remove_others(["train-00000-of-00004.tokens"])      what an earlier, unfinished job has left

A name is recorded before anything is written under it, so that a job that was killed at any moment has left
nothing that is not known; each by a file of its own, so that any number of processes may do it. With a name
goes what `files.writing` writes aside for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import Self

from tf_codistill import files

RECORD = "names-written"
"""Name of the directory of the names, in that of the work."""

_ASIDE = re.compile(r"\.[0-9a-f]{32}\.partial$")
# What a kill leaves of `files.make_directory`, which records nothing.
_PROBE = re.compile(r"\.probe-[0-9a-f]{32}(?:\.[0-9a-f]{32}\.partial)?")


def work_dir(output_dir: str) -> str:
    """The directory of what is not finished yet.

    Args:
        output_dir: Directory of the results.

    Returns:
        ``<output_dir>.work``.
    """
    # The absolute path, since "." has its name from elsewhere.
    is_remote = files.is_remote(output_dir)
    return (output_dir.rstrip("/") if is_remote else os.path.abspath(output_dir)) + ".work"


def remove_empty(directories: Iterable[str]) -> None:
    """Removes those of some directories that hold nothing."""
    for directory in directories:
        if files.is_directory(directory) and not files.names(directory):
            files.remove(directory)


@dataclasses.dataclass(frozen=True)
class Written:
    """The names that a job has written into a directory.

    Attributes:
        directory: The directory.
        record_dir: Holds an empty file for each name.
    """

    directory: str
    record_dir: str

    @classmethod
    def beside(cls, directory: str) -> Self:
        """With the names in the directory of the work.

        Args:
            directory: Directory of the results.

        Returns:
            What was written into it by jobs that have not been finished.
        """
        return cls(directory, files.join(work_dir(directory), RECORD))

    def check(self) -> None:
        """Makes the directory and that of the work, and checks that nothing is in the way.

        Raises:
            ValueError: One of them cannot be written to, or there is something that no job is recorded to
                have written.
        """
        files.make_directory(self.directory)
        for name in sorted(set(files.names(self.directory)).difference(self._own())):
            if not _PROBE.fullmatch(name):
                raise ValueError(
                    f"{self.directory!r} holds {name!r}, which nobody is recorded to have written for this; "
                    "name an empty directory, or take it away"
                )
        files.make_directory(os.path.dirname(self.record_dir))

    def open(self) -> None:
        """Does what `check` does, and makes the directory of the names, before any of them is claimed.

        Raises:
            ValueError: A directory cannot be written to, or there is something in the way.
        """
        self.check()
        files.make_directory(self.record_dir)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Does what `open` does; directories that it made and that hold nothing go again if the job fails.

        Raises:
            ValueError: A directory cannot be written to, or there is something in the way.
        """
        absent = self.absent()
        try:
            self.open()
            yield
        except Exception:
            remove_empty(absent)
            raise

    def absent(self) -> list[str]:
        """Those directories that `open` makes and that are not there, each before the one that it is in."""
        made = self.directory, self.record_dir, os.path.dirname(self.record_dir)
        return [directory for directory in made if not files.exists(directory)]

    def claim(self, name: str) -> str:
        """Records a name.

        Args:
            name: What is about to be written into the directory, a file or a directory.

        Returns:
            Its path.

        Raises:
            ValueError: Something of that name is there already, and not by this job.
            OSError: The name cannot be recorded.
        """
        path, record = files.join(self.directory, name), files.join(self.record_dir, name)
        # In this order: another process of the job records the name before it writes.
        if files.exists(path) and not files.exists(record):
            raise ValueError(
                f"{self.directory!r} holds {name!r}, which this job has not written and would overwrite; "
                "take it away and run this again"
            )
        files.write(record, b"")
        return path

    def remove_others(self, names: Iterable[str]) -> None:
        """Removes what was written and is not wanted, such as what an unfinished job has left.

        Args:
            names: What stays. What nobody recorded stays anyway.
        """
        for name in self._own().difference(names):
            files.remove(files.join(self.directory, name))

    def forget(self) -> None:
        """Removes the record, and the directory of the work if nothing else is in it."""
        files.remove(self.record_dir)
        if not files.names(os.path.dirname(self.record_dir)):
            files.remove(os.path.dirname(self.record_dir))

    def _own(self) -> set[str]:
        """What is in the directory and recorded, or on its way to what is recorded."""
        recorded = set(files.names(self.record_dir))
        return {
            name
            for name in files.names(self.directory)
            if name in recorded or _ASIDE.sub("", name) in recorded
        }

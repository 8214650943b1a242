"""Files of made rows, by as many processes as there are cores, to be continued where one has ended.

    clicks/
        clicks-00000-of-00010.txt       rows 0 to n / 10 in the Criteo layout
        ...
        manifest.json                   settings, rows, clicks and best possible log loss, whole and by file

Rows are a function of the seed and their number, so that files of any number have the same rows, and more
rows begin with the same ones. The last file can be the test: its best possible log loss is in the manifest.
"""

from __future__ import annotations

import dataclasses
import gzip
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tf_codistill import files
from tf_codistill.example_tables.synthetic_clicks import BLOCK_ROWS, SyntheticClicks, entropies
from tf_codistill.jobs import stages

_KIND = "synthetic clicks"


@dataclasses.dataclass(frozen=True)
class RowsStage(stages.Stage):
    """Writes the files.

    Attributes:
        directory: Where it notes which files are done.
        output_dir: Directory of the files.
        clicks: The function that the rows are made of.
        num_rows: Rows in all files together.
        num_files: How many files there are.
        compressed: Whether they are gzip files.
    """

    title: ClassVar[str] = "making rows"
    unit: ClassVar[str] = "rows"
    units_per_process: ClassVar[int] = 200_000

    output_dir: str
    clicks: SyntheticClicks
    num_rows: int
    num_files: int
    compressed: bool

    def first_row(self, number: int) -> int:
        """Number of the first row of a file."""
        return self.num_rows * number // self.num_files

    def sizes(self) -> Mapping[str, int]:
        """The files with their rows."""
        ending = ".txt.gz" if self.compressed else ".txt"
        return {
            f"clicks-{n:05}-of-{self.num_files:05}{ending}": self.first_row(n + 1) - self.first_row(n)
            for n in range(self.num_files)
        }

    def do(self, task: str, advance: stages.Advance) -> Mapping[str, Any]:
        """Writes a file."""
        number = list(self.sizes()).index(task)
        num_clicks, nats = 0, 0.0
        with files.writing(files.join(self.output_dir, task)) as file:
            for first in range(self.first_row(number), self.first_row(number + 1), BLOCK_ROWS):
                rows = self.clicks.rows(first, min(BLOCK_ROWS, self.first_row(number + 1) - first))
                content = self.clicks.text(rows)
                # Members of a gzip file one after the other are a gzip file; without a time it is the same.
                file.write(gzip.compress(content, 6, mtime=0) if self.compressed else content)
                num_clicks += int(rows.labels.sum())
                nats += float(np.sum(entropies(rows.probabilities)))
                advance(len(rows.labels))
        num_rows = self.sizes()[task]
        return {"num_rows": num_rows, "num_clicks": num_clicks, "best_log_loss": nats / num_rows}


def write(
    output_dir: str,
    num_rows: int,
    clicks: SyntheticClicks,
    engine: stages.Engine,
    num_files: int = 10,
    compressed: bool = False,
) -> dict[str, Any]:
    """Writes made rows; what is there already is not written again.

    Args:
        output_dir: Directory of the files.
        num_rows: Rows in all files together.
        clicks: The function that they are made of.
        engine: Who writes the files.
        num_files: How many files there are.
        compressed: Whether they are gzip files.

    Returns:
        The manifest.

    Raises:
        ValueError: A number is out of range, or the directory holds other rows.
    """
    if num_files < 1 or num_rows < num_files:
        raise ValueError(
            f"num_rows is {num_rows} and num_files {num_files}; expected at least one file and a row in each"
        )
    made: dict[str, Any] = {"kind": _KIND, **dataclasses.asdict(clicks), "num_rows": num_rows}
    made |= {"num_files": num_files, "compressed": compressed}
    if (manifest := there(output_dir, _KIND)) is not None:
        for name, value in made.items():
            if manifest.get(name) != value:
                raise ValueError(
                    f"{name} of the rows in {output_dir!r} is {manifest.get(name)!r}, not {value!r}; name "
                    "another directory, or delete this one"
                )
        return manifest
    work_dir = output_dir.rstrip("/") + ".work"
    key = stages.fingerprint(made)
    files.make_directory(output_dir)
    stage = RowsStage(files.join(work_dir, key), output_dir, clicks, num_rows, num_files, compressed)
    facts = stages.run(stage, engine)
    shares = [one["num_rows"] / num_rows for one in facts.values()]
    best = sum(share * one["best_log_loss"] for share, one in zip(shares, facts.values(), strict=True))
    whole = {"num_clicks": sum(one["num_clicks"] for one in facts.values()), "best_log_loss": best}
    manifest = files.commit(output_dir, {**made, **whole, "by_file": facts})
    files.remove(work_dir)
    return manifest


def summary(manifest: Mapping[str, Any], directory: str) -> str:
    """What has been made, in a sentence.

    Args:
        manifest: What `write` returned.
        directory: Where it is.

    Returns:
        One line.
    """
    last = list(manifest["by_file"].values())[-1]
    return (
        f"{directory}: {manifest['num_rows']:,} rows in {len(manifest['by_file'])} files, "
        f"{manifest['num_clicks'] / manifest['num_rows']:.2%} clicked; best possible log loss "
        f"{manifest['best_log_loss']:.4f}, of the last file {last['best_log_loss']:.4f}"
    )


def there(directory: str, kind: str) -> dict[str, Any] | None:
    """The manifest of what is in a directory already; None if nothing is.

    Args:
        directory: The directory.
        kind: What is to be in it, as its manifest calls that.

    Returns:
        The manifest.

    Raises:
        ValueError: It holds something else, or something is missing.
    """
    if (manifest := files.read_manifest(directory)) is not None:
        if manifest.get("kind") != kind:
            raise ValueError(f"{directory!r} holds something else than {kind}; name another directory")
        files.verify(directory, manifest, contents=False)
    return manifest


def say_if_there(directory: str) -> None:
    """Says on standard error that a directory is complete already, if it is."""
    if files.read_manifest(directory) is not None:
        print(f"{directory!r} is there already", file=sys.stderr)

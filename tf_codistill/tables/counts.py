"""What became of the rows, in numbers and words.

    table data/clicks: 45,840,617 rows read
      rejected: not_a_number                 12
      kept                           45,840,605
      train                          36,672,485 rows, 25.62 % of them 1
      ...

Nothing disappears in silence: read = kept + rejected, by kind.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tf_codistill import files
from tf_codistill.tables.preprocessing import CategoryColumn, NumericColumn
from tf_codistill.tables.schema import TableSettings
from tf_codistill.tables.shards import PARTS
from tf_codistill.tables.stages import ScanStage

Facts = Mapping[str, Mapping[str, Any]]
"""What the tasks of a stage have to say, by task."""


def of_scanned(facts: Facts) -> dict[str, Any]:
    """The sums of what was counted.

    Args:
        facts: What the tasks of `ScanStage` have to say.

    Returns:
        Rows ``read``, ``kept``, ``rejected`` by kind, and ``short``: kept ones that lack fields at
        their end.
    """
    rejected: collections.Counter[str] = collections.Counter()
    for task in facts.values():
        rejected.update(task["bad"])
    return {
        "read": sum(task["lines"] for task in facts.values()),
        "kept": sum(task["rows"] for task in facts.values()),
        "rejected": dict(sorted(rejected.items())),
        "short": sum(task["short"] for task in facts.values()),
    }


def check_scanned(scan: ScanStage, facts: Facts, rejected: str) -> None:
    """Checks that enough of what was scanned can be used.

    Args:
        scan: The stage.
        facts: What its tasks have to say.
        rejected: Path of the list of rejected rows.

    Raises:
        ValueError: A file is damaged or has no rows, too many rows are rejected, or there are more or fewer
            than expected.
    """
    if damages := [task["damage"] for task in facts.values() if task["damage"]]:
        more = f" ({len(damages)} files are damaged)" if len(damages) > 1 else ""
        raise ValueError(damages[0] + more)
    read: collections.Counter[str] = collections.Counter()
    for task, segment in scan.segments.items():
        read[segment.path] += facts[task]["lines"]
    if empty := [path for path, number in read.items() if not number]:
        raise ValueError(f"file {empty[0]!r} has no rows; leave it out, or get it again")
    sums, settings = of_scanned(facts), scan.settings
    number = sum(sums["rejected"].values())
    if number > settings.max_bad_share * sums["read"]:
        first = json.loads(files.read(rejected).split(b"\n", 1)[0])
        raise ValueError(
            f"{number:,} of {sums['read']:,} rows are rejected ({_listed(sums['rejected'])}), more than "
            "max_bad_share "
            f"= {settings.max_bad_share}; the first is line {first['line']:,} of {first['file']!r}: "
            f"{first['reason']}. See {rejected!r}; correct the rows, the schema, or allow more"
        )
    if settings.expected_rows not in (None, sums["read"]):
        raise ValueError(
            f"there are {sums['read']:,} rows, but expected_rows is {settings.expected_rows:,}; a file is "
            "missing, "
            "cut off or given too often"
        )


def warnings(
    settings: TableSettings, numeric: Sequence[NumericColumn], categorical: Sequence[CategoryColumn]
) -> list[str]:
    """What a fitted preprocessing should not be like.

    Args:
        settings: How it was fitted.
        numeric: Its numbers.
        categorical: Its categories.

    Returns:
        Sentences.
    """
    found = [
        f"column {column.name!r} has the same number in all training rows, or none at all"
        for column in numeric
        if column.deviation == 1.0 and not column.boundaries and settings.num_buckets > 1
    ]
    return found + [
        f"column {column.name!r} has no category that occurs {settings.min_count} times in training"
        for column in categorical
        if not column.size
    ]


def summary(manifest: Mapping[str, Any], directory: str) -> str:
    """What became of the rows, for people.

    Args:
        manifest: That of the table.
        directory: Where it is.

    Returns:
        Lines.
    """
    counts = manifest["counts"]
    rows = [(f"rejected: {kind}", number, "") for kind, number in counts["rejected"].items()]
    rows += [("kept", counts["kept"], "")]
    if counts["short"]:
        rows += [("of them without last fields", counts["short"], "")]
    for name in filter(manifest["parts"].get, PARTS):
        part = manifest["parts"][name]
        rows.append(
            (name, part["num_rows"], f" rows, {part['num_positive'] / part['num_rows']:.2%} of them 1")
        )
    lines = [f"table {directory}: {counts['read']:,} rows read"]
    lines += [f"  {name:<28}{number:>14,}{more}" for name, number, more in rows]
    sizes = manifest["cardinalities"]
    lines += [f"  {manifest['num_numeric']} numbers, {len(sizes)} columns of {sum(sizes):,} categories"]
    return "\n".join(lines + [f"  warning: {sentence}" for sentence in counts["warnings"]])


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in kinds.items())

"""From files of rows to a table that training reads.

    files -> scan -> (fit) -> vocabulary -> encode -> manifest.json
              |                               |
              +----------- counts ------------+        read = kept + rejected, by kind, always

    manifest = prepare(sources.matching(["day_*.gz"]), "clicks", settings, engines.Local())
    manifest["counts"]     {"read": 45840617, "kept": 45840617, "rejected": {}, "short": 0}

Each stage is a list of tasks (`jobs.stages`), which an engine runs; their results are in ``<table>.work``
until the table is finished: whoever starts again after being stopped goes on from there. The same files and
settings give the same bytes, whoever does the work.

Rows keep their order, which is that of time: training has the first ones, validation those after them, the
test the last. Everything that is fitted is fitted on the training rows alone.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf_codistill import files
from tf_codistill.jobs import stages, written
from tf_codistill.jobs.engines import Local
from tf_codistill.jobs.written import Written
from tf_codistill.tables import counts, fitting, shards
from tf_codistill.tables.preprocessing import CategoryColumn, Preprocessing
from tf_codistill.tables.schema import TableSettings
from tf_codistill.tables.sources import Segment, plan
from tf_codistill.tables.stages import BAD, ChangedFileError, EncodeStage, ScanStage, VocabularyStage

Pieces = dict[str, list[tuple[str, int, int]]]
"""By segment, its rows by part: name of the part, first row in the segment, first row after them."""

_VERSION = 1  # counts up when the results of a stage change although its settings do not
_WORK = re.compile(
    rf"(?:scan|fit|vocabulary|fitted|encode)-[0-9a-f]{{16}}|rejected\.jsonl|{written.RECORD}|\.probe-[0-9a-f]{{32}}.*"
)


@dataclasses.dataclass(frozen=True)
class _Work:
    settings: TableSettings
    segments: Mapping[str, Segment]
    engine: stages.Engine
    output: Written

    @property
    def directory(self) -> str:
        return written.work_dir(self.output.directory)


def prepare(
    paths: Sequence[str],
    output_dir: str,
    settings: TableSettings,
    engine: stages.Engine | None = None,
    *,
    validation_paths: Sequence[str] = (),
    test_paths: Sequence[str] = (),
    preprocessing: str | None = None,
) -> dict[str, Any]:
    """Prepares a table, unless `output_dir` holds it already.

    Args:
        paths: Files in the order of time. All are for training where others are named for the rest, otherwise
            shares of their rows are held out.
        output_dir: Directory of the table. What is not finished is kept beside it, in ``<output_dir>.work``.
        settings: Columns, vocabularies and shares.
        engine: What runs the tasks; by default this process.
        validation_paths: Files for validation.
        test_paths: Files for the test.
        preprocessing: Directory of a fitted preprocessing to use; by default one is fitted.

    Returns:
        The manifest of the table.

    Raises:
        ValueError: A file is empty or no table, too many rows are rejected, a part would be empty, a
            vocabulary too large, or `output_dir` holds something else.
        FileNotFoundError: A file does not exist.
    """
    if not paths and not (preprocessing and (validation_paths or test_paths)):
        raise ValueError("no file with rows is named; name at least one")
    is_by_position = not (validation_paths or test_paths)
    parts = {"" if is_by_position else "train": paths, "validation": validation_paths, "test": test_paths}
    fitted = Preprocessing.load(preprocessing) if preprocessing else None
    if fitted is not None:
        fitted.check_columns(settings.schema)
    segments = plan(parts, settings)
    description = _describe(settings, segments, fitted)
    if (manifest := _finished(output_dir, description)) is not None:
        return manifest
    work = _Work(settings, segments, engine or Local(num_processes=1), Written.beside(output_dir))
    try:
        with work.output.opened():
            manifest = _prepare(work, description, fitted)
    except (OSError, ValueError):
        # Perhaps another process has finished the same table and taken the work away.
        if (manifest := _finished(output_dir, description)) is None:
            raise
        return manifest
    for name in filter(_WORK.fullmatch, files.names(work.directory)):
        files.remove(files.join(work.directory, name))
    if not files.names(work.directory):
        files.remove(work.directory)
    return manifest


def _prepare(work: _Work, description: Mapping[str, Any], fitted: Preprocessing | None) -> dict[str, Any]:
    """The stages, one after the other."""
    settings, segments = work.settings, work.segments
    key = stages.fingerprint(_VERSION, description)
    scan = ScanStage(files.join(work.directory, f"scan-{key}"), settings, segments, {})
    facts = stages.run(scan, work.engine)
    counts.check_scanned(scan, facts, _write_rejected(scan, facts, work.directory))
    pieces = _pieces(segments, facts, settings)
    _check_parts(pieces, settings, segments, fitted is not None)

    checksums = {task: facts[task]["sha256"] for task in segments}
    key = stages.fingerprint(key, checksums)
    warnings: list[str] = []
    if fitted is None:
        fitted, warnings = _fit(work, key, scan, facts, pieces)
    encode = EncodeStage(
        files.join(work.directory, f"encode-{key}"),
        *(settings, segments, pieces, checksums, fitted.directory, work.output),
    )
    try:
        encoded = stages.run(encode, work.engine)
    except ChangedFileError:
        files.remove(scan.directory)
        raise
    for name in (*fitted.files(), shards.REJECTED, shards.PREPARATION, files.MANIFEST):
        work.output.claim(name)
    fitted.copy_to(work.output.directory)
    _write_rejected(scan, facts, work.output.directory)
    files.write_json(files.join(work.output.directory, shards.PREPARATION), description)
    return _commit(work, fitted, encoded, {**counts.of_scanned(facts), "warnings": warnings})


def _fit(
    work: _Work, key: str, scan: ScanStage, facts: counts.Facts, pieces: Pieces
) -> tuple[Preprocessing, list[str]]:
    """Fits a preprocessing on the training rows."""
    settings = work.settings
    training = {task: stop for task, one in pieces.items() for part, _, stop in one if part == "train"}
    partial = {task: stop for task, stop in training.items() if stop < facts[task]["rows"]}
    segments = {task: work.segments[task] for task in partial}
    fit = ScanStage(files.join(work.directory, f"fit-{key}"), settings, segments, partial)
    fit_facts = stages.run(fit, work.engine)
    stems, counted = [], []
    for task in training:
        stage, found = (fit, fit_facts[task]) if task in partial else (scan, facts[task])
        stems.append(stage.path(task, ""))
        counted += stage.pieces(task, found)
    numeric = fitting.numeric_columns(settings, stems)
    vocabulary = VocabularyStage(files.join(work.directory, f"vocabulary-{key}"), settings, counted)
    words = stages.run(vocabulary, work.engine)
    categorical = []
    for index, name in enumerate(settings.schema.categorical):
        buckets, task = settings.buckets_of(name), f"{index:02d}"
        if buckets is not None:
            categorical.append(CategoryColumn(name, buckets))
        else:
            file = f"vocabulary-{task}.txt"
            categorical.append(CategoryColumn(name, words[task]["size"], file, words[task]["sha256"]))
    fitted = Preprocessing(
        vocabulary.directory, settings.schema, tuple(numeric), tuple(categorical), settings.num_buckets > 0
    )
    files.make_directory(fitted.directory)
    fitted.save()
    return fitted, counts.warnings(settings, numeric, categorical)


def _pieces(segments: Mapping[str, Segment], facts: counts.Facts, settings: TableSettings) -> Pieces:
    """Which rows of each segment belong to which part."""
    number = sum(facts[task]["rows"] for task, segment in segments.items() if not segment.part)
    num_test, num_validation = int(number * settings.test_share), int(number * settings.validation_share)
    ends = dict(
        zip(shards.PARTS, (number - num_test - num_validation, number - num_test, number), strict=True)
    )
    pieces: Pieces = {}
    first = 0  # of the rows whose position decides
    for task, segment in segments.items():
        rows = facts[task]["rows"]
        if segment.part:
            pieces[task] = [(segment.part, 0, rows)] if rows else []
            continue
        pieces[task] = []
        starts = itertools.pairwise([0, *ends.values()])
        for part, (start, end) in zip(ends, starts, strict=True):
            inside = max(start - first, 0), min(end - first, rows)
            if inside[0] < inside[1]:
                pieces[task].append((part, *inside))
        first += rows
    return pieces


def _check_parts(
    pieces: Pieces, settings: TableSettings, segments: Mapping[str, Segment], is_fitted: bool
) -> None:
    found = {part for one in pieces.values() for part, _, _ in one}
    wanted = {segment.part for segment in segments.values()}
    if "" in wanted:
        wanted |= {"validation"} if settings.validation_share else set()
        wanted |= {"test"} if settings.test_share else set()
    wanted = (wanted - {""}) | (set() if is_fitted else {"train"})
    if missing := sorted(wanted - found):
        number = sum(stop - start for one in pieces.values() for _, start, stop in one)
        raise ValueError(
            f"the {missing[0]} part would be empty: there are {number} rows; use more rows or another "
            "validation_share or test_share"
        )


def _write_rejected(scan: ScanStage, facts: counts.Facts, directory: str) -> str:
    """Writes the rejected rows with their lines in the files; returns the path."""
    path = files.join(files.make_directory(directory), shards.REJECTED)
    with files.writing(path) as file:
        file.write(b"")
        for row in _rejected(scan, facts):
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    return path


def _rejected(scan: ScanStage, facts: counts.Facts) -> Iterator[dict[str, Any]]:
    before: collections.Counter[str] = collections.Counter()
    for task, segment in scan.segments.items():
        first = before[segment.path] + segment.first_line + 1
        for line in files.read(scan.path(task, BAD)).splitlines():  # as text it has more line breaks
            row = json.loads(line)
            yield {**row, "line": row["line"] + first, "file": segment.path}
        before[segment.path] += facts[task]["lines"]


def _commit(
    work: _Work, fitted: Preprocessing, encoded: counts.Facts, counted: Mapping[str, Any]
) -> dict[str, Any]:
    """Takes away what unfinished ones have left, and writes the table's manifest."""
    parts: dict[str, dict[str, Any]] = {}
    known = {name: one for task in work.segments for name, one in encoded[task]["files"].items()}
    for task in work.segments:
        for shard in encoded[task]["shards"]:
            part = parts.setdefault(shard["part"], {"num_rows": 0, "num_positive": 0, "shards": []})
            part["num_rows"] += shard["num_rows"]
            part["num_positive"] += shard["num_positive"]
            part["shards"].append({"name": shard["name"], "num_rows": shard["num_rows"]})
    output_dir = work.output.directory
    names = {*known, *fitted.files(), shards.REJECTED, shards.PREPARATION}
    work.output.remove_others([*names, files.MANIFEST])
    metadata = {
        "kind": "table",
        "format_version": shards.FORMAT_VERSION,
        "preprocessing": fitted.fingerprint,
        "num_numeric": len(fitted.numeric),
        "cardinalities": fitted.cardinalities,
        "parts": parts,
        "counts": dict(counted),
    }
    manifest = files.commit(output_dir, metadata, known, only=names)
    try:
        files.verify(output_dir, manifest, contents=False)
    except files.CorruptError:
        files.remove(files.join(output_dir, files.MANIFEST))
        raise
    return manifest


def _describe(
    settings: TableSettings, segments: Mapping[str, Segment], fitted: Preprocessing | None
) -> dict[str, Any]:
    """All that the result depends on, as JSON gives it back."""
    sizes: dict[str, int] = collections.defaultdict(int)
    for segment in segments.values():
        sizes[json.dumps([segment.part, os.path.basename(segment.path)])] += segment.num_bytes
    sources = [[*json.loads(name), size] for name, size in sizes.items()]
    of_other = None if fitted is None else fitted.fingerprint
    described: dict[str, Any] = json.loads(json.dumps({**settings.describe(), "preprocessing": of_other}))
    return {**described, "sources": sources}


def _finished(output_dir: str, description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a table that has been prepared so; an error if it was prepared otherwise."""
    manifest = files.read_manifest(output_dir)
    if manifest is None:
        return None
    path = files.join(output_dir, shards.PREPARATION)
    before = files.read_json(path) if files.exists(path) else {}
    if manifest.get("kind") != "table" or not before:
        raise ValueError(f"{output_dir!r} holds something that is no table; name another directory")
    for name, value in description.items():
        if before.get(name) != value:
            raise ValueError(
                f"{output_dir!r} holds a table prepared with {name} = {before.get(name)!r}, now it is "
                f"{value!r}; "
                "name another directory, or delete that one"
            )
    files.verify(output_dir, manifest, contents=False)
    return manifest

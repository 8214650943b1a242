"""From class folders or an archive to image records that training reads.

    folder, zip, tar -> plan -> record files, each a task -> manifest.json

    manifest = prepare(Sources("photos.zip"), "photos", ImageSettings(), engines.Local())
    manifest["counts"]     {"read": 2004, "kept": 2001, "damaged": {"damaged_jpeg": 2}, "left_out": {...},
    ...}

What is not finished is in ``<output_dir>.work``: whoever starts again after being stopped goes on from there.
The records are in the order of a hash of class and name, so that they depend neither on the order of the
files nor on who did the work: the same images and settings give the same bytes. The manifest is written last;
without it nobody takes this for images.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from tf_codistill import files
from tf_codistill.image_files import folders
from tf_codistill.image_preparation import plan, writing
from tf_codistill.image_preparation.plan import Plan, Sources
from tf_codistill.image_preparation.settings import ImageSettings
from tf_codistill.image_preparation.writing import RecordStage
from tf_codistill.jobs import stages, written
from tf_codistill.jobs.engines import Local
from tf_codistill.jobs.written import Written

DAMAGED = "damaged.jsonl"
"""Name of the file that lists what could not be decoded, a line each."""

_VERSION = 1
_WORK = re.compile(
    rf"(?:plan|write)-[0-9a-f]{{16}}|unpacked-[0-9a-f]{{16}}\.tar.*|{written.RECORD}|\.probe-.*"
)
_NUM_SHOWN = 3

Facts = Mapping[str, Mapping[str, Any]]


def prepare(
    sources: Sources,
    output_dir: str,
    settings: ImageSettings | None = None,
    engine: stages.Engine | None = None,
    quarantine_dir: str | None = None,
) -> dict[str, Any]:
    """Prepares images, unless `output_dir` holds them already.

    Args:
        sources: Folders or archives.
        output_dir: Directory of the records; what is not finished is beside it, in ``<output_dir>.work``.
        settings: Sizes and shares.
        engine: What runs the tasks; by default this process.
        quarantine_dir: Directory that gets what cannot be decoded; by default nothing is kept.

    Returns:
        The manifest.

    Raises:
        ValueError: Too many images cannot be used, `output_dir` holds something else or cannot be written to,
            or a source is not what it should be.
        FileNotFoundError: A source does not exist.
    """
    settings, engine = settings or ImageSettings(), engine or Local(num_processes=1)
    description = {**settings.describe(), "sources": [_size(source) for source in _named(sources)]}
    manifest, work_dir = _finished(output_dir, description), written.work_dir(output_dir)
    if manifest is not None and any(map(files.is_directory, _named(sources))):
        planned = plan.make(sources, settings, files.make_directory(work_dir))
        _remove_work(work_dir)
        if manifest["plan"] != planned.key:
            raise ValueError(
                f"the files of {sources.main!r} are others than those that {output_dir!r} was prepared "
                "from; name another directory, or remove it"
            )
    if manifest is None:
        if quarantine_dir is not None:
            files.make_directory(quarantine_dir)
        output = Written.beside(output_dir)
        try:
            with output.opened():
                planned = plan.make(sources, settings, work_dir)
                manifest = _prepare(planned, settings, engine, output, quarantine_dir, description)
        except (OSError, ValueError):
            # Perhaps another process has finished the same images and taken the work away.
            if _finished(output_dir, description) is None:
                raise
            return prepare(sources, output_dir, settings, engine, quarantine_dir)
        _remove_work(work_dir)
    return manifest


def _prepare(
    planned: Plan,
    settings: ImageSettings,
    engine: stages.Engine,
    output: Written,
    quarantine_dir: str | None,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes what is planned."""
    key = stages.fingerprint(_VERSION, planned.key, settings.jpeg_quality)
    write = RecordStage(
        files.join(written.work_dir(output.directory), f"write-{key}"),
        *(planned.directory, planned.shards, settings.jpeg_quality, output, quarantine_dir),
    )
    facts = stages.run(write, engine)
    _check_written(planned, facts, settings)
    return _commit(write, planned, facts, description)


def summary(manifest: Mapping[str, Any], directory: str) -> str:
    """What became of the images, for people to read.

    Args:
        manifest: The manifest of the records.
        directory: Where they are.

    Returns:
        A few lines of text.
    """
    counts = manifest["counts"]
    rows = [("read", counts["read"])]
    rows += [(f"damaged: {kind}", number) for kind, number in sorted(counts["damaged"].items())]
    rows += [(f"left out: {kind}", number) for kind, number in sorted(counts["left_out"].items())]
    rows.append(("kept", counts["kept"]))
    rows += [
        (f"  stored anew as RGB JPEG: {kind}", number) for kind, number in sorted(counts["converted"].items())
    ]
    rows += [(f"  {kind}", number) for kind, number in sorted(counts["as_they_are"].items())]
    lines = [f"images {directory}: {len(manifest['class_names']):,} classes, files:"]
    lines += [f"  {name:<40}{number:>12,}" for name, number in rows]
    for part, classes in counts["parts"].items():
        fewest, most = min(classes.values()), max(classes.values())
        lines.append(f"  {part:<12}{sum(classes.values()):>12,} images, {fewest:,} to {most:,} of a class")
    for name in ("empty_classes", "unknown_classes"):
        if counts[name]:
            lines.append(
                f"  {name.replace('_', ' ')}, left out: {json.dumps(counts[name], ensure_ascii=False)}"
            )
    return "\n".join(lines)


def _named(sources: Sources) -> list[str]:
    return [source for source in (sources.main, sources.validation, sources.validation_labels) if source]


def _size(source: str) -> list[Any]:
    """Name and size of a source, without its folder, which may be another one next time."""
    if not files.exists(source):
        raise FileNotFoundError(f"{source!r} does not exist; name a folder, a zip file or a tar")
    size = None if files.is_directory(source) else files.size_bytes(source)
    return [os.path.basename(source.rstrip("/")), size]


def _finished(output_dir: str, description: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of records that have been prepared so."""
    manifest = files.read_manifest(output_dir)
    if manifest is None:
        return None
    before = manifest.get("preparation")
    if manifest.get("format") != folders.MANIFEST_FORMAT or before != description:
        changed = [name for name, value in description.items() if (before or {}).get(name) != value]
        raise ValueError(
            f"{output_dir!r} holds something else, or images that were prepared otherwise "
            f"({', '.join(changed)}); "
            "name another directory, or remove it"
        )
    files.verify(output_dir, manifest, contents=False)
    return manifest


def _remove_work(work_dir: str) -> None:
    """Removes what is ours of the work, and its directory unless somebody keeps something else there."""
    names = files.names(work_dir)
    with contextlib.suppress(OSError):
        for name in filter(_WORK.fullmatch, names):
            files.remove(files.join(work_dir, name))
        if all(map(_WORK.fullmatch, names)):
            files.remove(work_dir)


def _check_written(planned: Plan, facts: Facts, settings: ImageSettings) -> None:
    """Raises an error if too many images cannot be decoded, or a class has none left."""
    if missing := planned.shards.keys() - facts.keys():
        raise ValueError(f"the images of {sorted(missing)[0]!r} have changed meanwhile; run this again")
    damaged = [one for task in facts.values() for one in task["damaged"]]
    total = sum(planned.shards.values())
    if len(damaged) > settings.max_damaged_share * total:
        named = ", ".join(f"{path} ({kind})" for path, kind, _ in damaged[:_NUM_SHOWN])
        raise ValueError(
            f"{len(damaged)} of {total} images cannot be decoded: "
            f"{named}{', ...' if len(damaged) > _NUM_SHOWN else ''}; "
            f"replace them, or allow a larger max_damaged_share, which is {settings.max_damaged_share}: "
            "what is "
            "finished is kept"
        )
    left = _by_part(facts)["train"]
    lost = [name for name in planned.class_names if not left[name]]
    if lost:
        raise ValueError(
            f"of class {lost[0]!r} no image to train on can be decoded; replace them, or remove the class"
        )


def _by_part(facts: Facts) -> dict[str, collections.Counter[str]]:
    """Number of images by part and class."""
    numbers: dict[str, collections.Counter[str]] = {}
    for task, one in facts.items():
        numbers.setdefault(task.partition("-")[0], collections.Counter()).update(one["classes"])
    return numbers


def _counts(planned: Plan, facts: Facts) -> dict[str, Any]:
    """What became of all files: read = kept + damaged + left out."""
    kinds: collections.Counter[str] = collections.Counter()
    damaged: collections.Counter[str] = collections.Counter()
    for task in facts.values():
        kinds.update(task["kinds"])
        damaged.update(kind for _, kind, _ in task["damaged"])
    as_they_are = {kind: number for kind, number in kinds.items() if kind in writing.AS_THEY_ARE}
    return {
        "read": sum(planned.shards.values()) + sum(planned.left_out.values()),
        "kept": kinds.total(),
        "damaged": dict(damaged),
        "as_they_are": as_they_are,
        "converted": {kind: number for kind, number in kinds.items() if kind not in as_they_are},
        "parts": {
            part: {name: classes[name] for name in planned.class_names}
            for part, classes in _by_part(facts).items()
        },
        **plan.counts(planned),
    }


def _commit(
    write: RecordStage, planned: Plan, facts: Facts, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Puts the list of damage beside the records, takes away what is left of others, and commits them."""
    output = write.output
    rows = [
        {"part": task.partition("-")[0], "name": path, "kind": kind}
        for task in write.shards
        for path, kind, _ in facts[task]["damaged"]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files.write(output.claim(DAMAGED), lines.encode("ascii"))
    promised = {name: checksum for task in facts.values() for name, checksum in task["sha256"].items()}
    marker = output.claim(files.MANIFEST)
    output.remove_others([*promised, DAMAGED, files.MANIFEST])
    parts: dict[str, list[dict[str, Any]]] = {}
    for task in write.shards:
        number = sum(facts[task]["classes"].values())
        parts.setdefault(task.partition("-")[0], []).append({"name": task, "num_images": number})
    metadata = {
        "format": folders.MANIFEST_FORMAT,
        "version": _VERSION,
        "class_names": planned.class_names,
        "parts": parts,
        "counts": _counts(planned, facts),
        "plan": planned.key,
        "preparation": dict(description),
    }
    manifest = files.commit(output.directory, metadata, only=[*promised, DAMAGED])
    for name, checksum in promised.items():
        if manifest["files"].get(name, {}).get("sha256") != checksum:
            files.remove(marker)
            files.remove(write.directory)
            raise files.CorruptError(
                f"{name!r} in {output.directory!r} is not what was written; run this again"
            )
    return manifest

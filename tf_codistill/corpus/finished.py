"""A finished corpus: what it was prepared from and how, and whether that is what is asked for now.

    <corpus>/preparation.json
        "num_pieces": 24000, "filters": [...], ...                     the settings
        "sample": {"crawl": "CC-MAIN-2017-26", "num_files": 100}       if WET files of a crawl were drawn
        "wet_files": {"CC-MAIN-...-00000.warc.wet.gz": {"bytes": 164012345, "sha256": ..., ...}}

        "source": "JsonLines(text='text', ...)", "parts": {...}        in its place, if it is another one

    found = Finished.find("corpus", description)      None: there is none yet
    found.is_of(sample)                               True: whoever asks for this sample has it
    found.mark_of(source, num_bytes)                  else: is this the source that it was prepared from?

Where files lie and when they were written stands nowhere in it, so that the same files and settings give the
same bytes. A file that was written after the corpus is compared by its checksum.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from absl import logging

from tf_codistill import files, tokens
from tf_codistill.corpus.report.counts import Facts
from tf_codistill.corpus.settings import FILTER_CODE
from tf_codistill.corpus.sources.base import Source
from tf_codistill.corpus.stages import dropped
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.jobs import quarantine

SETTINGS = "preparation.json"
"""Name of the file that says what a corpus was prepared from and how."""

_ALL = "all of it"
_ENGLISH = re.compile(r"(English\(min_percent=\d+, max_bytes=\d+)\)")
_REMEDY = "name another output directory or delete that one"


def record(
    description: Mapping[str, Any], identity: Mapping[str, Any] | None, read: ReadStage, facts: Facts
) -> dict[str, Any]:
    """What `SETTINGS` says of a corpus: its description, and of each part size, checksum and counts.

    The identity tells its source from others, such as the sample of a crawl, if anything does.
    """
    parts = {}
    for task in read.num_bytes:
        one = facts[task] if task in facts else {**read.failure(task), "counts": {"unreadable": _ALL}}
        parts[task] = {"bytes": one["bytes"], "sha256": one["sha256"], **one["counts"]}
    drawn = {} if identity is None else {"sample": dict(identity)}
    if description["source"] is not None:
        return {**description, **drawn, "parts": parts}
    # From before there were other sources: the same bytes as ever.
    told = {name: one for name, one in description.items() if name != "source"}
    return {**told, **drawn, "wet_files": parts}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished corpus.

    Attributes:
        directory: Where it is.
        mark: Its mark, see `tokens.commit_corpus`.
        record: What it was prepared from and how.
    """

    directory: str
    mark: dict[str, Any]
    record: Mapping[str, Any]

    @classmethod
    def find(cls, directory: str, description: Mapping[str, Any]) -> Finished | None:
        """Looks for a corpus.

        Args:
            directory: Where it would be.
            description: How it should be prepared.

        Returns:
            The corpus, from whatever WET files; None if there is none yet.

        Raises:
            ValueError: There is one that was prepared otherwise, or is damaged.
        """
        mark = files.read_manifest(directory)
        if mark is None:
            return None
        found = files.read_json(files.join(directory, SETTINGS)) if SETTINGS in mark["files"] else {}
        remedy = _REMEDY
        if not found.keys() >= description.keys() - {FILTER_CODE}:
            found = _as_now(found)
            remedy += ", or ask for it as it was by gin/corpus/as_published.gin"
        for name, value in description.items():
            if name != FILTER_CODE and found.get(name) != value:
                raise ValueError(
                    f"{directory!r} holds a corpus prepared with {name} = {found.get(name)!r}, now it is "
                    f"{value!r}; {remedy}"
                )
        if FILTER_CODE not in found:
            # From before it was recorded. Its filters are called the same, which those of others were not.
            logging.warning(
                "corpus %r does not say what the code of its filters was; taken as it is", directory
            )
        now = description[FILTER_CODE]
        for step, before, code in zip(description["filters"], found.get(FILTER_CODE, now), now, strict=True):
            if before != code:
                raise ValueError(
                    f"{directory!r} holds a corpus prepared with other code of the filter {step}; {_REMEDY}"
                )
        tokens.open_corpus(directory)
        return cls(directory, mark, found)

    @property
    def parts(self) -> Mapping[str, Mapping[str, Any]]:
        """What is recorded of each part of its source."""
        return self.record.get("parts", self.record.get("wet_files", {}))

    def is_of(self, identity: Mapping[str, Any] | None) -> bool:
        """Whether its source is the one of an identity; False for None, which says nothing."""
        return identity is not None and self.record.get("sample") == identity

    def mark_of(self, source: Source, num_bytes: Mapping[str, int]) -> dict[str, Any]:
        """The mark, once it is certain that a source is what it was prepared from.

        Args:
            source: The source, resolved.
            num_bytes: Its parts; of those without a known size only the name counts.

        Returns:
            The mark.

        Raises:
            ValueError: They are others, or not what they were.
            OSError: One of them has to be read for that, and cannot be.
        """
        recorded = {name: facts["bytes"] for name, facts in self.parts.items()}
        given = {name: number or recorded.get(name, 0) for name, number in num_bytes.items()}
        others = sorted(dict(recorded.items() ^ given.items()))
        if others:
            raise ValueError(
                f"{self.directory!r} holds a corpus prepared from other {source.noun}s: {others[0]!r} had "
                f"{recorded.get(others[0], 'no')} bytes, now it has {given.get(others[0], 'no')}, and so on "
                f"for {len(others)} in all; {_REMEDY}"
            )
        written_at = files.modified_at(files.join(self.directory, files.MANIFEST))
        for name, facts in self.parts.items():
            if source.renewed(name, facts, written_at) is None:
                raise ValueError(
                    f"{self.directory!r} holds a corpus prepared from other {source.noun}s: "
                    f"{source.told(name)} has another size or checksum now; {_REMEDY}"
                )
        return self.mark

    def check_kept(self, quarantine_dir: str | None, dropped_dir: str | None) -> None:
        """Checks that directories, if named, have what was damaged or dropped, as nothing is read again.

        A ValueError says what they lack: all of some file, or all that was dropped later for some reason.
        """
        if quarantine_dir is not None:
            # Of a part of which nothing can be read there may be nothing to keep.
            damaged = [name for name, facts in self.parts.items() if facts["unreadable"] not in ({}, _ALL)]
            lost = [repr(name) for name in damaged if not quarantine.has(quarantine_dir, name)]
            self._check_none(lost, f"quarantine {quarantine_dir!r} would get nothing of what was damaged in")
        if dropped_dir is not None:
            reasons = {name: collections.Counter(one.get("dropped", {})) for name, one in self.parts.items()}
            lost = [
                repr(name) for name, one in reasons.items() if not dropped.has_all(dropped_dir, name, one)
            ]
            # Of later reasons the corpus tells how many documents, but not of which token shards.
            later = collections.Counter(self.mark["counts"]["dropped"])
            later.subtract(sum(reasons.values(), collections.Counter()))
            shards = [shard for split in self.mark["splits"].values() for shard in split["shards"]]
            for reason in +later:
                if not any(dropped.has_all(dropped_dir, name, [reason]) for name in shards):
                    lost.append(f"the corpus as {reason}")
            self._check_none(lost, f"dropped_dir {dropped_dir!r} would get nothing of what was dropped of")

    def _check_none(self, lost: list[str], sentence: str) -> None:
        if lost:
            raise ValueError(
                f"{self.directory!r} holds a finished corpus, so that {sentence} {lost[0]}, and so on for "
                f"{len(lost)} in all: it is kept while the corpus is prepared; name another output "
                "directory, or no directory for it"
            )


def _as_now(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was recorded of a corpus, with settings that have come since then as it was without them."""
    if "unwrap" not in found:
        filters = [_ENGLISH.sub(r"\1, is_html=True)", step) for step in found.get("filters", ())]
        found = {name: value for name, value in found.items() if name != FILTER_CODE}
        found = {**found, "filters": filters, "unwrap": False}
    return {"near_duplicates": None, "decontaminate": False, **found}

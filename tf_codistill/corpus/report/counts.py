"""What became of the documents, in numbers.

    corpus corpus/crawl: vocabulary 24,006, documents:
      read                                     5,609
      dropped: link_list                         158
      ...
      kept                                     5,207
      train            5,090 documents      12,566,381 tokens

Nothing disappears in silence: read = kept + dropped, by reason, + unreadable, by kind. Where most of what is
dropped has one cause, the summary says it in words.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from tf_codistill.corpus.paragraph_ids import selection
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.stages.reading import ReadStage

_WANTED = ("over_max_tokens", selection.REASON)  # reasons that somebody has asked for
_MOST = 0.5  # of the documents dropped
_MANY = 0.1  # of those read

Facts = Mapping[str, Mapping[str, Any]]
"""What the tasks of a stage have to say, by task."""


def of_reading(facts: Facts) -> dict[str, Any]:
    """The sums of what the tasks of stage 1 counted.

    Args:
        facts: The facts of those that are done.

    Returns:
        Pages ``read``; how many were ``unwrapped``; how many ``dropped``, by reason, or ``unreadable``, or
        odd (``dirt``), by kind.
    """
    sums: dict[str, Any] = {
        name: sum(task["counts"][name] for task in facts.values()) for name in ("read", "unwrapped")
    }
    for kind in ("dropped", "unreadable", "dirt"):
        sums[kind] = collections.Counter[str]()
        for task in facts.values():
            sums[kind].update(task["counts"][kind])
    return sums


def of_corpus(read: ReadStage, read_facts: Facts, repeated: Facts, written: Facts) -> dict[str, Any]:
    """What became of all documents: read = kept + dropped + unreadable.

    Args:
        read: Stage 1.
        read_facts: The facts of its tasks.
        repeated: Those of stage 2.
        written: Those of stage 3.

    Returns:
        The counts that stand in the mark of the corpus.
    """
    counts = of_reading(read_facts)
    for task in written.values():
        counts["dropped"].update(task["dropped"])
    if read.listed_dir is not None:
        counts["wet_files_not_given"] = selection.num_others(read.listed_dir)
    return {
        **counts,
        "kept": sum(task["shard"]["num_documents"] for task in written.values()),
        "repeated_paragraphs": sum(task["repeats"] for task in (*read_facts.values(), *repeated.values())),
        "unreadable_files": [task for task in read.num_bytes if task not in read_facts],
        "truncated_files": [task for task, one in read_facts.items() if one["cut_off_at"] is not None],
    }


def cause(counts: Mapping[str, Any], settings: CorpusSettings) -> str:
    """Why most of the documents that are dropped are, if that is one reason and they are many.

    Args:
        counts: With ``read`` and ``dropped``, as of a corpus.
        settings: Have the filters, which know what their reasons mean.

    Returns:
        Words to be put behind others; none if there is no such reason.
    """
    dropped = collections.Counter(counts["dropped"])
    for reason in _WANTED:
        del dropped[reason]
    for reason, number in dropped.most_common(1):
        if number > _MOST * dropped.total() and number > _MANY * counts["read"]:
            meanings: dict[str, str] = {}
            for step in settings.filters:
                meanings |= getattr(step, "reasons", {})
            return f", most of them for one cause, {reason}" + (
                f": {meanings[reason]}" if reason in meanings else ""
            )
    return ""


def summary(mark: Mapping[str, Any], directory: str, settings: CorpusSettings) -> str:
    """What became of the documents, for people to read.

    Args:
        mark: The mark of the corpus.
        directory: Where the corpus is.
        settings: How it was prepared.

    Returns:
        A few lines of text.
    """
    counts = mark["counts"]
    rows = [
        ("read", counts["read"]),
        *((f"dropped: {reason}", number) for reason, number in sorted(counts["dropped"].items())),
        *((f"unreadable: {kind}", number) for kind, number in sorted(counts["unreadable"].items())),
        ("kept", counts["kept"]),
    ]
    lines = [f"  {name:<32}{number:>14,}" for name, number in rows]
    for name, split in sorted(mark["splits"].items()):
        lines.append(f"  {name:<12}{split['num_documents']:>10,} documents{split['num_tokens']:>16,} tokens")
    if counts.get("unwrapped"):
        lines.append(f"  wrapped, and joined to paragraphs before: {counts['unwrapped']:,}")
    if why := cause(counts, settings):
        lines.append(f"  {sum(counts['dropped'].values()):,} dropped{why}")
    if counts.get("wet_files_not_given"):
        lines.append(
            f"  files or other parts that are listed but were not given: {counts['wet_files_not_given']:,}"
        )
    if counts["unreadable_files"]:
        lines.append(
            f"  files or other parts that could not be read: {', '.join(counts['unreadable_files'])}"
        )
    if counts.get("truncated_files"):
        lines.append(f"  files or other parts that end too early: {', '.join(counts['truncated_files'])}")
    return "\n".join([f"corpus {directory}: vocabulary {mark['vocabulary_size']:,}, documents:", *lines])

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

    Pages ``read``; how many were ``unwrapped``; how many ``dropped``, by reason, or ``unreadable``, or odd
    (``dirt``), by kind.
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
    """What the mark of a corpus says of all documents: read = kept + dropped + unreadable.

    Given are stage 1 and the facts of its tasks, then those of stages 2 and 3.
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

    In words to be put behind others; the filters of the settings know what their reasons mean.
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
    """What became of the documents, for people to read, from the mark of the corpus in a directory."""
    counts = mark["counts"]
    lines = [f"corpus {directory}: vocabulary {mark['vocabulary_size']:,}, documents:"]
    rows = {"read": counts["read"]}
    for kind in ("dropped", "unreadable"):
        rows |= {f"{kind}: {reason}": number for reason, number in sorted(counts[kind].items())}
    rows["kept"] = counts["kept"]
    lines += [f"{name:<32}{number:>14,}" for name, number in rows.items()]
    for name, split in sorted(mark["splits"].items()):
        lines.append(f"{name:<12}{split['num_documents']:>10,} documents{split['num_tokens']:>16,} tokens")
    if counts.get("unwrapped"):
        lines.append(f"wrapped, and joined to paragraphs before: {counts['unwrapped']:,}")
    if why := cause(counts, settings):
        lines.append(f"{sum(counts['dropped'].values()):,} dropped{why}")
    if counts.get("wet_files_not_given"):
        lines.append(
            f"files or other parts that are listed but were not given: {counts['wet_files_not_given']:,}"
        )
    if counts["unreadable_files"]:
        lines.append(f"files or other parts that could not be read: {', '.join(counts['unreadable_files'])}")
    if counts.get("truncated_files"):
        lines.append(f"files or other parts that end too early: {', '.join(counts['truncated_files'])}")
    return "\n  ".join(lines)

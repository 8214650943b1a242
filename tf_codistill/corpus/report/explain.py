"""What became of some pages and why, to look at before a corpus is prepared.

    drawn = draw(WetFiles(["crawl/CC-MAIN-00000.warc.wet.gz"]), CorpusSettings(), num_documents=5)
    show(drawn)

        kept     https://example.org/novel
                 CC-MAIN-00000.warc.wet.gz, eng: 2 of 3 paragraphs left, taken away: 1 by LongParagraphs
            -    0  Home                                                        LongParagraphs
            +    1  It was the best of times, it was the worst of times ...
            +    3  There were a king with a large jaw and a queen ...
        dropped  https://example.org/links
        ...
        4,000 of the pages of 8 of 304 files read: 3,609 kept, 193 link_list, 198 other_language

Not all is read, but the first pages of some files, which the seed draws. Of these pages some are drawn by a
hash of themselves and the seed: the same ones whatever the order of the files. With a reason, such as
``link_list``, only pages dropped for it are drawn, and with ``kept`` only those that stay; where these are
too few reading goes on until there are enough of them, or nothing is left.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import heapq
import itertools
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence

from rich import console as rich_console
from rich.text import Text

from tf_codistill.corpus.document import Document, Record
from tf_codistill.corpus.filters import Filter
from tf_codistill.corpus.paragraph_ids.selection import REASON, Selected, Selection
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.base import Reading, Source
from tf_codistill.corpus.stages import reading
from tf_codistill.jobs.progress import Progress
from tf_codistill.jobs.quarantine import Damage
from tf_codistill.terminal import visible

KEPT = "kept"
"""Stands for no reason at all."""

_SAMPLE_FILES = 8
_SAMPLE_PAGES = 4000  # of all of them, read in two seconds
_PAGES_FOR_EACH = 100  # for each that is to be shown, where these are many
_NUM_LINES = 12
_LINE_CHARACTERS = 90


@dataclasses.dataclass(frozen=True)
class Example:
    """A page and what became of it.

    Attributes:
        document: The whole page, its lines joined to paragraphs if it is wrapped.
        left: What is left of it; None if it is dropped.
        reason: Why it is dropped; None if it is kept.
        taken_away: For paragraphs that are gone, by number, the name of the step that took them away. Those
            that went with the whole page are not among them.
    """

    document: Document
    left: Document | None
    reason: str | None
    taken_away: dict[int, str]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pages that were drawn.

    Attributes:
        kept: Some that are kept.
        dropped: Some that are dropped, sorted by reason.
        counts: Of the pages read, how many were ``kept``, dropped by each reason, or unreadable by each kind.
        files: How many files they are of, and of how many all are, which is None if these were read whole.
        may_repeat: Whether repeated paragraphs would be taken away, too, in a later step.
    """

    kept: Sequence[Example]
    dropped: Sequence[Example]
    counts: dict[str, int]
    files: tuple[int, int] | None
    may_repeat: bool


def draw(
    source: Source,
    settings: CorpusSettings,
    num_documents: int,
    paragraph_ids: Selection | None = None,
    seed: int = 0,
    reason: str | None = None,
) -> Drawn:
    """Reads and judges the pages of a sample and draws some.

    Args:
        source: Where the pages come from.
        settings: Has the filters.
        num_documents: How many kept and how many dropped pages.
        paragraph_ids: A list that takes the place of the filters.
        seed: Another seed draws others.
        reason: The only reason to draw pages of, or ``kept``; None draws of all.

    Returns:
        Those drawn, and counts of all that were read.

    Raises:
        ValueError: `num_documents` is below 1, a part holds no page, the list does not fit, or no page is
            dropped for `reason`.
        OSError: A part is out of reach.
    """
    if num_documents < 1:
        raise ValueError(f"num_documents is {num_documents}; expected at least 1 page to explain")
    if paragraph_ids is not None:
        settings = paragraph_ids.applied_to(settings)
    counts: collections.Counter[str] = collections.Counter()
    # Of each kind the pages with the smallest hashes, the largest of them first.
    heaps: dict[bool, list[tuple[int, int, reading.Page]]] = {True: [], False: []}
    num_pages = max(_SAMPLE_PAGES, _PAGES_FOR_EACH * num_documents)
    parts, source = set(), source.resolved()
    with contextlib.closing(_judged(source, settings, paragraph_ids, counts, num_pages, seed)) as pages:
        for page, is_of_sample in pages:
            if not is_of_sample and (reason is None or len(heaps[reason == KEPT]) == num_documents):
                break
            parts.add(page.document.wet_file)
            outcome = KEPT if isinstance(page.verdict, Document) else page.verdict
            counts[outcome] += 1
            if reason in (None, outcome):
                lot = hashlib.sha256(b"%d " % seed + reading.document_key(page.document)).digest()
                # The count tells equal pages apart, before anybody compares them.
                entry = (-int.from_bytes(lot, "big"), counts.total(), page)
                heap = heaps[outcome == KEPT]
                (heapq.heappush if len(heap) < num_documents else heapq.heappushpop)(heap, entry)
        else:
            parts.clear()  # nothing is left
    if reason is not None and not counts[reason]:
        raise ValueError(f"no page has the outcome {reason!r}; name one of {_told(counts)}")
    examples = {
        is_kept: [_example(page, settings.filters) for _, _, page in sorted(heap)]
        for is_kept, heap in heaps.items()
    }
    dropped = sorted(examples[False], key=lambda example: example.reason or "")
    read = (len(parts), len(source.parts())) if parts else None
    return Drawn(examples[True], dropped, dict(counts), read, settings.duplicates != "none")


def _judged(
    source: Source,
    settings: CorpusSettings,
    paragraph_ids: Selection | None,
    counts: collections.Counter[str],
    num_pages: int,
    seed: int,
) -> Generator[tuple[reading.Page, bool]]:
    """Pages with their verdicts, and whether they are of the sample; all that are not come behind it."""
    parts = source.parts()
    order = sorted(parts, key=lambda part: hashlib.sha256(f"{seed} {part}".encode()).digest())
    num_bytes = sum(parts.values())
    with tempfile.TemporaryDirectory() as listed_dir, Progress("reading", num_bytes, "bytes") as progress:
        if paragraph_ids is not None:
            paragraph_ids.unpack(listed_dir, parts)

        def pages_of(part: str) -> Iterator[reading.Page]:
            selected = Selected.load(listed_dir, part) if paragraph_ids is not None else None
            with Reading(progress.advance) as being_read:
                items = _counted(being_read.of(source, part), counts)
                yield from reading.judge_pages(items, settings, part, selected)

        opened, number = [pages_of(part) for part in order[:_SAMPLE_FILES]], itertools.count()
        for pages in opened:
            first = itertools.islice(pages, num_pages // len(opened))
            yield from ((page, True) for page, _ in zip(first, number, strict=False))
        # Where files are small, more of them.
        for pages in itertools.chain(opened, map(pages_of, order[_SAMPLE_FILES:])):
            yield from ((page, next(number) < num_pages) for page in pages)


def _counted(items: Iterator[Record | Damage], counts: collections.Counter[str]) -> Iterator[Record | Damage]:
    for item in items:
        if isinstance(item, Damage):
            counts[f"unreadable: {item.kind}"] += 1
        yield item


def _example(page: reading.Page, filters: Sequence[Filter]) -> Example:
    """Sends a page through the filters once more, to see what each takes away."""
    taken_away: dict[int, str] = {}
    left, verdict = page.seen, page.verdict
    for step in filters:
        after = step(left)
        if isinstance(after, str):
            break
        name = getattr(step, "__name__", type(step).__name__)
        taken_away.update(dict.fromkeys(set(left.numbers).difference(after.numbers), name))
        left = after
    if isinstance(verdict, str):
        return Example(page.seen, None, verdict, taken_away)
    # A list of paragraphs has no filters.
    gone = set(left.numbers).difference(verdict.numbers)
    return Example(page.seen, verdict, None, {**taken_away, **dict.fromkeys(gone, REASON)})


def show(drawn: Drawn, console: rich_console.Console | None = None) -> None:
    """Prints pages that were drawn, by default to standard output, in colours on a terminal."""
    console = console or rich_console.Console(highlight=False)
    for example in (*drawn.kept, *drawn.dropped):
        for line in _lines(example):
            console.print(line, soft_wrap=True)
        console.print()
    of = "of the pages of {:,} of {:,} files".format(*drawn.files) if drawn.files else "pages"
    num_pages = sum(drawn.counts.values())
    console.print(Text(f"{num_pages:,} {of} read: {_told(drawn.counts)}"), soft_wrap=True)
    if drawn.may_repeat:
        console.print("Repeated paragraphs are found later and are not taken away here.", soft_wrap=True)


def _told(counts: Mapping[str, int]) -> str:
    """How many pages are kept, and how many not for each reason."""
    reasons = sorted((reason, number) for reason, number in counts.items() if reason != KEPT)
    return ", ".join(f"{number:,} {reason}" for reason, number in [(KEPT, counts.get(KEPT, 0)), *reasons])


def _lines(example: Example) -> Iterator[Text]:
    document = example.document
    fate = ("dropped  ", "bold red") if example.reason else ("kept     ", "bold green")
    yield Text.assemble(fate, visible(document.url))
    language = visible(document.language or "language not told")
    yield Text(f"         {document.wet_file}, {language}: {_fate(example)}")
    left = set(example.left.numbers) if example.left else set()
    for number, paragraph in list(zip(document.numbers, document.paragraphs, strict=True))[:_NUM_LINES]:
        text = visible(paragraph[:_LINE_CHARACTERS])
        text += " ..." if len(paragraph) > _LINE_CHARACTERS else ""
        mark, style = ("+", "green") if number in left else ("-", "red")
        line = Text.assemble((f"    {mark}{number:>9}  ", style), text)
        if step := example.taken_away.get(number):
            line.append(" " * max(0, _LINE_CHARACTERS - len(text)) + f"  {step}", "dim")
        yield line
    if len(document.paragraphs) > _NUM_LINES:
        yield Text(f"               ... {len(document.paragraphs) - _NUM_LINES:,} paragraphs more")


def _fate(example: Example) -> str:
    num_paragraphs = len(example.document.paragraphs)
    num_left = len(example.left.paragraphs) if example.left else 0
    said = f"{example.reason}, " if example.reason else ""
    said += f"{num_left:,} of {num_paragraphs:,} paragraphs left"
    by_step = sorted(collections.Counter(example.taken_away.values()).items())
    taken = ", ".join(f"{number:,} by {step}" for step, number in by_step)
    return said + (f", taken away: {taken}" if taken else "")

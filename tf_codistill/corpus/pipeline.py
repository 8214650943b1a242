"""From WET files to a corpus that training reads.

    WET files -> records -> filters -> kept documents -> word pieces -> token shards -> manifest.json
                               |
                               +-> counts by reason; read = kept + everything dropped, always

    mark = prepare(files.glob("crawl/*.warc.wet.gz"), "corpus", CorpusSettings(num_pieces=24_000))
    mark["counts"]     {"read": 5609, "kept": 5147, "dropped": {"link_list": 158, ...}, ...}

Documents are stored in the order of a hash of their address, which also says whether a document is held out
for validation. So the result depends neither on the order of the files nor on chance: the same files and
settings give the same bytes. The manifest is written last; without it nobody takes this for a corpus.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import gin

from tf_codistill import files, tokens
from tf_codistill.corpus.filters import Document, English, Filter, LinkList, LongParagraphs, judge
from tf_codistill.corpus.progress import Progress
from tf_codistill.corpus.wet import read_wet
from tf_codistill.corpus.word_pieces import WordPieces

SETTINGS = "preparation.json"
"""Name of the file that says what a corpus was prepared from and how."""

_OWN_ENDINGS = (".tokens", ".starts", ".model", ".partial", SETTINGS)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CorpusSettings:
    """How a corpus is prepared.

    Attributes:
        num_pieces: Size of the vocabulary without the marks; the paper has 24,000.
        filters: What documents pass, in order.
        num_shards: Number of token shards of the training split.
        validation_share: Share of the documents held out, above 0 and below 1, by a hash of the address.
        max_tokens: Most tokens in the training split, None for no limit; documents beyond are counted as
            ``over_max_tokens``.
        max_validation_tokens: The same for the validation split.
        max_learning_characters: Word pieces are learned from at most this many characters of training text.

    Raises:
        ValueError: A number is outside its range.
    """

    num_pieces: int = 24_000
    filters: Sequence[Filter] = dataclasses.field(
        default_factory=lambda: (English(), LinkList(), LongParagraphs())
    )
    num_shards: int = 4
    validation_share: float = 0.02
    max_tokens: int | None = None
    max_validation_tokens: int | None = None
    max_learning_characters: int = 20_000_000

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not 0.0 < self.validation_share < 1.0:
            raise ValueError(
                f"validation_share is {self.validation_share}; expected more than 0 and less than 1, as 0.02"
            )
        for name, value in vars(self).items():
            if name.startswith(("num_", "max_")) and value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")


def prepare(
    wet_files: Sequence[str], output_dir: str, settings: CorpusSettings | None = None
) -> dict[str, Any]:
    """Prepares a corpus, unless `output_dir` holds it already.

    Args:
        wet_files: Paths or URLs of WET files.
        output_dir: Directory of the corpus.
        settings: Vocabulary, filters and sizes.

    Returns:
        The mark of the corpus, see `tokens.commit_corpus`.

    Raises:
        ValueError: A WET file is empty or damaged, a split would be empty, or `output_dir` cannot be written
            to or holds something else, such as a corpus that was prepared otherwise.
        FileNotFoundError: A WET file does not exist.
    """
    settings = settings or CorpusSettings()
    if not wet_files:
        raise ValueError("no WET file was given; name at least one")
    description = _describe(wet_files, settings)
    mark = _finished(output_dir, description)
    if mark is not None:
        return mark
    _clear(output_dir)
    with tempfile.TemporaryFile() as file:
        kept = _Kept(file, settings.validation_share)
        counts = _read(wet_files, settings, kept)
        pieces = _learn(kept, settings, files.join(output_dir, tokens.TOKENIZER))
        splits = {
            "train": _write(kept, pieces, "train", settings.num_shards, settings.max_tokens, output_dir),
            "validation": _write(kept, pieces, "validation", 1, settings.max_validation_tokens, output_dir),
        }
    files.write_json(files.join(output_dir, SETTINGS), description)
    return tokens.commit_corpus(
        output_dir,
        vocabulary_size=pieces.vocabulary_size,
        splits=splits,
        counts=_counts(counts, splits),
    )


class _Kept:
    """The documents that passed the filters, on local disk, to be read in the order of their keys.

    The key is a hash of the address, then one of the text, so that it orders two visits to one address, too.
    """

    def __init__(self, file: IO[bytes], validation_share: float) -> None:
        self._file = file
        self._validation_below = int(validation_share * (1 << 64))
        self._entries: dict[str, list[tuple[bytes, int, int]]] = {"train": [], "validation": []}

    def add(self, document: Document) -> None:
        text = "\n".join(document.paragraphs).encode("utf-8")
        address = hashlib.sha256(document.url.encode("utf-8", "replace")).digest()
        is_held_out = int.from_bytes(address[-8:], "big") < self._validation_below
        entries = self._entries["validation" if is_held_out else "train"]
        entries.append((address + hashlib.sha256(text).digest(), self._file.tell(), len(text)))
        self._file.write(text)

    def num_documents(self, split: str) -> int:
        return len(self._entries[split])

    def texts(self, split: str) -> Iterator[str]:
        for _, start, size in sorted(self._entries[split]):
            self._file.seek(start)
            yield self._file.read(size).decode("utf-8")
        self._file.seek(0, os.SEEK_END)


def _read(wet_files: Sequence[str], settings: CorpusSettings, kept: _Kept) -> collections.Counter[str]:
    """Fills `kept`; returns the number of documents read and of those dropped for each reason."""
    counts: collections.Counter[str] = collections.Counter()
    with Progress("reading pages", sum(map(files.size_bytes, wet_files)), "bytes") as progress:
        for path in sorted(wet_files):
            for record in read_wet(path, progress.advance):
                counts["read"] += 1
                if not record.is_whole:
                    counts["damaged_record"] += 1
                    continue
                lines = tuple(line for line in map(str.strip, record.text.split("\n")) if line)
                verdict = judge(Document(record.url, record.language, lines), settings.filters)
                if isinstance(verdict, str):
                    counts[verdict] += 1
                else:
                    kept.add(verdict)
    for split in ("train", "validation"):
        if not kept.num_documents(split):
            raise ValueError(
                f"the {split} split would be empty: of {counts['read']} documents read, dropped were "
                f"{_dropped(counts) or 'none'}; use more WET files, or other filters or validation_share"
            )
    return counts


def _learn(kept: _Kept, settings: CorpusSettings, path: str) -> WordPieces:
    sample: list[str] = []
    num_characters = 0
    for text in kept.texts("train"):
        if num_characters >= settings.max_learning_characters:
            break
        sample.append(text)
        num_characters += len(text)
    with Progress("learning word pieces", num_characters, "characters") as progress:
        pieces = WordPieces.train(sample, settings.num_pieces, path)
        progress.advance(num_characters)
    return pieces


def _write(
    kept: _Kept, pieces: WordPieces, split: str, num_shards: int, max_tokens: int | None, output_dir: str
) -> list[dict[str, Any]]:
    """Writes the token shards of a split; returns the facts of each."""
    num_tokens = 0
    with contextlib.ExitStack() as stack:
        shards = [
            stack.enter_context(
                tokens.ShardWriter(output_dir, split, index, num_shards, pieces.vocabulary_size)
            )
            for index in range(num_shards)
        ]
        progress = stack.enter_context(Progress(f"writing {split}", kept.num_documents(split), "documents"))
        for number, text in enumerate(kept.texts(split)):
            ids = pieces.encode_document(text)
            num_tokens += len(ids)
            if max_tokens is not None and num_tokens > max_tokens:
                break
            shards[number % num_shards].add(ids)
            progress.advance()
    facts = [shard.close() for shard in shards]
    if not any(shard["num_documents"] for shard in facts):
        raise ValueError(
            f"the {split} split would be empty: its first document alone has more than the {max_tokens} "
            "tokens that are allowed; allow more"
        )
    return facts


def _counts(read: Mapping[str, int], splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    kept = sum(shard["num_documents"] for shards in splits.values() for shard in shards)
    dropped = _dropped(read)
    beyond = read["read"] - sum(dropped.values()) - kept
    if beyond:
        dropped["over_max_tokens"] = beyond
    return {"read": read["read"], "kept": kept, "dropped": dropped}


def _dropped(counts: Mapping[str, int]) -> dict[str, int]:
    return {reason: number for reason, number in sorted(counts.items()) if reason != "read"}


def _describe(wet_files: Sequence[str], settings: CorpusSettings) -> dict[str, Any]:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {
        **values,
        "filters": [repr(step) for step in settings.filters],
        "wet_files": {os.path.basename(path): files.size_bytes(path) for path in sorted(wet_files)},
    }


def _finished(output_dir: str, description: dict[str, Any]) -> dict[str, Any] | None:
    """The mark of a corpus that was prepared as described, or None if there is no corpus yet."""
    mark = files.read_mark(output_dir)
    if mark is None:
        return None
    found = files.read_json(files.join(output_dir, SETTINGS)) if SETTINGS in mark["files"] else {}
    for name, value in description.items():
        if found.get(name) != value:
            raise ValueError(
                f"{output_dir!r} holds a corpus prepared with {name} = {found.get(name)!r}, now it is "
                f"{value!r}; name another output directory or delete that one"
            )
    tokens.open_corpus(output_dir)
    return mark


def _clear(output_dir: str) -> None:
    """Makes the directory and takes away what a run that was stopped left in it."""
    files.make_directory(output_dir)
    names = files.names(output_dir)
    for name in names:
        if not name.endswith(_OWN_ENDINGS):
            raise ValueError(
                f"{output_dir!r} holds {name!r}, which is no part of a corpus; name an empty directory"
            )
    for name in names:
        files.remove(files.join(output_dir, name))


def summary(mark: Mapping[str, Any], directory: str) -> str:
    """What became of the documents, for people to read.

    Args:
        mark: The mark of the corpus.
        directory: Where the corpus is.

    Returns:
        A few lines of text.
    """
    counts = mark["counts"]
    rows = [("read", counts["read"]), *((f"dropped: {r}", n) for r, n in counts["dropped"].items())]
    lines = [f"  {name:<32}{number:>14,}" for name, number in [*rows, ("kept", counts["kept"])]]
    for name, split in sorted(mark["splits"].items()):
        lines.append(f"  {name:<12}{split['num_documents']:>10,} documents{split['num_tokens']:>16,} tokens")
    return "\n".join([f"corpus {directory}: vocabulary {mark['vocabulary_size']:,}, documents:", *lines])

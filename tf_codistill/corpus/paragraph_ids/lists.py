"""Lists of paragraphs, in the form in which the authors of the paper published theirs.

    file name,encoded_paragraph_list
    CC-MAIN-00000.warc.wet.gz,12 2 40 1          paragraphs 12, 14, 54 and 55 of that WET file
    CC-MAIN-00001.warc.wet.gz,                   none of this one

    sha256 = check("paragraph_ids.csv")          against paragraph_ids.csv.sha256, if there is one
    for wet_file, numbers in read("paragraph_ids.csv"): ...

Each number is written as its difference to the one before, the first as it is. Paragraphs are counted as
`Document.numbers` does. Where wrapped documents were joined to paragraphs, the second column is called
``encoded_unwrapped_paragraph_list``: a number is that of a paragraph's first line, and whoever uses the list
has to join the same lines (`wrapping`) before. A list is a ``.csv`` file or a ``.tar`` of several, ``.gz``,
``.bz2`` or unpacked.
Published is a ``.tar.bz2`` of 392 MB, whose checksum is known here:
https://github.com/google-research/google-research/tree/master/codistillation
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import itertools
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tf_codistill import files
from tf_codistill.corpus.crawl.opening import file_name, open_source

PUBLISHED = "common_crawl_paragraph_ids_for_codistillation-csv-delta.tar.bz2"
"""Name of the list that the authors of the paper published; it belongs to the crawl CC-MAIN-2017-26."""

CHECKSUM = ".sha256"
"""Ending of the file with the checksum of a list, as ``sha256sum`` writes it."""

_PUBLISHED_SHA256 = "2694ae96685810d2a5c81f2dc9b3d2956d0543fa226ccbe9b26f0ffd81fa8292"
_NAMES, _NUMBERS = "file name", "encoded_paragraph_list"
# If `wrapping` ever joins other lines than it does, this column gets another name.
_UNWRAPPED = "encoded_unwrapped_paragraph_list"
_NAME = re.compile(r"(\.tar|\.csv)(\.gz|\.bz2)?$")
# The separator of the published list is nowhere told.
_SEPARATORS = str.maketrans(",;[]()", " " * 6)
_NO_NUMBER = re.compile(r"[^\d\s-]|-(?!\d)|(?<=\d)-", re.ASCII)
_OPEN: Mapping[str | None, Callable] = {".bz2": bz2.open, ".gz": gzip.open, None: lambda source: source}
_LONGEST_LINE = 1 << 26  # of a WET file of 20 million lines
_MAX_NUMBER = (1 << 32) - 1
_CHUNK_BYTES = 1 << 20

Numbers = npt.NDArray[np.uint32]
"""Paragraphs of a WET file, ascending."""


def check(path: str) -> str:
    """The SHA-256 of a list, in hexadecimal digits.

    It is checked against a known one, or that in a file beside the list, if there is one: another checksum,
    or a file that has none, is a `ValueError`.
    """
    with open_source(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    promised = _promised(path)
    if promised not in (None, found):
        raise ValueError(
            f"list {path!r} is damaged or another one: its SHA-256 is {found}, expected {promised}; "
            "fetch it again"
        )
    return found


def read(path: str) -> Iterator[tuple[str, Numbers]]:
    """Reads a list: for each WET file its name, without directory, and the numbers of its paragraphs.

    What is no such list, is damaged, or has numbers that do not ascend from 0 or more is a `ValueError`.
    """
    before = None
    for column, wet_file, text, where in _read(path):
        if column != (before := before or column):
            raise ValueError(f"list {path!r} has columns {before} and {column}; expected one of the two")
        yield wet_file, _decoded(text, where)


def is_unwrapped(path: str) -> bool:
    """Whether a list is one of wrapped documents that were joined to paragraphs; raises what `read` does."""
    return next(_read(path))[0] == _UNWRAPPED


def _read(path: str) -> Iterator[tuple[str, str, str, str]]:
    """Of each row the name of the column with the numbers, the WET file, the numbers, and where it stands."""
    ending = _NAME.search(path)
    if not ending:
        raise ValueError(f"list {path!r} is not understood; expected a name ending in .csv or .tar.bz2")
    num_rows = 0
    with open_source(path) as source:
        try:
            file = cast(BinaryIO, _OPEN[ending[2]](source))
            for name, member in _members(file) if ending[1] == ".tar" else [("", file)]:
                for row in _rows(member, f"{path!r}, {name!r}" if name else repr(path)):
                    num_rows += 1
                    yield row
        except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ValueError(f"list {path!r} is truncated or damaged: {error}; fetch it again") from error
        except OSError as error:
            if "data stream" not in str(error):  # what bz2 says of damage
                raise
            raise ValueError(f"list {path!r} is damaged: {error}; fetch it again") from error
    if not num_rows:
        raise ValueError(f"list {path!r} names no WET file; expected a row for each")


def encode(rows: Iterable[tuple[str, Numbers]]) -> bytes:
    """Lines of a list, from names of WET files and the numbers of their paragraphs, ascending."""
    deltas = ((name, np.diff(numbers.astype(np.int64), prepend=0).tolist()) for name, numbers in rows)
    return _lines_of((name, " ".join(map(str, row))) for name, row in deltas)


def write(path: str, parts: Iterable[bytes], is_unwrapped: bool = False) -> None:
    """Writes a list, ending in ``.csv``, of what `encode` returned, and beside it the file with its checksum.

    `is_unwrapped` says whether wrapped documents are among those listed, joined to paragraphs.
    """
    header = (_NAMES, _UNWRAPPED if is_unwrapped else _NUMBERS)
    digest = hashlib.sha256()
    with files.writing(path) as file:
        for content in itertools.chain([_lines_of([header])], parts):
            digest.update(content)
            file.write(content)
    files.write(path + CHECKSUM, f"{digest.hexdigest()}  {os.path.basename(path)}\n".encode())


def _lines_of(rows: Iterable[tuple[str, str]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode("utf-8", "surrogateescape")


def _promised(path: str) -> str | None:
    """The SHA-256 that a list should have, or None if nobody says it."""
    name = os.path.basename(path)
    if name == PUBLISHED:
        return _PUBLISHED_SHA256
    try:
        with open_source(path + CHECKSUM) as file:
            lines = file.read(_CHUNK_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        found = re.fullmatch(r"([0-9a-fA-F]{64})(?:\s+\*?(.*))?", line.strip())
        if found and os.path.basename(found[2] or name) == name:
            return found[1].lower()
    raise ValueError(
        f"file {path + CHECKSUM!r} holds no SHA-256 of {name!r}; write it by sha256sum, or delete it"
    )


def _members(file: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """The CSV files of a tar file, with their names."""
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for entry in archive:
            member = archive.extractfile(entry) if entry.name.endswith(".csv") else None
            if member is not None:
                yield entry.name, cast(BinaryIO, member)
    while file.read(_CHUNK_BYTES):  # to the end, where a truncated file is told
        pass


def _rows(file: BinaryIO, where: str) -> Iterator[tuple[str, str, str, str]]:
    """The rows of a CSV file, as `_read` has them."""
    csv.field_size_limit(max(_LONGEST_LINE, csv.field_size_limit()))
    try:
        rows = csv.reader(_lines(file, where))
        header = [name.strip().lower() for name in next(rows, [])]
        column = _UNWRAPPED if _UNWRAPPED in header else _NUMBERS
        if not {_NAMES, column} <= set(header):
            raise ValueError(
                f"list {where} begins with {header!r:.200}; expected the columns {_NAMES}, {_NUMBERS}"
            )
        name_at, numbers_at = map(header.index, (_NAMES, column))
        for row in filter(None, rows):
            if len(row) > numbers_at == len(header) - 1:  # commas between its numbers may be unquoted
                row[numbers_at:] = [" ".join(row[numbers_at:])]
            source = row[name_at].strip() if len(row) == len(header) else ""
            if not source:
                raise ValueError(f"list {where} has the row {row!r:.200}; expected {', '.join(header)}")
            wet_file = file_name(source)
            yield column, wet_file, row[numbers_at], f"list {where}, WET file {wet_file!r}"
    except csv.Error as error:
        raise ValueError(f"list {where} is no CSV file: {error}") from error


def _lines(file: BinaryIO, where: str) -> Iterator[str]:
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(
                f"list {where} has a line of more than {_LONGEST_LINE:,} bytes; is it a CSV file?"
            )
        yield decode(line)


def _decoded(text: str, where: str) -> Numbers:
    text = text.translate(_SEPARATORS).strip()
    wrong_text = _NO_NUMBER.search(text)
    if wrong_text:
        raise ValueError(
            f"{where}: {text[wrong_text.start() :][:20]!r} is no number; expected differences of paragraph "
            "numbers, whole and with spaces between"
        )
    # Without a Python object for each number: there may be millions.
    deltas = np.fromstring(text, np.int64, sep=" ") if text else np.empty(0, np.int64)
    # The first may be 0. Sums of what is small enough do not overflow.
    wrong = np.flatnonzero((deltas < (np.arange(len(deltas)) > 0)) | (deltas > _MAX_NUMBER))
    numbers = np.cumsum(deltas)
    if wrong.size or (numbers.size and numbers[-1] > _MAX_NUMBER):
        at = int(wrong[0]) if wrong.size else len(deltas) - 1
        raise ValueError(
            f"{where}: difference {deltas[at]} at position {at} leads to paragraph {numbers[at]}; expected "
            "paragraphs that ascend from 0 or more"
        )
    return numbers.astype(np.uint32)

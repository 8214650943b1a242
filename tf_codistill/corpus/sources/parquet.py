"""Parquet files: a document in each row, read in batches, and no more columns than are named.

    Parquet(["fineweb/*.parquet"])                      columns "text" and "url"
    Parquet(["dolma/*.parquet"], url="metadata.url")    a field inside another

A row group that cannot be read is damage, from the batch on where that shows; the next one is read. Pages
have a checksum only if whoever wrote them wanted one (`write_page_checksum`): without it, damage that happens
to unpack cannot be told. A file that is not on a local disk is first copied to a temporary file (``TMPDIR``),
since Parquet is read from its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, cast

import gin

from tf_codistill.corpus.crawl.opening import file_name
from tf_codistill.corpus.document import Record
from tf_codistill.corpus.sources.base import MAX_DOCUMENT_BYTES, Reading, decoded, record
from tf_codistill.corpus.sources.file_source import FilesOfRows
from tf_codistill.corpus.sources.json_lines import address
from tf_codistill.jobs.quarantine import Damage

_CHUNK_BYTES = 1 << 20
_ROWS = 256  # in a batch


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Parquet(FilesOfRows):
    """Parquet files; a folder of them."""

    noun: ClassVar[str] = "Parquet file"
    endings = (".parquet",)

    def read_file(self, path: str, reading: Reading) -> Iterator[Record | Damage]:
        """Reads a file, row group by row group."""
        import pyarrow
        from pyarrow import parquet

        errors = (pyarrow.ArrowException, OSError, ValueError, MemoryError, OverflowError)
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(_local(path, reading))
            try:
                file = stack.enter_context(parquet.ParquetFile(place, page_checksum_verification=True))
                fields = (self.text, self.url, self.language)
                columns = [one for one in fields if one and _has(file, one)]
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            except errors as error:
                raise ValueError(
                    f"Parquet file {path!r} cannot be read: {str(error) or type(error).__name__}; fetch it "
                    "again or leave it out"
                ) from error
            if self.text not in columns:
                known = ", ".join(file.schema_arrow.names)
                raise ValueError(
                    f"Parquet file {path!r} has no column {self.text!r}, but {known}; "
                    "bind Parquet.text to the one with the text"
                )
            name, first, done, num_bytes = file_name(path), 0, 0, reading.facts()["bytes"]
            for group, num_rows in enumerate(sizes):
                number = first
                try:
                    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                        nothing = [None] * batch.num_rows
                        rows = (_values(batch, one) if one in columns else nothing for one in fields)
                        yield from self._documents(zip(*rows, strict=True), name, number)
                        number += batch.num_rows
                except errors:
                    lost = max(1, first + num_rows - number)  # rows, as its place is
                    yield Damage("bad_row_group", number, lost, b"", f"{name}:{number}")
                first += num_rows
                share = num_bytes * (group + 1) // len(sizes)
                reading.advance(share - done)
                done = share

    def _documents(self, rows: Iterable[Sequence[Any]], name: str, first: int) -> Iterator[Record | Damage]:
        for number, (text, url, language) in enumerate(rows, first):
            told = address(decoded(url)[0] if isinstance(url, bytes) else url, f"{name}:{number}")
            if not isinstance(text, bytes):
                yield Damage(f"no_{self.text}", number, 1, b"", told)
            elif len(text) > MAX_DOCUMENT_BYTES:
                yield Damage("giant_document", number, len(text), text, told)
            else:
                clean, odd = decoded(text)
                spoken = decoded(language)[0] if isinstance(language, bytes) else None
                yield record(clean, told, spoken, odd)


def _has(file: Any, field: str) -> bool:
    """Whether there is a column, or one inside of another."""
    return any(f"{path}.".startswith(f"{field}.") for path in (column.path for column in file.schema))


def _values(batch: Any, field: str | None) -> list[Any]:
    """The values of a column; text as bytes, which nobody has checked yet."""
    import pyarrow
    from pyarrow import compute

    name, *inside = [field] if field in batch.schema.names else str(field).split(".")
    column = batch.column(name)
    for one in inside:
        column = compute.struct_field(column, one)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    as_bytes = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    return list(column.cast(as_bytes.get(column.type, column.type)).to_pylist())


@contextlib.contextmanager
def _local(path: str, reading: Reading) -> Iterator[str | BinaryIO]:
    """A local file, all of which has been summed up."""
    source = reading.open(path)
    if "://" not in path:
        while source.read(_CHUNK_BYTES):
            pass
        yield path
        return
    with tempfile.TemporaryFile() as copy:
        while chunk := source.read(_CHUNK_BYTES):
            copy.write(chunk)
        copy.seek(0)
        yield cast(BinaryIO, copy)

"""Packed documents: what was packed is unpacked, and found among others without a look at their text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus import packed
from tf_codistill.corpus.document import Document

KEYS = st.binary(min_size=packed.KEY_BYTES, max_size=packed.KEY_BYTES)
ANY_TEXT = st.text(st.characters(), max_size=20)
PARAGRAPHS = st.lists(
    st.tuples(st.text(st.characters(exclude_characters="\n"), max_size=20), st.integers(0, 1 << 40)),
    max_size=5,
)


def document(url: str, language: str | None, numbered: Sequence[tuple[str, int]]) -> Document:
    paragraphs, numbers = (tuple(part) for part in zip(*numbered, strict=True)) if numbered else ((), ())
    return Document(url, language, paragraphs, numbers, "a.warc.wet.gz")


DOCUMENTS = st.builds(document, ANY_TEXT, st.none() | ANY_TEXT, PARAGRAPHS)


@settings(max_examples=300, deadline=None)
@given(KEYS, DOCUMENTS)
@example(bytes(packed.KEY_BYTES), document("", None, []))
@example(b"\n" * packed.KEY_BYTES, document("a\n\ud800 \x00", "eng\n", [("", 0), ("", 0)]))
@example(b"\xff" * packed.KEY_BYTES, document("u", "eng", [("\udc00\ud800\t\x00\r\x85\u2028", 7), (" ", 9)]))
def test_what_was_packed_is_unpacked(key: bytes, whole: Document) -> None:
    assert packed.unpack(packed.pack(key, whole), "a.warc.wet.gz") == whole


def test_the_name_of_the_wet_file_is_given_back() -> None:
    content = packed.pack(bytes(packed.KEY_BYTES), document("u", None, [("text", 3)]))
    assert packed.unpack(content, "b.warc.wet.gz").wet_file == "b.warc.wet.gz"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, DOCUMENTS), max_size=6), st.binary(max_size=10))
def test_each_document_is_found_among_others(entries: list[tuple[bytes, Document]], before: bytes) -> None:
    content = before + b"".join(packed.pack(*entry) for entry in entries)
    file = io.BytesIO(content)
    file.seek(len(before))
    found = list(packed.spans(file))
    assert [
        (key, packed.unpack(content[start : start + size], "a.warc.wet.gz")) for key, start, size in found
    ] == entries
    # One begins where another ends.
    starts = [start for _, start, _ in found]
    ends = [start + size for _, start, size in found]
    assert [*starts, len(content)] == [len(before), *ends]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, DOCUMENTS), max_size=6), st.integers(1, 300))
def test_documents_are_cut_apart_wherever_a_piece_ends(
    entries: list[tuple[bytes, Document]], num_bytes: int
) -> None:
    content = b"".join(packed.pack(*entry) for entry in entries)
    pieces = [content[start : start + num_bytes] for start in range(0, len(content), num_bytes)]
    found = list(packed.split(pieces))
    assert [(key, packed.unpack(one, "a.warc.wet.gz")) for key, one in found] == entries
    assert [tuple(packed.numbers(one)) for _, one in found] == [whole.numbers for _, whole in entries]

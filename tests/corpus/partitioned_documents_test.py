"""Packed documents: what was packed is unpacked, and found among others without a look at their text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus.document import Document
from tf_codistill.corpus.stages import partitioned

KEY_BYTES = partitioned.KEY_DIGITS // 2
KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
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
@example(bytes(KEY_BYTES), document("", None, []))
@example(b"\n" * KEY_BYTES, document("a\n\ud800 \x00", "eng\n", [("", 0), ("", 0)]))
@example(b"\xff" * KEY_BYTES, document("u", "eng", [("\udc00\ud800\t\x00\r\x85\u2028", 7), (" ", 9)]))
def test_what_was_packed_is_unpacked(key: bytes, whole: Document) -> None:
    content = partitioned.pack(key, whole)
    assert partitioned.unpack(content, "a.warc.wet.gz") == whole
    assert partitioned.text(content).decode("utf-8", "surrogatepass").split("\n")[:-1] == list(
        whole.paragraphs
    )


def test_the_name_of_the_wet_file_is_given_back() -> None:
    content = partitioned.pack(bytes(KEY_BYTES), document("u", None, [("text", 3)]))
    assert partitioned.unpack(content, "b.warc.wet.gz").wet_file == "b.warc.wet.gz"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, DOCUMENTS), max_size=6), st.integers(1, 400), st.sampled_from([b"", b"\n9"]))
def test_each_document_is_found_among_others_in_pieces_cut_anywhere(
    entries: list[tuple[bytes, Document]], size: int, before: bytes
) -> None:
    expected = [before + partitioned.pack(*entry) for entry in entries]
    content = b"".join(expected)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    found = list(partitioned.split(pieces, len(before)))
    assert found == expected
    keys = [entry[len(before) :][: partitioned.KEY_DIGITS] for entry in found]
    assert [bytes.fromhex(key.decode()) for key in keys] == [key for key, _ in entries]
    numbers = [tuple(partitioned.numbers(entry[len(before) :])) for entry in found]
    assert numbers == [whole.numbers for _, whole in entries]

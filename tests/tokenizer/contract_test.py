"""What holds for every tokenizer, whoever made it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import inspect
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import toy_tokenizers
from tests.toy_tokenizers import KINDS, LOSSLESS, SPECIAL, WITH_OPS, Letters
from tf_codistill import files, tokens
from tf_codistill.tokenizer import own_class
from tf_codistill.tokenizer.base import GraphTokenizer, Tokenizer
from tf_codistill.tokenizer.in_graph import GraphParagraphs, GraphWordPieces
from tf_codistill.tokenizer.opening import as_file, open_tokenizer
from tf_codistill.tokenizer.sentencepiece_model import SentencePieceModel
from tf_codistill.tokenizer.tokenizers_file import TokenizersFile
from tf_codistill.tokenizer.word_pieces import WordPieces

HUGE = "x" * 1_000_000
PLAIN = ["Anna went to the market on day 0.", "Ben said: the river!\nIt wasn't cold there.\n\nOh, no.", "a"]
DIRTY = [
    "",
    "\n",
    "\n\n x \n ",
    "\x00",
    "a\x00\x01b",
    "\ud800",
    "\udc00\ud800 x",
    "\u2581a \u2581\u2581",
    "  two  spaces.  Two   more. ",
    "tab\tand\r\nreturn\u2028\x85\x1c. X\u3000\xa0",
    "日本語 \U0001f600 e\u0301 \ufeff\ufffd\u2585 \u2047 ﬁ",
    "=" * 77 + "." * 300,
    SPECIAL,
    "".join(SPECIAL.split()),
    "Anna" + SPECIAL.replace(" ", "\n") + " Ben",
]
TEXTS = st.lists(st.text(st.characters() | st.sampled_from("aA \n.<s>[]\x00\u2581"), max_size=60), max_size=4)
CHECKS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclasses.dataclass
class Opened:
    """A tokenizer of a kind.

    Attributes:
        kind: Its name in `toy_tokenizers`.
        path: Its file.
        tokenizer: The tokenizer.
    """

    kind: str
    path: Path
    tokenizer: Tokenizer

    @functools.cached_property
    def in_graph(self) -> Any:
        """Its ops, traced once."""
        strings = tf.TensorSpec([None], tf.string)
        return tf.function(self.tokenizer.in_graph().encode_document, input_signature=[strings])

    def forbidden(self) -> set[int]:
        """Ids that no text has."""
        own = getattr(self.tokenizer, "special_pieces", ())
        inside = {tokens.SENTENCE_START, tokens.SENTENCE_END} if not self.tokenizer.marks_sentences else set()
        return {tokens.NUM_SPECIAL + index for index in own} | inside


@pytest.fixture(scope="module", params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    path = tmp_path_factory.mktemp("tokenizer") / "any name"
    KINDS[request.param](str(path))
    return Opened(request.param, path, open_tokenizer(str(path)))


def members(protocol: type) -> dict[str, object]:
    return {name: member for name, member in vars(protocol).items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        *((Tokenizer, kind) for kind in (WordPieces, SentencePieceModel, TokenizersFile, Letters)),
        *((GraphTokenizer, kind) for kind in (GraphWordPieces, GraphParagraphs)),
    ],
)
def test_tokenizers_take_what_the_protocol_passes(protocol: type, implementation: type) -> None:
    for name, member in members(protocol).items():
        if not isinstance(member, property):
            expected = inspect.signature(member).parameters  # type: ignore[arg-type]
            found = inspect.signature(getattr(implementation, name)).parameters
            assert list(found) == list(expected), name
            assert [p.annotation for p in found.values()] == [p.annotation for p in expected.values()], name


def check(opened: Opened, texts: list[str]) -> None:
    tokenizer = opened.tokenizer
    rows = tokenizer.encode_documents(iter(texts))
    assert len(rows) == len(texts)
    forbidden = opened.forbidden()
    for text, row in zip(texts, rows, strict=True):
        assert row.dtype == np.int32
        assert 0 <= row.min() <= row.max() < tokenizer.vocabulary_size
        assert (row[0], row[-2], row[-1]) == (
            tokens.PARAGRAPH_START,
            tokens.PARAGRAPH_END,
            tokens.END_OF_DOCUMENT,
        )
        assert np.count_nonzero(row == tokens.END_OF_DOCUMENT) == 1
        assert np.count_nonzero(row == tokens.PARAGRAPH_START) == 1 + text.count("\n")
        assert not forbidden & set(row.tolist()), text
        decoded = tokenizer.decode(row)
        assert decoded.count("\n") == text.count("\n")
        if opened.kind in LOSSLESS and "\u2581" not in text:  # which SentencePiece takes for a space
            assert decoded == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def test_documents_are_ids_of_the_vocabulary_and_come_back(opened: Opened) -> None:
    check(opened, [*PLAIN, *DIRTY, HUGE])
    (alone,) = opened.tokenizer.encode_documents(PLAIN[:1])
    np.testing.assert_array_equal(opened.tokenizer.encode_documents(PLAIN)[0], alone)
    assert opened.tokenizer.encode_documents([]) == []
    assert [opened.tokenizer.decode(row) for row in opened.tokenizer.encode_documents(PLAIN)] == PLAIN


@CHECKS
@given(texts=TEXTS)
@example(texts=["\ud800 <s>\x00\n\n"])
def test_any_text_is_ids_of_the_vocabulary_and_comes_back(opened: Opened, texts: list[str]) -> None:
    check(opened, texts)


def test_text_of_special_tokens_stays_text(opened: Opened) -> None:
    """The ids of ``<s>`` in a document are those of its letters, or none at all."""
    (row,) = opened.tokenizer.encode_documents([SPECIAL])
    assert not opened.forbidden() & set(row.tolist())
    if opened.kind not in ("sentencepiece.model unigram", "tokenizer.json words"):  # which lack some letters
        assert opened.tokenizer.decode(row) == SPECIAL
    assert len(row) > 10


def test_any_part_of_ids_can_be_decoded_and_others_are_refused(opened: Opened) -> None:
    tokenizer = opened.tokenizer
    (row,) = tokenizer.encode_documents(["Anna went to the market.\nOh."])
    for start in range(len(row)):
        for end in range(start, len(row) + 1):
            assert set(tokenizer.decode(row[start:end])) <= set("Anna went to the market.\nOh.#")
    assert tokenizer.decode(range(tokenizer.vocabulary_size))
    for index in (-1, tokenizer.vocabulary_size + 256):
        with pytest.raises(ValueError, match=f"id {index} is not of this vocabulary"):
            tokenizer.decode([tokens.PARAGRAPH_START, index])
    shown = [tokenizer.piece(int(index)) for index in row if index >= tokens.NUM_SPECIAL]
    assert re.sub(r"##|\u0120| ", "", "".join(shown)) == "Annawenttothemarket.Oh."


def test_ids_in_graph_are_those_outside(opened: Opened) -> None:
    if opened.kind not in WITH_OPS:
        with pytest.raises(ValueError, match=r"has no TensorFlow ops, .* by its encode_documents, and feed"):
            opened.tokenizer.in_graph()
        return
    texts = [*PLAIN, *DIRTY, "x" * 100_000, *(". =a"[number % 4] * number for number in range(1, 400, 9))]
    batch = tf.constant([text.encode("utf-8", "surrogatepass") for text in texts])
    found, expected = opened.in_graph(batch).to_list(), opened.tokenizer.encode_documents(texts)
    for text, row, other in zip(texts, found, expected, strict=True):
        assert row == other.tolist(), text[:80]
    assert opened.in_graph(tf.constant([], tf.string)).to_list() == []


@CHECKS
@given(texts=st.lists(st.text(st.sampled_from(".=a -"), max_size=200), max_size=4))
def test_ids_in_graph_are_the_same_where_pieces_could_tie(opened: Opened, texts: list[str]) -> None:
    if opened.kind in WITH_OPS:
        found = opened.in_graph(tf.constant(texts, tf.string))
        assert found.to_list() == [row.tolist() for row in opened.tokenizer.encode_documents(texts)]


def test_the_fingerprint_is_that_of_the_file(opened: Opened, tmp_path: Path) -> None:
    assert opened.tokenizer.fingerprint == files.checksum(str(opened.path))
    copied = tmp_path / "elsewhere.bin"
    copied.write_bytes(opened.path.read_bytes())
    again = open_tokenizer(str(copied))
    assert type(again) is type(opened.tokenizer)
    assert again.fingerprint == opened.tokenizer.fingerprint
    kept = as_file(str(copied))
    assert kept.name == opened.kind.partition(" ")[0]
    assert (kept.content, kept.checksum) == (opened.path.read_bytes(), again.fingerprint)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_alike(opened: Opened, duplicate: Callable[[Any], Any]) -> None:
    opened.tokenizer.encode_documents(PLAIN)
    other = duplicate(opened.tokenizer)
    texts = [*PLAIN, *DIRTY]
    for row, expected in zip(
        other.encode_documents(texts), opened.tokenizer.encode_documents(texts), strict=True
    ):
        np.testing.assert_array_equal(row, expected)
    assert other.fingerprint == opened.tokenizer.fingerprint


def test_rows_belong_to_the_caller(opened: Opened) -> None:
    for row in opened.tokenizer.encode_documents([*PLAIN, "\x00"]):
        assert row.flags.writeable
        assert row.base is None


def test_other_ids_have_another_fingerprint(tmp_path: Path) -> None:
    fingerprints = set()
    for name, write in KINDS.items():
        write(str(tmp_path / name))
        fingerprints.add(open_tokenizer(str(tmp_path / name)).fingerprint)
    toy_tokenizers.sentencepiece_model(str(tmp_path / "less"), vocab_size=60, model_type="unigram")
    fingerprints.add(open_tokenizer(str(tmp_path / "less")).fingerprint)
    fingerprints.update([Letters("ab").fingerprint, Letters("ba").fingerprint])
    assert len(fingerprints) == len(KINDS) + 3


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"{}", b'{"model": 1}', b"[1]", b"\x0a\xff", b"\xff" * 9]
)
def test_what_is_no_tokenizer_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer '.*x\.model' is no"):
        open_tokenizer(str(tmp_path / "x.model"))
    with pytest.raises(FileNotFoundError):
        open_tokenizer(str(tmp_path / "absent"))


def test_a_unigram_model_that_engines_read_in_two_ways_has_no_ops(tmp_path: Path) -> None:
    path = str(tmp_path / "x.model")
    toy_tokenizers.sentencepiece_model(path, vocab_size=120, user_defined_symbols=["==", "<mask>"])
    tokenizer = open_tokenizer(path)
    assert "==" in [tokenizer.piece(int(index)) for index in tokenizer.encode_documents(["a ==="])[0][1:-2]]
    with pytest.raises(ValueError, match="user-defined pieces"):
        tokenizer.in_graph()


def test_a_class_that_changes_or_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer_class.json"
    path.write_bytes(as_file(Letters("abc")).content)
    assert open_tokenizer(str(path)) == Letters("abc")
    monkeypatch.setattr(Letters, "encode_paragraphs", lambda self, paragraphs: [[0] for _ in paragraphs])
    with pytest.raises(ValueError, match="class Letters of module .* gives other ids than when"):
        open_tokenizer(str(path))
    path.write_bytes(path.read_bytes().replace(b"toy_tokenizers", b"gone"))
    with pytest.raises(ValueError, match=r"module tests\.gone, which fails .* PYTHONPATH"):
        open_tokenizer(str(path))


def test_a_class_that_no_file_can_describe_is_told() -> None:
    @dataclasses.dataclass(frozen=True)
    class Local(Letters):
        pass

    with pytest.raises(ValueError, match=r"cannot be imported; define its class in a module"):
        own_class.content_of(Local())
    with pytest.raises(ValueError, match="alphabet of tokenizer .* expected what a JSON file can hold"):
        own_class.content_of(Letters(("a", "b")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no dataclass"):
        own_class.content_of(object())  # type: ignore[arg-type]


def test_the_class_of_the_docs_is_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_words.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    words = importlib.import_module("my_words").Words(["it", "rains", "we", "stay"])
    (tmp_path / "kept.json").write_bytes(as_file(words).content)
    tokenizer = open_tokenizer(str(tmp_path / "kept.json"))
    (row,) = tokenizer.encode_documents(["it rains often\nwe stay"])
    shift = tokens.NUM_SPECIAL
    first = [tokens.PARAGRAPH_START, shift, shift + 1, tokens.OUT_OF_VOCABULARY, tokens.PARAGRAPH_END]
    second = [tokens.PARAGRAPH_START, shift + 2, shift + 3, tokens.PARAGRAPH_END]
    assert row.tolist() == [*first, *second, tokens.END_OF_DOCUMENT]
    assert tokenizer.decode(row) == "it rains \ufffd\nwe stay"


def test_special_tokens_that_a_file_reads_in_any_case_are_out_of_vocabulary(tmp_path: Path) -> None:
    toy_tokenizers.all_at_once(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(str(tmp_path / "tokenizer.json"))
    (row,) = tokenizer.encode_documents(["a<s>b <unk> \u65e5"])
    assert not {tokens.NUM_SPECIAL, tokens.NUM_SPECIAL + 1} & set(row.tolist())
    assert tokens.OUT_OF_VOCABULARY in row
    assert tokenizer.decode(row).startswith("a \ufffd b")


def test_a_package_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_tokenizers.byte_level(str(tmp_path / "x.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"x\.json' needs the package tokenizers; run: pip install"):
        open_tokenizer(str(tmp_path / "x.json"))

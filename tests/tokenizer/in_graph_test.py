"""The tokenizer in graph: the ids of `WordPieces` for every string, anywhere that TensorFlow runs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tf_codistill.corpus.wet import Record, read_wet
from tf_codistill.tokenizer.score_quantization import MAX_WORD
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8").encode("ascii", "ignore").decode("ascii")
DATA = os.environ.get("TF_CODISTILL_REAL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="TF_CODISTILL_REAL_DATA is not set")
# What the sentence rule looks at, the signs that mark parts, and strings with many equally good pieces.
PITFALLS = "aZ9é _.!?…\"'”’)(]\n\x00\x01\u2581\ud800\udfff\xa0\u2003\u0301\U0001f600*^|{}/+=-"
LONG = (
    *("x" * length for length in (MAX_WORD - 1, MAX_WORD, MAX_WORD + 1, 2 * MAX_WORD + 1)),
    *(f"{c}{'y' * length} z" for c in "\x00\u2581" for length in range(MAX_WORD - 3, MAX_WORD + 2)),
    "a." * MAX_WORD + "\xa0B" + "c" * MAX_WORD,
    "word " * 400,
    "é" * 700 + " " + "." * 900,
    *("module"[start:] + "module" * MAX_WORD for start in range(6)),
)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Tokenizers:
    """Both tokenizers over one vocabulary; graphs are traced once."""

    def __init__(self, path: str) -> None:
        self.plain = WordPieces(path)
        self.module = self.plain.in_graph()
        strings, ids = tf.TensorSpec([None], tf.string), tf.RaggedTensorSpec([None, None], tf.int32)
        self.encode = tf.function(self.module.encode, input_signature=[strings])
        self.encode_document = tf.function(self.module.encode_document, input_signature=[strings])
        self.decode = tf.function(self.module.decode, input_signature=[ids])

    def check(self, texts: Sequence[str]) -> None:
        batch = tf.constant([encoded(text) for text in texts], tf.string)
        ids = self.encode(batch)
        assert ids.to_list() == [self.plain.encode(text) for text in texts]
        documents = self.encode_document(batch)
        assert documents.to_list() == [self.plain.encode_document(text).tolist() for text in texts]
        assert self.decode(ids).numpy().tolist() == batch.numpy().tolist()
        assert self.decode(documents).numpy().tolist() == [
            encoded(self.plain.decode(document)) for document in documents.to_list()
        ]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    path = str(tmp_path_factory.mktemp("pieces") / "word_pieces.model")
    WordPieces.train([TEXT, ". .. ... == === -- ---- aa aaa"] * 3, 220, path)
    return Tokenizers(path)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=6))
@example([])
@example(["", "\n", "\n\n x \n ", "\x00", "\ud800", "\udc00\ud800", "\u2581a \u2581\u2581"])
@example(["<s> </s> <unk> <0x41> <p>", "  two  spaces.  Two   more. ", "tab\tand\r\nreturn\u2028\x85\x1c. X"])
@example(
    ["don't think that I... I care", "I... I", "Mr.... A", "No?. 9 a!.. B x.. C", "St.…. A Mr.…  A", "I.”. A"]
)
@example(["日本語 \U0001f600 e\u0301 \ufeff\ufffd\u2585 \u2047", "Mr. X, A. B. C. and cf. É. Y. No. 1"])
def test_ids_are_those_of_word_pieces(tokenizers: Tokenizers, texts: list[str]) -> None:
    tokenizers.check(texts)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from(PITFALLS), max_size=80), max_size=6))
def test_ids_are_the_same_where_rules_or_pieces_could_tie(tokenizers: Tokenizers, texts: list[str]) -> None:
    tokenizers.check(texts)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "I", "é", "Mr", "nMr", "éMr", "\u0301", "(No", "\x00St", "word", ""]),
            st.sampled_from([".", "!", "..", "...", "!.", ".'", "…", ".”)", ""]),
            st.sampled_from([" ", "\xa0", " '(", "\n", "\t ", ""]),
        ).map("".join),
        max_size=20,
    )
)
def test_sentences_are_cut_at_the_same_places(tokenizers: Tokenizers, parts: list[str]) -> None:
    tokenizers.check(["".join(parts)])


@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from(". =-a"), max_size=3 * MAX_WORD))
def test_ids_are_the_same_for_long_runs(tokenizers: Tokenizers, text: str) -> None:
    tokenizers.check([text, *(text[:1] * length for length in (7, 23, 57, 300))])


def test_words_longer_than_any_are_cut_at_the_same_places(tokenizers: Tokenizers) -> None:
    tokenizers.check(LONG)
    runs = [("module" * MAX_WORD)[start:][: MAX_WORD - 1] for start in range(6)]
    tokenizers.check([foreign + run for foreign in ("\u2581", "\ud800") for run in runs])


def test_ids_from_the_middle_of_a_text_can_be_decoded(tokenizers: Tokenizers) -> None:
    ids = tokenizers.plain.encode("\n Some words here. And there.\nMore words.\n")
    parts = [ids[start:end] for start in range(len(ids)) for end in range(start, len(ids) + 1)]
    found = tokenizers.decode(tf.ragged.constant(parts, tf.int32, ragged_rank=1))
    assert found.numpy().tolist() == [tokenizers.plain.decode(part).encode() for part in parts]
    assert tokenizers.module.decode(tf.constant([ids])).numpy()[0] == tokenizers.plain.decode(ids).encode()


@pytest.mark.parametrize("index", [-1, 226 + 256])
def test_a_foreign_id_is_refused(tokenizers: Tokenizers, index: int) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        tokenizers.module.decode(tf.constant([[index]]))


def test_a_saved_module_and_a_keras_model_tokenize(tokenizers: Tokenizers, tmp_path: Path) -> None:
    texts = ["One here. Two there.\nThree.", "Mr. X \x00 日本"]
    expected = [tokenizers.plain.encode_document(text).tolist() for text in texts]
    module = tokenizers.plain.in_graph()
    strings = tf.TensorSpec([None], tf.string)
    signature = tf.function(lambda batch: {"ids": module.encode_document(batch).to_tensor(-1)}, [strings])
    tf.saved_model.save(module, str(tmp_path / "module"), signatures={"encode": signature})
    loaded = tf.saved_model.load(str(tmp_path / "module")).signatures["encode"]
    assert unpadded(loaded(tf.constant(texts))["ids"]) == expected

    class Tokenize(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.pieces = module

        def call(self, batch: tf.Tensor) -> tf.Tensor:
            return self.pieces.encode_document(batch).to_tensor(-1)

        def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return (input_shape[0], None)

    strings_in = keras.Input((), dtype="string")
    model = keras.Model(strings_in, Tokenize()(strings_in))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(module)
    archive.add_endpoint("serve", lambda batch: model(batch), [strings])
    archive.write_out(str(tmp_path / "model"), verbose=False)
    assert unpadded(tf.saved_model.load(str(tmp_path / "model")).serve(tf.constant(texts))) == expected


def unpadded(rows: tf.Tensor) -> list[list[int]]:
    return [[index for index in row if index >= 0] for row in rows.numpy().tolist()]


@pytest.mark.timeout(120)
def test_a_parallel_map_does_not_freeze(tokenizers: Tokenizers) -> None:
    """tensorflow/text#374: SentencePiece ops in a parallel map of an older release stood still."""
    texts = [TEXT[start : start + 400] for start in range(0, 4000, 10)]
    documents = tf.data.Dataset.from_tensor_slices(texts).repeat(10).batch(8)
    parallel = documents.map(tokenizers.module.encode_document, num_parallel_calls=16)
    found = [row for batch in parallel for row in batch.to_list()]
    assert found == [tokenizers.plain.encode_document(text).tolist() for text in texts] * 10


def texts_of_data() -> Iterator[str]:
    for path in sorted(glob.glob(f"{DATA}/**/*", recursive=True)):
        if ".warc.wet" in path:
            yield from (found.text for found in read_wet(path) if isinstance(found, Record))
        elif os.path.isfile(path):
            yield Path(path).read_bytes()[: 1 << 20].decode("utf-8", "replace")


@needs_data
def test_ids_are_the_same_on_a_slice_of_real_text(tokenizers: Tokenizers) -> None:
    tokenizers.check([text for number, text in enumerate(texts_of_data()) if number % 200 == 0])


@needs_data
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_real_text_has_the_same_ids_and_comes_back(tmp_path: Path) -> None:
    texts = list(texts_of_data())
    sample = [text for number, text in enumerate(texts) if number % 20 == 0]
    WordPieces.train(sample, 8000, str(tmp_path / "large.model"))
    both = Tokenizers(str(tmp_path / "large.model"))
    for start in range(0, len(texts), 50):
        batch = texts[start : start + 50]
        expected = [both.plain.encode(text) for text in batch]
        ids = both.encode(tf.constant([encoded(text) for text in batch]))
        np.testing.assert_array_equal(ids.flat_values, np.concatenate(expected))
        np.testing.assert_array_equal(ids.row_lengths(), [len(row) for row in expected])
        assert [both.plain.decode(row) for row in expected] == batch

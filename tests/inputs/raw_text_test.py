"""Raw text: from files to a model that learns, by the tokenizer in graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import tokens
from tf_codistill.inputs import language, raw_text
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = Path(__file__).read_text(encoding="utf-8").encode("ascii", "ignore").decode("ascii")
FILES = {"a.txt": "One here. Two there.\nThree.\n", "b.txt": "Mr. X stays.\n\nFour \x00 five.", "c.txt": ""}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("pieces") / "word_pieces.model")
    WordPieces.train([TEXT], 150, path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())
    return [str(tmp_path / name) for name in FILES]


def documents(split: tokens.Split) -> list[list[int]]:
    return [split.gather(np.arange(*split.starts[i : i + 2])).tolist() for i in range(split.num_documents)]


def tokenized(texts: tf.data.Dataset, model_path: str) -> tokens.Split:
    pieces = WordPieces(model_path).in_graph()
    return raw_text.tokenized(texts, pieces.encode_document, pieces.vocabulary_size)


@pytest.mark.parametrize(
    ("texts_of", "expected"),
    [
        (lambda paths: raw_text.text_files(paths, "file"), list(FILES.values())),
        (
            lambda paths: raw_text.text_files(paths, "line"),
            [line for text in FILES.values() for line in text.split("\n") if line],
        ),
        (lambda paths: raw_text.texts_of(["x y.", "", "\ud800z"] * 100), ["x y.", "", "?z"] * 100),
        (
            lambda paths: tf.data.Dataset.from_tensors(b"no UTF-8: \xff\xc3."),
            ["no UTF-8: \ufffd\ufffd."],
        ),
    ],
)
def test_documents_are_those_of_the_tokenizer(
    texts_of: Callable[[list[str]], tf.data.Dataset], expected: list[str], paths: list[str], model_path: str
) -> None:
    split = tokenized(texts_of(paths), model_path)
    pieces = WordPieces(model_path)
    assert documents(split) == [pieces.encode_document(text).tolist() for text in expected]
    assert split.num_tokens == sum(map(len, documents(split)))


def test_what_holds_no_text_is_told(paths: list[str], model_path: str) -> None:
    with pytest.raises(ValueError, match="document is 'page'; expected 'file' or 'line'"):
        raw_text.text_files(paths, "page")
    with pytest.raises(ValueError, match="no text file was given"):
        raw_text.text_files([], "file")
    with pytest.raises(ValueError, match="there is no text"):
        tokenized(raw_text.text_files(paths[2:], "line"), model_path)


def test_a_language_model_learns_from_raw_text(tmp_path: Path, model_path: str) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    split = tokenized(raw_text.text_files([str(tmp_path / "text.txt")], "line"), model_path)
    stream = language.LaneStream(split, seed=1, num_lanes=4, window_tokens=16)
    keras.utils.set_random_seed(1)
    model = LanguageModel(WordPieces(model_path).vocabulary_size, 16, 1, 16, batch_size=4)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = language.dataset(stream)
    history = model.fit(batches, steps_per_epoch=40, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.3

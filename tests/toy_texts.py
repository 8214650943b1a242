"""A tokenizer, a corpus of a few sentences, and a small language model that reads them."""

from __future__ import annotations

import dataclasses
import pathlib

import keras

from tf_codistill import files, tokens
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tokenizer.word_pieces import WordPieces
from tf_codistill.trained import Trained

DOCUMENTS = [
    f"{who} went to the {where}. It was a {what} day there.\nNobody knew {who} at the {where}, though."
    for who in ("Anna", "Ben", "Clara", "David", "Emma")
    for where in ("market", "river", "station", "old town")
    for what in ("cold", "bright", "quiet")
]


def write_text_corpus(directory: str, num_pieces: int = 105) -> str:
    """A corpus with a tokenizer of its own."""
    files.make_directory(directory)
    pieces = WordPieces.train(DOCUMENTS, num_pieces, files.join(directory, tokens.TOKENIZER))
    splits = {}
    for split, texts in (("train", DOCUMENTS[:45]), ("validation", DOCUMENTS[45:])):
        with tokens.ShardWriter(directory, split, 0, 1, pieces.vocabulary_size) as writer:
            for text in texts:
                writer.add(pieces.encode_document(text))
        splits[split] = [writer.close()]
    counts = {
        "read": 70,
        "kept": 60,
        "dropped": {"<b>link_list</b>": 7, "short": 2},
        "unreadable": {"gzip": 1},
    }
    tokens.commit_corpus(directory, vocabulary_size=pieces.vocabulary_size, splits=splits, counts=counts)
    return directory


def small_model(vocabulary_size: int, batch_size: int | None = 1) -> keras.Model:
    """An untrained model, the same for every call, that tells ids well apart."""
    keras.utils.set_random_seed(5)
    model = LanguageModel(vocabulary_size, embedding_dim=6, num_layers=2, num_units=10, batch_size=batch_size)
    model.head.kernel.assign(3 * model.head.kernel)
    return model


@dataclasses.dataclass
class GroupDir:
    """What a group leaves behind.

    Attributes:
        workdir: Directory of the run.
        corpus_dir: The corpus that it was trained on.
        pieces: The tokenizer.
    """

    workdir: pathlib.Path
    corpus_dir: str
    pieces: WordPieces

    @property
    def path(self) -> pathlib.Path:
        """Directory of the group."""
        return self.workdir / "group_0"

    def trained(self) -> Trained:
        """The model with the tokenizer, from zero."""
        model = Trained(small_model(self.pieces.vocabulary_size), self.pieces)
        model.reset()
        return model


def write_group(directory: pathlib.Path) -> GroupDir:
    """A corpus, and a run with a saved model, but without a tokenizer."""
    corpus_dir = write_text_corpus(str(directory / "corpus"))
    made = GroupDir(directory / "run", corpus_dir, WordPieces(f"{corpus_dir}/{tokens.TOKENIZER}"))
    made.path.mkdir(parents=True)
    small_model(made.pieces.vocabulary_size, batch_size=None).save(made.path / "student.keras")
    return made

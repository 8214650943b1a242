"""A corpus and an experiment that train in seconds."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tf_codistill import files, schedules, tokens
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.training.experiment import Experiment

VOCABULARY_SIZE = 40


def write_language_corpus(
    directory: str, num_documents: int = 60, vocabulary_size: int = VOCABULARY_SIZE
) -> str:
    """Documents in which a piece is often followed by its successor, for training and for validation."""
    rng = np.random.default_rng(0)
    files.make_directory(directory)
    files.write(files.join(directory, tokens.TOKENIZER), b"not a real tokenizer")
    splits = {}
    for split, share in (("train", 1.0), ("validation", 0.3)):
        with tokens.ShardWriter(directory, split, 0, 1, vocabulary_size) as writer:
            for _ in range(int(num_documents * share)):
                writer.add([*_document(rng, vocabulary_size), tokens.END_OF_DOCUMENT])
        splits[split] = [writer.close()]
    counts = {"read": num_documents, "kept": num_documents, "dropped": {}}
    tokens.commit_corpus(directory, vocabulary_size=vocabulary_size, splits=splits, counts=counts)
    return directory


def toy_experiment(corpus_dir: str, **changes: Any) -> Experiment:
    """A few steps of a tiny language model on four lanes."""
    settings: dict[str, Any] = {
        "corpus_dir": corpus_dir,
        "num_steps": 20,
        "optimizer": lambda: keras.optimizers.Adam(0.01),
        "model_fn": toy_model,
        "num_lanes": 4,
        "window_tokens": 8,
        "data": "same",
        "distillation_weight": schedules.BurnIn(steps=5),
        "exchange_every_steps": 5,
        "log_every_steps": 5,
        "validate_every_steps": 10,
        "checkpoint_every_steps": 10,
        "seed": 3,
    }
    return Experiment(**{**settings, **changes})


def toy_model(vocabulary_size: int, batch_size: int | None) -> keras.Model:
    """Two small recurrent layers."""
    return LanguageModel(vocabulary_size, embedding_dim=8, num_layers=2, num_units=12, batch_size=batch_size)


def _document(rng: np.random.Generator, vocabulary_size: int) -> list[int]:
    ids = [int(rng.integers(tokens.NUM_SPECIAL, vocabulary_size))]
    for _ in range(int(rng.integers(20, 60))):
        jump = 1 if rng.random() < 0.8 else int(rng.integers(0, vocabulary_size))
        ids.append(
            tokens.NUM_SPECIAL
            + (ids[-1] - tokens.NUM_SPECIAL + jump) % (vocabulary_size - tokens.NUM_SPECIAL)
        )
    return ids

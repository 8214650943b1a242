"""A corpus and an experiment that train in seconds."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from tf_codistill import files, schedules, tokens
from tf_codistill.experiment import Experiment
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tasks.language import LanguageTask
from tf_codistill.teaching.snapshots import PeerExchange

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


def toy_task(corpus_dir: str, **changes: Any) -> LanguageTask:
    """A tiny language model on four lanes."""
    settings: dict[str, Any] = {"model_fn": toy_model, "num_lanes": 4, "window_tokens": 8, "data": "same"}
    return LanguageTask(corpus_dir=corpus_dir, **{**settings, **changes})


def toy_peers(**changes: Any) -> functools.partial[PeerExchange]:
    """An exchange every 5 steps, which waits, so that its steps are known."""
    return functools.partial(PeerExchange, **{"every_steps": 5, "wait": True, **changes})


def toy_experiment(task: LanguageTask | str, **changes: Any) -> Experiment:
    """A few steps of a task, or of the toy task on a corpus."""
    settings: dict[str, Any] = {
        "task": toy_task(task) if isinstance(task, str) else task,
        "num_steps": 20,
        "optimizer": lambda: keras.optimizers.Adam(0.01),
        "teaching": toy_peers(),
        "distillation_weight": schedules.BurnIn(steps=5),
        "log_every_steps": 5,
        "validate_every_steps": 10,
        "checkpoint_every_steps": 10,
        "seed": 3,
    }
    return Experiment(**{**settings, **changes})


def toy_model(vocabulary_size: int, batch_size: int | None) -> keras.Model:
    """A small recurrent layer."""
    return LanguageModel(vocabulary_size, embedding_dim=8, num_layers=1, num_units=12, batch_size=batch_size)


def _document(rng: np.random.Generator, vocabulary_size: int) -> list[int]:
    ids = [int(rng.integers(tokens.NUM_SPECIAL, vocabulary_size))]
    for _ in range(int(rng.integers(20, 60))):
        jump = 1 if rng.random() < 0.8 else int(rng.integers(0, vocabulary_size))
        ids.append(
            tokens.NUM_SPECIAL
            + (ids[-1] - tokens.NUM_SPECIAL + jump) % (vocabulary_size - tokens.NUM_SPECIAL)
        )
    return ids

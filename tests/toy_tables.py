"""Small tables: rows in the Criteo layout with missing and stripped fields, and a model for them."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np

from tf_codistill.tables import pipeline
from tf_codistill.tables.schema import TableSettings, criteo_schema

NUM_NUMBERS, NUM_CATEGORIES = 13, 26

EXPERIMENT = """
import tests.toy_tables
Experiment.task = @ClickTask()
ClickTask.model_fn = @toy_model
ClickTask.batch_size = 32
Experiment.optimizer = @keras.optimizers.SGD
keras.optimizers.SGD.learning_rate = 0.1
Experiment.distillation_loss = @SquaredLogits()
Experiment.teaching = @PeerExchange
PeerExchange.every_steps = 5
Experiment.num_steps = 20
Experiment.seed = 3
Experiment.log_every_steps = 5
Experiment.validate_every_steps = 10
Experiment.checkpoint_every_steps = 10
"""
"""A gin file, but for where the rows are."""


def criteo_lines(number: int, seed: int = 0) -> list[bytes]:
    """Rows of which the label depends on a number and a category; trailing empty fields are stripped."""
    source = np.random.default_rng(seed)
    numbers = np.floor(np.exp(source.normal(2, 2, (number, NUM_NUMBERS)))).astype(int) - 2
    categories = (np.arange(2, 2 + NUM_CATEGORIES) * source.random((number, NUM_CATEGORIES)) ** 2).astype(int)
    logits = 0.5 * (numbers[:, 0] > 5) + 1.5 * (categories[:, 3] == 0) - 1.5
    labels = (source.random(number) < 1 / (1 + np.exp(-logits))).astype(int)
    is_missing = source.random((number, NUM_NUMBERS + NUM_CATEGORIES)) < 0.2
    is_missing[:, NUM_NUMBERS] = False
    lines = []
    for row in range(number):
        values = [
            *map(str, numbers[row]),
            *(f"{value * 2654435761 % 2**32:08x}" for value in categories[row]),
        ]
        kept = ["" if lacks else value for value, lacks in zip(values, is_missing[row], strict=True)]
        lines.append("\t".join([str(labels[row]), *kept]).rstrip("\t").encode("ascii"))
    return lines


def write(path: pathlib.Path, lines: Sequence[bytes]) -> str:
    """Writes lines to a file."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def criteo_settings(**changes: Any) -> TableSettings:
    """Settings for a few hundred rows, in segments of a few dozen."""
    settings: dict[str, Any] = {"schema": criteo_schema(), "min_count": 3, "range_bytes": 1 << 14}
    return TableSettings(**{**settings, **changes})


def write_table(directory: pathlib.Path, number: int = 600, **changes: Any) -> str:
    """Prepares a table of so many rows."""
    path = write(directory / "rows.txt", criteo_lines(number))
    output_dir = str(directory / "table")
    pipeline.prepare([path], output_dir, criteo_settings(**changes))
    return output_dir


def write_experiment(directory: pathlib.Path) -> pathlib.Path:
    """Prepares a table; returns a gin file that learns from it."""
    path = directory / "toy.gin"
    path.write_text(EXPERIMENT + f"ClickTask.data_dir = {write_table(directory)!r}\n")
    return path


@gin.configurable(module="toy_tables")
def toy_model(num_numeric: int, cardinalities: Sequence[int], batch_size: int | None = None) -> keras.Model:
    """A linear model on numbers and on a weight of each category."""
    numeric = keras.Input((num_numeric,), batch_size=batch_size, name="numeric")
    categories = keras.Input((len(cardinalities),), batch_size=batch_size, dtype="int32", name="categories")
    firsts = np.cumsum([0, *cardinalities[:-1]]).astype("int32")
    effects = keras.layers.Embedding(sum(cardinalities), 1, name="effects")(categories + firsts)
    both = keras.layers.Concatenate()([numeric, keras.ops.sum(effects, axis=1)])
    return keras.Model({"numeric": numeric, "categories": categories}, keras.layers.Dense(1)(both))

"""The reader of clicks against TensorFlow's own: rows/s of `RowStream` over rows/s of a `CsvDataset`.

    python -m benchmarks.click_input
    python -m benchmarks.click_input --num_rows=200000 --batch_size=4096

Both read the same made rows in the Criteo layout in one run, one after the other. `CsvDataset` gets them
whole, in the order of the file, and only parses and batches; with ``shuffled and hashed`` it does what
training needs, too. Ours are prepared before (the rate is printed), shuffled over all rows, and ready for the
model.
At least twice as fast is wanted, five times as fast as the paper's network learns on this machine, and no
growth of memory over a million rows.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
import timeit
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import program
from tf_codistill.inputs.clicks import RowStream
from tf_codistill.inputs.order import Order
from tf_codistill.jobs import engines
from tf_codistill.models import click_network
from tf_codistill.optimizers.sparse_adagrad import SparseAdagrad
from tf_codistill.tables import pipeline, shards
from tf_codistill.tables.schema import TableSettings, criteo_schema

NUM_ROWS = flags.DEFINE_integer("num_rows", 100_000, "Rows of the file.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 1024, "Rows of a batch.")
NUM_READ = flags.DEFINE_integer("num_read", 1_000_000, "Rows over which memory must not grow.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 5, "Training steps to time; the fastest counts.")

_DISTINCT = (
    *(205, 408, 7885, 5556, 62, 9, 3917, 115, 3, 3842, 2402, 7523, 1961),
    *(25, 2453, 6638, 9, 1344, 665, 4, 7149, 10, 14, 3365, 42, 2599),
)
_NUM_BUCKETS = 10_000


def lines(number: int) -> Iterator[str]:
    """Rows with so many distinct categories, and so many missing values, as 15,000 real ones have."""
    source = np.random.default_rng(1)
    numbers = np.floor(np.exp(source.normal(2, 2, (number, 13)))).astype(int) - 1
    categories = (np.array(_DISTINCT) * source.random((number, 26)) ** 3).astype(np.int64)
    is_missing = source.random((number, 39)) < 0.15
    labels = source.random(number) < 0.22
    for row in range(number):
        values = [
            *map(str, numbers[row]),
            *(f"{value * 2654435761 % 2**32:08x}" for value in categories[row]),
        ]
        kept = ["" if lacks else value for value, lacks in zip(values, is_missing[row], strict=True)]
        yield "\t".join([str(int(labels[row])), *kept])


def csv_dataset(path: str, is_for_training: bool) -> tf.data.Dataset:
    """TensorFlow's own reader, plain or with what a model needs."""
    defaults: list[list[float] | list[str]] = [[0.0] for _ in range(14)]
    defaults += [[""] for _ in range(26)]
    rows = tf.data.experimental.CsvDataset(path, defaults, field_delim="\t", use_quote_delim=False)
    if not is_for_training:
        return rows.batch(BATCH_SIZE.value, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def features(label: tf.Tensor, *fields: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        numbers = tf.stack(fields[:13], axis=1)
        ids = [tf.strings.to_hash_bucket_fast(field, _NUM_BUCKETS) for field in fields[13:]]
        return {
            "numeric": tf.sign(numbers) * tf.math.log1p(tf.abs(numbers)),
            "categories": tf.stack(ids, 1),
        }, label

    shuffled = rows.shuffle(10 * BATCH_SIZE.value).batch(BATCH_SIZE.value, drop_remainder=True)
    return shuffled.map(features, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def rate(batches: tf.data.Dataset, number: int) -> float:
    """Rows/s over so many rows, after the first batches."""
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    start, steps = time.perf_counter(), max(number // BATCH_SIZE.value - 3, 1)
    for _ in range(steps):
        next(iterator)
    return steps * BATCH_SIZE.value / (time.perf_counter() - start)


def network_rate(stream: RowStream, cardinalities: Sequence[int]) -> float:
    """Rows/s that the paper's network learns from, under Adagrad."""
    model = click_network.click_network(13, cardinalities, BATCH_SIZE.value, embedding_dim=16)
    optimizer = SparseAdagrad(0.001)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def step(features: Any, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(labels, model(features))
        optimizer.apply(tape.gradient(value, model.trainable_variables))
        return value

    ((features, labels), _) = next(iter(stream.dataset()))
    step(features, labels)  # compiles it
    secs = min(timeit.repeat(lambda: step(features, labels).numpy(), number=1, repeat=NUM_STEPS.value))
    return BATCH_SIZE.value / secs


def memory_bytes() -> int:
    """Memory of this process that is no mapped file."""
    status = pathlib.Path("/proc/self/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) << 10


def growth(batches: tf.data.Dataset) -> int:
    """By how much memory grows from the first tenth to the end of so many rows."""
    iterator, steps = iter(batches), NUM_READ.value // BATCH_SIZE.value
    found = []
    for step in range(steps):
        next(iterator)
        if step >= steps // 10:
            found.append(memory_bytes())
    return max(found[-len(found) // 10 :]) - max(found[: len(found) // 10])


def main() -> None:
    """Prints the rates, their ratio, and the growth of memory."""
    with tempfile.TemporaryDirectory() as directory:
        path, table = f"{directory}/rows.txt", f"{directory}/table"
        pathlib.Path(path).write_text("\n".join(lines(NUM_ROWS.value)) + "\n", "ascii")
        start = time.perf_counter()
        settings = TableSettings(schema=criteo_schema(), validation_share=0.0, test_share=0.0)
        pipeline.prepare([path], table, settings, engines.Local(num_processes=1))
        prepared = NUM_ROWS.value / (time.perf_counter() - start)
        opened = shards.open_table(table)
        part = opened.part("train")
        stream = RowStream(part, 13, BATCH_SIZE.value, Order.of_group(len(part), 0, 1, 1, "same"))
        plain = rate(csv_dataset(path, is_for_training=False), NUM_ROWS.value)
        training = rate(csv_dataset(path, is_for_training=True), NUM_ROWS.value)
        ours = rate(stream.dataset(), NUM_READ.value)
        grown = growth(stream.dataset())
        consumed = network_rate(stream, opened.preprocessing.cardinalities)
    print(f"prepared once, one process       {prepared:12,.0f} rows/s")
    print(f"CsvDataset                       {plain:12,.0f} rows/s")
    print(f"CsvDataset, shuffled and hashed  {training:12,.0f} rows/s")
    print(f"RowStream                        {ours:12,.0f} rows/s")
    print(f"ratio                            {ours / plain:12.1f} (at least 2 wanted)")
    print(f"ratio to shuffled and hashed     {ours / training:12.1f}")
    print(f"the paper's network learns from  {consumed:12,.0f} rows/s")
    print(f"ratio to that                    {ours / consumed:12.1f} (at least 5 wanted)")
    print(f"memory over {NUM_READ.value:,} rows       {grown / 2**20:12.1f} MiB more")


if __name__ == "__main__":
    program.run(main)

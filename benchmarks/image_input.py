"""Images/s of our input over those of `keras.utils.image_dataset_from_directory` with the same augmentation.

    python -m benchmarks.image_input                 from class folders
    python -m benchmarks.image_input --records       from record files, as prepare_images writes them
    python -m benchmarks.image_input --records --size=32 --num_read=1000000      how memory grows over so many

Both read the same made JPEGs of about 400 x 350 pixels from a temporary folder, take a window of 8 to 100 %
of the area, bring it to 224 x 224 and mirror half of them. Keras's function brings each image to one size
before. They are timed one after the other in one run, and the best of several rounds counts; on a machine
that is shared images for each second of a core say more. At least 1.2 times is wanted. Memory is to stay the
same.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import program
from tf_codistill.image_preparation import pipeline
from tf_codistill.image_preparation.plan import Sources
from tf_codistill.inputs.images import decoding, stream
from tf_codistill.inputs.images.sources import open_images
from tf_codistill.inputs.order import Order

SIZE = flags.DEFINE_integer("size", 224, "Height and width that is trained on; images are larger.")
NUM_READ = flags.DEFINE_integer("num_read", 0, "Images over which memory must not grow, at least 1000.")
NUM_IMAGES = flags.DEFINE_integer("num_images", 512, "Images that are made.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
NUM_BATCHES = flags.DEFINE_integer("num_batches", 16, "Batches to time at once.")
NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 4, "How often each is timed.")
RECORDS = flags.DEFINE_boolean("records", False, "Whether we read record files.")


def height() -> int:
    """Of images, about."""
    return SIZE.value * 25 // 16


def width() -> int:
    """Of images, about."""
    return SIZE.value * 25 // 14


def write_images(directory: pathlib.Path) -> None:
    """Writes images of waves and noise, of 350 x 400 pixels some 60 kB each, in two classes."""
    rng, spread = np.random.default_rng(0), SIZE.value * 2 // 9
    for number in range(NUM_IMAGES.value):
        y, x = np.mgrid[
            tuple(slice(side + rng.integers(-spread, spread + 1)) for side in (height(), width()))
        ]
        waves = np.sin(x / rng.uniform(5, 40) + y / rng.uniform(5, 40))[..., np.newaxis]
        pixels = 127 + 100 * waves * rng.uniform(-1, 1, 3) + rng.normal(0, 10, (*x.shape, 3))
        folder = directory / "train" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        content = tf.io.encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8), quality=92).numpy()
        (folder / f"{number:05d}.jpg").write_bytes(content)


def ours(directory: str) -> tf.data.Dataset:
    """Batches as training reads them."""
    part = open_images(directory).part("train")
    order = Order.of_group(part.num_images, 0, 1, seed=1, data="same")
    images = stream.ImageStream(
        part=part, size=SIZE.value, batch_size=BATCH_SIZE.value, order=order, seed=(1, 0)
    )
    return images.dataset()


def theirs(directory: str) -> tf.data.Dataset:
    """What a user of Keras would write to get the same."""
    images = keras.utils.image_dataset_from_directory(
        os.path.join(directory, "train"),
        image_size=(height(), width()),
        batch_size=None,
        seed=1,
        verbose=False,
    )

    def augment(pixels: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chances = tf.random.uniform([23])
        place = decoding.inception_window(tf.constant(height()), tf.constant(width()), chances)
        top, left, rows, columns = place
        window = tf.image.resize(pixels[top : top + rows, left : left + columns], 2 * [SIZE.value])
        window = tf.cast(tf.round(window), tf.uint8)
        return tf.cond(chances[0] < 0.5, lambda: tf.reverse(window, [1]), lambda: window), label

    batches = images.repeat().map(augment, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH_SIZE.value)
    return batches.prefetch(tf.data.AUTOTUNE)


def rates(batches: Iterator[object]) -> tuple[float, float]:
    """Images per second over some batches, and per second of a core."""
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(NUM_BATCHES.value):
        next(batches)
    number = NUM_BATCHES.value * BATCH_SIZE.value
    return number / (time.perf_counter() - start), number / (time.process_time() - cpu_start)


def memory_mib() -> float:
    """Memory of this process that is no mapped file, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text("ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) / 1024


def growth(batches: tf.data.Dataset) -> list[float]:
    """Memory in MiB after each tenth of the images, from the first on."""
    iterator, steps = iter(batches), NUM_READ.value // BATCH_SIZE.value
    found = []
    for step in range(1, steps + 1):
        next(iterator)
        if step % (steps // 10) == 0:
            found.append(memory_mib())
    return found


def main() -> None:
    """Prints both rates and their ratio, or how memory grows."""
    with tempfile.TemporaryDirectory() as directory:
        folders = os.path.join(directory, "folders")
        write_images(pathlib.Path(folders))
        place = folders
        if RECORDS.value:
            place = os.path.join(directory, "records")
            pipeline.prepare(Sources(folders), place)
        if NUM_READ.value:
            memory = " ".join(f"{one:,.1f}" for one in growth(ours(place)))
            print(f"memory in MiB, over {NUM_READ.value:,} images, a tenth each: {memory}")
            return
        best: dict[str, tuple[float, float]] = {}
        for name, batches in (("Keras", iter(theirs(folders))), ("tf_codistill", iter(ours(place)))):
            rates(batches)
            measured = [rates(batches) for _ in range(NUM_ROUNDS.value)]
            best[name] = max(one for one, _ in measured), max(one for _, one in measured)
    for index, title in enumerate(("images/s", "images/s and core")):
        for name, found in best.items():
            print(f"{name:<16}{found[index]:10,.0f} {title}")
        ratio = best["tf_codistill"][index] / best["Keras"][index]
        print(f"{'ratio':<16}{ratio:10.2f} (at least 1.2 wanted)")


if __name__ == "__main__":
    program.run(main)

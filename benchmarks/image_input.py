"""Images/s of our input over those of `keras.utils.image_dataset_from_directory` with the same augmentation.

    python -m benchmarks.image_input                 from class folders
    python -m benchmarks.image_input --records       from record files, as prepare_images writes them

Both read the same made JPEGs of about 400 x 350 pixels from a temporary folder, take a window of 8 to 100 %
of the area, bring it to 224 x 224 and mirror half of them. Keras's function brings each image to one size
before. They are timed one after the other in one run, and the best of several rounds counts; on a machine
that is shared images for each second of a core say more. At least 1.2 times is wanted. What is resident in
memory is to stay the same.
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

HEIGHT, WIDTH, SIZE = 350, 400, 224

NUM_IMAGES = flags.DEFINE_integer("num_images", 512, "Images that are made.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
NUM_BATCHES = flags.DEFINE_integer("num_batches", 16, "Batches to time at once.")
NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 4, "How often each is timed.")
RECORDS = flags.DEFINE_boolean("records", False, "Whether we read record files.")


def write_images(directory: pathlib.Path) -> None:
    """Writes images of waves and noise, some 60 kB each, in two classes."""
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES.value):
        y, x = np.mgrid[: rng.integers(HEIGHT - 50, HEIGHT + 50), : rng.integers(WIDTH - 50, WIDTH + 50)]
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
    images = stream.ImageStream(part=part, size=SIZE, batch_size=BATCH_SIZE.value, order=order, seed=(1, 0))
    return images.dataset()


def theirs(directory: str) -> tf.data.Dataset:
    """What a user of Keras would write to get the same."""
    images = keras.utils.image_dataset_from_directory(
        os.path.join(directory, "train"), image_size=(HEIGHT, WIDTH), batch_size=None, seed=1, verbose=False
    )

    def augment(pixels: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chances = tf.random.uniform([23])
        place = decoding.inception_window(tf.constant(HEIGHT), tf.constant(WIDTH), chances)
        top, left, height, width = place
        window = tf.image.resize(pixels[top : top + height, left : left + width], [SIZE, SIZE])
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


def resident_mib() -> float:
    """Memory of this process that is in use, in MiB; 0 where Linux does not say it."""
    statm = pathlib.Path("/proc/self/statm")
    return (
        int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20) if statm.exists() else 0.0
    )


def main() -> None:
    """Prints both rates, their ratio, and how memory grows."""
    with tempfile.TemporaryDirectory() as directory:
        folders = os.path.join(directory, "folders")
        write_images(pathlib.Path(folders))
        place = folders
        if RECORDS.value:
            place = os.path.join(directory, "records")
            pipeline.prepare(Sources(folders), place)
        best: dict[str, tuple[float, float]] = {}
        memory = []
        for name, batches in (("Keras", iter(theirs(folders))), ("tf_codistill", iter(ours(place)))):
            rates(batches)
            measured = []
            for _ in range(NUM_ROUNDS.value):
                measured.append(rates(batches))
                memory.append(resident_mib())
            best[name] = max(one for one, _ in measured), max(one for _, one in measured)
    for index, title in enumerate(("images/s", "images/s and core")):
        for name, found in best.items():
            print(f"{name:<16}{found[index]:10,.0f} {title}")
        ratio = best["tf_codistill"][index] / best["Keras"][index]
        print(f"{'ratio':<16}{ratio:10.2f} (at least 1.2 wanted)")
    print("resident memory in MiB, round by round: " + " ".join(f"{one:,.0f}" for one in memory))


if __name__ == "__main__":
    program.run(main)

"""A training step of ours costs no more than one of Keras's own `keras.distillation.Distiller`.

    python -m benchmarks.distiller                  a small convolutional network; another one, for example:
    python -m benchmarks.distiller --width=64 --batch_size=256 --jit_compile

Student, frozen teacher, losses and batch are the same, as the students' weights show after ten steps. Both
are timed in turns in one run, so that whatever else runs on the machine falls on both. At most 1.0 is wanted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from tf_codistill import losses, program
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images of a batch.")
WIDTH = flags.DEFINE_integer("width", 32, "Channels of the first of three convolutions.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 200, "Steps of each model that are timed.")
JIT_COMPILE = flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles both.")

NUM_CLASSES = 10
IMAGE_SHAPE = (32, 32, 3)
LEARNING_RATE = 0.01
NUM_FIRST_STEPS = 10


def classifier() -> keras.Model:
    """Makes students and teacher."""
    conv = keras.layers.Conv2D
    convolutions = [conv(WIDTH.value * factor, 3, strides=2, activation="relu") for factor in (1, 2, 4)]
    head = [keras.layers.Flatten(), keras.layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input(IMAGE_SHAPE), *convolutions, *head])


def training_step(model: keras.Model, data: tf.data.Dataset) -> Callable[[], Any]:
    """The step that `fit` runs.

    Args:
        model: What is trained.
        data: Endless batches.

    Returns:
        A function that makes a step and waits for its results.
    """
    model.fit(data, steps_per_epoch=NUM_FIRST_STEPS, verbose=0, shuffle=False)
    batches = iter(data)
    return lambda: {name: float(value) for name, value in model.train_function(batches).items()}


def both(data: tf.data.Dataset) -> tuple[CodistillationModel, keras.Model]:
    """Our model and Keras's, with the same students and the same teacher."""
    teacher = classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teachers = FrozenTeachers(1)
    our = CodistillationModel(classifier, teachers, losses.KLDivergence())
    our.compile(keras.optimizers.SGD(LEARNING_RATE), loss, jit_compile=JIT_COMPILE.value)
    our.build_for_data(data.element_spec)
    teachers.refresh(0, Snapshot(Ref(1), 0, 0.0, teacher.get_weights(), [], 0))
    # By its name, which is also the default, Keras 3.15 takes the divergence of the logits themselves.
    # Half the loss of labels and half that of the teacher; twice the learning rate makes up for it.
    distillation = keras.distillation.LogitsDistillation(1.0, keras.losses.KLDivergence())
    kerass = keras.distillation.Distiller(teacher, classifier(), distillation, student_loss_weight=0.5)
    kerass.compile(keras.optimizers.SGD(2 * LEARNING_RATE), loss, jit_compile=JIT_COMPILE.value)
    kerass.student.set_weights(our.student.get_weights())
    return our, kerass


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Prints the median times and the median of their ratios."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(BATCH_SIZE.value, *IMAGE_SHAPE)).astype("float32")
    labels = rng.integers(0, NUM_CLASSES, BATCH_SIZE.value).astype("int32")
    data = tf.data.Dataset.from_tensors((images, labels)).repeat()
    models = both(data)
    steps = [training_step(model, data) for model in models]
    students = [model.student.get_weights() for model in models]
    difference = max(float(np.abs(own - other).max()) for own, other in zip(*students, strict=True))
    print(f"students differ by at most {difference:.1e} after {NUM_FIRST_STEPS} steps")
    pairs = [[seconds(step) for step in steps] for _ in range(NUM_STEPS.value)]
    ms = [1000 * statistics.median(times) for times in zip(*pairs, strict=True)]
    ratio = statistics.median(own / other for own, other in pairs)
    print(
        f"training step: ours {ms[0]:.2f} ms, keras.distillation.Distiller {ms[1]:.2f} ms, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    program.run(main)

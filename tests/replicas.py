"""Two replicas on the logical devices that `conftest.py` makes.

One strategy for all tests of a process: TensorFlow numbers the collective ops of every strategy from the same
start, so that a second one that adds up values across replicas may wait for the first for ever.
"""

from __future__ import annotations

import functools

import tensorflow as tf


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

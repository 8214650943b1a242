"""A model's weights as a list of arrays: described, compared, written and read.

    description(model) ->  [{"name": "embedding/embeddings", "shape": [1006, 192], "dtype": "float32"}, ...]
    write(prefix, weights=[...], states=[...])    <prefix>.index, <prefix>.data-00000-of-00001
    read(prefix, weights=[...descriptions...])    {"weights": [array, ...]}

Files are written and read by ``tf.train.Checkpoint``, so that TensorFlow's own tools can inspect them.
Position in the list identifies a weight: two instances of one model agree in order, but Keras numbers their
names apart (``dense`` and ``dense_1``), so names are compared with these numbers taken off.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import keras_private

Description = list[dict[str, Any]]
Result = TypeVar("Result")


def description(model: keras.Model) -> Description:
    """Name, shape and dtype of every weight of a built model, in the model's order."""
    return [
        {"name": _plain_name(weight.path), "shape": list(weight.shape), "dtype": str(weight.dtype)}
        for weight in model.weights
    ]


def fingerprint(weights: Description) -> str:
    """SHA-256 of a description as hexadecimal digits: equal exactly if the weights fit each other."""
    return hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()


def first_difference(ours: Description, theirs: Description) -> str | None:
    """Says in words where two descriptions differ first; None if they do not."""
    for position, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        for what in ("name", "shape", "dtype"):
            if own[what] != other[what]:
                return (
                    f"weight {position} is {own['name']!r} with {what} {own[what]!r} here "
                    f"and {other['name']!r} with {what} {other[what]!r} there"
                )
    if len(ours) != len(theirs):
        return f"there are {len(ours)} weights here and {len(theirs)} there"
    return None


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Copies variables to the host; of a mirrored variable this worker's copy, without communication."""
    return [np.array(local_copies(variable)[0]) for variable in variables]


def checksum(model: keras.Model) -> str:
    """SHA-256 of the values of a model's weights as hexadecimal digits; equal exactly for equal bits."""
    digest = hashlib.sha256()
    for array in values(model.weights):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def assign(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """Assigns arrays to variables, and to each local copy of a mirrored one, without communication.

    Args:
        variables: Variables of the default strategy or of one that mirrors them.
        arrays: An array for each variable, of its shape; cast to its dtype.

    Raises:
        ValueError: The number of arrays or a shape does not fit; then no variable has changed.
    """
    if len(variables) != len(arrays):
        raise ValueError(f"{len(arrays)} arrays do not fit {len(variables)} variables")
    for variable, array in zip(variables, arrays, strict=True):
        if tuple(variable.shape) != array.shape:
            raise ValueError(
                f"variable {variable.path!r} has shape {tuple(variable.shape)}, array has {array.shape}"
            )
    for variable, array in zip(variables, arrays, strict=True):
        for copy in local_copies(variable):
            copy.assign(tf.cast(array, copy.dtype))


def local_copies(variable: keras.Variable) -> tuple[tf.Variable, ...]:
    """The ``tf.Variable`` behind a Keras variable on each replica of this worker."""
    stored = keras_private.stored(variable)
    return tuple(getattr(stored, "values", (stored,)))


def write(prefix: str, **arrays: Sequence[np.ndarray]) -> None:
    """Writes named lists of arrays to the files ``<prefix>.index`` and ``<prefix>.data-...``.

    Args:
        prefix: Path of the files without their endings, local or of any scheme of ``tf.io.gfile``.
        **arrays: The lists by name.

    Raises:
        OSError: The files cannot be written.
    """

    def act() -> None:
        variables = {name: [tf.Variable(array) for array in group] for name, group in arrays.items()}
        try:
            tf.train.Checkpoint(**variables).write(prefix)
        except tf.errors.OpError as error:
            raise OSError(f"arrays cannot be written to {prefix!r}: {_first_line(error)}") from error

    _outside_strategy(act)


def read(prefix: str, **arrays: Description) -> dict[str, list[np.ndarray]]:
    """Reads what `write` wrote.

    Args:
        prefix: The prefix given to `write`.
        **arrays: For each name the description (only shape and dtype count) of its arrays.

    Returns:
        The lists of arrays by name.

    Raises:
        ValueError: The files do not hold arrays of these names, numbers, shapes and dtypes.
    """

    def act() -> dict[str, list[np.ndarray]]:
        variables = {
            name: [tf.Variable(tf.zeros(row["shape"], row["dtype"])) for row in group]
            for name, group in arrays.items()
        }
        try:
            tf.train.Checkpoint(**variables).read(prefix).assert_consumed()
        except Exception as error:  # TensorFlow has a type of its own for each way in which files can be bad
            raise ValueError(f"arrays in {prefix!r} cannot be read: {_first_line(error)}") from error
        return {name: [variable.numpy() for variable in group] for name, group in variables.items()}

    return _outside_strategy(act)


def describe_arrays(arrays: Sequence[np.ndarray]) -> Description:
    """The description of arrays that have no names of their own."""
    return [{"name": str(i), "shape": list(a.shape), "dtype": str(a.dtype)} for i, a in enumerate(arrays)]


def _plain_name(path: str) -> str:
    return "/".join(re.sub(r"_\d+$", "", part) for part in path.split("/"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _outside_strategy(act: Callable[[], Result]) -> Result:
    """Calls `act` where no ``strategy.scope()`` is active: variables made in one would be collectives."""
    if not tf.distribute.has_strategy():
        return act()
    with ThreadPoolExecutor(1) as fresh_thread:
        return fresh_thread.submit(act).result()

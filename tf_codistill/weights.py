"""A model's weights as a list of arrays: described, compared, written and read.

    description(model) ->  [{"name": "embedding/embeddings", "shape": [1006, 192], "dtype": "float32"}, ...]
    listing = write(prefix, weights=[...], states=[...])   <prefix>.index, <prefix>.data-00000-of-00001
    read(prefix, listing, weights=[...descriptions...])    {"weights": [array, ...]}

Files are TensorFlow's checkpoints, so that ``tf.train.list_variables`` and the like can inspect them, but no
variable is made on the way: arrays lie one after another in the data file, as they are in memory, in the
order of their names (``weights/000000``). So they are hashed when they are written, and read once.
Position in the list identifies a weight: two instances of one model agree in order, but Keras numbers their
names apart (``dense`` and ``dense_1``), so names are compared with these numbers taken off.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tf_codistill import files, keras_private

Description: TypeAlias = list[dict[str, Any]]

_DATA, _INDEX = ".data-00000-of-00001", ".index"
_PIECE = 1 << 20  # values that are looked at at once
_ALIGNMENT = 64  # TensorFlow takes memory that begins at a multiple of it as it is


def description(model: keras.Model) -> Description:
    """Name, shape and dtype of every weight of a built model, in the model's order."""
    return [
        {"name": _plain_name(weight.path), "shape": list(weight.shape), "dtype": str(weight.dtype)}
        for weight in model.weights
    ]


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


def values(variables: Sequence[keras.Variable], pool: Pool | None = None) -> list[np.ndarray]:
    """Copies variables to the host; of a mirrored variable this worker's copy, without communication."""
    return [_copied(local_copies(variable)[0].read_value(), pool or Pool()) for variable in variables]


class Pool:
    """Arrays whose memory TensorFlow can use as it is; memory is used again once nobody holds it any more.

    Memory that is new to a process may cost ten times what is copied into it; a thread may `reserve` it.
    """

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._blocks: list[np.ndarray] = []

    def array(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array that is not filled."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for memory in self._blocks:
            # The list, this name, and the call: no array and no tensor.
            if memory.nbytes == num_bytes + _ALIGNMENT and sys.getrefcount(memory) == 3:
                break
        else:
            memory = self._new(num_bytes)
        start = -memory.ctypes.data % _ALIGNMENT
        return memory[start : start + num_bytes].view(dtype).reshape(shape)

    def reserve(self, model: Description, copies: int) -> None:
        """Makes memory for so many copies of a model's weights in all, and touches it."""
        for weight in (copies * model)[len(self._blocks) :]:
            self._new(int(np.prod(weight["shape"])) * tf.as_dtype(weight["dtype"]).size).fill(0)

    def _new(self, num_bytes: int) -> np.ndarray:
        self._blocks.append(np.empty(num_bytes + _ALIGNMENT, np.uint8))
        return self._blocks[-1]


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


def give(variables: Sequence[keras.Variable], arrays: Sequence[np.ndarray]) -> None:
    """`assign` without a copy where variables are on the CPU: they go on to use the memory of the arrays.

    Nobody else may use these any more.
    """
    assign(variables, [_tensor(array) for array in arrays])


def replica_values(variable: keras.Variable) -> list[np.ndarray]:
    """Copies a variable to the host, as each replica of this worker holds it."""
    return [copy.numpy() for copy in local_copies(variable)]


def assign_replicas(variables: Sequence[keras.Variable], arrays: Sequence[Any]) -> None:
    """Gives each replica of this worker its own value, as `replica_values` returned it for each variable."""
    for variable, values_of_replicas in zip(variables, arrays, strict=True):
        for copy, value in zip(local_copies(variable), values_of_replicas, strict=True):
            copy.assign(tf.cast(value, copy.dtype))


def local_copies(variable: keras.Variable) -> tuple[tf.Variable, ...]:
    """The ``tf.Variable`` behind a Keras variable on each replica of this worker."""
    stored = keras_private.stored(variable)
    return tuple(getattr(stored, "values", (stored,)))


def write(prefix: str, **arrays: Sequence[np.ndarray]) -> files.Listing:
    """Writes named lists of arrays to the files ``<prefix>.index`` and ``<prefix>.data-...``.

    Args:
        prefix: Path of the files without their endings, local or of any scheme of ``tf.io.gfile``.
        **arrays: The lists by name.

    Returns:
        What a manifest says of the files; nothing has been written where there is no array.

    Raises:
        OSError: The files cannot be written.
    """
    flat = dict(sorted(_flat(arrays).items()))
    if not flat:
        return {}
    try:
        with tf.device("CPU:0"):
            tf.raw_ops.SaveV2(
                prefix=prefix,
                tensor_names=list(flat),
                shape_and_slices=[""] * len(flat),
                tensors=[_tensor(array) for array in flat.values()],
            )
    except tf.errors.OpError as error:
        raise OSError(f"arrays cannot be written to {prefix!r}: {_first_line(error)}") from error
    digest, num_bytes = hashlib.sha256(), 0
    for array in flat.values():
        digest.update(_bytes_of(array))
        num_bytes += array.nbytes
    name = os.path.basename(prefix)
    data = {"bytes": num_bytes, "sha256": digest.hexdigest()}
    return {name + _DATA: data, name + _INDEX: files.metadata_of(prefix + _INDEX)}


def read(
    prefix: str, listing: files.Listing, pool: Pool | None = None, **arrays: Description
) -> dict[str, list[np.ndarray]]:
    """Reads what `write` wrote, once, and checks every byte of it.

    Args:
        prefix: The prefix given to `write`.
        listing: What it returned, and maybe other files.
        pool: Where arrays come from.
        **arrays: For each name the description (only shape and dtype count) of its arrays.

    Returns:
        The lists of arrays by name.

    Raises:
        ValueError: The files do not hold arrays of these names, numbers, shapes and dtypes, or are damaged.
    """
    array = (pool or Pool()).array
    found = {
        name: [array(row["shape"], _dtype(row["dtype"])) for row in rows] for name, rows in arrays.items()
    }
    flat = dict(sorted(_flat(found).items()))
    if not flat:
        return found
    directory, name = os.path.split(prefix)
    files.verify(directory, {"files": {name + _INDEX: listing.get(name + _INDEX, {})}})
    try:
        index = tf.compat.v1.train.NewCheckpointReader(prefix)
        dtypes = index.get_variable_to_dtype_map()
        there = {key: (shape, dtypes[key]) for key, shape in index.get_variable_to_shape_map().items()}
    except Exception as error:  # TensorFlow has a type of its own for each way in which files can be bad
        raise ValueError(f"arrays in {prefix!r} cannot be read: {_first_line(error)}") from error
    if there != {key: (list(array.shape), tf.as_dtype(array.dtype)) for key, array in flat.items()}:
        raise ValueError(f"arrays in {prefix!r} cannot be read: they are not those that are described")
    buffers = [_bytes_of(array) for array in flat.values()]
    files.read_into(prefix + _DATA, buffers, listing.get(name + _DATA, {}).get("sha256"))
    return found


def first_not_finite(arrays: Sequence[np.ndarray]) -> int | None:
    """The position of the first array with NaN or infinity in it; None if all are finite."""
    for position, array in enumerate(arrays):
        values = array.reshape(-1)
        pieces = range(0, len(values) if tf.as_dtype(array.dtype).is_floating else 0, _PIECE)
        if not all(np.isfinite(values[start : start + _PIECE]).all() for start in pieces):
            return position
    return None


def describe_arrays(arrays: Sequence[np.ndarray]) -> Description:
    """The description of arrays that have no names of their own."""
    return [{"name": str(i), "shape": list(a.shape), "dtype": str(a.dtype)} for i, a in enumerate(arrays)]


def _plain_name(path: str) -> str:
    return "/".join(re.sub(r"_\d+$", "", part) for part in path.split("/"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _flat(arrays: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        f"{name}/{i:06d}": np.asarray(array)
        for name, group in arrays.items()
        for i, array in enumerate(group)
    }


def _dtype(name: str) -> np.dtype:
    return np.dtype(tf.as_dtype(name).as_numpy_dtype)


def _copied(tensor: tf.Tensor, pool: Pool) -> np.ndarray:
    alias = np.asarray(tensor)
    copy = pool.array(alias.shape, alias.dtype)
    np.copyto(copy, alias)
    return copy


def _bytes_of(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _tensor(array: np.ndarray) -> tf.Tensor:
    """A tensor in the memory of an array where that is possible, else a copy."""
    if array.ctypes.data % _ALIGNMENT or not array.flags.c_contiguous or not array.flags.writeable:
        return tf.constant(array)
    if array.dtype == tf.bfloat16.as_numpy_dtype:
        return tf.bitcast(_tensor(array.view(np.int16)), tf.bfloat16)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())

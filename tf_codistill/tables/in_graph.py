r"""The preprocessing as TensorFlow ops, which are exported with a model: from raw rows to its input.

    features = InGraph(Preprocessing.load(directory))(tf.constant(["5\t\t120\t...68fd1e64\t..."]))
    {"numeric": float32 [B, N], "categories": int32 [B, C]}

The same ids as `Preprocessing.encode` and the same numbers, but for the last bit of a logarithm. A row that
has no meaning is an error of the op, which says what was expected: there is nobody to ask later.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tf_codistill import files
from tf_codistill.tables.parsing import NUMBER
from tf_codistill.tables.preprocessing import (
    FIRST,
    MISSING,
    UNKNOWN,
    CategoryColumn,
    NumericColumn,
    Preprocessing,
)

_NUMBER = f"(?:{NUMBER})"


class InGraph(tf.Module):
    """A preprocessing as ops.

    Args:
        preprocessing: What was fitted; its vocabularies become assets of what is exported.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._schema = preprocessing.schema
        self._numeric, self._categorical = tuple(preprocessing.numeric), tuple(preprocessing.categorical)
        self._has_buckets = preprocessing.has_buckets
        self._words = [_table(preprocessing.directory, column) for column in self._categorical]

    def __call__(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turns rows into input.

        Args:
            rows: Lines of a file without the label, string [B].

        Returns:
            ``numeric``, float32 [B, N], and ``categories``, int32 [B, C].
        """
        served, fields = self._schema.served, self._fields(rows)
        by_name = {name: fields[:, index] for index, name in enumerate(served)}
        numbers, ids = [], []
        for index, category in enumerate(self._categorical):
            ids.append(self._ids(by_name[category.name], category, self._words[index]))
        for column in self._numeric:
            text = tf.strings.strip(by_name[column.name])
            is_missing = self._is_missing(text)
            value = _number(text, is_missing, column.name)
            scaled = (tf.sign(value) * tf.math.log1p(tf.abs(value)) - column.mean) / column.deviation
            numbers.append(tf.cast(tf.where(is_missing, tf.zeros_like(scaled), scaled), tf.float32))
            if self._has_buckets:
                ids.append(tf.where(is_missing, MISSING, FIRST + _bucket(value, column)))
        size = tf.size(rows)
        return {
            "numeric": tf.stack(numbers, axis=1) if numbers else tf.zeros([size, 0]),
            "categories": tf.stack(ids, axis=1) if ids else tf.zeros([size, 0], tf.int32),
        }

    def _fields(self, rows: tf.Tensor) -> tf.Tensor:
        """The fields of each row, string [B, F]."""
        number, separator = len(self._schema.served), self._schema.separator
        rows = tf.strings.regex_replace(rows, r"\r?\n?\z", "")
        if self._schema.quoted:
            fields = tf.io.decode_csv(rows, [tf.constant([""])] * number, separator)
            return tf.stack(fields, axis=1)
        # Of an empty text TensorFlow makes no field, where there is one.
        found = tf.strings.split(tf.strings.join([rows, separator]), separator)[:, :-1]
        lengths = found.row_lengths()
        least = self._schema.min_served
        is_right = (lengths >= least) & (lengths <= number)
        expected = (
            f"rows have the wrong number of columns; expected {least} to {number}, the label left out, in"
        )
        with tf.control_dependencies([_check(is_right, expected, rows)]):
            return found.to_tensor("", shape=[None, number])

    def _is_missing(self, text: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.equal(text[:, tf.newaxis], tf.constant(list(self._schema.missing))), axis=1)

    def _ids(self, text: tf.Tensor, column: CategoryColumn, words: Any) -> tf.Tensor:
        if not column.vocabulary:
            ids = FIRST + tf.cast(tf.strings.to_hash_bucket_fast(text, column.size), tf.int32)
        elif words is None:
            ids = tf.fill(tf.shape(text), UNKNOWN)
        else:
            ids = FIRST + tf.cast(words.lookup(text), tf.int32)
        return tf.where(self._is_missing(text), MISSING, ids)


def _table(directory: str, column: CategoryColumn) -> Any:
    """The places of words in a vocabulary; -1 for others, so that they get the id that stands for them."""
    if not column.vocabulary or not column.size:
        return None
    whole_line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    path = files.join(directory, column.vocabulary)
    words = tf.lookup.TextFileInitializer(path, tf.string, whole_line, tf.int64, number, column.size)
    return tf.lookup.StaticHashTable(words, default_value=UNKNOWN - FIRST)


def _number(text: tf.Tensor, is_missing: tf.Tensor, name: str) -> tf.Tensor:
    is_number = is_missing | tf.strings.regex_full_match(text, _NUMBER)
    with tf.control_dependencies(
        [_check(is_number, f"column {name!r} has a value that is no number:", text)]
    ):
        value = tf.strings.to_number(tf.where(is_missing, "0", text), tf.float64)
    with tf.control_dependencies(
        [_check(tf.math.is_finite(value), f"column {name!r} has an infinite number:", text)]
    ):
        return tf.identity(value)


def _bucket(value: tf.Tensor, column: NumericColumn) -> tf.Tensor:
    boundaries = tf.constant(column.boundaries, tf.float64, [len(column.boundaries)])
    return tf.searchsorted(boundaries, value, side="right", out_type=tf.int32)


def _check(condition: tf.Tensor, message: str, culprits: tf.Tensor) -> tf.Operation:
    wrong = tf.boolean_mask(culprits, ~condition)[:1]
    return tf.debugging.Assert(tf.reduce_all(condition), [message, wrong])

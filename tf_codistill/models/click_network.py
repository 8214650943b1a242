"""Click-through prediction: the network of Anil et al. 2018 (section 3.1), and DCN-V2 (Wang et al. 2021).

    numeric_BN, float32 ---------------------------+
    categories_BC -> CategoryEmbedding ------------+-> x0_BD -> Dense 2560, 1024, 256 (ReLU) -> logit_B1

    DCN-V2, stacked:   x0 -> cross -> cross -> Dense ... -> logit
            parallel:  x0 -> cross -> cross --+
                       x0 -> Dense ... -------+-> logit

    cross:  x_(l+1) = x0 * (W x_l + b) + x_l        W = U V in the low-rank form

    click_network(num_numeric=13, cardinalities=[1000] * 26)({"numeric": ..., "categories": ...})

Numbers come as the preprocessing of the rows leaves them, and ids of a column are below its cardinality: a
larger one would read the row of another column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from tf_codistill.models.category_embedding import CategoryEmbedding

_STRUCTURES = ("stacked", "parallel")


@gin.configurable(module="tf_codistill")
def click_network(
    num_numeric: int,
    cardinalities: Sequence[int],
    batch_size: int | None = None,
    hidden_units: Sequence[int] = (2560, 1024, 256),
    embedding_dim: int | None = None,
    max_embedding_dim: int = 64,
    dropout: float = 0.0,
    name: str = "click_network",
    dtype: Any = None,
) -> keras.Model:
    """The fully connected network of the paper.

    Args:
        num_numeric: Numbers in a row.
        cardinalities: Categories of each categorical column.
        batch_size: Rows of a batch; None for any.
        hidden_units: Units of each hidden layer.
        embedding_dim: Width of every embedding; None for one that grows with the column, see `widths`.
        max_embedding_dim: The largest width, where they differ.
        dropout: Fraction of the activations that training sets to 0 behind each hidden layer.
        name: Name of the model.
        dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are float32.

    Returns:
        A model from ``{"numeric": float32 [B, N], "categories": int32 [B, C]}`` to float32 logits [B, 1].

    Raises:
        ValueError: A size is out of range, or there is no column at all.
    """
    inputs, x0 = _inputs(num_numeric, cardinalities, batch_size, embedding_dim, max_embedding_dim, dtype)
    hidden = _deep(x0, hidden_units, dropout, dtype)
    return keras.Model(inputs, _logit(hidden, dtype), name=name)


@gin.configurable(module="tf_codistill")
def deep_cross_network(
    num_numeric: int,
    cardinalities: Sequence[int],
    batch_size: int | None = None,
    num_cross_layers: int = 3,
    cross_rank: int | None = None,
    structure: str = "stacked",
    hidden_units: Sequence[int] = (1024, 512, 256),
    embedding_dim: int | None = None,
    max_embedding_dim: int = 64,
    dropout: float = 0.0,
    name: str = "deep_cross_network",
    dtype: Any = None,
) -> keras.Model:
    """DCN-V2 (Wang et al. 2021): layers that multiply features with each other, and a deep part.

    Args:
        num_numeric: Numbers in a row.
        cardinalities: Categories of each categorical column.
        batch_size: Rows of a batch; None for any.
        num_cross_layers: Cross layers; L of them make products of up to L + 1 features.
        cross_rank: Rank of a cross layer's matrix; None for a full one.
        structure: ``stacked`` if the deep part sees what the cross layers make, ``parallel`` if it sees the
            features and the logit sees both.
        hidden_units: Units of each layer of the deep part; none for cross layers alone.
        embedding_dim: Width of every embedding; None for one that grows with the column, see `widths`.
        max_embedding_dim: The largest width, where they differ.
        dropout: Fraction of the activations that training sets to 0 behind each layer of the deep part.
        name: Name of the model.
        dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are float32.

    Returns:
        A model from ``{"numeric": float32 [B, N], "categories": int32 [B, C]}`` to float32 logits [B, 1].

    Raises:
        ValueError: A size is out of range, there is no column at all, or the structure is unknown.
    """
    if structure not in _STRUCTURES:
        raise ValueError(f"structure is {structure!r}; expected one of {', '.join(_STRUCTURES)}")
    _check_counts(num_cross_layers=num_cross_layers)
    inputs, x0 = _inputs(num_numeric, cardinalities, batch_size, embedding_dim, max_embedding_dim, dtype)
    crossed = x0
    for number in range(num_cross_layers):
        crossed = Cross(cross_rank, name=f"cross_{number}", dtype=dtype)([x0, crossed])
    if structure == "stacked":
        result = _deep(crossed, hidden_units, dropout, dtype)
    else:
        deep = _deep(x0, hidden_units, dropout, dtype)
        result = keras.layers.Concatenate(name="both", dtype=dtype)([crossed, deep])
    return keras.Model(inputs, _logit(result, dtype), name=name)


@keras.saving.register_keras_serializable(package="tf_codistill")
class Cross(keras.layers.Layer):
    """One cross layer of DCN-V2, equations 1 and 2 of Wang et al. 2021: x0 * (W x + b) + x."""

    def __init__(self, rank: int | None = None, **kwargs: Any) -> None:
        """Takes note of the rank.

        Args:
            rank: Columns of U and rows of V in W = U V; None for a full matrix.
            **kwargs: Those of a Keras layer.

        Raises:
            ValueError: The rank is not a positive integer.
        """
        super().__init__(**kwargs)
        if rank is not None:
            _check_counts(cross_rank=rank)
        self.rank = rank

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Makes the weights.

        Args:
            input_shape: Shapes of x0 and x, both [B, D].
        """
        width = input_shape[0][-1]
        shapes = [(width, width)] if self.rank is None else [(width, self.rank), (self.rank, width)]
        self.kernels = [
            self.add_weight(name=name, shape=shape, initializer="glorot_uniform")
            for name, shape in zip(("kernel",) if self.rank is None else ("v", "u"), shapes, strict=True)
        ]
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Multiplies.

        Args:
            inputs: The features x0 and what the layer before made of them, x, both [B, D].

        Returns:
            [B, D].
        """
        x0, x = inputs
        product = x
        for kernel in self.kernels:
            product = keras.ops.matmul(product, kernel)
        return x0 * (product + self.bias) + x

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """The shape of what `call` returns."""
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        return {**super().get_config(), "rank": self.rank}


def widths(
    cardinalities: Sequence[int], embedding_dim: int | None = None, max_embedding_dim: int = 64
) -> list[int]:
    """Widths of embeddings.

    Args:
        cardinalities: Categories of each column.
        embedding_dim: The width of all; None for 6 times the fourth root of the cardinality (Wang et al.
            2017), rounded to a multiple of 4 so that columns share tables.
        max_embedding_dim: The largest width by that rule.

    Returns:
        A width for each column.
    """
    if embedding_dim is not None:
        return [embedding_dim] * len(cardinalities)
    return [min(max_embedding_dim, 4 * max(1, round(1.5 * one**0.25))) for one in cardinalities]


def _inputs(
    num_numeric: int,
    cardinalities: Sequence[int],
    batch_size: int | None,
    embedding_dim: int | None,
    max_embedding_dim: int,
    dtype: Any,
) -> tuple[dict[str, Any], Any]:
    """The inputs by name, and all features of a row side by side."""
    dim = 1 if embedding_dim is None else embedding_dim
    _check_counts(embedding_dim=dim, max_embedding_dim=max_embedding_dim)
    if num_numeric < 0 or not num_numeric + len(cardinalities):
        raise ValueError(
            f"there are {num_numeric} numeric and {len(cardinalities)} categorical columns; "
            "expected at least one of either"
        )
    numeric = keras.Input((num_numeric,), batch_size=batch_size, dtype="float32", name="numeric")
    categories = keras.Input((len(cardinalities),), batch_size=batch_size, dtype="int32", name="categories")
    sizes = widths(cardinalities, embedding_dim, max_embedding_dim)
    embedded = CategoryEmbedding(cardinalities, sizes, name="embedding", dtype=dtype)(categories)
    x0 = keras.layers.Concatenate(name="features", dtype=dtype)([numeric, embedded])
    return {"numeric": numeric, "categories": categories}, x0


def _deep(hidden: Any, units: Sequence[int], dropout: float, dtype: Any) -> Any:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}; expected a number >= 0 and < 1")
    for number, size in enumerate(units):
        _check_counts(hidden_units=size)
        hidden = keras.layers.Dense(size, "relu", name=f"hidden_{number}", dtype=dtype)(hidden)
        if dropout:
            hidden = keras.layers.Dropout(dropout, name=f"dropout_{number}", dtype=dtype)(hidden)
    return hidden


def _logit(hidden: Any, dtype: Any) -> Any:
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    at_least_float32 = "float64" if policy.compute_dtype == "float64" else "float32"
    return keras.layers.Dense(1, name="logit", dtype=at_least_float32)(hidden)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value != int(value) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected an integer >= 1")

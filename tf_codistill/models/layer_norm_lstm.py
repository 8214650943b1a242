"""LSTM layer with layer normalisation (Ba et al. 2016, "Layer Normalization", appendix, LSTM).

    for each step t:
        i, f, o, g = split(LN(h W_h) * gain_h  +  LN(x_t W_x) * gain_x  +  b)      LN over the whole 4D vector
        c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(LN(c) * gain_c + b_c)

    inputs_BTD --> one product --> projected_TBG --> loop --> outputs_TBD --> outputs_BTD

G stands for the four gates side by side, 4D. What makes it as fast as an LSTM without normalisation:

* The mean of x W over the columns of W is x times the mean column. Weights with their mean column taken away
  give products that are centred already; only the variance is left to compute, forward and backward.
* The products with all inputs are one product before the loop, the gradients of both weight matrices one
  product each after it.
* The gradient of the loop is written out by hand: a second loop that reads what the first one saved. It is
  a gradient of first order; second derivatives are not defined.
* On a CPU large batches run as two halves side by side, because one chain of small products cannot keep
  several cores busy.

Products are computed in the layer's compute dtype, everything else in float32 or better.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

EPSILON = 1e-5

MIN_LANES_PER_PART = 32

_Gradient = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]


@keras.saving.register_keras_serializable(package="tf_codistill")
class LayerNormLSTM(keras.layers.Layer):
    """An LSTM layer with layer normalisation that returns its output at every step.

    Attributes:
        states: None in a stateless layer, which starts each call from zeros. In a stateful one the hidden and
            the cell state as two variables [B, D], read and written by each call. They are not weights: every
            replica has its own, and Keras neither counts, copies nor saves them.
    """

    states: list[keras.Variable] | None

    def __init__(self, units: int, stateful: bool = False, forget_bias: float = 1.0, **kwargs: Any) -> None:
        """Makes the layer.

        Args:
            units: Width D of the layer, at least 1.
            stateful: Whether the state is carried from call to call, lane by lane.
            forget_bias: Initial bias of the forget gate; above 0 the cell remembers from the start.
            **kwargs: Arguments of `keras.layers.Layer`, such as name and dtype.

        Raises:
            ValueError: The number of units is not a positive integer.
        """
        super().__init__(**kwargs)
        if units != int(units) or units < 1:
            raise ValueError(f"units of layer {self.name!r} is {units!r}; expected an integer >= 1")
        self.units = int(units)
        self.stateful = stateful
        self.forget_bias = forget_bias
        self._set_states(None)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights and, in a stateful layer, the state variables.

        Args:
            input_shape: Shape of the input, [B, T, width]; B may be None in a stateless layer only, T always.

        Raises:
            ValueError: The layer is stateful and the number of lanes B is not known.
        """
        batch_size, _, width = input_shape
        gates = 4 * self.units
        self.kernel = self._weight("kernel", (width, gates), "glorot_uniform")
        self.recurrent_kernel = self._weight("recurrent_kernel", (self.units, gates), "orthogonal")
        self.input_gain = self._weight("input_gain", (gates,), "ones")
        self.recurrent_gain = self._weight("recurrent_gain", (gates,), "ones")
        self.bias = self._weight("bias", (gates,), self._initial_bias)
        self.cell_gain = self._weight("cell_gain", (self.units,), "ones")
        self.cell_bias = self._weight("cell_bias", (self.units,), "zeros")
        if self.stateful:
            if batch_size is None:
                raise ValueError(
                    f"layer {self.name!r} is stateful, but the batch size of its input {tuple(input_shape)} "
                    "is not known; give a fixed batch size, or stateful=False"
                )
            names = ("hidden_state", "cell_state")
            self._set_states([self._state_variable(name, batch_size) for name in names])
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Runs the layer over a window of steps.

        Args:
            inputs: Floats, [B, T, width].
            training: False to keep nothing for a gradient, which is faster; the outputs are the same, and
                TensorFlow still finds the gradient if it has to, slowly.

        Returns:
            Outputs of all steps, [B, T, D].
        """
        inputs = tf.convert_to_tensor(inputs)
        batch_size, num_tokens, width = inputs.shape
        x_TBD = tf.transpose(inputs, [1, 0, 2])
        accurate = _accurate(inputs.dtype)
        projected = tf.matmul(tf.reshape(x_TBD, [-1, width]), self._centred(self.kernel))
        projected = tf.reshape(projected, tf.concat([tf.shape(x_TBD)[:2], [4 * self.units]], 0))
        projected_TBG = tf.ensure_shape(projected, [num_tokens, batch_size, 4 * self.units])
        vectors = (self.input_gain, self.recurrent_gain, self.bias, self.cell_gain, self.cell_bias)
        outputs_TBD, hidden, cell = _recur_in_parts(
            _predict if training is False else _recur,
            _num_parts(batch_size),
            (projected_TBG, *self._initial_state(tf.shape(inputs)[0], accurate)),
            self._centred(self.recurrent_kernel),
            *(tf.cast(tf.convert_to_tensor(vector), accurate) for vector in vectors),
        )
        if self.states is not None:
            for variable, value in zip(self.states, (hidden, cell), strict=True):
                variable.assign(tf.cast(value, variable.dtype))
        outputs = tf.cast(tf.transpose(outputs_TBD, [1, 0, 2]), inputs.dtype)
        return tf.ensure_shape(outputs, [batch_size, num_tokens, self.units])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the output for a shape of the input.

        Args:
            input_shape: [B, T, width].

        Returns:
            [B, T, D].
        """
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        own = {"units": self.units, "stateful": self.stateful, "forget_bias": self.forget_bias}
        return {**super().get_config(), **own}

    def _weight(self, name: str, shape: tuple[int | None, ...], initializer: Any) -> keras.Variable:
        # Without autocast: means and gains lose too much in half precision; only the products are cast.
        return self.add_weight(shape, initializer, name=name, autocast=False)

    def _set_states(self, states: list[keras.Variable] | None) -> None:
        # Past the tracking of Keras and TensorFlow: state must not travel with weights or saved models.
        object.__setattr__(self, "states", states)

    def _state_variable(self, name: str, batch_size: int) -> keras.Variable:
        return keras.Variable(
            "zeros",
            (batch_size, self.units),
            dtype=_accurate(self.compute_dtype).name,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            synchronization="on_read",
            name=name,
        )

    def _initial_state(self, batch_size: tf.Tensor, dtype: tf.DType) -> list[tf.Tensor]:
        if self.states is None:
            return [tf.zeros([batch_size, self.units], dtype)] * 2
        return [tf.cast(tf.convert_to_tensor(state), dtype) for state in self.states]

    def _initial_bias(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        del shape
        return tf.repeat(tf.constant([0.0, self.forget_bias, 0.0, 0.0], dtype), self.units)

    def _centred(self, kernel: keras.Variable) -> tf.Tensor:
        full = tf.convert_to_tensor(kernel)
        return tf.cast(full - tf.reduce_mean(full, axis=-1, keepdims=True), self.compute_dtype)


class _Vectors(NamedTuple):
    """The weights of the loop that are not a matrix."""

    input_gain: tf.Tensor
    recurrent_gain: tf.Tensor
    bias: tf.Tensor
    cell_gain: tf.Tensor
    cell_bias: tf.Tensor


class _Saved(NamedTuple):
    """What a step saves for its gradient; over the loop, the arrays of it. Scales are [B, 1]."""

    previous_cell: Any
    from_input: Any
    from_input_scale: Any
    from_hidden: Any
    from_hidden_scale: Any
    i: Any
    f: Any
    o: Any
    g: Any
    normalised_cell: Any
    cell_scale: Any
    squashed_cell: Any


def _num_parts(batch_size: int | None) -> int:
    """Into how many parts of its lanes a batch is cut; the parts run at the same time."""
    configured = tf.config.threading.get_intra_op_parallelism_threads()
    num_threads = configured or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count() or 1)
    has_accelerator = any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
    worthwhile = batch_size is not None and batch_size % 2 == 0 and batch_size >= 2 * MIN_LANES_PER_PART
    return 2 if worthwhile and num_threads > 1 and not has_accelerator else 1


def _recur_in_parts(
    recur: Callable[..., Any], num_parts: int, sequences: Sequence[tf.Tensor], *weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    if num_parts == 1:
        return recur(*sequences, *weights)
    cut = [tf.split(sequence, num_parts, axis=-2) for sequence in sequences]
    parts = [recur(*part, *weights) for part in zip(*cut, strict=True)]
    outputs, hidden, cell = (tf.concat(pieces, axis=-2) for pieces in zip(*parts, strict=True))
    return outputs, hidden, cell


def _predict(
    projected_TBG: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return _forward(projected_TBG, hidden, cell, kernel, _Vectors(*vectors), keep=False)[:3]


@tf.custom_gradient
def _recur(
    projected_TBG: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
) -> tuple[tuple[tf.Tensor, ...], _Gradient]:
    """Outputs of all steps [T, B, D] and the last two states, for a kernel [D, G] whose rows have mean 0."""
    loop_vectors = _Vectors(*vectors)
    outputs, last_hidden, last_cell, saved = _forward(projected_TBG, hidden, cell, kernel, loop_vectors)

    def gradient(d_outputs: tf.Tensor, d_hidden: tf.Tensor, d_cell: tf.Tensor) -> tuple[tf.Tensor, ...]:
        d_projected, d_product, d_hidden, d_cell, d_vectors = _backward(
            d_outputs, d_hidden, d_cell, kernel, loop_vectors, saved
        )
        previous = tf.cast(tf.concat([hidden[None], outputs[:-1]], axis=0), kernel.dtype)
        d_kernel = tf.matmul(_rows(previous), _rows(d_product), transpose_a=True)
        return tf.cast(d_projected, projected_TBG.dtype), d_hidden, d_cell, d_kernel, *d_vectors

    return (outputs, last_hidden, last_cell), gradient


def _forward(
    projected_TBG: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    kernel: tf.Tensor,
    vectors: _Vectors,
    keep: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tuple[tf.TensorArray, ...]]:
    """Outputs [T, B, D], last hidden state, last cell state, and the arrays of what `_Saved` names."""
    num_steps = tf.shape(projected_TBG)[0]

    def body(step: Any, hidden: Any, cell: Any, outputs: Any, saved: Any) -> tuple[Any, ...]:
        projected = tf.cast(projected_TBG[step], hidden.dtype)
        hidden, cell, step_saved = _step(projected, hidden, cell, kernel, vectors)
        saved = tuple(array.write(step, value) for array, value in zip(saved, step_saved, strict=keep))
        return step + 1, hidden, cell, outputs.write(step, hidden), saved

    outputs, *saved = _arrays(1 + keep * len(_Saved._fields), num_steps, hidden.dtype)
    _, hidden, cell, outputs, saved_arrays = tf.while_loop(
        lambda step, *_: step < num_steps,
        body,
        (0, hidden, cell, outputs, tuple(saved)),
        maximum_iterations=num_steps,
    )
    return outputs.stack(), hidden, cell, saved_arrays


def _step(
    projected: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, kernel: tf.Tensor, vectors: _Vectors
) -> tuple[tf.Tensor, tf.Tensor, _Saved]:
    from_input, from_input_scale = _normalise(projected)
    from_hidden, from_hidden_scale = _normalise(_product(hidden, kernel))
    gates = from_hidden * vectors.recurrent_gain + (from_input * vectors.input_gain + vectors.bias)
    i, f, o, g = tf.split(gates, 4, axis=-1)
    i, f, o, g = tf.sigmoid(i), tf.sigmoid(f), tf.sigmoid(o), tf.tanh(g)
    new_cell = f * cell + i * g
    normalised, scale = _normalise(new_cell - tf.reduce_mean(new_cell, axis=-1, keepdims=True))
    squashed = tf.tanh(normalised * vectors.cell_gain + vectors.cell_bias)
    from_both = (from_input, from_input_scale, from_hidden, from_hidden_scale)
    return o * squashed, new_cell, _Saved(cell, *from_both, i, f, o, g, normalised, scale, squashed)


def _backward(
    d_outputs_TBD: tf.Tensor,
    d_hidden: tf.Tensor,
    d_cell: tf.Tensor,
    kernel: tf.Tensor,
    vectors: _Vectors,
    saved: tuple[tf.TensorArray, ...],
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tuple[tf.Tensor, ...]]:
    """Gradients of projected input, of the recurrent product [T, B, G], of both states and of the vectors."""
    num_steps = tf.shape(d_outputs_TBD)[0]
    transposed_kernel = tf.transpose(kernel)

    def body(step: Any, d_hidden: Any, d_cell: Any, sums: _Vectors, arrays: Any) -> tuple[Any, ...]:
        step_saved = _Saved(*(array.read(step) for array in saved))
        d_input, d_product, d_cell, parts = _step_gradient(
            d_hidden + d_outputs_TBD[step], d_cell, vectors, step_saved
        )
        sums = _Vectors(*(total + part for total, part in zip(sums, parts, strict=True)))
        arrays = tuple(a.write(step, value) for a, value in zip(arrays, (d_input, d_product), strict=True))
        return step - 1, _product(d_product, transposed_kernel), d_cell, sums, arrays

    # Lanes are added up after the loop: adding in place is cheaper than reducing at every step.
    wide, narrow = tf.tile(tf.zeros_like(d_hidden), [1, 4]), tf.zeros_like(d_hidden)
    _, d_hidden, d_cell, sums, (d_projected, d_product) = tf.while_loop(
        lambda step, *_: step >= 0,
        body,
        (
            num_steps - 1,
            d_hidden,
            d_cell,
            _Vectors(wide, wide, wide, narrow, narrow),
            _arrays(2, num_steps, d_hidden.dtype),
        ),
        maximum_iterations=num_steps,
    )
    d_vectors = tuple(tf.reduce_sum(lanes, axis=0) for lanes in sums)
    return d_projected.stack(), tf.cast(d_product.stack(), kernel.dtype), d_hidden, d_cell, d_vectors


def _step_gradient(
    d_hidden: tf.Tensor, d_cell: tf.Tensor, vectors: _Vectors, saved: _Saved
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, _Vectors]:
    """Gradients of projected input, recurrent product, previous cell, and a step's part of the vectors'."""
    d_affine = tf.raw_ops.TanhGrad(y=saved.squashed_cell, dy=d_hidden * saved.o)
    d_centred, d_cell_gain = _normalise_gradient(
        saved.normalised_cell, saved.cell_scale, vectors.cell_gain, d_affine
    )
    d_cell += d_centred - tf.reduce_mean(d_centred, axis=-1, keepdims=True)
    d_gates = tf.concat(
        [
            tf.raw_ops.SigmoidGrad(y=saved.i, dy=d_cell * saved.g),
            tf.raw_ops.SigmoidGrad(y=saved.f, dy=d_cell * saved.previous_cell),
            tf.raw_ops.SigmoidGrad(y=saved.o, dy=d_hidden * saved.squashed_cell),
            tf.raw_ops.TanhGrad(y=saved.g, dy=d_cell * saved.i),
        ],
        axis=-1,
    )
    d_input, d_input_gain = _normalise_gradient(
        saved.from_input, saved.from_input_scale, vectors.input_gain, d_gates
    )
    d_product, d_recurrent_gain = _normalise_gradient(
        saved.from_hidden, saved.from_hidden_scale, vectors.recurrent_gain, d_gates
    )
    parts = _Vectors(d_input_gain, d_recurrent_gain, bias=d_gates, cell_gain=d_cell_gain, cell_bias=d_affine)
    return d_input, d_product, d_cell * saved.f, parts


def _normalise(centred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows with mean 0, scaled to variance 1, and the scale of each."""
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + EPSILON)
    return centred * scale, scale


def _normalise_gradient(
    normalised: tf.Tensor, scale: tf.Tensor, gain: tf.Tensor, gradient: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """From the gradient of ``normalised * gain``: that of the centred rows, each row's part of the gain's."""
    d_gain = gradient * normalised
    mean = tf.matmul(d_gain, gain[:, None]) / gain.shape[0]
    return scale * (gradient * gain - normalised * mean), d_gain


def _product(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.matmul(tf.cast(rows, matrix.dtype), matrix), rows.dtype)


def _rows(values_TBD: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values_TBD, [-1, values_TBD.shape[-1]])


def _arrays(number: int, size: tf.Tensor, dtype: tf.DType) -> tuple[tf.TensorArray, ...]:
    return tuple(tf.TensorArray(dtype, size, clear_after_read=False) for _ in range(number))


def _accurate(dtype: Any) -> tf.DType:
    """The type for everything but products: float32 for half precision, else the same."""
    dtype = tf.as_dtype(dtype)
    return tf.float32 if dtype.size < 4 else dtype

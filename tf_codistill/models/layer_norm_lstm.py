"""LSTM layer with layer normalisation (draft; see final docstring)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

EPSILON = 1e-5


@keras.saving.register_keras_serializable(package="tf_codistill")
class LayerNormLSTM(keras.layers.Layer):  # type: ignore[misc]
    """LSTM layer with layer normalisation; returns the output of every step."""

    def __init__(
        self, units: int, stateful: bool = False, forget_bias: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.stateful = stateful
        self.forget_bias = forget_bias
        object.__setattr__(self, "states", None)

    def build(self, input_shape):
        units = self.units
        self.kernel = self.add_weight((input_shape[-1], 4 * units), "glorot_uniform", name="kernel")
        self.recurrent_kernel = self.add_weight((units, 4 * units), "orthogonal", name="recurrent_kernel")
        self.input_gain = self.add_weight((4 * units,), "ones", name="input_gain")
        self.recurrent_gain = self.add_weight((4 * units,), "ones", name="recurrent_gain")
        self.bias = self.add_weight((4 * units,), self._initial_bias, name="bias")
        self.cell_gain = self.add_weight((units,), "ones", name="cell_gain")
        self.cell_bias = self.add_weight((units,), "zeros", name="cell_bias")
        if self.stateful:
            if input_shape[0] is None:
                raise ValueError(
                    f"layer {self.name!r} is stateful, but the batch size of its input {input_shape} is unknown"
                )
            states = [
                keras.Variable(
                    "zeros", (input_shape[0], units), dtype="float32", trainable=False, autocast=False,
                    aggregation="only_first_replica", synchronization="on_read", name=name,
                )
                for name in ("hidden_state", "cell_state")
            ]
            object.__setattr__(self, "states", states)
        self.built = True

    def call(self, inputs):
        dtype = inputs.dtype
        inputs = tf.transpose(inputs, [1, 0, 2])
        x = _norm(tf.matmul(inputs, self.kernel)) * self.input_gain + self.bias
        U = tf.convert_to_tensor(self.recurrent_kernel)
        if self.states is None:
            h = tf.zeros([tf.shape(inputs)[1], self.units], dtype)
            c = h
        else:
            h, c = [tf.cast(tf.convert_to_tensor(s), dtype) for s in self.states]
        gain, cg, cb = (tf.convert_to_tensor(v) for v in (self.recurrent_gain, self.cell_gain, self.cell_bias))
        T = tf.shape(inputs)[0]

        def body(t, h, c, out):
            a = _norm(tf.matmul(h, U)) * gain + x[t]
            i, f, o, g = tf.split(a, 4, axis=-1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(_norm(c) * cg + cb)
            return t + 1, h, c, out.write(t, h)

        out = tf.TensorArray(dtype, T)
        _, h, c, out = tf.while_loop(lambda t, *_: t < T, body, (0, h, c, out), maximum_iterations=T)
        if self.states is not None:
            for s, v in zip(self.states, (h, c)):
                s.assign(tf.cast(v, s.dtype))
        r = tf.transpose(out.stack(), [1, 0, 2])
        r.set_shape([inputs.shape[1], inputs.shape[0], self.units])
        return r

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "stateful": self.stateful, "forget_bias": self.forget_bias}

    def _initial_bias(self, shape, dtype=None):
        del shape
        return tf.repeat(tf.constant([0, self.forget_bias, 0, 0], dtype), self.units)


def _norm(x):
    mean, var = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) * tf.math.rsqrt(var + EPSILON)

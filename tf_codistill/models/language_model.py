"""The paper's language model: embedding, layer-normalised LSTM layers, softmax (Anil et al. 2018, 3.1).

    tokens_BT -> embedding_BTD -> LayerNormLSTM x num_layers -> logits_BTV (float32)
                               ^ dropout, also between layers and before the logits (Zaremba et al. 2014)

One class, two kinds: with a batch size the recurrent state is carried from call to call, lane by lane, for
training on streams of documents; without, every call starts from a zero state and takes any batch, for
serving. Both kinds have the same weights in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill import recurrent_state
from tf_codistill.models.causal import CausalModel, TextReader
from tf_codistill.models.layer_norm_lstm import LayerNormLSTM


@gin.configurable
@keras.saving.register_keras_serializable(package="tf_codistill")
class LanguageModel(CausalModel):
    """A recurrent language model over word pieces. Its variables exist from construction on."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        num_layers: int,
        num_units: int,
        batch_size: int | None = None,
        dropout: float = 0.0,
        name: str = "language_model",
        dtype: Any = None,
    ) -> None:
        """Makes the model and its variables.

        Args:
            vocabulary_size: Number of word pieces, and of logits per position.
            embedding_dim: Width of the input embedding.
            num_layers: Number of layer-normalised LSTM layers.
            num_units: Units of each of them.
            batch_size: Number of lanes per replica, whose state is carried from call to call; None for a
                stateless model that takes any batch.
            dropout: Fraction of the activations that training sets to 0 on their way up: behind the
                embedding, between layers and before the logits, never from one token to the next.
            name: Name of the model.
            dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are at least
                float32.

        Raises:
            ValueError: A size is not a positive integer, or dropout not a number from 0 to less than 1.
        """
        super().__init__(name=name, dtype=dtype)
        self._sizes = {
            "vocabulary_size": vocabulary_size,
            "embedding_dim": embedding_dim,
            "num_layers": num_layers,
            "num_units": num_units,
        }
        for size_name, size in {**self._sizes, "batch_size": 1 if batch_size is None else batch_size}.items():
            if size != int(size) or size < 1:
                raise ValueError(f"{size_name} of a LanguageModel is {size!r}; expected an integer >= 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout of a LanguageModel is {dropout!r}; expected a number >= 0 and < 1")
        self.batch_size = batch_size
        policy = self.dtype_policy
        self.embedding = keras.layers.Embedding(
            vocabulary_size, embedding_dim, name="embedding", dtype=policy
        )
        self.recurrent_layers = [
            LayerNormLSTM(num_units, stateful=batch_size is not None, name=f"lstm_{i}", dtype=policy)
            for i in range(num_layers)
        ]
        logits_dtype = "float64" if policy.compute_dtype == "float64" else "float32"
        self.head = keras.layers.Dense(vocabulary_size, name="logits", dtype=logits_dtype)
        self._dropout_rate = dropout
        self.build((batch_size, None))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the variables.

        Args:
            input_shape: Shape of the token ids, [B, T]; either may be None, B only in a stateless model.
        """
        batch_size, num_tokens = input_shape
        width = self._sizes["embedding_dim"]
        self.embedding.build((batch_size, num_tokens))
        for layer in self.recurrent_layers:
            layer.build((batch_size, num_tokens, width))
            width = self._sizes["num_units"]
        self.head.build((batch_size, num_tokens, width))
        # Last, so that weights start alike with and without it: its seed is generated after theirs.
        self.dropout = keras.layers.Dropout(self._dropout_rate, name="dropout", dtype=self.dtype_policy)
        self.built = True

    def call(self, tokens: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Predicts the token after each position.

        Args:
            tokens: Ids of word pieces, integers [B, T].
            training: False for predictions only, which are faster and, without dropout, the same.

        Returns:
            Logits, [B, T, V].
        """
        activations = self.dropout(self.embedding(tokens), training=training)
        for layer in self.recurrent_layers:
            activations = self.dropout(layer(activations, training=training), training=training)
        return self.head(activations)

    def with_lanes(self, num_lanes: int) -> LanguageModel:
        """A model of the same weights whose state is carried, over as many lanes; it is zero."""
        model = type(self).from_config({**self.get_config(), "batch_size": num_lanes})
        model.set_weights(self.get_weights())
        return model

    def reader(self) -> TextReader:
        """Reads a text with a recurrent state."""
        return LaneReader(self.with_lanes(1))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        own = {"batch_size": self.batch_size, "dropout": self._dropout_rate}
        return {**self._sizes, **own, "name": self.name, "dtype": policy}


class LaneReader(TextReader):
    """Reads a text on the one lane of a recurrent model, whose state also goes from document to document."""

    crosses_documents = True

    def __init__(self, model: keras.Model) -> None:
        """Begins with the state that the model is in."""
        self._model = model
        self._states = recurrent_state.variables(model)

    def reset(self, state: Sequence[npt.NDArray[Any]] | None = None) -> None:
        """Begins a text with a zero state, or with another one."""
        zeros = [np.zeros(variable.shape, np.float32) for variable in self._states]
        recurrent_state.assign(self._states, zeros if state is None else list(state))

    def state(self) -> list[npt.NDArray[Any]]:
        """The recurrent state."""
        return recurrent_state.values(self._states)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def read(self, ids: tf.Tensor) -> tf.Tensor:
        """Reads ids, see `TextReader.read`."""
        return self._model(ids[None], training=False)[0]

"""Decoder-only Transformers of keras-hub as models of the language task (extra `hub`).

    LanguageTask.model_fn = @Transformer
    Transformer.network = 'keras_hub.models.LlamaCausalLM'         or GPT2CausalLM
    Transformer.arguments = {'num_layers': 3, 'hidden_dim': 128, ...}     of its backbone

A row is a window of packed documents and knows nothing of the window before. END_OF_DOCUMENT begins the
next document, as it begins a text that is scored. Tokens attend to those of their own document, and where
positions are learned they restart with it. The first token of a document is a target as any other, predicted
from END_OF_DOCUMENT alone; so none has to be left out of the loss:

    inputs      a3  a4 | end b1  b2 | end c1
    targets     a4  end| b1  b2  end| c1  c2
    positions   0   1  | 0   1   2  | 0   1

keras-hub's layers take such a mask, but its networks pass none on. `_over_documents` runs the graph of a
network anew and gives mask and positions to each layer that takes them. All else, attention, rotation and the
cache of keys and values, is keras-hub's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from tf_codistill import tokens
from tf_codistill.models import by_name
from tf_codistill.models.causal import CausalModel, TextReader
from tf_codistill.models.resnet import exact_dtype


@gin.configurable
@keras.saving.register_keras_serializable(package="tf_codistill")
class Transformer(CausalModel):
    """A Transformer over word pieces. Its variables exist from construction on."""

    def __init__(
        self,
        vocabulary_size: int,
        network: str,
        arguments: Mapping[str, Any],
        context_tokens: int = 256,
        batch_size: int | None = None,
        name: str = "transformer",
        dtype: Any = None,
    ) -> None:
        """Makes the model and its variables.

        Args:
            vocabulary_size: Number of word pieces, and of logits per position.
            network: Where a CausalLM of keras-hub is imported from.
            arguments: What its backbone is given beside the size of the vocabulary.
            context_tokens: The most tokens that it reads at once, and how many positions are learned.
            batch_size: Rows of a replica, as a task gives it; rows know nothing of each other.
            name: Name of the model.
            dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are at least
                float32.

        Raises:
            ValueError: There is no such network, it does not take what it is given, documents cannot be kept
                apart in it, or `context_tokens` is no positive integer.
        """
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        super().__init__(name=name, dtype=policy)
        if context_tokens != int(context_tokens) or context_tokens < 1:
            raise ValueError(
                f"context_tokens of a Transformer is {context_tokens!r}; expected an integer >= 1"
            )
        self.context_tokens = int(context_tokens)
        self._settings = {"network": network, "arguments": dict(arguments), "batch_size": batch_size}
        causal_lm = _causal_lm(network)
        given = {"vocabulary_size": vocabulary_size, **arguments, "dtype": policy}
        if "max_sequence_length" in inspect.signature(causal_lm.backbone_cls).parameters:
            given["max_sequence_length"] = context_tokens
        try:
            self.backbone = causal_lm.backbone_cls(**given)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"arguments of a Transformer on {network} are {dict(arguments)}: {error}"
            ) from error
        self.backbone.token_embedding.reverse_dtype = exact_dtype(policy)
        self._causal_lm = causal_lm
        self._documents = _over_documents(self.backbone)
        self.built = True

    def call(self, ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Predicts the token after each position.

        Args:
            ids: Ids of word pieces, integers [B, T], T at most `context_tokens`.
            training: Whether there is dropout, if the network has any.

        Returns:
            Logits, [B, T, V].

        Raises:
            ValueError: The rows are longer than `context_tokens`.
        """
        if (ids.shape[1] or 0) > self.context_tokens:
            raise ValueError(
                f"a window has {ids.shape[1]} tokens, but context_tokens of the Transformer is "
                f"{self.context_tokens}; expected LanguageTask.window_tokens of at most that"
            )
        inputs = {"token_ids": ids, "padding_mask": ops.ones_like(ids)}
        return self.backbone.token_embedding(self._documents(inputs, training=training), reverse=True)

    def with_lanes(self, num_lanes: int) -> CausalModel:
        """Itself, as rows know nothing of each other."""
        del num_lanes
        return self

    def reader(self) -> TextReader:
        """Reads a text with keras-hub's cache of keys and values, see `CachedReader`."""
        return CachedReader(self._causal_lm(self.backbone, preprocessor=None), self.context_tokens)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, for Keras's serialization."""
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        sizes = {"vocabulary_size": self.backbone.vocabulary_size, "context_tokens": self.context_tokens}
        return {**sizes, **self._settings, "name": self.name, "dtype": policy}


class CachedReader(TextReader):
    """Reads a text with a cache of keys and values, in which there is never more than one document.

    A document that fills the cache is read on from the newer half of what is in it, at positions from 0, so
    that predictions do not depend on how many ids are read at once.
    """

    crosses_documents = False

    def __init__(self, causal_lm: Any, context_tokens: int) -> None:
        """Begins.

        Args:
            causal_lm: A CausalLM of keras-hub.
            context_tokens: How many tokens the cache holds.
        """
        self._causal_lm = causal_lm
        self._context_tokens = context_tokens
        self._cache = tf.zeros(_cache_shape(causal_lm.backbone, context_tokens), causal_lm.compute_dtype)
        self.reset()

    def reset(self, state: Sequence[npt.NDArray[Any]] | None = None) -> None:
        """Begins a text, or goes on with another."""
        self._ids = np.zeros(0, np.int32)
        if state and len(state[0]):
            self._append(state[0])

    def state(self) -> list[npt.NDArray[Any]]:
        """The ids in the cache."""
        return [self._ids]

    def read(self, ids: npt.NDArray[np.int32]) -> tf.Tensor:
        """Reads ids, see `TextReader.read`."""
        logits = []
        for document in np.split(ids, np.flatnonzero(ids == tokens.END_OF_DOCUMENT)):
            if len(document) and document[0] == tokens.END_OF_DOCUMENT:
                self.reset()
            while len(document):
                if len(self._ids) == self._context_tokens:
                    self.reset([self._ids[self._context_tokens - self._context_tokens // 2 :]])
                room = self._context_tokens - len(self._ids)
                logits.append(self._append(document[:room]))
                document = document[room:]
        return tf.concat(logits, axis=0)

    def _append(self, ids: npt.NDArray[np.int32]) -> tf.Tensor:
        logits_TV, self._cache = self._step(tf.constant(ids), self._cache, tf.constant(len(self._ids)))
        self._ids = np.concatenate([self._ids, ids])
        return logits_TV

    @tf.function(reduce_retracing=True)
    def _step(self, ids: tf.Tensor, cache: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits, _, cache = self._causal_lm.call_with_cache(ids[None], cache, index)
        return logits[0], cache


def _causal_lm(network: str) -> Any:
    found = by_name.imported("network", network)
    if not all(hasattr(found, name) for name in ("backbone_cls", "call_with_cache")):
        raise ValueError(
            f"network is {network!r}; expected a CausalLM of keras-hub with a cache of keys and values: "
            "'keras_hub.models.LlamaCausalLM' or 'keras_hub.models.GPT2CausalLM'"
        )
    return found


def _over_documents(backbone: keras.Model) -> keras.Model:
    """The same layers, in which documents know nothing of each other.

    Args:
        backbone: A functional model from ``token_ids`` and ``padding_mask`` [B, T] to states [B, T, D].

    Returns:
        A model of the same inputs and weights.

    Raises:
        ValueError: No layer takes an attention mask.
    """
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    documents = ops.cumsum(ops.cast(ops.equal(ids, tokens.END_OF_DOCUMENT), "int32"), axis=1)
    same_BTT = ops.equal(ops.expand_dims(documents, 2), ops.expand_dims(documents, 1))
    first_BT = ops.cast(ops.argmax(ops.cast(same_BTT, "int32"), axis=2), "int32")
    positions_BT = ops.cumsum(ops.ones_like(ids), axis=1) - 1 - first_BT
    extra = {"decoder_attention_mask": same_BTT, "positions": positions_BT}
    given: set[str] = set()

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        own = {name: extra[name] for name in extra.keys() & inspect.signature(layer.call).parameters}
        given.update(own)
        return layer(*args, **kwargs, **own)

    inputs = {"token_ids": ids, "padding_mask": keras.Input((None,), dtype="int32", name="padding_mask")}
    documents_apart = keras.models.clone_model(
        backbone, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call
    )
    if "decoder_attention_mask" not in given:
        raise ValueError(
            f"no layer of {type(backbone).__name__} takes a decoder_attention_mask, so that documents of a "
            "window cannot be kept apart; expected a network such as keras_hub.models.LlamaCausalLM"
        )
    return documents_apart


def _cache_shape(backbone: Any, num_tokens: int) -> tuple[int, ...]:
    """As ``call_with_cache`` of keras-hub documents it: [1, layers, 2, tokens, heads, width of a head]."""
    sizes = backbone.get_config()
    num_query_heads = sizes.get("num_query_heads") or sizes["num_heads"]
    num_heads = sizes.get("num_key_value_heads") or num_query_heads
    width = sizes.get("head_dim") or sizes["hidden_dim"] // num_query_heads
    return (1, sizes["num_layers"], 2, num_tokens, num_heads, width)

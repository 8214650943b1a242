"""Language modelling: which word piece comes next (Anil et al. 2018, section 3.1).

task = LanguageTask(corpus_dir="corpus/tokens", num_lanes=64, window_tokens=32)
task.training(Part(0, 2, seed=1))      lanes of text, their recurrent state carried from batch to batch
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gin
import keras
import tensorflow as tf

from tf_codistill import settings, trained
from tf_codistill.batches import Stream
from tf_codistill.inputs import language, mixture
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tasks.base import HELD_OUT, Part, Served, Task, mean_of_logits


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """Lanes of text as what a task yields.

    Attributes:
        lanes: The batches by step.
    """

    lanes: language.LaneBatches

    @property
    def steps_per_epoch(self) -> int:
        """Steps until something that is read is exhausted."""
        return self.lanes.steps_per_epoch

    @property
    def units_per_step(self) -> int:
        """Tokens in a batch of the whole group."""
        return self.lanes.num_lanes * self.lanes.window_tokens

    @property
    def units_per_epoch(self) -> int:
        """Tokens in the batches of an epoch."""
        return self.steps_per_epoch * self.units_per_step

    def dataset(self, **where: Any) -> tf.data.Dataset:
        """Inputs and targets with their keys, see `language.dataset`."""
        return language.dataset(self.lanes, keyed=True, **where)


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class LanguageTask(Task):
    """What a language model learns.

    Attributes:
        corpus_dir: Directory with token shards and their manifest, or a weight for each of several, see
            `inputs.mixture`.
        model_fn: Makes the model from ``vocabulary_size`` and ``batch_size``, the lanes of one replica (None
            for a model that is served).
        peer_model_fns: Makes the models of groups that train another architecture than `model_fn`, by group,
            or by student if there are several; with outputs of the same shapes.
        num_lanes: Lanes of a group, that is its batch size over all workers and replicas; of each student if
            there are several.
        window_tokens: Tokens that a lane moves on in a step.
        data: ``same`` if all groups read all documents, each in its own order, or ``disjoint`` if each reads
            its own part (section 3.3.2 of Anil et al. 2018); of several students that read apart each does;
            ``same_batches`` if all groups read the same batches.
        held_out: The split that is evaluated, ``validation`` or ``test``.
    """

    units: ClassVar[str] = "tokens"

    corpus_dir: str | Mapping[str, float]
    model_fn: Callable[..., keras.Model] = LanguageModel
    peer_model_fns: Mapping[int, Callable[..., keras.Model]] = dataclasses.field(default_factory=dict)
    num_lanes: int = 64
    window_tokens: int = 32
    data: str = "disjoint"
    held_out: str = "validation"

    def __post_init__(self) -> None:
        settings.check_types(self)
        if self.held_out not in HELD_OUT:
            raise ValueError(f"held_out is {self.held_out!r}; expected one of {', '.join(HELD_OUT)}")

    @property
    def batch_size(self) -> int:
        """The lanes of a group."""
        return self.num_lanes

    @functools.cached_property
    def corpora(self) -> mixture.Corpora:
        """The corpora, open for reading; a `ValueError` if they cannot be opened."""
        try:
            return mixture.open_corpora(self.corpus_dir)
        except ValueError as error:
            raise ValueError(
                f"{error}. Where a corpus has moved, give "
                "--gin_bindings=\"LanguageTask.corpus_dir = '...'\"; `score` and `generate` need none"
            ) from error

    def training(self, part: Part) -> Stream:
        """The lanes of a group or student."""
        return self._stream("train", seed=part.seed, group=part.index, num_groups=part.number, data=self.data)

    def validation(self) -> Stream:
        """The lanes of the held-out documents, in the order in which they are stored."""
        return self._stream(self.held_out, seed=0, shuffle=False)

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        """Makes a model."""
        make = self.model_fn if group is None else self.peer_model_fns.get(group, self.model_fn)
        return make(vocabulary_size=self.corpora.vocabulary_size, batch_size=rows)

    def groups_of_their_own(self) -> set[int]:
        """The groups in `peer_model_fns`."""
        return set(self.peer_model_fns)

    def loss(self) -> keras.losses.Loss:
        """Cross-entropy in nats per token."""
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def derived(self, averages: Mapping[str, float]) -> dict[str, float]:
        """The perplexity."""
        return {"perplexity": math.exp(min(averages["loss"], 700.0))}

    def mean_prediction(self, predictions: Sequence[Any]) -> tf.Tensor:
        """Logits of the mean of probabilities."""
        return mean_of_logits(predictions)

    def classes(self) -> str:
        """The tokenizer, by its fingerprint."""
        return f"tokenizer {self.corpora.fingerprint[:12]}"

    def probabilities(self, predictions: tf.Tensor) -> tf.Tensor:
        """Of each piece of the vocabulary to come next, ``[B, T, V]``."""
        return tf.nn.softmax(predictions)

    def serving(self, model: keras.Model, directory: str) -> tf.Module:
        """Takes ids of the tokenizer, int32 ``[B, T]``, of which each row begins a document."""
        del directory
        return Served(model, self.probabilities, tf.TensorSpec([None, None], tf.int32, "ids"))

    def load_model(self, path: str) -> keras.Model:
        """Loads a saved language model with as many lanes as validation has."""
        return trained.load_model(path).with_lanes(self.num_lanes)

    def keep_beside_model(self, directory: str, is_writer: bool = True) -> None:
        """Keeps the tokenizer of the corpora, see `trained`."""
        trained.keep_tokenizer(trained.tokenizer_dir(directory), self.corpora.corpora, is_writer=is_writer)

    def check_beside_model(self, directory: str) -> None:
        """Checks that a model was trained with the vocabulary of the corpora."""
        trained.check_tokenizer(trained.tokenizer_dir(directory), next(iter(self.corpora.corpora.values())))

    def _stream(self, split: str, **arguments: Any) -> Stream:
        lanes = {"num_lanes": self.num_lanes, "window_tokens": self.window_tokens}
        return TokenStream(self.corpora.stream(split, **lanes, **arguments))

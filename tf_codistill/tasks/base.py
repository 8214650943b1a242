"""What is learned: the seam between an experiment and whatever it trains on.

    stream = task.training(Part(index=0, number=2, seed=1))     batches as a function of the step
    model = task.make_model(rows=32)                            for one replica; None for the served model
    model.compile(optimizer, task.loss(), weighted_metrics=task.metrics())
    task.keep_beside_model("runs/mine/group_0")                 what serving needs: a tokenizer, say
    task.serving(model, "runs/mine/group_0").serve(raw_input)   probabilities

`Task` holds settings; nothing is read before it is asked for. Whoever asks one task asks any other by the
same names.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tf_codistill import files, weights
from tf_codistill.batches import Stream

HELD_OUT = ("validation", "test")
"""Parts of the data that nobody trains on: to choose settings by, and to look at once."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Whose data it is.

    Attributes:
        index: The group, or of several students in one process the student.
        number: How many there are.
        seed: With the index it fixes the order of what is read.
    """

    index: int
    number: int
    seed: int


@dataclasses.dataclass(frozen=True)
class _Make:
    task: Task
    rows: int | None
    group: int | None

    def __call__(self) -> keras.Model:
        return self.task.make_model(self.rows, self.group)


def mean_of_logits(predictions: Sequence[Any]) -> tf.Tensor:
    """Logits of the mean of probabilities.

    Args:
        predictions: Logits ``[B, ..., C]`` of each member of an ensemble.

    Returns:
        ``[B, ..., C]``.
    """
    log_probabilities = tf.stack([tf.nn.log_softmax(logits) for logits in predictions])
    return tf.reduce_logsumexp(log_probabilities, axis=0) - math.log(len(predictions))


class Served(tf.Module):
    """A model and what it says of each class.

    Args:
        model: The trained model.
        probabilities: From its predictions.
        features: What it takes, as a structure of tensor specs.

    Attributes:
        serve: Takes features, returns ``{"probabilities": ...}``.
    """

    def __init__(self, model: keras.Model, probabilities: Callable[[Any], Any], features: Any) -> None:
        super().__init__()
        self.model = model
        self.serve = tf.function(
            lambda features: {"probabilities": probabilities(model(features, training=False))},
            input_signature=[features],
            autograph=False,
        )


class Task(abc.ABC):
    """Data, model, losses and metrics of what is learned.

    Attributes:
        units: What rates and reports count, in the plural.
    """

    units: ClassVar[str] = "examples"

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Examples in a step of a group, over all its workers and replicas."""

    @property
    def augments(self) -> bool:
        """Whether an example of training has other features at each visit; not unless a task says so."""
        return False

    @abc.abstractmethod
    def training(self, part: Part) -> Stream:
        """What is trained on.

        Args:
            part: Whose it is.

        Returns:
            Batches without end.
        """

    @abc.abstractmethod
    def validation(self) -> Stream:
        """What is held out: the same for everybody, in a fixed order."""

    @abc.abstractmethod
    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        """Makes a model.

        Args:
            rows: Examples in a batch of one replica; None for the model that is served.
            group: Whose model, where groups train different ones; None for that of all the others.

        Returns:
            The model, the same weights in the same order however many rows it takes.
        """

    def maker(self, rows: int | None, group: int) -> Callable[[], keras.Model]:
        """What makes the model of a group; equal for groups that train the same.

        Args:
            rows: Examples in a batch of one replica; None for a model that takes any number.
            group: The group.

        Returns:
            A function without arguments.
        """
        return _Make(self, rows, group if group in self.groups_of_their_own() else None)

    def save(self, student: keras.Model, path: str, group: int) -> None:
        """Saves a trained model as it is served.

        Args:
            student: The trained model.
            path: A ``.keras`` file, which is replaced at once.
            group: Whose model it is.
        """
        served = self.make_model(group=group)
        served.set_weights(weights.values(student.weights))
        aside = path.removesuffix(".keras") + ".partial.keras"
        served.save(aside)
        files.move(aside, path)

    @abc.abstractmethod
    def loss(self) -> Any:
        """The task loss, phi of Algorithm 1, as `compile` takes it; a new one each time."""

    def metrics(self) -> list[Any]:
        """Metrics, as `compile` takes ``weighted_metrics``; new ones each time."""
        return []

    def derived(self, averages: Mapping[str, float]) -> dict[str, float]:
        """Figures that follow from those of a validation.

        Args:
            averages: Averages by name, ``loss`` among them.

        Returns:
            Further figures by name.
        """
        del averages
        return {}

    @abc.abstractmethod
    def mean_prediction(self, predictions: Sequence[Any]) -> Any:
        """The prediction of an ensemble.

        Args:
            predictions: Those of its members.

        Returns:
            Structured like one of them.
        """

    def classes(self) -> str:
        """What the classes of a prediction are: equal where they mean the same; may read the data.

        Returns:
            A few words with a fingerprint; none where the shape of a prediction says it all.
        """
        return ""

    def probabilities(self, predictions: Any) -> Any:
        """What a prediction says of each class; the prediction itself, unless a task knows better.

        Args:
            predictions: What the model puts out.

        Returns:
            Probabilities ``[B, ..., C]``, or of the second of two classes ``[B]``.
        """
        return predictions

    def serving(self, model: keras.Model, directory: str) -> tf.Module:
        """A trained model as it is served: from raw input to probabilities.

        Args:
            model: The trained model.
            directory: Where `keep_beside_model` has kept what belongs to it.

        Returns:
            A module with a function ``serve`` of fixed signature, which returns ``{"probabilities": ...}``.
            Here its input is that of the model, any number of examples.
        """
        del directory
        features = keras.tree.map_structure(
            lambda spec: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype),
            self.validation().dataset().element_spec.data[0],
        )
        return Served(model, self.probabilities, features)

    def groups_of_their_own(self) -> set[int]:
        """The groups whose models are not those of all the others."""
        return set()

    def load_model(self, path: str) -> keras.Model:
        """Loads a saved model so that it takes whole batches of validation.

        Args:
            path: A ``.keras`` file.

        Returns:
            The model.

        Raises:
            ValueError: It cannot be loaded.
        """
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:  # Keras has a type of its own for each way in which a file can be bad
            reason = str(error).split("\n")[0]
            raise ValueError(f"model {path!r} cannot be loaded: {reason}") from error

    def keep_beside_model(self, directory: str, is_writer: bool = True) -> None:
        """Keeps what serving needs beside a model that is to be trained, or checks what is there already.

        Args:
            directory: Directory of a group of a run.
            is_writer: Whether to write; otherwise what is there is only checked.

        Raises:
            ValueError: What is there belongs to another task or other data.
        """
        del directory, is_writer

    def check_beside_model(self, directory: str) -> None:
        """Checks that a trained model may be evaluated on this task, its data maybe others than it has seen.

        Args:
            directory: Directory of a group of a run.

        Raises:
            ValueError: It was trained for another task.
        """
        del directory

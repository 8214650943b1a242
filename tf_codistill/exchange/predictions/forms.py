"""What travels of a prediction: logits [..., C] in fewer numbers, and back.

                        of each position              what comes back
    Logits              C numbers                     the logits, rounded
    Probabilities       C numbers                     their logarithms
    TopK(k)             k numbers and k ids           those of k classes; the rest as the student's own tail
    SampledClasses(k)   k ids                         shares among k draws; their mean over draws is exact

    form = TopK(16)
    parts = form.compress(logits, seed=[step, group])     tensors [B, ...], smaller
    form.expand(parts, like=student_logits)               logits that a distillation loss takes

Leaving out all but k classes and scaling these up makes the student too sure of them. `TopK` instead gives
the tail as one bucket: what the teacher has left for it is spread as the student spreads its own, so that the
gradient of the cross-entropy, q - p, moves the tail as a whole and no class within it. `SampledClasses` draws
from the teacher's distribution, so that the gradient is right on average: sparse logit sampling
(https://arxiv.org/abs/2503.16870) with the teacher itself as the proposal.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import gin
import tensorflow as tf

PRECISIONS = ("float32", "float16", "int8")
LOGITS, PROBABILITIES, DRAWS = FIDELITIES = ("logits", "probabilities", "draws")
"""What arrives of a teacher's prediction."""

_HIGHEST = 127.0
_NEVER = -1e4  # the logit of a class without any probability: finite, and none in any float type
_NOWHERE = -1e30  # a logit that no sum sees, but one of nothing else

Spec = tuple[tuple[int, ...], str]


@dataclasses.dataclass(frozen=True)
class Form(abc.ABC):
    """How predictions travel.

    Attributes:
        fidelity: What comes back: `LOGITS` as they were, their softmax (`PROBABILITIES`), or `DRAWS` from it.
    """

    fidelity: ClassVar[str] = PROBABILITIES

    @abc.abstractmethod
    def parts(self, shape: Sequence[int]) -> list[Spec]:
        """What a row becomes.

        Args:
            shape: Shape of the logits of a row, [..., C].

        Returns:
            Shape and dtype of each tensor, of a row.

        Raises:
            ValueError: Logits of this shape cannot travel in this form.
        """

    @abc.abstractmethod
    def compress(self, logits: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Makes a prediction smaller.

        Args:
            logits: Float [B, ..., C].
            seed: Integers [2], which fix what is drawn.

        Returns:
            The tensors that `parts` describes, [B, ...].
        """

    @abc.abstractmethod
    def expand(self, parts: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """Makes logits of it again.

        Args:
            parts: What `compress` returned.
            like: The student's own logits for the same rows, [B, ..., C].

        Returns:
            Logits [B, ..., C] of the dtype of `like`, without a gradient.
        """

    def __str__(self) -> str:
        """By which groups see that they use the same form."""
        settings = ", ".join(f"{name}={value!r}" for name, value in dataclasses.asdict(self).items())
        return f"{type(self).__name__}({settings})"


@gin.configurable(module="tf_codistill.forms")
@dataclasses.dataclass(frozen=True)
class Logits(Form):
    """All logits.

    Attributes:
        precision: ``float32``, ``float16`` (2 bytes each) or ``int8`` (1 byte, and a scale for each
            position: off by at most 1/254 of its largest logit).

    Raises:
        ValueError: There is no such precision.
    """

    fidelity: ClassVar[str] = LOGITS

    precision: str = "float16"

    def __post_init__(self) -> None:
        _check_precision(self.precision)

    def parts(self, shape: Sequence[int]) -> list[Spec]:
        """The logits, with their scale."""
        return _rounded(shape, self.precision)

    def compress(self, logits: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Rounds them to the nearest number."""
        return _round(tf.cast(logits, tf.float32), self.precision)

    def expand(self, parts: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """The rounded logits."""
        return tf.stop_gradient(tf.cast(_number(parts), like.dtype))


@gin.configurable(module="tf_codistill.forms")
@dataclasses.dataclass(frozen=True)
class Probabilities(Form):
    """The probabilities of all classes.

    Attributes:
        precision: ``float32``, ``float16``, or ``int8``: rounded up or down at random, so that small ones are
            not lost but right on average.

    Raises:
        ValueError: There is no such precision.
    """

    precision: str = "float16"

    def __post_init__(self) -> None:
        _check_precision(self.precision)

    def parts(self, shape: Sequence[int]) -> list[Spec]:
        """The probabilities, with their scale."""
        _check_classes(self, shape, least=2)
        return _rounded(shape, self.precision)

    def compress(self, logits: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Rounds them."""
        return _round(tf.nn.softmax(tf.cast(logits, tf.float32)), self.precision, seed)

    def expand(self, parts: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """Their logarithms."""
        return _as_logits(_log(_number(parts)), like)


@gin.configurable(module="tf_codistill.forms")
@dataclasses.dataclass(frozen=True)
class TopK(Form):
    """The k most probable classes, and a bucket for all the others.

    Attributes:
        k: How many.
        precision: Of their probabilities, as for `Logits`.

    Raises:
        ValueError: k is below 1, or there is no such precision.
    """

    k: int = 16
    precision: str = "float16"

    def __post_init__(self) -> None:
        _check_k(self, self.k)
        _check_precision(self.precision)

    def parts(self, shape: Sequence[int]) -> list[Spec]:
        """Probabilities, with their scale, and ids."""
        _check_classes(self, shape, least=max(2, self.k))
        some = (*shape[:-1], self.k)
        return [*_rounded(some, self.precision), (some, _id_type(shape[-1]))]

    def compress(self, logits: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Finds the largest."""
        logits = tf.cast(logits, tf.float32)
        values, ids = tf.math.top_k(logits, self.k, sorted=False)
        top = tf.exp(values - tf.reduce_logsumexp(logits, axis=-1, keepdims=True))
        return [*_round(top, self.precision), tf.cast(ids, _id_type(logits.shape[-1]))]

    def expand(self, parts: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """Logarithms of theirs, and of the student's own tail scaled to what they leave."""
        *values, ids = parts
        ids, exists = _existing(ids, like.shape[-1])
        top, own = tf.where(exists, _number(values), math.nan), tf.cast(like, tf.float32)
        tail = 1.0 - tf.reduce_sum(top, axis=-1, keepdims=True)
        # Summed by itself: as what the k leave of all it would be lost to rounding where the student is sure.
        own_tail = _replaced(own, ids, tf.fill(tf.shape(ids), _NOWHERE))
        others = own_tail - tf.reduce_logsumexp(own_tail, axis=-1, keepdims=True) + _log(tail)
        return _as_logits(_replaced(others, ids, _log(top)), like)


@gin.configurable(module="tf_codistill.forms")
@dataclasses.dataclass(frozen=True)
class SampledClasses(Form):
    """k classes drawn from the distribution, with replacement; each counts 1 / k for every time.

    Attributes:
        k: How many.

    Raises:
        ValueError: k is below 1.
    """

    fidelity: ClassVar[str] = DRAWS

    k: int = 16

    def __post_init__(self) -> None:
        _check_k(self, self.k)

    def parts(self, shape: Sequence[int]) -> list[Spec]:
        """Ids."""
        _check_classes(self, shape, least=2)
        return [((*shape[:-1], self.k), _id_type(shape[-1]))]

    def compress(self, logits: tf.Tensor, seed: tf.Tensor) -> list[tf.Tensor]:
        """Draws; of logits that are not finite, classes that do not exist."""
        rows = tf.reshape(tf.cast(logits, tf.float32), [-1, logits.shape[-1]])
        is_finite = _is_finite(rows)
        drawn = tf.random.stateless_categorical(tf.where(is_finite, rows, 0.0), self.k, seed, tf.int32)
        ids = tf.where(is_finite, drawn, logits.shape[-1])
        return [tf.cast(tf.reshape(ids, [*_leading(logits), self.k]), _id_type(logits.shape[-1]))]

    def expand(self, parts: Sequence[tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """Logarithms of the shares; not a number where there is a class that does not exist."""
        (ids,) = parts
        ids, exists = _existing(ids, like.shape[-1])
        counts = tf.reduce_sum(tf.cast(ids[..., tf.newaxis] == ids[..., tf.newaxis, :], tf.float32), axis=-1)
        drawn = tf.where(exists, tf.math.log(counts / self.k), math.nan)
        never = tf.fill(tf.shape(like), _NEVER)
        return _as_logits(_replaced(never, ids, drawn), like)


def _is_finite(numbers: tf.Tensor) -> tf.Tensor:
    """Of each position, [..., 1]."""
    return tf.math.is_finite(tf.reduce_sum(numbers, axis=-1, keepdims=True))


def _existing(ids: tf.Tensor, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Ids, 0 where one of a position is that of no class; and where there is none such, [..., 1]."""
    ids = tf.cast(ids, tf.int32)
    exists = tf.reduce_all((ids >= 0) & (ids < num_classes), axis=-1, keepdims=True)
    return tf.where(exists, ids, 0), exists


def _id_type(num_classes: int) -> str:
    return "uint16" if num_classes < 1 << 16 else "int32"


def _check_k(form: Form, k: int) -> None:
    if type(k) is not int or k < 1:
        raise ValueError(f"k of {type(form).__name__} is {k!r}; expected an integer of at least 1")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")


def _check_classes(form: Form, shape: Sequence[int], least: int) -> None:
    if shape[-1] < least:
        raise ValueError(
            f"predictions of {shape[-1]} classes cannot travel as {form}; expected at least {least}: take "
            "a smaller k, or Logits, which also carry logistic outputs"
        )


def _rounded(shape: Sequence[int], precision: str) -> list[Spec]:
    scale: list[Spec] = [((*shape[:-1], 1), "float32")] if precision == "int8" else []
    return [(tuple(shape), precision), *scale]


def _round(numbers: tf.Tensor, precision: str, seed: tf.Tensor | None = None) -> list[tf.Tensor]:
    """Numbers of a precision, for int8 with the scale of each position; with a seed up or down at random."""
    if precision != "int8":
        return [tf.cast(numbers, precision)]
    scale = tf.reduce_max(tf.abs(numbers), axis=-1, keepdims=True) / _HIGHEST
    scaled = tf.math.divide_no_nan(numbers, scale)
    up = 0.5 if seed is None else tf.random.stateless_uniform(tf.shape(numbers), seed)
    whole = tf.clip_by_value(tf.floor(scaled + up), -_HIGHEST, _HIGHEST)
    return [tf.cast(tf.where(tf.math.is_finite(whole), whole, 0.0), tf.int8), scale]


def _number(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    values, *scale = [tf.cast(part, tf.float32) for part in parts]
    return values * scale[0] if scale else values


def _log(probabilities: tf.Tensor) -> tf.Tensor:
    """Logarithms; `_NEVER` of 0, or of less than that by rounding."""
    is_none = probabilities <= 0.0
    return tf.where(is_none, _NEVER, tf.math.log(tf.where(is_none, 1.0, probabilities)))


def _as_logits(logits: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.stop_gradient(tf.cast(logits, like.dtype))


def _replaced(logits: tf.Tensor, ids: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Logits [..., C] with values [..., k] at ids, of which equal ones have equal values."""
    rows = tf.reshape(ids, [-1, ids.shape[-1]])
    places = tf.stack([tf.broadcast_to(tf.range(tf.shape(rows)[0])[:, tf.newaxis], tf.shape(rows)), rows], -1)
    flat = tf.reshape(logits, [-1, logits.shape[-1]])
    found = tf.tensor_scatter_nd_update(flat, places, tf.reshape(values, [-1, values.shape[-1]]))
    return tf.reshape(found, tf.shape(logits))


def _leading(logits: tf.Tensor) -> list[tf.Tensor | int]:
    dynamic = tf.shape(logits)
    return [size if size is not None else dynamic[axis] for axis, size in enumerate(logits.shape[:-1])]

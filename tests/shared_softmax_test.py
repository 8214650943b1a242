"""The task's cross-entropy and psi share a softmax, and nobody can tell but by the time it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import losses, weights
from tf_codistill.losses import shared_softmax
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.training.codistillation import CodistillationModel

ROWS, TOKENS, CLASSES = 4, 3, 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, TOKENS, CLASSES)).astype("float32")
TARGETS = tf.nn.softmax(RNG.normal(size=(ROWS, TOKENS, CLASSES)).astype("float32"))
LABELS = RNG.integers(0, CLASSES, (ROWS, TOKENS))


def cross_entropy(**arguments: Any) -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def value_and_gradient(
    loss: Callable[[tf.Tensor], tf.Tensor], logits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(logits)
    return np.asarray(value), np.asarray(tape.gradient(value, logits))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, -50.0, 1000.0])
def test_values_and_gradients_are_those_of_tensorflow(scale: float, offset: float) -> None:
    logits = scale * LOGITS + np.float32(offset)
    for ours, theirs in (
        (
            lambda x: shared_softmax.hard_cross_entropy(tf.constant(LABELS), x),
            lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, x),
        ),
        (
            lambda x: shared_softmax.soft_cross_entropy(TARGETS, x),
            lambda x: tf.nn.softmax_cross_entropy_with_logits(TARGETS, x),
        ),
    ):
        for own, other in zip(
            value_and_gradient(ours, logits), value_and_gradient(theirs, logits), strict=True
        ):
            np.testing.assert_allclose(own, other, rtol=2e-6, atol=1e-6)


def test_a_small_loss_is_not_lost_in_large_logits() -> None:
    logits = np.array([[1012.0, 1000.0, 1000.0]], "float32")
    loss, _ = value_and_gradient(lambda x: shared_softmax.hard_cross_entropy(tf.constant([0]), x), logits)
    np.testing.assert_allclose(loss, [np.log1p(2 * np.exp(-12))], rtol=0.02)
    assert loss >= 0


def test_gradient_of_both_terms_by_hand() -> None:
    weight = 0.7

    def both(logits: tf.Tensor) -> tf.Tensor:
        phi = shared_softmax.hard_cross_entropy(tf.constant(LABELS), logits)
        return phi + weight * shared_softmax.soft_cross_entropy(TARGETS, logits)

    _, gradient = value_and_gradient(both, LOGITS)
    p, q, y = tf.nn.softmax(LOGITS), TARGETS, tf.one_hot(LABELS, CLASSES)
    np.testing.assert_allclose(gradient, (1 + weight) * p - y - weight * q, atol=1e-6)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class_is_not_passed_over(label: int) -> None:
    @tf.function(jit_compile=True)  # which takes the nearest place there is; elsewhere it is an error
    def loss(labels: tf.Tensor) -> tf.Tensor:
        return shared_softmax.hard_cross_entropy(labels, tf.constant(LOGITS))

    values = loss(tf.tensor_scatter_nd_update(LABELS, [[0, 0]], [label])).numpy()
    assert np.isnan(values[0, 0])
    assert np.isfinite(values.ravel()[1:]).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_logits_are_seen_to_be_broken(broken: float) -> None:
    logits = LOGITS.copy()
    logits[0, 0, 2] = broken
    values, gradient = value_and_gradient(
        lambda x: shared_softmax.hard_cross_entropy(tf.constant(LABELS), x), logits
    )
    assert np.isnan(values[0, 0])
    assert np.isnan(gradient[0, 0]).any()
    assert np.isfinite(values.ravel()[1:]).all()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "none"])
@pytest.mark.parametrize("trailing", [False, True])
def test_takes_the_place_of_kerass_loss(reduction: str, trailing: bool) -> None:
    theirs = cross_entropy(reduction=reduction, name="mine")
    ours = shared_softmax.sharing(theirs)
    assert type(ours) is shared_softmax.SharedCrossEntropy
    assert (ours.name, ours.reduction, ours.dtype, ours.get_config()) == (
        "mine",
        reduction,
        theirs.dtype,
        theirs.get_config(),
    )
    labels = LABELS[..., None] if trailing else LABELS
    logits = tf.constant(LOGITS)
    logits._keras_mask = tf.constant(RNG.random((ROWS, TOKENS)) < 0.7)
    for sample_weight in (None, RNG.random((ROWS, 1)).astype("float32")):
        np.testing.assert_allclose(
            ours(labels, logits, sample_weight), theirs(labels, logits, sample_weight), rtol=1e-5
        )


def test_other_losses_stay_as_they_are() -> None:
    class Mine(keras.losses.SparseCategoricalCrossentropy):
        pass

    others = {
        "name": "sparse_categorical_crossentropy",
        "none": None,
        "probabilities": keras.losses.SparseCategoricalCrossentropy(),
        "ignoring": cross_entropy(ignore_class=0),
        "axis": cross_entropy(axis=1),
        "subclass": Mine(from_logits=True),
        "function": keras.losses.sparse_categorical_crossentropy,
        "other": keras.losses.MeanSquaredError(),
    }
    assert shared_softmax.sharing(others) == others
    assert shared_softmax.sharing(None) is None


def test_what_was_left_in_a_branch_is_not_used_outside() -> None:
    @tf.function
    def loss(logits: tf.Tensor) -> tf.Tensor:
        logits = tf.identity(logits)
        phi = tf.cond(
            tf.reduce_sum(logits) < 1e9,
            lambda: shared_softmax.hard_cross_entropy(tf.constant(LABELS), logits),
            lambda: tf.zeros([ROWS, TOKENS]),
        )
        return phi + shared_softmax.soft_cross_entropy(TARGETS, logits)

    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, LOGITS)
    expected += tf.nn.softmax_cross_entropy_with_logits(TARGETS, LOGITS)
    np.testing.assert_allclose(loss(tf.constant(LOGITS)), expected, rtol=1e-5)


def test_a_branch_uses_what_was_left_before_it() -> None:
    @tf.function
    def gradient(logits: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            logits_of_step = logits * 1.0
            phi = shared_softmax.hard_cross_entropy(tf.constant(LABELS), logits_of_step)
            psi = tf.cond(
                weight > 0,
                lambda: shared_softmax.soft_cross_entropy(TARGETS, logits_of_step),
                lambda: tf.zeros([ROWS, TOKENS]),
            )
            loss = phi + weight * psi
        return tape.gradient(loss, logits)

    p, q, y = tf.nn.softmax(LOGITS), TARGETS, tf.one_hot(LABELS, CLASSES)
    for weight in (0.0, 0.5):
        expected = (1 + weight) * p - y - weight * q
        np.testing.assert_allclose(gradient(LOGITS, tf.constant(weight)), expected, atol=1e-6)
    assert _num_softmaxes(gradient, LOGITS, tf.constant(0.5)) == 1


def _num_softmaxes(function: Any, *arguments: Any) -> int:
    definition = function.get_concrete_function(*arguments).graph.as_graph_def()
    return _count(definition.node, {one.signature.name: one.node_def for one in definition.library.function})


def _count(nodes: Any, functions: dict[str, Any]) -> int:
    """The softmaxes of a graph, with those of the functions that it calls; gradients leave others behind."""
    called = [
        one.name for node in nodes for value in node.attr.values() for one in (value.func, *value.list.func)
    ]
    own = sum(node.op in ("Softmax", "LogSoftmax") or "CrossEntropy" in node.op for node in nodes)
    return own + sum(_count(functions[name], functions) for name in called if name in functions)


def sequences(mask: bool = False) -> keras.Model:
    tokens = keras.Input((TOKENS,), dtype="int32")
    activations = keras.layers.Embedding(CLASSES, 8, mask_zero=mask)(tokens)
    return keras.Model(tokens, keras.layers.Dense(CLASSES, dtype="float32")(activations))


def masked_sequences() -> keras.Model:
    return sequences(mask=True)


def fellows(model_fn: Callable[[], keras.Model] = sequences, **arguments: Any) -> CodistillationModel:
    return CodistillationModel(model_fn, teachers=FellowStudents(2), measure_every_steps=1000, **arguments)


def trained(
    make: Callable[[], CodistillationModel], **compiled: Any
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Logs and weights after a few steps, the same every time."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, CLASSES, (24, TOKENS)), rng.integers(0, CLASSES, (24, TOKENS))
    data = tf.data.Dataset.from_tensor_slices((x, y, rng.random((24, 1)).astype("float32"))).batch(8)
    model = make()
    model.compile(keras.optimizers.SGD(0.5), cross_entropy(), **{"jit_compile": False, **compiled})
    history = model.fit(data, epochs=2, verbose=0).history
    return history, [array for student in model.students for array in weights.values(student.weights)]


@pytest.mark.parametrize(
    ("make", "compiled"),
    [
        pytest.param(fellows, {}, id="plain"),
        pytest.param(fellows, {"jit_compile": True}, id="XLA"),
        pytest.param(fellows, {"run_eagerly": True}, id="eager"),
        pytest.param(lambda: fellows(masked_sequences), {}, id="masks"),
        pytest.param(
            lambda: fellows(distillation_loss=losses.KLDivergence(), distillation_weight=0.3), {}, id="KL"
        ),
        pytest.param(lambda: fellows(distillation_loss=losses.SoftCrossEntropy(2.0)), {}, id="temperature"),
        pytest.param(lambda: fellows(distillation_loss=losses.SquaredLogits()), {}, id="another psi"),
    ],
)
def test_training_is_the_same(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], CodistillationModel], compiled: dict[str, Any]
) -> None:
    _assert_same(monkeypatch, make, compiled)


def test_training_is_the_same_on_two_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> CodistillationModel:
        with two_replicas().scope():
            return fellows(masked_sequences)

    _assert_same(monkeypatch, make, {})


def _assert_same(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], CodistillationModel], compiled: dict[str, Any]
) -> None:
    logs, arrays = trained(make, **compiled)
    monkeypatch.setattr(shared_softmax, "sharing", lambda loss: loss)
    monkeypatch.setattr(shared_softmax, "_left_at", lambda logits: None)
    expected_logs, expected_arrays = trained(make, **compiled)
    assert logs.keys() == expected_logs.keys()
    assert logs["distillation_loss"][-1] > 0
    for name, values in logs.items():
        np.testing.assert_allclose(values, expected_logs[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for array, expected in zip(arrays, expected_arrays, strict=True):
        np.testing.assert_allclose(array, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("psi", "number"),
    [(None, 2), (losses.SoftCrossEntropy(temperature=2.0), 3), (losses.SquaredLogits(), 1)],
)
def test_a_step_computes_one_softmax_of_the_student(
    tmp_path: Any, psi: losses.DistillationLoss | None, number: int
) -> None:
    """And one of its teacher, and, where teacher and student are compared now and then, those."""
    sequences().save(str(tmp_path / "teacher.keras"))
    model = CodistillationModel(
        sequences, teachers=SavedTeachers([str(tmp_path / "teacher.keras")]), distillation_loss=psi
    )
    model.compile(keras.optimizers.SGD(0.5), cross_entropy(), jit_compile=False)
    x, y = (RNG.integers(0, CLASSES, (8, TOKENS)) for _ in range(2))
    model.fit(x, y, verbose=0, batch_size=8)
    model.meters.note = lambda *_: None
    assert _num_softmaxes(tf.function(model.gradients), (tf.constant(x), tf.constant(y))) == number

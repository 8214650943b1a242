"""Distillation losses against NumPy, values and gradients, for every psi and every mean over teachers."""

from __future__ import annotations

import json

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tests.replicas import two_replicas
from tf_codistill import losses

SETTINGS = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
CLASSES = ["SoftCrossEntropy", "KLDivergence", "SquaredProbabilities"]
BINARY = ["BinarySoftCrossEntropy", "BinaryKLDivergence", "BinarySquaredProbabilities"]
MEANS = ["probabilities", "logits", "losses"]
KINDS = [(name, mean) for name in CLASSES + BINARY for mean in MEANS]
KINDS += [("SquaredLogits", "logits"), ("SquaredLogits", "losses")]
SMOOTHING = [losses.UniformSmoothing(), losses.UnigramSmoothing([1.0, 2.0, 3.0, 0.0, 4.0])]
HALF = {"bfloat16": tf.bfloat16, "float16": tf.float16}


def make(kind: tuple[str, str], temperature: float = 2.0, **kwargs: object) -> losses.Comparison:
    name, mean_over = kind
    if name != "SquaredLogits":
        kwargs["temperature"] = temperature
    return getattr(losses, name)(mean_over=mean_over, **kwargs)


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def probabilities(name: str, logits: np.ndarray) -> np.ndarray:
    """Over classes; a logistic output becomes two of them."""
    if name.startswith("Binary"):
        positive = 1 / (1 + np.exp(-logits))
        return np.concatenate([1 - positive, positive], axis=-1)
    return softmax(logits)


def distance(name: str, target: np.ndarray, student: np.ndarray, t: float) -> np.ndarray:
    if name == "SquaredLogits":
        return ((target - student) ** 2).mean(axis=-1)
    q = probabilities(name, student / t)
    if "Squared" in name:
        return t**2 * ((target - q) ** 2).sum(axis=-1) / (2 if "Binary" in name else 1)
    log_p = np.log(target) if "KL" in name else 0
    return t**2 * (target * (log_p - np.log(q))).sum(axis=-1)


def reference(kind, teachers, student, t=2.0, teacher_weights=None) -> np.ndarray:
    name, mean_over = kind
    teacher_weights = np.ones(len(teachers)) if teacher_weights is None else np.asarray(teacher_weights)
    kept = teacher_weights > 0
    teacher_weights, teachers = teacher_weights[kept] / teacher_weights.sum(), teachers[kept]

    def target(logits):
        return logits if name == "SquaredLogits" else probabilities(name, logits / t)

    def mean(values):
        return np.tensordot(teacher_weights, np.stack(list(values)), 1)

    if mean_over == "losses":
        return mean(distance(name, target(logits), student, t) for logits in teachers)
    merged = target(mean(teachers)) if mean_over == "logits" else mean(map(target, teachers))
    return distance(name, merged, student, t)


def slope(function, at: np.ndarray) -> np.ndarray:
    """The gradient of a scalar function by central differences."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        gradient[index] = (function(at + step) - function(at - step)) / 2e-5
    return gradient


def label(kind: tuple[str, str] | losses.DistillationLoss) -> str:
    if isinstance(kind, tuple):
        return "-".join(kind)
    return f"{type(kind).__name__}-{getattr(kind, 'mean_over', 'none')}"


@st.composite
def batches(draw, binary: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Logits of teachers and student, weights of teachers, temperature."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leading = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    shape = (*leading, 1 if binary else draw(st.integers(2, 6)))
    weights = draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=4).filter(any))
    temperature = draw(st.floats(0.5, 8))
    return rng.normal(size=(len(weights), *shape)) * 2, rng.normal(size=shape) * 2, weights, temperature


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_value_and_gradient_of_each_example(kind):
    @hypothesis.settings(SETTINGS, max_examples=8)
    @hypothesis.given(batches(kind[0].startswith("Binary")))
    def check(batch):
        teachers, student, weights, t = batch
        loss = make(kind, t, reduction=None, dtype="float64")
        teachers_T, student_T = tf.constant(teachers), tf.constant(student)
        with tf.GradientTape() as tape:
            tape.watch([teachers_T, student_T])
            values = loss(loss.aggregate(teachers_T, tf.constant(weights)), student_T)
            mean = tf.reduce_mean(values)
        to_teachers, to_student = tape.gradient(mean, [teachers_T, student_T])
        assert values.shape == student.shape[:-1]
        np.testing.assert_allclose(
            values, reference(kind, teachers, student, t, weights), rtol=1e-8, atol=1e-10
        )
        assert to_teachers is None
        expected = slope(lambda at: reference(kind, teachers, at, t, weights).mean(), student)
        np.testing.assert_allclose(to_student, expected, atol=1e-8, rtol=1e-5)

    check()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_computes_in_float32_whatever_the_logits(kind, dtype):
    rng = np.random.default_rng(0)
    classes = 1 if kind[0].startswith("Binary") else 5
    teachers = tf.constant(rng.normal(size=(3, 4, 2, classes)) * 3, HALF.get(dtype, tf.float32))
    student = tf.constant(rng.normal(size=(4, 2, classes)) * 3, teachers.dtype)
    exact_teachers, exact_student = (tf.cast(x, tf.float64).numpy() for x in (teachers, student))
    loss = make(kind)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(loss.aggregate(teachers), student)
    gradient = tape.gradient(value, student)
    assert value.dtype == tf.float32
    assert gradient.dtype == student.dtype
    np.testing.assert_allclose(value, reference(kind, exact_teachers, exact_student).mean(), rtol=2e-6)
    expected = slope(lambda at: reference(kind, exact_teachers, at).mean(), exact_student)
    tolerance = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 5e-3}[dtype]
    np.testing.assert_allclose(tf.cast(gradient, tf.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_teacher_of_weight_zero_says_nothing_not_even_nan(kind):
    rng = np.random.default_rng(1)
    teachers = rng.normal(size=(4, 3, 1 if kind[0].startswith("Binary") else 5)).astype("float32")
    student = tf.constant(teachers[3])
    broken = teachers[:3].copy()
    broken[1] = [[np.nan], [np.inf], [-np.inf]]
    loss = make(kind)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(student)
        without = loss(loss.aggregate(broken[[0, 2]], tf.constant([1.0, 3.0])), student)
        value = loss(loss.aggregate(list(broken), tf.constant([0.5, 0.0, 1.5])), student)
        nobody = loss(loss.aggregate(list(broken), tf.zeros(3)), student)
    np.testing.assert_allclose(value, without, rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(value, student), tape.gradient(without, student), rtol=1e-5, atol=1e-7
    )
    assert np.isfinite(nobody)
    assert np.isfinite(tape.gradient(nobody, student)).all()


@pytest.mark.parametrize("leading", [(5,), (5, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_teachers_may_have_another_weight_for_each_row(kind, leading):
    """As many teachers, rows and positions: weights along the wrong axis would go unnoticed."""
    rng = np.random.default_rng(2)
    shape = (*leading, 1 if kind[0].startswith("Binary") else 5)
    teachers, student = rng.normal(size=(5, *shape)) * 2, rng.normal(size=shape) * 2
    weights = rng.choice([0.0, 0.25, 1.0, 3.0], (5, 5))
    weights[0], weights[:, 1] = 1.0, 0.0
    rows = [row for row in range(5) if row != 1]
    expected = np.stack(
        [reference(kind, teachers[:, row], student[row], 2.0, weights[:, row]) for row in rows]
    )
    mean = lambda at: np.mean(  # noqa: E731
        [reference(kind, teachers[:, row], at[row], 2.0, weights[:, row]).mean() for row in rows]
    )
    broken = np.where(weights.reshape(5, 5, *[1] * len(leading)) > 0, teachers, np.nan)
    loss = make(kind, reduction=None, dtype="float64")
    student_T = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student_T)
        values = loss(loss.aggregate(list(broken), tf.constant(weights)), student_T)
        total = tf.reduce_mean(tf.gather(values, rows))
    np.testing.assert_allclose(tf.gather(values, rows), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(tape.gradient(total, student_T), slope(mean, student), rtol=1e-5, atol=1e-7)
    assert np.isfinite(values).all(), "a row that nobody teaches is finite, but deserves no weight"


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_teachers_may_be_a_list_or_a_stack(kind):
    loss = make(kind)
    logits = np.random.default_rng(0).normal(size=(3, 4, 1 if kind[0].startswith("Binary") else 5))
    stacked = loss.aggregate(tf.constant(logits))
    listed = loss.aggregate([tf.constant(one) for one in logits])
    tf.nest.map_structure(np.testing.assert_array_equal, stacked, listed)
    with pytest.raises(ValueError, match="at least one teacher"):
        loss.aggregate([])


def test_the_papers_choice_is_the_default():
    assert losses.SoftCrossEntropy().mean_over == losses.KLDivergence().mean_over == "probabilities"
    assert losses.BinarySoftCrossEntropy().mean_over == "probabilities"
    assert losses.SquaredLogits().mean_over == "losses"
    teachers = np.log([[[0.9, 0.1]], [[0.1, 0.9]], [[0.8, 0.2]]])
    np.testing.assert_allclose(losses.SoftCrossEntropy().aggregate(teachers), [[0.6, 0.4]], rtol=1e-5)


def test_pairwise_squared_logits_differ_from_those_of_the_mean_by_the_variance():
    rng = np.random.default_rng(2)
    teachers, student = rng.normal(size=(3, 4, 5)), tf.constant(rng.normal(size=(4, 5)))
    values, gradients = [], []
    for mean_over in ("losses", "logits"):
        loss = losses.SquaredLogits(mean_over, dtype="float64")
        with tf.GradientTape() as tape:
            tape.watch(student)
            values.append(loss(loss.aggregate(teachers), student))
        gradients.append(tape.gradient(values[-1], student))
    np.testing.assert_allclose(values[0] - values[1], teachers.var(axis=0).mean())
    np.testing.assert_allclose(*gradients)


def test_divergence_is_zero_for_equal_predictions_also_for_certain_ones():
    logits = tf.constant([[0.0, 100.0, -100.0], [1.0, 2.0, 3.0]])
    loss = losses.KLDivergence(temperature=0.5, reduction=None)
    np.testing.assert_allclose(loss(loss.aggregate([logits]), logits), [0, 0], atol=1e-6)
    loss = losses.BinaryKLDivergence(temperature=0.5, reduction=None)
    np.testing.assert_allclose(loss(loss.aggregate([logits]), logits), np.zeros((2, 3)), atol=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_logistic_outputs_with_and_without_an_axis_of_their_own(name):
    loss = getattr(losses, name)(reduction=None)
    logits = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 3)), tf.float32)
    plain = loss(loss.aggregate([logits[0], logits[1]]), logits[0] * 2)
    for shape in ([4, 3, 1], [12], [12, 1]):
        student, *teachers = (tf.reshape(one, shape) for one in (logits[0] * 2, logits[0], logits[1]))
        values = loss(loss.aggregate(teachers), student)
        assert values.shape == ([4, 3] if len(shape) == 3 else [12])
        np.testing.assert_array_equal(tf.reshape(values, [4, 3]), plain)


def with_mask(logits: np.ndarray, mask: np.ndarray) -> tf.Tensor:
    """A prediction that carries a mask as those of Keras models do."""
    tensor = tf.constant(logits, tf.float32)
    tensor._keras_mask = tf.constant(mask)
    return tensor


masks = st.lists(st.booleans(), min_size=12, max_size=12).map(lambda bits: np.reshape(bits, (3, 4)))
weightings = st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=12, max_size=12).map(
    lambda weights: np.reshape(weights, (3, 4)).astype("float32")
)


@pytest.mark.parametrize("kind", [*KINDS, *SMOOTHING], ids=label)
def test_masked_positions_count_nowhere(kind):
    loss = kind if isinstance(kind, losses.DistillationLoss) else make(kind)
    classes = 1 if "Binary" in type(loss).__name__ else 5
    teachers = np.random.default_rng(0).normal(size=(3, 3, 4, classes)).astype("float32")

    @hypothesis.settings(SETTINGS, max_examples=10)
    @hypothesis.given(masks, weightings)
    def check(mask, weighting):
        student = teachers[2]
        whole = loss(loss.aggregate(list(teachers[:2])), with_mask(student, mask), weighting)
        if not mask.any():
            assert float(whole) == 0
            return
        seen = loss(loss.aggregate(list(teachers[:2, mask])), tf.constant(student[mask]), weighting[mask])
        np.testing.assert_allclose(whole, seen, rtol=1e-5, atol=2e-6)

    check()


def smoothed(loss: losses.DistillationLoss, student: np.ndarray) -> np.ndarray:
    classes = student.shape[-1]
    target = getattr(loss, "frequencies", np.full(classes, 1 / classes))
    return -(target * np.log(softmax(student))).sum(axis=-1)


# What makes a loss of a temperature, and the kind of NumPy's that it has to equal.
CUSTOM = {
    "keras cross-entropy": (
        lambda t: losses.Custom(keras.losses.CategoricalCrossentropy(from_logits=True), temperature=t),
        ("SoftCrossEntropy", "probabilities"),
    ),
    "keras divergence": (
        lambda t: losses.Custom(keras.losses.KLDivergence(), student="probabilities", temperature=t),
        ("KLDivergence", "probabilities"),
    ),
    "keras squared error": (
        lambda t: losses.Custom(keras.losses.MeanSquaredError(), teacher="logits", mean_over="losses"),
        ("SquaredLogits", "losses"),
    ),
    "keras binary cross-entropy": (
        lambda t: losses.Custom(
            keras.losses.BinaryCrossentropy(from_logits=True), temperature=t, mean_over="logits", binary=True
        ),
        ("BinarySoftCrossEntropy", "logits"),
    ),
    "function": (
        lambda t: losses.Custom(
            lambda p, q: tf.reduce_sum((p - q) ** 2, -1), student="probabilities", temperature=t
        ),
        ("SquaredProbabilities", "probabilities"),
    ),
}


def with_reference(case: object, t: float) -> tuple[losses.DistillationLoss, object]:
    """A loss, and in NumPy what it should be of teachers, student and weights of the teachers."""
    if isinstance(case, losses.DistillationLoss):
        return case, lambda teachers, student, weights: smoothed(case, student)
    loss, kind = (CUSTOM[case][0](t), CUSTOM[case][1]) if case in CUSTOM else (make(case, t), case)
    return loss, lambda teachers, student, weights: reference(kind, teachers, student, t, weights)


@st.composite
def masked_batches(draw, classes: int | None) -> dict[str, object]:
    """Logits of a sampled shape and type, a mask, weights of examples and of teachers, a temperature."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leading = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    shape = (*leading, classes or draw(st.integers(2, 6)))
    policy = draw(st.sampled_from(["float32", "mixed_bfloat16", "mixed_float16"]))
    dtype = tf.as_dtype(policy.removeprefix("mixed_"))
    teacher_weights = draw(
        st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=3).filter(any)
    )
    return {
        "policy": policy,
        "teachers": tf.cast(rng.normal(size=(len(teacher_weights), *shape)) * 1.5, dtype),
        "student": tf.cast(rng.normal(size=shape) * 1.5, dtype),
        "mask": rng.random(leading) < draw(st.sampled_from([0.5, 1.0])),
        "weighting": rng.choice([0.0, 0.5, 2.0], leading).astype("float32"),
        "teacher_weights": teacher_weights,
        "temperature": draw(st.floats(1, 8)),
    }


@pytest.mark.parametrize("case", [*KINDS, *SMOOTHING, *CUSTOM], ids=lambda c: c if c in CUSTOM else label(c))
def test_masked_value_and_gradient_in_every_precision(case):
    """Against NumPy and finite differences of it; what is hidden by the mask has no gradient at all."""
    name = str(case if not isinstance(case, losses.DistillationLoss) else "")
    classes = 1 if "inary" in name else getattr(case, "frequencies", np.empty(0)).size or None

    @hypothesis.settings(SETTINGS, max_examples=8)
    @hypothesis.given(masked_batches(classes))
    def check(example):
        mask, weighting, t = example["mask"], example["weighting"], example["temperature"]
        teachers, student = (tf.cast(example[name], tf.float64).numpy() for name in ("teachers", "student"))
        keras.config.set_dtype_policy(example["policy"])
        try:
            loss, examples = with_reference(case, t)
            with tf.GradientTape() as tape:
                tape.watch(example["student"])
                predicted = tf.identity(example["student"])
                predicted._keras_mask = tf.constant(mask)
                target = loss.aggregate(example["teachers"], tf.constant(example["teacher_weights"]))
                value = loss(target, predicted, weighting)
            gradient = tape.gradient(value, example["student"])
        finally:
            keras.config.set_dtype_policy("float32")

        def expected(at):
            each = examples(teachers, at, example["teacher_weights"])
            return (each * weighting * mask).sum() / max(mask.sum(), 1)

        assert value.dtype == tf.float32
        np.testing.assert_allclose(value, expected(student), rtol=1e-5, atol=2e-6 * t**2)
        slopes = slope(expected, student)
        tolerance = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 5e-3}[gradient.dtype.name]
        atol = tolerance * max(np.abs(slopes).max(), 0.1)
        np.testing.assert_allclose(tf.cast(gradient, tf.float64), slopes, rtol=tolerance, atol=atol)
        np.testing.assert_array_equal(gradient.numpy()[~mask].astype("float32"), 0)

    check()


@SETTINGS
@hypothesis.given(
    masks, weightings, st.sampled_from(["sum", "sum_over_batch_size", "mean_with_sample_weight"])
)
def test_reduces_as_keras_reduces_a_task_loss(mask, weighting, reduction):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    task = keras.losses.MeanSquaredError(reduction=reduction)
    psi = losses.SquaredLogits(reduction=reduction)
    for sample_weight in (None, weighting, weighting[:, :1]):
        expected = task(teacher, with_mask(student, mask), sample_weight)
        actual = psi(psi.aggregate([teacher]), with_mask(student, mask), sample_weight)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.SoftCrossEntropy(), losses.BinarySoftCrossEntropy()], ids=label)
def test_weights_and_masks_belong_to_the_leading_axes(loss):
    """Square batches, where broadcasting along the wrong axis would go unnoticed."""
    rng = np.random.default_rng(0)
    student = rng.normal(size=(3, 3, 3, 4)).astype("float32")
    teacher = loss.aggregate([student[::-1]])
    weights, keep = np.array([0.0, 1.0, 2.0], "float32"), np.array([True, False, True])
    shape = (3, 3, 3) if isinstance(loss, losses.SoftCrossEntropy) else (3, 3, 3, 4)
    spread = [np.broadcast_to(x.reshape(3, *[1] * (len(shape) - 1)), shape) for x in (weights, keep)]
    expected = loss(teacher, with_mask(student, spread[1]), spread[0])
    np.testing.assert_allclose(loss(teacher, with_mask(student, keep), weights), expected, rtol=1e-6)
    keep_BT = np.broadcast_to(keep[:, None], (3, 3))
    np.testing.assert_allclose(loss(teacher, with_mask(student, keep_BT), weights), expected, rtol=1e-6)


def test_the_mask_of_a_keras_model_is_found():
    model = keras.Sequential([keras.layers.Embedding(6, 4, mask_zero=True), keras.layers.Dense(3)])
    ids = np.array([[1, 2, 0], [3, 0, 0]])
    loss = losses.SoftCrossEntropy()
    teacher = loss.aggregate([tf.ones([2, 3, 3])])
    each = losses.SoftCrossEntropy(reduction=None)(teacher, tf.constant(model(ids).numpy()))
    np.testing.assert_allclose(loss(teacher, model(ids)), each.numpy()[ids > 0].mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, *SMOOTHING], ids=label)
def test_loss_shrinks_with_the_number_of_replicas(kind):
    """Gradients are summed over replicas, so each must count for its fraction."""
    strategy = two_replicas()
    loss = kind if isinstance(kind, losses.DistillationLoss) else make(kind)
    logits = np.random.default_rng(0).normal(size=(4, 6, 1 if "Binary" in type(loss).__name__ else 5))
    alone = loss(loss.aggregate(logits), logits[0])
    fractions = strategy.run(lambda: loss(loss.aggregate(logits), tf.constant(logits[0], tf.float32)))
    np.testing.assert_allclose(sum(strategy.experimental_local_results(fractions)), alone, rtol=1e-6)


def test_all_compile_to_one_xla_program():
    every = [make(kind) for kind in KINDS] + SMOOTHING
    rng = np.random.default_rng(0)
    classes, binary = (tf.constant(rng.normal(size=(3, 4, c)), tf.float32) for c in (5, 1))
    weights = tf.constant([1.0, 0.0, 2.0])

    def values(classes, binary):
        losses_of = []
        for loss in every:
            logits = binary if "Binary" in type(loss).__name__ else classes
            losses_of.append(loss(loss.aggregate(tf.unstack(logits), weights), logits[0]))
        return tf.stack(losses_of)

    compiled = tf.function(values, jit_compile=True)(classes, binary)
    np.testing.assert_allclose(compiled, values(classes, binary), rtol=1e-5, atol=1e-6)


def test_smoothing_needs_no_teachers():
    student = np.random.default_rng(0).normal(size=(2, 4, 5))
    for loss, target in zip(SMOOTHING, ([0.2] * 5, [0.1, 0.2, 0.3, 0, 0.4]), strict=True):
        assert not loss.needs_teachers
        assert losses.SoftCrossEntropy.needs_teachers
        expected = -(np.array(target) * np.log(softmax(student))).sum(axis=-1)
        for teacher in (None, (), loss.aggregate([student]), tf.zeros([7])):
            np.testing.assert_allclose(loss(teacher, student), expected.mean(), rtol=1e-5)
        logits = tf.constant(student, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(None, logits)
        pull = (softmax(student) - np.array(target)) / 8
        np.testing.assert_allclose(tape.gradient(value, logits), pull, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("custom", "own"),
    [
        (losses.Custom(keras.losses.CategoricalCrossentropy(from_logits=True)), losses.SoftCrossEntropy()),
        (losses.Custom(keras.losses.KLDivergence(), student="probabilities"), losses.KLDivergence()),
        (
            losses.Custom(keras.losses.MeanSquaredError(), teacher="logits", mean_over="losses"),
            losses.SquaredLogits(),
        ),
        (
            losses.Custom(keras.losses.BinaryCrossentropy(from_logits=True), temperature=2.0, binary=True),
            losses.BinarySoftCrossEntropy(temperature=2.0),
        ),
        (
            losses.Custom(
                lambda p, s: tf.reduce_sum((p - tf.nn.softmax(s)) ** 2, axis=-1), mean_over="losses"
            ),
            losses.SquaredProbabilities(mean_over="losses"),
        ),
    ],
    ids=lambda loss: loss.name,
)
def test_any_keras_loss_and_any_function_can_distil(custom, own):
    classes = 1 if "binary" in custom.name else 5
    teachers = np.random.default_rng(0).normal(size=(3, 4, 2, classes)).astype("float32")
    weighting = np.array([[1.0, 0.0], [2.0, 1.0], [0.5, 0.5], [0.0, 0.0]], "float32")
    ours, theirs = (
        loss(loss.aggregate(teachers, tf.constant([1.0, 2.0, 0.0])), teachers[2], weighting)
        for loss in (own, custom)
    )
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)


class Absolute(losses.Comparison):
    """A loss of a user's own, between what it makes of logits."""

    MEANS = ("losses", "logits")

    def target(self, teacher_logits):
        return teacher_logits

    def compare(self, target, student_logits):
        return tf.reduce_sum(tf.abs(target - student_logits), axis=-1)


class Linear(losses.ProbabilityComparison):
    """Another, of probabilities at a temperature."""

    def compare(self, target, student_logits):
        return -tf.reduce_sum(target * self.probabilities(student_logits), axis=-1)


def test_losses_of_a_users_own_have_means_weights_and_temperatures():
    teachers, teacher_weights = np.random.default_rng(0).normal(size=(3, 4, 5)), np.array([1.0, 0.0, 3.0])
    student, weighting = teachers[1] * 2, np.array([1.0, 0.0, 2.0, 1.0])
    own = Absolute(dtype="float64")
    each = np.abs(teachers - student).sum(-1)
    expected = np.average(each, axis=0, weights=teacher_weights)
    value = own(own.aggregate(teachers, tf.constant(teacher_weights)), student, weighting)
    np.testing.assert_allclose(value, (expected * weighting).mean())
    own = Linear(temperature=3.0, dtype="float64")
    assert own.mean_over == "probabilities"
    target = np.average(softmax(teachers / 3), axis=0, weights=teacher_weights)
    value = own(own.aggregate(teachers, tf.constant(teacher_weights)), student)
    np.testing.assert_allclose(value, -(target * softmax(student / 3)).sum(-1).mean())


@keras.saving.register_keras_serializable(package="losses_test")
def hinge(teacher, student):
    return tf.reduce_max(tf.abs(teacher - student), axis=-1)


@pytest.mark.parametrize(
    "loss",
    [
        *(make(kind, name="mine", reduction="sum", dtype="float64") for kind in KINDS),
        *SMOOTHING,
        losses.Custom(keras.losses.Huber(delta=0.5), teacher="logits", temperature=3.0),
        losses.Custom(hinge, student="probabilities"),
    ],
    ids=label,
)
def test_config_makes_an_equal_loss(loss):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    twin = keras.saving.deserialize_keras_object(config)
    assert type(twin) is type(loss)
    assert twin.get_config() == loss.get_config()
    assert twin.dtype == loss.dtype
    logits = np.random.default_rng(0).normal(size=(2, 4, 5))
    np.testing.assert_array_equal(
        twin(twin.aggregate(logits), logits[0]), loss(loss.aggregate(logits), logits[0])
    )


def test_get_takes_what_a_user_may_give():
    assert type(losses.get(None)) is losses.SoftCrossEntropy
    own = losses.UniformSmoothing()
    assert losses.get(own) is own
    assert losses.get(hinge).loss is hinge
    with pytest.raises(ValueError, match="loss is 'mse'"):
        losses.get("mse")


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_bad_temperature_is_told(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        losses.SoftCrossEntropy(temperature=temperature)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            lambda: losses.SquaredLogits("probabilities"),
            "mean_over is 'probabilities'; expected one of losses",
        ),
        (lambda: losses.KLDivergence(mean_over="teachers"), "mean_over is 'teachers'"),
        (lambda: losses.Custom(hinge, teacher="labels"), "teacher is 'labels'"),
        (lambda: losses.Custom(hinge, student="labels"), "student is 'labels'"),
        (
            lambda: losses.Custom(hinge, teacher="logits", mean_over="probabilities"),
            "takes the teacher's logits",
        ),
        (lambda: losses.Custom(keras.losses.KLDivergence()), "takes probabilities"),
        (lambda: losses.Custom(keras.losses.CategoricalCrossentropy()), "takes probabilities"),
        (lambda: losses.UnigramSmoothing([0.5, -0.5]), "frequencies have shape"),
        (lambda: losses.UnigramSmoothing([0.0, 0.0]), "frequencies have shape"),
        (lambda: losses.UnigramSmoothing([1.0, np.nan]), "frequencies have shape"),
        (lambda: losses.UnigramSmoothing([[0.5, 0.5]]), "frequencies have shape"),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


def test_bad_shapes_are_told():
    soft, squared = losses.SoftCrossEntropy(), losses.SquaredLogits()
    for loss in (soft, squared, losses.SoftCrossEntropy(mean_over="losses")):
        with pytest.raises(ValueError, match=r"\(4, 5\), the student \(4, 6\)"):
            loss(loss.aggregate([tf.zeros([4, 5])]), tf.zeros([4, 6]))
        with pytest.raises(ValueError, match=r"the first teacher predicts shape \(4, 5\), another \(3, 5\)"):
            loss.aggregate([tf.zeros([4, 5]), tf.zeros([3, 5])])
    for use, shape in [
        (soft.aggregate, [1, 4, 1]),
        (soft.aggregate, [1, 4]),
        (squared.aggregate, [1, 4]),
        (lambda logits: SMOOTHING[0](None, logits), [4, 1]),
        (lambda logits: SMOOTHING[0](None, logits), [4]),
    ]:
        with pytest.raises(ValueError, match="one of the Binary losses"):
            use(tf.zeros(shape))
    with pytest.raises(ValueError, match="3 classes; expected 5"):
        SMOOTHING[1](None, tf.zeros([4, 3]))
    scalar = losses.Custom(lambda teacher, student: tf.reduce_mean(teacher - student))
    with pytest.raises(ValueError, match="expected a value for each example"):
        scalar(scalar.aggregate([tf.zeros([4, 5])]), tf.zeros([4, 5]))

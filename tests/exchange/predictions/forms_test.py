"""What travels of predictions: sizes, what comes back, and what that does to the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import losses
from tf_codistill.exchange.predictions.forms import Form, Logits, Probabilities, SampledClasses, TopK

FORMS = [
    *(Logits(precision) for precision in ("float32", "float16", "int8")),
    *(Probabilities(precision) for precision in ("float32", "float16", "int8")),
    *(TopK(3, precision) for precision in ("float32", "float16", "int8")),
    SampledClasses(3),
]
SEED = tf.constant([7, 1], tf.int64)


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> tf.Tensor:
    return tf.constant(scale * np.random.default_rng(seed).normal(size=shape), tf.float32)


def softmax(logits: tf.Tensor) -> np.ndarray:
    return tf.nn.softmax(tf.cast(logits, tf.float32)).numpy()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("shape", [(4, 11), (4, 5, 11)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parts_are_as_they_are_described_and_logits_come_back(
    form: Form, shape: tuple[int, ...], dtype: str
) -> None:
    logits, student = tf.cast(normal(*shape), dtype), tf.cast(normal(*shape, seed=1), dtype)
    parts = form.compress(logits, SEED)
    assert [(tuple(part.shape[1:]), part.dtype.name) for part in parts] == form.parts(shape[1:])
    found = form.expand(parts, student)
    assert found.shape == logits.shape
    assert found.dtype == logits.dtype
    np.testing.assert_allclose(softmax(found).sum(-1), 1, rtol=1e-3)
    assert np.isfinite(found.numpy()).all()


@pytest.mark.parametrize(
    ("form", "error"),
    [
        *[
            (Logits(precision), error)
            for precision, error in [("float32", 0), ("float16", 5e-3), ("int8", 0.04)]
        ],
        (Probabilities("float32"), 1e-6),
        (Probabilities("float16"), 2e-3),
        (TopK(11, "float32"), 1e-6),
    ],
    ids=str,
)
def test_what_is_complete_comes_back_rounded(form: Form, error: float) -> None:
    logits = normal(64, 11)
    found = form.expand(form.compress(logits, SEED), normal(64, 11, seed=1))
    assert abs(found - logits).numpy().max() <= error or form.fidelity != "logits"
    np.testing.assert_allclose(softmax(found), softmax(logits), atol=error)


def gradient(
    form_or_target: Form | tf.Tensor, teacher: tf.Tensor, student: tf.Tensor, seed: int = 0
) -> np.ndarray:
    """Of the cross-entropy with what arrives, for one position."""
    target = form_or_target
    if isinstance(form_or_target, Form):
        parts = form_or_target.compress(teacher, tf.constant([seed, 0], tf.int64))
        target = form_or_target.expand(parts, student)
    psi = losses.SoftCrossEntropy()
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = psi(psi.aggregate([target]), student)
    return tape.gradient(loss, student).numpy() * len(student)


def test_the_largest_are_sent_with_their_probabilities() -> None:
    logits = normal(3, 7, 40).numpy()
    logits[0, 0, 20:] = -np.inf
    values, ids = TopK(3, "float32").compress(tf.constant(logits), SEED)
    expected = tf.math.top_k(tf.nn.softmax(logits), 3)
    np.testing.assert_array_equal(np.sort(ids), np.sort(expected.indices))
    np.testing.assert_allclose(np.sort(values)[..., ::-1], expected.values, rtol=1e-5)


def test_the_tail_is_one_bucket() -> None:
    teacher, student, k = normal(1, 9), normal(1, 9, seed=3), 4
    p, q = softmax(teacher)[0], softmax(student)[0]
    is_top = p >= np.sort(p)[-k]
    with tf.GradientTape() as tape:  # - sum over the top of p log q - p_tail log q_tail
        tape.watch(student)
        log_q = tf.nn.log_softmax(student)[0]
        tail = tf.reduce_logsumexp(tf.boolean_mask(log_q, ~is_top))
        loss = -tf.reduce_sum(tf.boolean_mask(p * log_q, is_top)) - p[~is_top].sum() * tail
    expected = tape.gradient(loss, student).numpy()[0]
    found = gradient(TopK(k, "float32"), teacher, student)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        found, np.where(is_top, q - p, q - q * p[~is_top].sum() / q[~is_top].sum()), atol=1e-6
    )


def test_the_tail_has_its_mass_however_sure_the_student_is() -> None:
    teacher = normal(64, 40, scale=1.0)
    for student in (normal(64, 40, seed=1, scale=60.0), teacher * 60.0):
        found = softmax(TopK(4, "float32").expand(TopK(4, "float32").compress(teacher, SEED), student))
        p = softmax(teacher)
        is_top = p >= np.sort(p)[:, -4:-3]
        np.testing.assert_allclose(found[is_top], p[is_top], rtol=1e-4)


def test_the_gradient_is_right_on_average_and_plain_truncation_is_not() -> None:
    teacher, student, k, number = normal(1, 40, scale=1.0), normal(1, 40, seed=3, scale=1.0), 4, 4000
    full = gradient(teacher, teacher, student)
    many = [tf.repeat(one, number, axis=0) for one in (teacher, student)]
    for form in (SampledClasses(k), Probabilities("int8")):
        draws = gradient(form, *many)
        assert draws.std(0).max() > 1e-4, "every draw is another one"
        error = np.abs(draws.mean(0) - full[0]) / (draws.std(0) / np.sqrt(number) + 1e-6)
        assert error.max() < 4.5, f"{form}: within the interval of a mean of {number}"
    p = softmax(teacher)[0]
    truncated = np.where(p >= np.sort(p)[-k], p, 0)
    plain = gradient(
        tf.math.log(tf.constant(truncated / truncated.sum() + 1e-30, tf.float32))[None], teacher, student
    )
    ours = gradient(TopK(k, "float32"), teacher, student)
    bias = {name: np.abs(one - full).sum() for name, one in (("plain", plain), ("bucket", ours))}
    assert p[truncated > 0].sum() < 0.6, "much is in the tail"
    assert bias["plain"] > 0.8, "all that is in the tail is taken from it and given to the top"
    assert bias["bucket"] < bias["plain"] / 1.5


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_not_finite_stays_so_in_its_row_alone(form: Form) -> None:
    logits = normal(3, 2, 11).numpy()
    logits[1, 1, 4] = np.nan
    found = form.expand(form.compress(tf.constant(logits), SEED), normal(3, 2, 11, seed=1))
    is_finite = np.isfinite(found.numpy().sum(axis=(1, 2)))
    assert is_finite.tolist() == [True, False, True]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_draws_are_fixed_by_the_seed(form: Form) -> None:
    logits = normal(8, 11)
    for one, other in zip(form.compress(logits, SEED), form.compress(logits, SEED), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wrong", [-1, 11, 1 << 20])
@pytest.mark.parametrize("form", [TopK(3, "float32"), SampledClasses(3)], ids=str)
def test_an_id_of_no_class_spoils_its_row_alone(form: Form, wrong: int) -> None:
    """Whatever a peer has sent: its row is dropped, and training goes on."""
    *values, ids = form.compress(normal(3, 11), SEED)
    ids = tf.tensor_scatter_nd_update(tf.cast(ids, tf.int32), [[1, 2]], [wrong])
    found = form.expand([*values, ids], normal(3, 11, seed=1)).numpy()
    assert np.isfinite(found).all(axis=-1).tolist() == [True, False, True]


def test_what_cannot_travel_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"predictions of 10 classes cannot travel as TopK\(k=16, .*at least 16"
    ):
        TopK(16).parts([5, 10])
    for form in (Probabilities(), TopK(1), SampledClasses()):
        with pytest.raises(ValueError, match="or Logits, which also carry logistic outputs"):
            form.parts([1])
    assert Logits().parts([1]) == [((1,), "float16")]
    with pytest.raises(ValueError, match="k of TopK is 0; expected an integer of at least 1"):
        TopK(0)
    with pytest.raises(ValueError, match="precision is 'int4'; expected one of float32, float16, int8"):
        Logits("int4")
    assert SampledClasses(2).parts([70000]) == [((2,), "int32")]

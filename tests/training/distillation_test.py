"""Several outputs, masks, sample weights, mixed precision, other architectures, broken teachers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.codistillation_test import BATCH, NUM_CLASSES, NUM_FEATURES, regression, softmax
from tf_codistill import losses, schedules
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.training.codistillation import CodistillationModel


def two_headed() -> keras.Model:
    features = keras.Input((NUM_FEATURES,), name="features")
    return keras.Model(
        features,
        {
            "kind": keras.layers.Dense(NUM_CLASSES, name="kind")(features),
            "place": keras.layers.Dense(3, name="place")(features),
        },
    )


def xent() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def snapshot_of(model: keras.Model, step: int = 0) -> Snapshot:
    return Snapshot(Ref(1), step, 0.0, [np.array(w) for w in model.get_weights()], [], 0)


def features_and_targets(
    seed: int = 0, num_examples: int = BATCH
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    targets = {"kind": rng.integers(0, NUM_CLASSES, num_examples), "place": rng.integers(0, 3, num_examples)}
    return rng.normal(size=(num_examples, NUM_FEATURES)).astype("float32"), targets


def psi(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return -(softmax(teacher) * np.log(softmax(student))).sum(-1)


def test_each_output_has_its_loss_and_weight() -> None:
    model = CodistillationModel(
        two_headed,
        FrozenTeachers(1),
        distillation_loss={"kind": losses.SoftCrossEntropy(), "place": losses.SquaredLogits()},
        distillation_weight={"kind": schedules.BurnIn(1, 0.5), "place": 2.0},
    )
    model.compile(keras.optimizers.SGD(0.0), {"kind": xent(), "place": xent()}, jit_compile=False)
    x, y = features_and_targets(num_examples=2 * BATCH)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    model.build_for_data(data.element_spec)
    teacher = two_headed()
    model.teachers.refresh(0, snapshot_of(teacher))
    logs = {name: values[0] for name, values in model.fit(data, verbose=0).history.items()}
    own, theirs = ({k: np.array(v) for k, v in m(x).items()} for m in (model.student, teacher))
    kind = psi(theirs["kind"], own["kind"])[BATCH:].mean()  # burn-in leaves the first batch out
    place = ((theirs["place"] - own["place"]) ** 2).mean(-1)
    assert logs["kind_distillation_loss"] == pytest.approx(kind, rel=1e-4)
    assert logs["place_distillation_loss"] == pytest.approx(place.mean(), rel=1e-4)
    assert logs["kind_distillation_weight"] == pytest.approx(0.25)
    assert logs["place_distillation_weight"] == pytest.approx(2.0)
    expected = logs["loss"] + 0.25 * kind + 2.0 * place.mean()
    assert logs["total_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distilled", ["kind", "place"])
def test_an_output_without_a_loss_is_not_distilled(distilled: str) -> None:
    model = CodistillationModel(two_headed, FrozenTeachers(1), {distilled: losses.SquaredLogits()})
    none = {"kind": lambda y, p: 0.0 * tf.reduce_sum(p, -1), "place": lambda y, p: 0.0 * tf.reduce_sum(p, -1)}
    model.compile(keras.optimizers.SGD(1.0), none, jit_compile=False)
    x, y = features_and_targets()
    data = tf.data.Dataset.from_tensors((x, y))
    model.build_for_data(data.element_spec)
    model.teachers.refresh(0, snapshot_of(two_headed()))
    before = {w.path: np.array(w) for w in model.student.weights}
    model.fit(data, verbose=0)
    moved = {w.path.split("/")[0] for w in model.student.weights if np.abs(before[w.path] - w).max() > 1e-6}
    assert moved == {distilled}


@pytest.mark.parametrize(
    ("loss", "weight", "message"),
    [
        (
            {"colour": losses.SoftCrossEntropy()},
            1.0,
            r"names outputs \['colour'\], but the model has \['kind', 'place'\]",
        ),
        (
            {"kind": losses.SoftCrossEntropy()},
            {"place": 1.0},
            r"names outputs \['place'\], distillation_loss names \['kind'\]",
        ),
        (None, {"kind": 1.0}, r"names outputs \['kind'\], distillation_loss names \[\]"),
        (None, -1.0, "-1.0"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_training(loss, weight, message) -> None:
    def begin() -> None:
        model = CodistillationModel(two_headed, FrozenTeachers(1), loss, weight)
        model.compile("sgd", xent(), jit_compile=False)
        model.build_for_data(tf.data.Dataset.from_tensors(features_and_targets()).element_spec)

    with pytest.raises(ValueError, match=message):
        begin()


def test_sample_weights_weigh_both_losses() -> None:
    x, y = features_and_targets()
    sample_weight = np.array([1, 0, 2, 0.5, 0, 1, 1, 3], "float32")
    model = CodistillationModel(regression, FrozenTeachers(1))
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    data = tf.data.Dataset.from_tensors((x, y["kind"], sample_weight))
    model.build_for_data(data.element_spec)
    teacher = regression()
    model.teachers.refresh(0, snapshot_of(teacher))
    logs = model.fit(data, verbose=0).history
    each = psi(np.array(teacher(x)), np.array(model.student(x)))
    assert logs["distillation_loss"][0] == pytest.approx((each * sample_weight).mean(), rel=1e-4)


def sequence_model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Embedding(9, 5, mask_zero=True), keras.layers.Dense(NUM_CLASSES)]
    )


def test_masked_positions_count_nowhere() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 9, (BATCH, 6))
    ids[:, 4:] = 0
    y = rng.integers(0, NUM_CLASSES, (BATCH, 6))
    model = CodistillationModel(sequence_model, FrozenTeachers(1))
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    data = tf.data.Dataset.from_tensors((ids, y))
    model.build_for_data(data.element_spec)
    teacher = sequence_model()
    model.teachers.refresh(0, snapshot_of(teacher))
    logs = model.fit(data, verbose=0).history
    each = psi(np.array(teacher(ids)), np.array(model.student(ids)))
    assert logs["distillation_loss"][0] == pytest.approx(each[:, :4].mean(), rel=1e-4)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_close_to_float32(policy: str) -> None:
    x, y = features_and_targets()
    data = tf.data.Dataset.from_tensors((x, y["kind"])).repeat(10)
    teacher, start = regression(), regression().get_weights()
    results = []
    for name in ("float32", policy):
        keras.config.set_dtype_policy(name)
        try:
            model = CodistillationModel(regression, FrozenTeachers(1))
            model.compile(keras.optimizers.SGD(0.3), xent(), jit_compile=False)
        finally:
            keras.config.set_dtype_policy("float32")
        model.student.set_weights(start)
        model.build_for_data(data.element_spec)
        model.teachers.refresh(0, snapshot_of(teacher))
        model.fit(data, verbose=0)
        results.append(model.student.get_weights()[0])
    assert np.abs(results[0] - start[0]).max() > 0.1
    np.testing.assert_allclose(results[1], results[0], atol=0.02)


def test_a_teacher_that_yields_nan_is_dropped_counted_and_comes_back() -> None:
    x, y = features_and_targets()
    data = tf.data.Dataset.from_tensors((x, y["kind"])).repeat(4)
    good, start = regression(), regression().get_weights()
    broken = snapshot_of(good)
    broken.weights[0][0, 0] = np.nan
    results = {}
    for name, held in (("alone", []), ("one", [good]), ("broken", [broken]), ("one of two", [good, broken])):
        model = CodistillationModel(regression, FrozenTeachers(len(held)))
        model.compile(keras.optimizers.SGD(0.3), xent(), jit_compile=False)
        model.student.set_weights(start)
        model.build_for_data(data.element_spec)
        for index, one in enumerate(held):
            model.teachers.refresh(index, one if isinstance(one, Snapshot) else snapshot_of(one))
        logs = model.fit(data, verbose=0).history
        results[name] = model.student.get_weights()[0]
        assert logs["dropped_teachers"][0] == (1.0 if "broken" in name or "two" in name else 0.0)
    np.testing.assert_array_equal(results["broken"], results["alone"])
    np.testing.assert_allclose(results["one of two"], results["one"], atol=1e-6)
    assert np.abs(results["one"] - results["alone"]).max() > 1e-3


def deep() -> keras.Model:
    return keras.Sequential(
        [keras.Input((NUM_FEATURES,)), keras.layers.Dense(7, "relu"), keras.layers.Dense(NUM_CLASSES)]
    )


def test_a_teacher_of_another_architecture(tmp_path) -> None:
    x, y = features_and_targets()
    teacher, path = deep(), str(tmp_path / "deep.keras")
    teacher.save(path)
    model = CodistillationModel(regression, SavedTeachers([path], model_fns=[deep]))
    model.compile(keras.optimizers.SGD(0.0), xent(), jit_compile=False)
    logs = model.fit(tf.data.Dataset.from_tensors((x, y["kind"])), verbose=0).history
    expected = psi(np.array(teacher(x)), np.array(model.student(x))).mean()
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)


def test_outputs_that_do_not_match_are_refused_with_both_shapes() -> None:
    wide = lambda: keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(9)])  # noqa: E731
    model = CodistillationModel(regression, SavedTeachers(["wide.keras"], model_fns=[wide]))
    model.compile("sgd", xent(), jit_compile=False)
    x, y = features_and_targets()
    with pytest.raises(ValueError, match=r"teacher 0 has outputs of shapes .*\(9,\).*student.*\(4,\)"):
        model.build_for_data(tf.data.Dataset.from_tensors((x, y["kind"])).element_spec)

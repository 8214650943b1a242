"""What Keras users may rely on in CodistillationModel; Algorithm 1 in NumPy is in algorithm_1_test.py."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import snapshots_in
from tf_codistill import checkpoints, losses, recurrent_state, schedules, weights
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.checkpoint.checkpointing import Checkpointing
from tf_codistill.training.codistillation import CodistillationModel

NUM_FEATURES, NUM_CLASSES, BATCH = 5, 4, 8


def regression() -> keras.Model:
    return keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES)])


def compiled(
    teachers: Teaching | None = None, weight: object = 1.0, rate: float = 0.5, **options: object
) -> CodistillationModel:
    own = {name: options.pop(name) for name in ("measure_every_steps",) if name in options}
    model = CodistillationModel(regression, teachers, distillation_weight=weight, **own)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, jit_compile=options.pop("jit_compile", False), **options)
    return model


def examples(seed: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_steps * BATCH, NUM_FEATURES)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, num_steps * BATCH).astype("int32")


def batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH, drop_remainder=True)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_logs_keep_the_parts_apart(tmp_path) -> None:
    model = compiled(
        FrozenTeachers(1), schedules.BurnIn(steps=2, weight=0.5), rate=0.0, measure_every_steps=1
    )
    x, y = examples(0, 4)
    teacher = regression()
    model.build_for_data(batches(x, y).element_spec)
    model.teachers.refresh(0, Snapshot(Ref(1), 0, 0.0, teacher.get_weights(), [], 0))
    logs = model.fit(batches(x, y), verbose=0).history
    task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model.student(x))
    late = x[2 * BATCH :]
    psi = losses.SoftCrossEntropy()(tf.nn.softmax(teacher(late)), model.student(late))
    agree = np.mean(np.argmax(teacher(late), -1) == np.argmax(model.student(late), -1))
    assert logs["loss"][0] == pytest.approx(float(task), rel=1e-5)
    assert logs["distillation_loss"][0] == pytest.approx(float(psi), rel=1e-5)
    assert logs["distillation_weight"][0] == pytest.approx(0.25)
    assert logs["teacher_agreement"][0] == pytest.approx(agree)
    assert logs["staleness_steps"][0] == pytest.approx(3.5)
    assert logs["total_loss"][0] == pytest.approx(float(task) + 0.25 * float(psi), rel=1e-4)


def test_a_teacher_without_a_snapshot_has_no_say() -> None:
    x, y = examples(0, 6)
    models = [compiled(), *(compiled(FrozenTeachers(number)) for number in (2, 1, 2))]
    for model in models:
        model.student.set_weights(models[0].student.get_weights())
        model.build_for_data(batches(x, y).element_spec)
    peer = Snapshot(Ref(1), 0, 0.0, regression().get_weights(), [], 0)
    models[2].teachers.refresh(0, peer)
    models[3].teachers.refresh(1, peer)
    alone, unheard, one_of_one, one_of_two = (
        model.fit(batches(x, y), verbose=0, shuffle=False) and model.student.get_weights()[0]
        for model in models
    )
    np.testing.assert_array_equal(unheard, alone)
    np.testing.assert_allclose(one_of_two, one_of_one, atol=1e-6)
    assert np.abs(one_of_one - alone).max() > 1e-3


def test_teachers_are_invisible_to_keras(tmp_path) -> None:
    model = compiled(FrozenTeachers(2))
    assert [id(one) for one in model.trainable_weights] == [id(one) for one in model.student.weights]
    assert model.non_trainable_weights == []
    path = str(tmp_path / "model.keras")
    model.student.save(path)
    x, _ = examples(0, 1)
    np.testing.assert_array_equal(keras.saving.load_model(path)(x), model.student(x))


def test_evaluate_and_predict_are_the_students() -> None:
    model = compiled(FrozenTeachers(1), metrics=["accuracy"])
    x, y = examples(0, 3)
    results = model.evaluate(batches(x, y), return_dict=True, verbose=0)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model.student(x))
    assert set(results) == {"loss", "accuracy"}
    assert results["loss"] == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(model.predict(x, verbose=0), model.student(x), atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"run_eagerly": True}, {"steps_per_execution": 3}]
)
def test_every_way_to_run_a_step_gives_the_same_weights(options: dict[str, object]) -> None:
    x, y = examples(0, 6)
    peer = Snapshot(Ref(1), 0, 0.0, regression().get_weights(), [], 0)
    plain, other = compiled(FrozenTeachers(1)), compiled(FrozenTeachers(1), **options)
    other.student.set_weights(plain.student.get_weights())
    for model in (plain, other):
        model.build_for_data(batches(x, y).element_spec)
        model.teachers.refresh(0, peer)
        model.fit(batches(x, y), verbose=0, shuffle=False)
        assert model.step() == 6
    np.testing.assert_allclose(plain.student.get_weights()[0], other.student.get_weights()[0], atol=1e-6)


def test_a_model_without_logits_head_built_by_its_first_batch(tmp_path) -> None:
    class Subclassed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = keras.layers.Dense(NUM_CLASSES)

        def call(self, features):
            return self.head(features)

    exchange = PeerExchange(str(tmp_path), 0, 2, every_steps=2, wait=True)
    model = CodistillationModel(Subclassed, exchange)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(batches(*examples(0, 4)), verbose=0)
    assert exchange.costs.published_bytes > 0
    assert exchange.frozen[0].built


def lstm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(batch_shape=(BATCH, 3, NUM_FEATURES)),
            keras.layers.LSTM(6, stateful=True),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


def test_validation_within_fit_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * BATCH, 3, NUM_FEATURES)).astype("float32")
    y = rng.integers(0, NUM_CLASSES, 4 * BATCH)
    results = []
    for validation in (None, batches(x[::-1].copy(), y)):
        keras.utils.set_random_seed(1)
        model = CodistillationModel(lstm)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(batches(x, y), epochs=3, shuffle=False, verbose=0, validation_data=validation)
        results.append(
            [*model.student.get_weights(), *recurrent_state.values(recurrent_state.variables(model.student))]
        )
    for without, with_validation in zip(*results, strict=True):
        np.testing.assert_array_equal(without, with_validation)


def test_validation_starts_from_the_lanes_state() -> None:
    model = CodistillationModel(lstm)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(BATCH, 3, NUM_FEATURES)).astype("float32")
    from_zero = model.predict(x, batch_size=BATCH, verbose=0)
    carried = [np.full((BATCH, 6), 0.3, "float32")] * 2
    recurrent_state.assign(recurrent_state.variables(model.student), carried)
    from_carried = model.predict(x, batch_size=BATCH, verbose=0)
    assert np.abs(from_carried - from_zero).max() > 1e-3
    np.testing.assert_array_equal(recurrent_state.values(recurrent_state.variables(model.student)), carried)
    np.testing.assert_allclose(from_carried, model.student(x), atol=1e-6)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_bad_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=str(weight)):
        CodistillationModel(regression, FrozenTeachers(1), distillation_weight=weight)


def test_accumulated_gradients_equal_larger_batches() -> None:
    x, y = examples(0, 6)
    peer = Snapshot(Ref(1), 0, 0.0, regression().get_weights(), [], 0)
    found = []
    for num_batches in (1, 3):
        keras.utils.set_random_seed(1)
        model = compiled(FrozenTeachers(1), schedules.BurnIn(1, 2.0))
        accumulated = num_batches if num_batches > 1 else None
        optimizer = keras.optimizers.SGD(0.5, momentum=0.9, gradient_accumulation_steps=accumulated)
        model.compile(
            optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        data = batches(x, y).unbatch().batch(3 * BATCH // num_batches)
        model.build_for_data(data.element_spec)
        model.teachers.refresh(0, peer)
        logs = model.fit(data, verbose=0, shuffle=False).history
        assert model.step() == 2, "steps of the optimizer, not batches"
        found.append([*model.student.get_weights(), logs["distillation_weight"][0]])
    for whole, accumulated in zip(*found, strict=True):
        np.testing.assert_allclose(accumulated, whole, atol=1e-5)


def test_class_weights_weigh_both_losses_as_sample_weights_do() -> None:
    x, y = examples(0, 4)
    peer = Snapshot(Ref(1), 0, 0.0, regression().get_weights(), [], 0)
    class_weight = {0: 3.0, 1: 0.0, 2: 1.0, 3: 0.5}
    weight = np.array([class_weight[int(one)] for one in y])

    def trained(rate: float, strategy: tf.distribute.Strategy, **options: object) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = compiled(FrozenTeachers(1), rate=rate)
        model.build_for_data(batches(x, y).element_spec)
        model.teachers.refresh(0, peer)
        logs = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, **options).history
        return [*weights.values(model.student.weights), logs["distillation_loss"][0]]

    one = tf.distribute.get_strategy()
    unweighted, by_sample = trained(0.5, one), trained(0.5, one, sample_weight=weight)
    for strategy in (one, two_replicas()):
        by_class = trained(0.5, strategy, class_weight=class_weight)
        for ours, theirs, other in zip(by_class, by_sample, unweighted, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
            assert np.abs(other - theirs).max() > 1e-3
        kernel, bias, psi = trained(0.0, strategy, class_weight=class_weight)
        each = -(softmax(x @ peer.weights[0] + peer.weights[1]) * np.log(softmax(x @ kernel + bias))).sum(-1)
        assert psi == pytest.approx(np.mean(each * weight), rel=1e-4)


@pytest.mark.parametrize("statistics", ["moving", "batch"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_statistics_by_which_a_teacher_normalises(tmp_path, statistics: str, jit_compile: bool) -> None:
    def normalised() -> keras.Model:
        layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(NUM_CLASSES)]
        return keras.Sequential([keras.Input((NUM_FEATURES,)), *layers])

    def group(number: int, rate: float) -> CodistillationModel:
        exchange = PeerExchange(str(tmp_path), number, 2, every_steps=6, wait=True, statistics=statistics)
        model = CodistillationModel(normalised, exchange, measure_every_steps=1)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate), loss, jit_compile=jit_compile)
        x, y = examples(number, 6)
        model.fit(batches(5 * x + 3, y), verbose=0)
        return model

    peer, model = group(1, 0.1), group(0, 0.0)
    mean, variance = peer.student.layers[0].moving_mean, peer.student.layers[0].moving_variance
    assert np.abs(np.array(mean) - 3).max() < 2.5
    assert np.array(variance).max() > 5
    teacher = model.teachers.frozen[0]
    np.testing.assert_array_equal(teacher.layers[0].moving_mean, mean)
    np.testing.assert_array_equal(teacher.layers[0].moving_variance, variance)
    before_mean = np.array(mean)
    x, y = examples(2, 1)
    logs = model.fit(x, y, batch_size=BATCH, verbose=0).history
    own = model.student(x, training=True)
    soft = losses.SoftCrossEntropy()
    # What the peer says in inference, or in training, where moving statistics move.
    by_moving = float(soft(tf.nn.softmax(peer.student(x, training=False)), own))
    by_batch = float(soft(tf.nn.softmax(peer.student(x, training=True)), own))
    assert abs(by_moving - by_batch) > 1e-2
    expected = by_batch if statistics == "batch" else by_moving
    assert logs["distillation_loss"][0] == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(teacher.layers[0].moving_mean, before_mean)


def test_weights_averaged_by_the_optimizer_are_what_is_left_and_published(tmp_path) -> None:
    """Keras's moving average (Polyak & Juditsky 1992), here from the weights of each step."""
    exchange, directory = str(tmp_path / "exchange"), str(tmp_path / "checkpoints")
    model = CodistillationModel(regression, PeerExchange(exchange, 0, 2, every_steps=4, wait=True))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8), loss, jit_compile=False)
    of_steps = []
    noting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: of_steps.append(model.student.get_weights())
    )
    saving = Checkpointing(directory, every_steps=None)
    model.fit(batches(*examples(0, 6)), verbose=0, shuffle=False, callbacks=[noting, saving])
    average = of_steps[0]
    for now in of_steps[1:]:
        average = [0.8 * before + 0.2 * weight for before, weight in zip(average, now, strict=True)]
    assert np.abs(average[0] - of_steps[-1][0]).max() > 1e-3
    _, shared, _ = checkpoints.read_latest(directory)
    (*_, published) = snapshots_in(exchange, 0, model.student)
    for found in (model.student.get_weights(), published.weights, checkpoints.served(shared)):
        for one, expected in zip(found, average, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)
    for one, expected in zip(shared["weights"], of_steps[-1], strict=True):
        np.testing.assert_array_equal(one, expected, "whoever goes on goes on from these")

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tf_codistill import recurrent_state
from tf_codistill.models.language_model import LanguageModel

LANES, WINDOW, UNITS = 3, 4, 5


def ours() -> keras.Model:
    return LanguageModel(vocabulary_size=11, embedding_dim=4, num_layers=2, num_units=UNITS, batch_size=LANES)


def stock() -> keras.Model:
    tokens = keras.Input(batch_shape=(LANES, WINDOW), dtype="int32")
    activations = keras.layers.Embedding(11, 4)(tokens)
    for _ in range(2):
        activations = keras.layers.LSTM(UNITS, stateful=True, return_sequences=True, use_cudnn=False)(
            activations
        )
    return keras.Model(tokens, keras.layers.Dense(11)(activations))


MODELS = pytest.mark.parametrize("make_model", [ours, stock])


def batch(seed: int, lanes: int = LANES) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, 11, (lanes, WINDOW)), tf.int32)


def read_lanes(model: keras.Model, *seeds: int) -> list[np.ndarray]:
    """Outputs of the model from a zero state on."""
    for state in recurrent_state.variables(model):
        state.assign(tf.zeros_like(state.value))
    return [model(batch(seed)).numpy() for seed in seeds]


@MODELS
def test_variables_are_the_state_of_every_layer_in_order(make_model: Callable[[], keras.Model]) -> None:
    model = make_model()
    states = recurrent_state.variables(model)
    assert [tuple(state.shape) for state in states] == [(LANES, UNITS)] * 4
    assert not {id(state) for state in states} & {id(weight) for weight in model.weights}
    model(batch(1))
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "states", None) is not None]
    found = recurrent_state.values(states)
    for index, layer in enumerate(layers):
        for i in range(2):
            np.testing.assert_array_equal(found[2 * index + i], layer.states[i].numpy())
    assert all(np.abs(values).max() > 0 for values in found), "a call has moved every state"


def test_a_model_without_memory_has_none() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert recurrent_state.variables(model) == []
    served = LanguageModel(vocabulary_size=11, embedding_dim=4, num_layers=1, num_units=UNITS)
    assert recurrent_state.variables(served) == []
    second = recurrent_state.SecondState(model)
    second.start()
    with second.in_use():
        model(tf.zeros([1, 4]))


@MODELS
@pytest.mark.parametrize("in_function", [False, True])
def test_the_lanes_know_nothing_of_the_second_state(
    make_model: Callable[[], keras.Model], in_function: bool
) -> None:
    model = make_model()
    undisturbed = read_lanes(model, 1, 2, 3)
    end_state = recurrent_state.values(recurrent_state.variables(model))
    other_text = read_lanes(model, 1, 7, 8)

    second = recurrent_state.SecondState(model)

    def validate(tokens: tf.Tensor) -> tf.Tensor:
        with second.in_use():
            return model(tokens)

    validate = tf.function(validate) if in_function else validate
    found = read_lanes(model, 1)
    second.start()
    validated = [validate(batch(7)).numpy()]
    found.append(model(batch(2)).numpy())
    validated.append(validate(batch(8)).numpy())
    found.append(model(batch(3)).numpy())

    np.testing.assert_array_equal(found, undisturbed)
    for one, other in zip(recurrent_state.values(recurrent_state.variables(model)), end_state, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(
        validated, other_text[1:], atol=1e-5, err_msg="it goes on from its own last batch"
    )


@MODELS
def test_an_error_gives_the_lanes_their_state_back(make_model: Callable[[], keras.Model]) -> None:
    model = make_model()
    read_lanes(model, 1)
    states = recurrent_state.variables(model)
    before = recurrent_state.values(states)
    second = recurrent_state.SecondState(model)

    def validate() -> None:
        with second.in_use():
            model(batch(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate()
    np.testing.assert_array_equal(recurrent_state.values(states), before)


@MODELS
def test_each_replica_has_its_own_lanes_and_its_own_second_state(
    make_model: Callable[[], keras.Model],
) -> None:
    alone = make_model()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make_model()
        second = recurrent_state.SecondState(model)
    model.set_weights(alone.get_weights())
    states = recurrent_state.variables(model)

    @tf.function
    def train(tokens: tf.Tensor) -> tf.Tensor:
        return strategy.run(model, args=(tokens,))

    @tf.function
    def validate(tokens: tf.Tensor) -> tf.Tensor:
        def on_replica(tokens: tf.Tensor) -> tf.Tensor:
            with second.in_use():
                return model(tokens)

        return strategy.run(on_replica, args=(tokens,))

    def rows(seed: int) -> tf.distribute.DistributedValues:
        return strategy.experimental_distribute_values_from_function(
            lambda context: batch(seed + 100 * context.replica_id_in_sync_group)
        )

    train(rows(1))
    before = recurrent_state.values(states)
    assert [values.shape for values in before] == [(2 * LANES, UNITS)] * 4
    second.start()
    validate(rows(7))
    np.testing.assert_array_equal(recurrent_state.values(states), before)
    found = strategy.experimental_local_results(train(rows(2)))
    validated = strategy.experimental_local_results(validate(rows(8)))

    for replica in range(2):
        seeds = [seed + 100 * replica for seed in (1, 2, 7, 8)]
        expected = read_lanes(alone, seeds[0])
        after_first = recurrent_state.values(recurrent_state.variables(alone))
        lanes = slice(replica * LANES, (replica + 1) * LANES)
        np.testing.assert_allclose([values[lanes] for values in before], after_first, atol=1e-5)
        expected = read_lanes(alone, seeds[0], seeds[1])
        np.testing.assert_allclose(found[replica].numpy(), expected[1], atol=1e-5)
        expected = read_lanes(alone, seeds[0], seeds[2], seeds[3])
        np.testing.assert_allclose(validated[replica].numpy(), expected[2], atol=1e-5)


def test_assign_gives_every_replica_its_rows() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = ours()
    states = recurrent_state.variables(model)
    lanes = [np.arange(2 * LANES * UNITS, dtype="float32").reshape(-1, UNITS) + i for i in range(4)]
    recurrent_state.assign(states, lanes)
    np.testing.assert_array_equal(recurrent_state.values(states), lanes)
    recurrent_state.assign(states, [rows[:4] for rows in lanes])
    expected = [rows[[0, 1, 2, 3, 0, 1]] for rows in lanes]
    np.testing.assert_array_equal(
        recurrent_state.values(states), expected, "rows are used again from the first"
    )
    of_two_workers = [np.concatenate([rows, rows + 100]) for rows in lanes]
    recurrent_state.assign(states, of_two_workers, worker=1)
    np.testing.assert_array_equal(recurrent_state.values(states), [rows + 100 for rows in lanes])


def test_assign_refuses_what_does_not_fit_and_changes_nothing() -> None:
    model = ours()
    states = recurrent_state.variables(model)
    read_lanes(model, 1)
    before = recurrent_state.values(states)
    good = [np.zeros((LANES, UNITS), "float32")] * 4
    with pytest.raises(ValueError, match="3 arrays of recurrent state do not fit 4 state variables"):
        recurrent_state.assign(states, good[:3])
    for wrong in (np.zeros((LANES, UNITS + 1), "float32"), np.zeros((0, UNITS), "float32")):
        with pytest.raises(
            ValueError, match=r"recurrent state of shape .* does not fit lanes of shape \(3, 5\)"
        ):
            recurrent_state.assign(states, [*good[:3], wrong])
    np.testing.assert_array_equal(recurrent_state.values(states), before)


def test_restore_takes_back_the_lanes_of_this_worker_and_no_others() -> None:
    with two_replicas().scope():
        model = ours()
    states = recurrent_state.variables(model)
    lanes = [np.arange(2 * LANES * UNITS, dtype="float32").reshape(-1, UNITS) + i for i in range(4)]
    recurrent_state.restore(states, lanes)
    np.testing.assert_array_equal(recurrent_state.values(states), lanes)
    for number in (LANES, 3 * LANES):
        with pytest.raises(ValueError, match=f"state of {number} lanes does not fit the 6 of this worker"):
            recurrent_state.restore(states, [*lanes[:3], np.zeros((number, UNITS), "float32")])
    np.testing.assert_array_equal(recurrent_state.values(states), lanes)


def test_values_of_lower_precision_come_back() -> None:
    model = LanguageModel(11, 4, 1, UNITS, batch_size=LANES, dtype="mixed_bfloat16")
    model(batch(1))
    states = recurrent_state.variables(model)
    kept = recurrent_state.values(states)
    second = recurrent_state.SecondState(model)
    second.start()
    with second.in_use():
        model(batch(2))
    np.testing.assert_array_equal(recurrent_state.values(states), kept)
    recurrent_state.assign(states, [np.zeros_like(rows) for rows in kept])
    recurrent_state.assign(states, kept)
    np.testing.assert_array_equal(recurrent_state.values(states), kept)


def test_one_lane_that_is_not_finite_is_seen() -> None:
    states = recurrent_state.variables(ours())
    assert recurrent_state.is_finite(states)
    assert recurrent_state.is_finite([])
    for bad in (np.nan, -np.inf):
        lanes = np.zeros((LANES, UNITS), "float32")
        lanes[1, 2] = bad
        states[-1].assign(lanes)
        assert not recurrent_state.is_finite(states)

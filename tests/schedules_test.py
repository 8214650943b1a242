"""Schedules as functions of the step."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tf_codistill import schedules


def test_burn_in_switches_on_after_its_steps():
    weight = schedules.BurnIn(steps=3, weight=0.5)
    assert [float(weight(step)) for step in range(6)] == [0, 0, 0, 0.5, 0.5, 0.5]


def test_no_burn_in():
    assert float(schedules.BurnIn(steps=0)(0)) == 1.0


@pytest.mark.parametrize("schedule", [schedules.BurnIn(3, 0.5), schedules.Constant(0.5)])
@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_works_in_a_graph_on_any_integer(schedule, dtype):
    graph = tf.function(schedule, input_signature=[tf.TensorSpec((), dtype)])
    for step in (0, 2, 3, 2**31 - 1):
        value = graph(tf.constant(step, dtype))
        assert value.dtype == tf.float32
        assert float(value) == float(schedule(step))


def test_follows_a_variable():
    step = tf.Variable(2, dtype=tf.int64)
    weight = schedules.BurnIn(steps=3)
    assert float(weight(step)) == 0
    step.assign_add(1)
    assert float(weight(step)) == 1


def test_constant_does_not_change():
    assert [float(schedules.Constant(2.0)(step)) for step in (0, 1000)] == [2, 2]


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_bad_weight_is_told(value):
    with pytest.raises(ValueError, match="weight is"):
        schedules.BurnIn(steps=1, weight=value)
    with pytest.raises(ValueError, match="value is"):
        schedules.Constant(value)


@pytest.mark.parametrize("steps", [-1, 1.5, True, float("nan")])
def test_bad_steps_are_told(steps):
    with pytest.raises(ValueError, match="steps is"):
        schedules.BurnIn(steps=steps)

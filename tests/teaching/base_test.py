"""Teaching by nobody, which is also what each kind of teaching begins with."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_models import NUM_CLASSES, batches, compiled, examples, regression
from tf_codistill.batches import Batch
from tf_codistill.teaching.base import Place, Teaching, equal_logits, rows_of


class OfTwo(Teaching):
    """Two students; the first has two teachers, the second one."""

    taught_by = ((0, 1), (2,))


def test_nobody_teaches_one_student() -> None:
    teaching = Teaching()
    teaching.join(Place("/nowhere", 1, 3, lambda group: regression))
    assert (teaching.num_students, teaching.learners(), teaching.names()) == (1, ["student"], [])
    assert teaching.parts(group=1, num_groups=3) == [(1, 3)]
    assert (teaching.models(), teaching.callbacks(), teaching.state()) == ({}, [], ([], []))
    teaching.restore([], [])
    assert not teaching.any_present(tf.constant(0))
    assert float(teaching.staleness_steps(tf.constant(0))) == 0
    batch = Batch(np.zeros((2, 3)))
    assert teaching.deal(batch) == [batch]
    (taught,) = teaching.teach([batch.features], [None], tf.constant(0), [tf.zeros([2, 4])])
    assert taught.predictions == []
    assert taught.present_PB.shape == (0, 2)


@pytest.mark.parametrize("rows", [3, None])
def test_in_a_step_in_which_nobody_is_asked_nobody_is_present(rows: int | None) -> None:
    teaching = OfTwo()
    specs = {"class": tf.TensorSpec([rows, 4]), "score": tf.TensorSpec([rows, 2, 1], tf.float16)}

    @tf.function(input_signature=[specs, specs])
    def wait(*predictions):
        return teaching.wait(predictions, predictions)

    given = [{"class": tf.ones([3, 4]), "score": tf.ones([3, 2, 1], tf.float16)} for _ in range(2)]
    first, second = wait(*given)
    assert [len(one.predictions) for one in (first, second)] == [2, 1]
    assert [one.present_PB.shape for one in (first, second)] == [(2, 3), (1, 3)]
    for taught in (first, second):
        assert not taught.present_PB.numpy().any()
        for prediction in taught.predictions:
            for name, output in prediction.items():
                assert (output.dtype, output.shape) == (given[0][name].dtype, given[0][name].shape)
                assert not output.numpy().any()


def test_what_stands_for_a_prediction_is_a_constant_where_it_can_be() -> None:
    with tf.Graph().as_default():
        known, unknown = (tf.compat.v1.placeholder("float32", [rows, 4]) for rows in (3, None))
        assert equal_logits(known, rows=3).op.type == "Const", "teachers need not wait for the student"
        rows = tf.compat.v1.placeholder("int32", [])
        zeros = equal_logits(unknown, rows=rows)
        with tf.compat.v1.Session() as session:  # without the student's prediction
            assert session.run(zeros, {rows: 2}).shape == (2, 4)
    assert rows_of({"a": tf.zeros([3, 4])}) == 3


def test_a_model_that_nobody_teaches_trains_on_its_task_alone() -> None:
    model = compiled(None)
    x, y = examples(0, 4)
    logs = model.fit(batches(x, y), verbose=0, shuffle=False).history
    assert logs["loss"] == logs["total_loss"]
    assert logs["distillation_weight"] == logs["distillation_loss"] == [0.0]
    assert model.student.output_shape == (None, NUM_CLASSES)

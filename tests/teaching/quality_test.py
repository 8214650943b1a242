"""Teachers that are worse at the task than the student have a smaller share."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import batches, compiled, examples, publish, regression
from tf_codistill import weights
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel


def bad() -> keras.Model:
    """Sure of what it says, and wrong."""
    keras.utils.set_random_seed(1)
    model = regression()
    model.set_weights([10 * weight for weight in model.get_weights()])
    return model


def group(directory: pathlib.Path, num_groups: int, **settings: object) -> CodistillationModel:
    teachers = PeerExchange(
        str(directory), 0, num_groups, every_steps=100, wait=True, run_id="run", **settings
    )
    return compiled(teachers, rate=0.0)


def train(model: CodistillationModel, epochs: int = 2) -> dict[str, list[float]]:
    model.fit(batches(*examples(0, 4)), epochs=epochs, verbose=0, shuffle=False)
    return model.history.history


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bad_teacher_has_the_share_that_numpy_says_and_its_term_shrinks_by_it(
    tmp_path: pathlib.Path, replicas: int
) -> None:
    publish(str(tmp_path), 1, 1, bad(), run_id="run")
    with two_replicas().scope() if replicas == 2 else tf.distribute.get_strategy().scope():
        model = group(tmp_path, 2, min_teacher_quality=0.5)
    logs = train(model)
    quality = np.exp(np.array(logs["loss"]) - np.array(logs["teacher_task_loss"]))
    assert quality[0] < 0.4, "else there would be nothing to see"
    np.testing.assert_allclose(logs["teacher_share"], quality / 0.5, rtol=1e-5)
    np.testing.assert_allclose(logs["teacher_task_loss"], logs["teacher_task_loss"][0], rtol=1e-5)
    psi = logs["distillation_loss"]
    np.testing.assert_allclose(psi[1:], psi[0] * quality[0] / 0.5, rtol=1e-5)
    assert model.teachers.present(tf.constant(20, tf.int64)).numpy() == pytest.approx(
        quality[0] / 0.5, rel=1e-5
    )


def test_among_several_the_good_ones_count(tmp_path: pathlib.Path) -> None:
    good = regression()
    publish(str(tmp_path), 1, 1, bad(), run_id="run")
    publish(str(tmp_path), 2, 1, good, run_id="run")
    model = group(tmp_path, 3, min_teacher_quality=0.2)
    logs = train(model)
    shares = model.teachers.present(tf.constant(20, tf.int64)).numpy()
    losses = [logs[f"teacher_{index}_task_loss"][-1] for index in range(2)]
    expected = [min(np.exp(min(logs["loss"][-1] - loss, 0.0)) / 0.2, 1.0) for loss in losses]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
    assert shares[0] < shares[1]
    assert logs["teacher_task_loss"][-1] < logs["teacher_task_loss"][0], "the mean is one of shares"
    restored = group(tmp_path, 3, min_teacher_quality=0.2)
    restored.build_for_data(batches(*examples(0, 1)).element_spec)
    restored.teachers.restore(*model.teachers.state())
    np.testing.assert_array_equal(restored.teachers.present(tf.constant(20, tf.int64)), shares)


def test_who_was_not_measured_keeps_its_share_and_another_peer_begins_with_all(
    tmp_path: pathlib.Path,
) -> None:
    publish(str(tmp_path), 1, 1, bad(), run_id="run")
    model = group(tmp_path, 2, min_teacher_quality=1.0)
    train(model, epochs=1)
    teachers = model.teachers
    assert teachers.weigh(2.0, [2.0 + np.log(4.0)]) == pytest.approx([0.25])
    assert teachers.weigh(2.0, [None]) == teachers.weigh(np.nan, [3.0]) == pytest.approx([0.25])
    assert teachers.weigh(2.0, [1.0]) == [1.0]
    teachers.weigh(2.0, [9.0])
    for peer, expected in ((1, np.exp(-7.0)), (2, 1.0)):
        store = publish(str(tmp_path), peer, 5, regression(), run_id="run")
        ref = store.newest(peer)
        assert ref is not None
        teachers.refresh(0, store.read(ref, weights.description(teachers.frozen[0])))
        assert teachers.present(tf.constant(5, tf.int64)).numpy() == pytest.approx([expected])


def test_by_default_every_teacher_counts_whole(tmp_path: pathlib.Path) -> None:
    publish(str(tmp_path), 1, 1, bad(), run_id="run")
    model = group(tmp_path, 2)
    logs = train(model)
    assert "teacher_share" not in logs
    assert model.teachers.weigh(1.0, [9.0]) == [1.0]
    for quality in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match=f"min_teacher_quality is {quality}"):
            PeerExchange(min_teacher_quality=quality)

"""Groups that exchange predictions: each in a thread of this process, as if it were alone."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_models import BATCH, NUM_CLASSES, compiled, examples, regression, snapshot_of
from tf_codistill import losses
from tf_codistill.batches import Keyed
from tf_codistill.exchange.predictions.forms import Logits, Probabilities, SampledClasses, TopK
from tf_codistill.exchange.predictions.message import MessageFormat, Predicted
from tf_codistill.exchange.topology import RandomPeers
from tf_codistill.groups import decisions
from tf_codistill.teaching.base import Place
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.teaching.predictions import PredictionExchange
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

EXACT = Logits("float32")


def keyed(num_steps: int, seed: int = 0, first_id: int = 0) -> tf.data.Dataset:
    """The same batches for whoever asks with the same seed."""
    x, y = examples(seed, num_steps)
    keys = np.stack([first_id + np.arange(len(x)), np.zeros(len(x))], axis=1).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices(Keyed((x, y), keys)).batch(BATCH, drop_remainder=True)


def side_by_side(*runs: Callable[[], Any]) -> list[Any]:
    """What each returns; the first error of any."""
    with futures.ThreadPoolExecutor(len(runs)) as threads:
        return [one.result() for one in [threads.submit(run) for run in runs]]


def group(
    directory: pathlib.Path, number: int, of: int = 2, form: Any = EXACT, **settings: Any
) -> PredictionExchange:
    return PredictionExchange(str(directory), number, of, form, **{"wait_secs": 20.0, **settings})


def meaning(directory: pathlib.Path, number: int, classes: str) -> PredictionExchange:
    """Of a run whose task says what its classes are."""
    made = PredictionExchange(form=EXACT, wait_secs=20.0)
    made.join(Place(str(directory), number, 2, lambda group: regression, "run", classes=lambda: classes))
    return made


def models(teachings: Sequence[Any], **options: Any) -> list[CodistillationModel]:
    """One for each, which start from other weights."""
    made = []
    for number, teaching in enumerate(teachings):
        keras.utils.set_random_seed(number)
        made.append(compiled(teaching, **options))
        made[-1].build_for_data(keyed(1).element_spec)
    return made


def fit(model: CodistillationModel, data: tf.data.Dataset, epochs: int = 1) -> dict[str, list[float]]:
    return dict(model.fit(data, epochs=epochs, verbose=0, shuffle=False).history)


def test_groups_that_exchange_logits_do_what_students_of_one_process_do(tmp_path: pathlib.Path) -> None:
    number = 3
    groups = models([group(tmp_path, one, number) for one in range(number)])
    together = compiled(FellowStudents(number))
    together.build_for_data(keyed(1).element_spec)
    for student, one in zip(together.students, groups, strict=True):
        student.set_weights(one.student.get_weights())
    for num_steps, first, bound in ((1, 0, 1e-6), (49, 1, 1e-4)):
        data = keyed(50).skip(first).take(num_steps)
        histories = side_by_side(*(functools.partial(fit, one, data) for one in groups))
        expected = fit(together, data)
        for index, (one, history) in enumerate(zip(groups, histories, strict=True)):
            pairs = zip(one.student.get_weights(), together.students[index].get_weights(), strict=True)
            for ours, theirs in pairs:
                np.testing.assert_allclose(ours, theirs, atol=bound)
            assert history["taught_share"] == [1.0]
            assert history["staleness_steps"] == [0.0]
            theirs = expected[f"student_{index}_distillation_loss"]
            np.testing.assert_allclose(history["distillation_loss"], theirs, rtol=1e-4)
    assert not np.allclose(groups[0].student.get_weights()[0], groups[1].student.get_weights()[0])


@pytest.mark.parametrize("form", [Probabilities("int8"), TopK(2, "float16"), SampledClasses(2)], ids=str)
def test_in_every_form_students_come_together(tmp_path: pathlib.Path, form: Any) -> None:
    pair = models([group(tmp_path, one, form=form) for one in range(2)], weight=4.0, rate=0.2)
    x = examples(0, 1)[0]
    before = distance(pair, x)
    histories = side_by_side(*(functools.partial(fit, one, keyed(40)) for one in pair))
    assert distance(pair, x) < before / 2
    assert all(history["taught_share"] == [1.0] for history in histories)
    is_measured = histories[0]["teacher_kl"][0] > 0
    assert is_measured == (form.fidelity != "draws"), "of draws nothing can be said"


def distance(pair: Sequence[CodistillationModel], x: np.ndarray) -> float:
    one, other = (tf.nn.softmax(model.student(x)).numpy() for model in pair)
    return float(np.abs(one - other).mean())


def test_a_peer_that_is_not_there_costs_one_wait_and_one_that_reads_something_else_is_told(
    tmp_path: pathlib.Path,
) -> None:
    (lone,) = models([group(tmp_path, 0, wait_secs=1.0)])
    history = fit(lone, keyed(20), epochs=2)
    assert history["taught_share"] == [0.0, 0.0]
    assert history["absent_peers"] == [20.0, 20.0]
    assert history["distillation_weight"] == [0.0, 0.0]
    assert 1.0 <= history["waited_secs"][0], "it was waited for"
    assert history["waited_secs"][1] < 1.0, "but only until it was known to be asleep"
    alone = compiled(None)
    alone.build_for_data(keyed(1).element_spec)
    (again,) = models([None])
    fit(again, keyed(20), epochs=2)
    for ours, expected in zip(lone.student.get_weights(), again.student.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    others = models([group(tmp_path / "other", one) for one in range(2)])
    data = [keyed(3), keyed(3, first_id=1000)]
    with pytest.raises(ValueError, match="other examples than this group; give all groups the same data and"):
        side_by_side(*(functools.partial(fit, *one) for one in zip(others, data, strict=True)))


def test_what_an_earlier_run_has_left_does_not_end_a_run_whose_peer_is_yet_to_come(
    tmp_path: pathlib.Path,
) -> None:
    earlier = models([group(tmp_path, one, run_id="earlier") for one in range(2)])
    side_by_side(*(functools.partial(fit, one, keyed(2)) for one in earlier))
    (first,) = models([group(tmp_path, 0, run_id="later", wait_secs=0.0)])
    history = fit(first, keyed(2))
    assert (history["taught_share"], history["failed_exchanges"]) == ([0.0], [2.0])


def test_groups_resume_at_their_steps_with_what_the_others_had_predicted(tmp_path: pathlib.Path) -> None:
    """One is at step 8, the other begins again at step 4: it learns from what has been kept."""
    data = keyed(12)
    whole = models([group(tmp_path / "whole", one) for one in range(2)])
    side_by_side(*(functools.partial(fit, one, data) for one in whole))

    pair = models([group(tmp_path / "resumed", one) for one in range(2)])
    side_by_side(*(functools.partial(fit, one, data.take(4)) for one in pair))
    kept = pair[1].student.get_weights()
    side_by_side(*(functools.partial(fit, one, data.skip(4).take(4)) for one in pair))
    late = models([group(tmp_path / "resumed", 1)])[0]
    late.student.set_weights(kept)
    late.count_from(4)
    side_by_side(functools.partial(fit, pair[0], data.skip(8)), functools.partial(fit, late, data.skip(4)))
    for ours, expected in zip([pair[0], late], whole, strict=True):
        for one, other in zip(ours.student.get_weights(), expected.student.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_is_told_before_training(tmp_path: pathlib.Path) -> None:
    keyless = keyed(2).map(lambda one: one.data)
    with pytest.raises(ValueError, match="needs the key of each example, .* plain Keras data has none"):
        fit(models([group(tmp_path, 0)])[0], keyless)
    with pytest.raises(ValueError, match="TopK\\(k=9, precision='float16'\\); expected at least 9"):
        models([group(tmp_path, 0, form=TopK(9))])
    with pytest.raises(ValueError, match="leaves the graph in each step, which XLA cannot compile"):
        models([group(tmp_path, 0)], jit_compile=True)
    for loss in (losses.SquaredLogits(), losses.BinarySoftCrossEntropy()):
        with pytest.raises(ValueError, match="takes teachers' logits, but .* only draws arrive"):
            CodistillationModel(regression, group(tmp_path, 0, form=SampledClasses(2)), loss)
        CodistillationModel(regression, group(tmp_path, 0), loss)
    pair = models([group(tmp_path / "forms", 0), group(tmp_path / "forms", 1, form=TopK(2))])
    with pytest.raises(ValueError, match=r"predicts with form .*Logits.*start all groups on data of"):
        side_by_side(*(functools.partial(fit, one, keyed(2)) for one in pair))
    pair = models([meaning(tmp_path / "classes", one, f"tokenizer {one}") for one in range(2)])
    told = "predicts with classes 'tokenizer [01]', group_. with 'tokenizer [01]'; start all groups on data"
    with pytest.raises(ValueError, match=told):
        side_by_side(*(functools.partial(fit, one, keyed(2)) for one in pair))
    for arguments, complaint in [
        ({"wait_secs": -1.0}, "wait_secs is -1.0; expected at least 0"),
        ({"keep_steps": 0}, "keep_steps is 0 and max_bytes is"),
        ({"topology": RandomPeers(1)}, "topology is RandomPeers, but groups on one batch all meet"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            PredictionExchange(str(tmp_path), **arguments)


def test_what_is_predicted_ahead_of_time_is_the_teaching_of_the_copy_that_predicts(
    tmp_path: pathlib.Path,
) -> None:
    """A copy of step 0 predicts steps 0 to 29, a newer one the others, and step 40 nobody does."""
    keras.utils.set_random_seed(5)
    copies, num_steps, missing = [regression(), regression()], 60, 40
    data, outputs = keyed(num_steps), tf.TensorSpec([BATCH, NUM_CLASSES], tf.float32)
    learner, expected = models([group(tmp_path, 0, ahead=True, run_id="run"), FrozenTeachers(1)])
    expected.student.set_weights(learner.student.get_weights())
    teaching = group(tmp_path, 0, ahead=True, run_id="run")
    answers, compress = teaching.answers(1, outputs)
    answers.begin(0)
    for step, batch in enumerate(data):
        if step != missing:
            parts = compress(copies[step >= 30](batch.data[0]), tf.constant(step, tf.int64))
            at = 30 * (step >= 30)
            answers.put(Predicted(step, at, batch.keys.numpy(), [part.numpy() for part in parts]))
    histories = {"learner": list[dict[str, Any]](), "expected": list[dict[str, Any]]()}
    for first, number in ((0, 30), (30, 10), (missing, 1), (missing + 1, 19)):
        part = data.skip(first).take(number)
        histories["learner"].append(fit(learner, part))
        weight = 0.0 if first == missing else 1.0
        expected.teachers.refresh(0, snapshot_of(copies[first >= 30], first, group=1))
        if not weight:
            expected.teachers.retire(0)
        histories["expected"].append(fit(expected, part))
        for ours, theirs in zip(learner.student.get_weights(), expected.student.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    shares, stale = (
        [one[name][0] for one in histories["learner"]] for name in ("taught_share", "staleness_steps")
    )
    assert shares == [1.0, 1.0, 0.0, 1.0]
    assert stale[0] == pytest.approx(14.5)
    assert stale[1] == pytest.approx(4.5)
    assert answers.position() == num_steps - 1, "by which it is known where the learner is"
    store = PeerExchange(str(tmp_path), 1, 2, run_id="run").store()
    assert store.newest(0) is not None, "it publishes what others may follow"
    with pytest.raises(ValueError, match="nobody's predictions are awaited in this run"):
        group(tmp_path, 0).answers(1, outputs)
    with pytest.raises(ValueError, match=r"peer is 0; expected one that teaches group 0: \[1\]"):
        group(tmp_path, 0, ahead=True).answers(0, outputs)


def test_what_is_logged_is_of_all_workers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another worker of the group had the same figures."""
    monkeypatch.setattr(decisions, "total", lambda strategy, integers: [2 * one for one in integers])
    (one,) = models([group(tmp_path, 0, wait_secs=0.0)])
    history = fit(one, keyed(3), epochs=2)
    assert history["absent_peers"] == [6.0, 6.0]
    assert history["taught_share"] == history["failed_exchanges"] == [0.0, 0.0]
    assert (
        history["sent_bytes"] == [6.0 * MessageFormat("", [((NUM_CLASSES,), "float32")]).num_bytes(BATCH)] * 2
    )
    assert one.teachers.costs.absent_peers == 6, "those of this worker"

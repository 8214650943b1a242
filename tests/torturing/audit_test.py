"""The audit: what it notes is what happened, and the chain tells every order of batches from every other."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import injection, weights
from tf_codistill.batches import Batch
from tf_codistill.exchange.snapshot import Ref, Snapshot
from tf_codistill.teaching.base import Place
from tf_codistill.torturing import audit, trail


def model_fn():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def audited(directory, group=0):
    teachers = audit.AuditedExchange(str(directory / "trail"), every_steps=2)
    teachers.join(Place(str(directory / "exchange"), group, 2, lambda peer: model_fn, "run"))
    teachers.make([model_fn()], [model_fn])
    return teachers


class Steps:
    """In place of a model: how many steps it has made."""

    def __init__(self, done=0):
        self.done = done

    def step(self):
        return self.done


def auditing(teachers, step=0):
    callback = teachers.callbacks()[-1]
    callback.set_model(Steps(step))
    callback.on_train_begin()
    return callback


def arrays(value):
    return [np.full((3, 2), value, "float32"), np.full(2, value, "float32")]


def snapshot(value, step):
    return Snapshot(Ref(1, 100, step // 2), step, 1.7e9, arrays(value), [], 32)


def records(directory, kind, group=0):
    return [record for start in trail.read(str(directory / "trail"), group) for record in start.of_kind(kind)]


def batch(*ids):
    return Batch(tf.zeros([len(ids), 3]), keys=tf.constant([[one, 0] for one in ids], tf.int64))


def chain_of(directory, *batches):
    teachers = audited(directory)
    for one in batches:
        assert teachers.deal(one) == [one]
    return int(teachers.chain.numpy())


def test_the_chain_tells_orders_gaps_and_repeats_apart(tmp_path):
    a, b, c = batch(1, 2), batch(3, 4), batch(5, 6)
    others = ([a, c, b], [a, b], [a, b, b, c], [a, b, c, c], [b, c], [batch(2, 1), b, c])
    chains = [chain_of(tmp_path, *batches) for batches in ([a, b, c], *others)]
    assert len(set(chains)) == len(chains)
    assert chain_of(tmp_path, a, b, c) == chains[0]


def test_the_chain_goes_and_comes_with_what_a_checkpoint_keeps(tmp_path):
    teachers, again = audited(tmp_path), audited(tmp_path)
    teachers.deal(batch(1, 2))
    teachers.refresh(0, snapshot(0.5, 2))
    shared, own = teachers.state()
    again.restore(shared, own)
    assert int(again.chain.numpy()) == int(shared[-1]) == chain_of(tmp_path, batch(1, 2)) != 0
    np.testing.assert_array_equal(weights.values(again.frozen[0].weights)[0], arrays(0.5)[0])


def test_what_is_published_and_what_a_teacher_holds_have_one_digest(tmp_path):
    writer, reader = audited(tmp_path, group=1), audited(tmp_path)
    auditing(writer)
    auditing(reader)
    model = weights.description(model_fn())
    store = writer.store()
    store.announce(model, 0)
    store.publish(2, model, arrays(0.5), [])
    (published,) = records(tmp_path, "publish", group=1)
    assert (published["step"], published["incarnation"]) == (2, store.incarnation)
    looks = reader.store()
    reader.refresh(0, looks.read(looks.newest(1), weights.description(reader.frozen[0])))
    (swap,) = records(tmp_path, "swap")
    for name in ("step", "incarnation", "digest"):
        assert swap[name] == published[name]
    assert (swap["peer"], swap["serial"], swap["has_changed"]) == (1, 1, False)
    torn = [arrays(0.5)[0], arrays(0.6)[1]]
    assert audit.digest(torn) != published["digest"] == audit.digest(arrays(0.5))


def test_a_teacher_that_changes_between_two_swaps_is_found(tmp_path):
    teachers = audited(tmp_path)
    auditing(teachers)
    for number, value in enumerate((0.5, 0.6, 0.7, 0.8), start=1):
        teachers.refresh(0, snapshot(value, 2 * number))
        if number == 2:
            teachers.frozen[0].weights[0].assign(np.zeros((3, 2)))
    assert [swap["has_changed"] for swap in records(tmp_path, "swap")] == [False, False, True, False]


def test_each_step_is_noted_once_and_one_order_is_obeyed_after_it(
    tmp_path: os.PathLike, monkeypatch: pytest.MonkeyPatch
):
    obeyed = []
    monkeypatch.setitem(injection.KINDS, "nan", lambda callback: obeyed.append(callback.model.done))
    monkeypatch.setitem(injection.KINDS, "kill", lambda callback: obeyed.append(-callback.model.done))
    teachers = audited(tmp_path)
    callback = auditing(teachers, step=40)
    for number, kind in ((2, "kill"), (1, "nan")):
        (tmp_path / "trail" / "group_0" / f"{trail.ORDER}{number:06d}_{kind}").touch()
    callback.on_train_batch_end(0)  # a batch that was learned from before, and is only read over
    assert obeyed == []
    noted = []
    for step in (41, 42, 43):
        teachers.deal(batch(step, step))
        callback.model.done = step
        callback.on_train_batch_end(step)
        noted.append(int(teachers.keys.numpy()))
    assert obeyed == [41, -42], "the first order first"
    steps = records(tmp_path, "step")
    assert [(record["step"], record["keys"]) for record in steps] == list(
        zip((41, 42, 43), noted, strict=True)
    )
    assert [record["fault"] for record in records(tmp_path, "fault")] == ["nan", "kill"]
    assert [start.step for start in trail.read(str(tmp_path / "trail"), 0)] == [40]
    assert len(os.listdir(tmp_path / "trail" / "group_0")) == 1, "what was obeyed is gone"

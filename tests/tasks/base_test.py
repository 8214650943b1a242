"""What a task has without saying anything: no metrics, nothing derived, one model for all groups."""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_house import Points
from tf_codistill.tasks.base import Task


class Plain(Points):
    """`Points` with what every task has."""

    units = Task.units
    metrics = Task.metrics
    derived = Task.derived
    keep_beside_model = Task.keep_beside_model


def test_what_every_task_has(tmp_path: pathlib.Path) -> None:
    task = Plain()
    assert task.units == "examples"
    assert task.metrics() == []
    assert task.derived({"loss": 2.0}) == {}
    assert task.groups_of_their_own() == set()
    assert task.classes() == ""
    task.keep_beside_model(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_task_says_what_it_learns() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task()


def test_a_saved_model_is_loaded_or_the_file_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "student.keras"
    for content in (None, b"", b"no model"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model '.*student\.keras' cannot be loaded: ") as caught:
            Points().load_model(str(path))
        assert "\n" not in str(caught.value)
    served = Points().make_model()
    served.save(path)
    found = Points().load_model(str(path))
    assert isinstance(found, keras.Sequential)
    for one, other in zip(found.get_weights(), served.get_weights(), strict=True):
        assert (one == other).all()


def test_an_error_without_a_word_names_the_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(keras.saving, "load_model", fail)
    with pytest.raises(ValueError, match=r"model 'student\.keras' cannot be loaded"):
        Points().load_model("student.keras")


def test_a_task_that_says_nothing_else_is_served_as_its_model_is(tmp_path: pathlib.Path) -> None:
    task = Points()
    model = task.make_model()
    module = task.serving(model, str(tmp_path))
    places = np.asarray([[0.5, -0.5], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(module.serve(places)["probabilities"], model(places), rtol=1e-5)
    tf.saved_model.save(module, str(tmp_path / "served"), signatures=module.serve)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(loaded.serve(places[:1])["probabilities"], model(places[:1]), rtol=1e-5)

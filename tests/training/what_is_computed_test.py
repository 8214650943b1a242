"""What a step computes, and what it does not: nothing without weight, nothing twice, nothing in line."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import (
    BATCH,
    NUM_CLASSES,
    NUM_FEATURES,
    batches,
    compiled,
    examples,
    regression,
    snapshot_of,
)
from tf_codistill import losses, schedules
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.frozen import FrozenTeachers
from tf_codistill.training.codistillation import CodistillationModel

NUM_STEPS, BURN_IN = 5, 3


class Counted(losses.SquaredLogits):
    """Counts how often each of its parts, and its gradient, is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = collections.defaultdict(int)

    def aggregate(self, teacher_logits: Any, weights: tf.Tensor | None = None) -> Any:
        self._count("aggregate")
        return super().aggregate(teacher_logits, weights)

    def call(self, teacher: Any, student_logits: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def noted(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                self._count("gradient")
                return upstream

            return tf.identity(logits), gradient

        self._count("call")
        return super().call(teacher, noted(student_logits))

    def _count(self, part: str) -> None:
        def count() -> None:
            self.counts[part] += 1

        tf.py_function(count, [], [])


@pytest.mark.parametrize("teachers", [FrozenTeachers, FellowStudents])
@pytest.mark.parametrize(
    ("weight", "expected"),
    [(schedules.BurnIn(BURN_IN, 0.5), NUM_STEPS - BURN_IN), (0.0, 0), (1.0, NUM_STEPS)],
    ids=["burn_in", "never", "always"],
)
def test_nothing_of_distillation_is_computed_without_weight(
    teachers: type[Teaching], weight: Any, expected: int
) -> None:
    psi = Counted()
    model = CodistillationModel(regression, teachers(2), psi, weight)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    data = batches(*examples(0, NUM_STEPS))
    model.build_for_data(data.element_spec)
    if isinstance(model.teachers, FrozenTeachers):
        for number in range(2):
            model.teachers.refresh(number, snapshot_of(regression()))
    psi.counts.clear()  # building is no step
    model.fit(data, verbose=0)
    times = expected * len(model.students)
    assert psi.counts == (dict.fromkeys(("aggregate", "call", "gradient"), times) if times else {})


def test_replicas_meet_once_to_read_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = two_replicas()
    with strategy.scope():
        model = compiled(FrozenTeachers(2), metrics=["accuracy"], steps_per_execution=2)
    data = strategy.experimental_distribute_dataset(batches(*examples(0, 6)))
    model.build_for_data(data.element_spec)
    meetings: list[int] = []
    reduce = type(strategy).reduce

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        meetings.append(1)
        return reduce(self, *args, **kwargs)

    num_variables = sum(len(metric.variables) for metric in model.metrics)
    assert num_variables >= 5
    model.make_train_function()
    model.make_test_function()
    for function in (model.train_function, model.test_function):
        # Tracing calls what the graph will: as often as it stands there.
        with monkeypatch.context() as patched:
            patched.setattr(type(strategy), "reduce", counting)
            logs = function(iter(data))
        assert len(meetings) == 1, "one collective for all metrics"
        meetings.clear()
    assert set(logs) == {"accuracy", "loss"}


def depends(nodes: Iterable[Any], start: Any) -> set[str]:
    """Names of all nodes of a graph that have to be computed before one of them."""
    inputs = {node.name: [name.lstrip("^").partition(":")[0] for name in node.input] for node in nodes}
    found: set[str] = set()
    waiting = list(inputs[start.name])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += inputs[name]
    return found


class Marked(keras.layers.Dense):
    """Names what it computes."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.identity(super().call(inputs), name="forward_pass")


def marked() -> keras.Model:
    return keras.Sequential([keras.Input((NUM_FEATURES,)), Marked(NUM_CLASSES)])


@pytest.mark.parametrize("rows", [None, BATCH])
def test_teachers_need_not_wait_for_the_student(rows: int | None) -> None:
    model = compiled(FrozenTeachers(1), weight=schedules.BurnIn(BURN_IN), model_fn=marked)
    specs = (tf.TensorSpec([rows, NUM_FEATURES]), tf.TensorSpec([rows], tf.int32))
    model.build_for_data(specs)
    graph = tf.function(lambda *data: model.gradients(data), input_signature=specs).get_concrete_function()
    definition = graph.graph.as_graph_def()
    asking = {
        function.signature.name
        for function in definition.library.function
        if any("forward_pass" in node.name for node in function.node_def)
    }
    requests = [node for node in definition.node if node.attr["then_branch"].func.name in asking]
    students = {node.name for node in definition.node if node.name.endswith("forward_pass")}
    assert len(requests) == len(students) == 1
    assert not depends(definition.node, requests[0]) & students


def test_outputs_are_compared_once_and_not_at_each_validation() -> None:
    traced: list[str] = []

    class Noted(keras.Sequential):
        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
            traced.append(self.name)
            return super().compute_output_spec(*args, **kwargs)

    def noted() -> keras.Model:
        return Noted([keras.Input((NUM_FEATURES,)), keras.layers.Dense(NUM_CLASSES)])

    model = compiled(FellowStudents(2, refresh_every_steps=2), model_fn=noted)
    data = batches(*examples(0, 2))
    model.fit(data, epochs=3, validation_data=data, verbose=0)
    model.evaluate(data, verbose=0)
    assert len(traced) == len(set(traced)) == 4, "two students and their copies"

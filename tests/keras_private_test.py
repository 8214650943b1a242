"""What the package takes of Keras beyond its promises is there, does what it is for, and is all it takes.

The name of each test has the version of Keras: `make test-newest-keras` runs them with the next one.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.architecture_test import HOUSE, PACKAGE, ROOT
from tests.replicas import two_replicas
from tests.toy_models import batches, compiled, examples
from tf_codistill import keras_private, weights
from tf_codistill.keras_private import OVERRIDDEN, PRIVATE
from tf_codistill.teaching import quantized_model

KERAS = f"Keras {keras.__version__}"
NAMES = {private.name for private in PRIVATE}
SPEC = (tf.TensorSpec([8, 3]), {"a": tf.TensorSpec([8, 2]), "b": tf.TensorSpec([8, 1])})

# Private by their look alone, and private names of others than Keras, which say so where they are used.
_OTHERS = {"_replace", "_asdict", "_fields", "_is_protocol"}
_ROOTS = {"os", "gin"}
_BY_STRING = {"getattr", "setattr", "hasattr", "delattr"}


def two_outputs() -> keras.Model:
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="inside")], name="nested")
    hidden = inner(inputs)
    model = keras.Model(
        inputs, {"a": keras.layers.Dense(2, name="a")(hidden), "b": keras.layers.Dense(1, name="b")(hidden)}
    )
    model.compile(
        keras.optimizers.SGD(0.1, clipvalue=0.5),
        {"a": keras.losses.MeanSquaredError(), "b": keras.losses.Huber()},
    )
    return model


def _keras_mask() -> None:
    masked = keras.layers.Embedding(5, 2, mask_zero=True)(tf.constant([[1, 0]]))
    np.testing.assert_array_equal(keras_private.mask(masked), [[True, False]])
    assert keras_private.mask(tf.zeros([1])) is None
    loss, target = keras.losses.MeanSquaredError(), tf.zeros([1, 2, 1])
    prediction = keras_private.set_mask(tf.constant([[[1.0], [9.0]]]), tf.constant([[True, False]]))
    assert float(loss(target, prediction)) == 1
    assert keras_private.mask(keras_private.set_mask(prediction, None)) is None


def _value() -> None:
    plain = keras.Variable(np.float32(3))
    assert isinstance(keras_private.stored(plain), tf.Variable)
    with two_replicas().scope():
        mirrored = keras.Variable(np.float32(3))
    copies = keras_private.stored(mirrored).values
    assert len(copies) == 2
    for copy in copies:
        copy.assign(4.0)
    np.testing.assert_array_equal(mirrored, 4)
    keras_private.bring_home([mirrored])
    assert not hasattr(keras_private.stored(mirrored), "values")
    mirrored.assign_add(1.0)
    np.testing.assert_array_equal(mirrored, 5)


def _distribute_strategy() -> None:
    with two_replicas().scope():
        model = two_outputs()
    assert model.distribute_strategy is two_replicas()
    keras_private.leave_strategy(model)
    assert model.distribute_strategy is tf.distribute.get_strategy()


def _initializer() -> None:
    variable, seen = keras.Variable(np.zeros([2], "float32")), []
    keras_private.read_by(variable, lambda shape, dtype: seen.append((shape, dtype)) or tf.ones(shape, dtype))
    for read in (variable.value, variable.numpy(), variable + 0):
        np.testing.assert_array_equal(read, [1, 1])
    assert seen == [((2,), "float32")] * 3


def _direct_assign() -> None:
    class Locked(keras.Variable):
        def _direct_assign(self, value: Any) -> None:
            raise PermissionError

    variable = keras.Variable(1.0)
    variable.__class__ = Locked
    for change in (variable.assign, variable.assign_add, variable.assign_sub):
        with pytest.raises(PermissionError):
            change(2.0)


def _flatten_layers() -> None:
    model = two_outputs()
    names = [layer.name for layer in keras_private.layers(model)]
    assert {"nested", "inside", "a", "b"} < set(names)
    assert model.name not in names
    assert "inside" not in [layer.name for layer in model.layers], "or else the public name would do"


def _model_variables_moving_average() -> None:
    weight = keras.Variable([1.0])
    for wrap in (lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = wrap(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.75))
        optimizer.build([weight])
        weight.assign([1.0])
        for _ in range(2):
            optimizer.apply([optimizer.scale_loss(tf.constant([1.0]))])
        ((of, average),) = keras_private.averages(optimizer)
        assert of is weight
        np.testing.assert_allclose(average, [0.75 * 0.5 + 0.25 * 0.0])
    assert keras_private.averages(keras.optimizers.SGD()) == []


def _trainable_variables() -> None:
    _model_variables_moving_average()


def _moments() -> None:
    layer, inputs = keras.layers.BatchNormalization(), np.random.default_rng(0).normal(size=(8, 3, 2))
    layer.build(inputs.shape)
    mask = np.zeros((8, 3), bool)
    mask[:5] = True
    for rows, given in ((8, None), (5, tf.constant(mask))):
        mean, variance = keras_private.moments(layer, tf.constant(inputs, tf.float32), given)
        np.testing.assert_allclose(mean, inputs[:rows].mean(axis=(0, 1)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(variance, inputs[:rows].var(axis=(0, 1)), rtol=1e-4, atol=1e-6)


def _compile_loss() -> None:
    model = two_outputs()
    keras_private.build(model, SPEC)
    y, y_pred = ({"a": tf.fill([8, 2], one), "b": tf.fill([8, 1], one)} for one in (0.0, 1.0))
    weights = {"a": tf.fill([8], 3.0), "b": tf.fill([8], 0.0)}
    assert float(keras_private.compile_loss(model)(y, y_pred, weights)) == 3
    assert keras_private.compile_loss(keras.Sequential()) is None


def _flat_losses() -> None:
    model = two_outputs()
    keras_private.build(model, SPEC)
    found = keras_private.losses(keras_private.compile_loss(model))
    assert {name: type(loss).__name__ for name, loss in found.items()} == {
        "a": "MeanSquaredError",
        "b": "Huber",
    }
    assert found["b"].reduction == "sum_over_batch_size"
    lone = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    lone.compile(loss="mse")
    keras_private.build(lone, (SPEC[0], SPEC[1]["a"]))
    assert list(keras_private.losses(keras_private.compile_loss(lone))) == [""]
    assert keras_private.losses(None) == {}


def _loss_tracker() -> None:
    model = two_outputs()
    tracker = keras_private.loss_tracker(model)
    assert any(metric is tracker for metric in model.metrics)
    tracker.update_state(6.0, sample_weight=2)
    assert float(model.get_metrics_result()["loss"]) == 6


def _aggregate_additional_loss() -> None:
    with two_replicas().scope():
        model = two_outputs()
    total = two_replicas().reduce(
        "SUM",
        two_replicas().run(lambda: keras_private.added_loss(model, tf.constant([1.0, 3.0]))),
        axis=None,
    )
    assert float(total) == 4


def _symbolic_build() -> None:
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"])
    keras_private.build(model, (tf.TensorSpec([8, 3]), tf.TensorSpec([8, 2]), None))
    assert model.built
    assert model.optimizer.built
    assert len(model.optimizer.variables) == 2 + 2 * 2
    assert list(keras_private.losses(keras_private.compile_loss(model))) == [""]
    assert len(model.metrics_names) == 2


class Told(keras.Sequential):
    """Notes for what it is to be built."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        self.specs = [*getattr(self, "specs", []), keras_private.element_spec(iterator)]


def _maybe_symbolic_build() -> None:
    model = Told([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.zeros([8, 3]), tf.zeros([8, 2])))
    model.fit(data, validation_data=data, verbose=0, shuffle=False)
    assert model.specs == [data.element_spec] * 2, "by fit and by evaluate"


def _distributed_dataset() -> None:
    with two_replicas().scope():
        model = Told([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.zeros([8, 3]), tf.zeros([8, 2])))
    data = two_replicas().experimental_distribute_dataset(data)
    model.evaluate(data, verbose=0)
    assert model.specs == [data.element_spec]


class Restarted(keras.Sequential):
    """Validates from the beginning each time."""

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        keras_private.restart_validation(self)
        return super().evaluate(*args, **kwargs)


def _eval_epoch_iterator() -> None:
    model = Restarted([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    data = tf.data.Dataset.range(100).map(lambda i: (tf.cast(i, tf.float32)[None, None], tf.zeros([1, 1])))
    steps = {"steps_per_epoch": 1, "validation_steps": 2}
    logs = model.fit(data, epochs=2, validation_data=data, verbose=0, shuffle=False, **steps).history
    assert logs["val_loss"] == [0.5, 0.5]


def _clip_gradients() -> None:
    optimizer = two_outputs().optimizer
    (clipped,) = keras_private.clip(optimizer, [tf.constant([-2.0, 0.25])])
    np.testing.assert_array_equal(clipped, [-0.5, 0.25])


def _accumulators() -> None:
    optimizer, variables = keras.optimizers.Adagrad(1.0), [keras.Variable(1.0), keras.Variable(np.zeros(2))]
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.constant(3.0), variables[0])])
    found = [keras_private.accumulator(optimizer, one) for one in variables]
    assert [tuple(one.shape) for one in found] == [(), (2,)]
    assert float(found[0]) == pytest.approx(0.1 + 3**2)
    assert keras_private.accumulator(optimizer, variables[1].value) is found[1]


def _get_variable_index() -> None:
    with two_replicas().scope():
        variables = [keras.Variable(np.float32(1)), keras.Variable(np.float32(1))]
        optimizer = keras.optimizers.SGD()
        optimizer.build(variables)
    copies = keras_private.stored(variables[1]).values
    assert [keras_private.index(optimizer, one) for one in (*variables, *copies)] == [0, 1, 1, 1]


def _fn_kwargs() -> None:
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True, axis=1)
    assert keras_private.arguments(plain)["axis"] == 1
    assert "axis" not in plain.get_config(), "or else the public name would do"


def _value_specs() -> None:
    data = two_replicas().experimental_distribute_dataset(batches(*examples(0, 1)))
    specs = [keras_private.specs_by_replica(spec) for spec in data.element_spec]
    assert [len(of_replicas) for of_replicas in specs] == [2, 2]
    assert all(isinstance(spec, tf.TensorSpec) for of_replicas in specs for spec in of_replicas)
    assert keras_private.specs_by_replica(tf.TensorSpec([1])) == ()


def _create_device_dataset() -> None:
    data = batches(*examples(0, 1))
    with two_replicas().scope():
        model = compiled(None)
    calls = (lambda: model.fit(data, verbose=0), lambda: model.evaluate(data, verbose=0))
    for call in (*calls, lambda: model.predict(data, verbose=0)):
        told = _tuned(call)
        assert told[:3] == [None, False, False], "the user's data set as it was, and each replica's not"
        assert told == told[:3] * (len(told) // 3)
    distributed = two_replicas().experimental_distribute_dataset(data)
    assert _tuned(lambda: iter(distributed)) == [None, None, None]


def _tuned(read: Callable[[], Any]) -> list[bool | None]:
    """Whether TensorFlow is told to tune, or is told nothing, for each data set that is about to be read."""
    told = []
    hook = lambda dataset: told.append(dataset.options().autotune.enabled) or dataset  # noqa: E731
    with mock.patch.object(tf.data.Dataset, "_apply_debug_options", hook):  # where conftest tells it, too
        read()
    return told


CHECKS = {
    check.__name__: check
    for check in (
        *(
            _keras_mask,
            _value,
            _initializer,
            _direct_assign,
            _flatten_layers,
            _compile_loss,
            _moments,
            _flat_losses,
        ),
        *(_loss_tracker, _aggregate_additional_loss, _symbolic_build, _maybe_symbolic_build),
        *(_distributed_dataset, _eval_epoch_iterator, _clip_gradients, _fn_kwargs, _value_specs),
        *(_accumulators, _get_variable_index, _moments, _model_variables_moving_average),
        *(_trainable_variables, _get_variable_index, _distribute_strategy, _create_device_dataset),
    )
}


@pytest.mark.parametrize("name", CHECKS, ids=lambda name: f"{KERAS}: {name}")
def test_a_private_name_does_what_it_is_used_for(name: str) -> None:
    CHECKS[name]()


def test_each_name_has_its_check() -> None:
    assert [private.name for private in PRIVATE].count("_value") == 1
    assert set(CHECKS) == NAMES


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: f"{KERAS}: {private.owner}.{private.name}")
def test_a_private_name_is_where_it_is_said_to_be(private: keras_private.Private) -> None:
    if private.owner != "tf.Tensor":  # to which it comes from outside
        module, _, name = private.owner.rpartition(".")
        owner = getattr(importlib.import_module(module), name)
        names = map(_private_names, owner.__mro__) if isinstance(owner, type) else [vars(owner)]
        assert private.name in set().union(*names)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"], ids=lambda one: f"{KERAS}: {one}")
def test_a_weight_of_a_layer_may_change_its_class(precision: str) -> None:
    """All that `quantized_model` relies on: layers hold the very object, and read it at each call."""
    layer = keras.layers.Dense(64)
    model = keras.Sequential([keras.Input((32,)), layer])
    held, before = layer.kernel, np.array(layer.kernel)
    quantized_model.quantize(model, precision)
    assert layer.kernel is held
    assert any(weight is held for weight in model.weights)
    assert isinstance(held, quantized_model.QuantizedVariable)
    assert keras_private.stored(held) is None, "the memory that it had is free"
    x = tf.random.stateless_normal([4, 32], [1, 2])
    expected = x @ tf.cast(before, tf.float32)
    for call in (model, tf.function(model), tf.function(model, jit_compile=True)):
        np.testing.assert_allclose(call(x), expected, atol=0.05)
    zeros = [0 * before, np.ones(64, "float32")]
    arrays = quantized_model.staged(model, zeros, "float32", precision)
    weights.give(quantized_model.stored(model), arrays)
    np.testing.assert_array_equal(model(x), np.ones([4, 64]))
    with pytest.raises(ValueError, match="is quantized; only a snapshot can replace it"):
        held.assign(before)


# Nobody else takes anything of Keras that it does not promise.


def private_uses(source: str, known: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute that nobody in a module defines, and that is not known."""
    tree = ast.parse(source)
    own = {*_defined(tree)} - NAMES
    for node in ast.walk(tree):
        name, receiver = "", None
        if isinstance(node, ast.Attribute):
            name, receiver = node.attr, node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in _BY_STRING and len(node.args) > 1:
            name, receiver = getattr(node.args[1], "value", ""), node.args[0]
        elif isinstance(node, ast.FunctionDef) and node.name in NAMES:
            name = node.name
        inherited = known if _root(receiver) in ("self", "cls", "super") else frozenset()
        if _is_private(name) and name not in own | inherited | _OTHERS and _root(receiver) not in _ROOTS:
            yield node.lineno, name
        if isinstance(node, ast.ImportFrom | ast.Import):
            for module in [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]:
                if module.startswith(("keras.src", "tensorflow.python")):
                    yield node.lineno, module


def _is_private(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def _root(node: ast.AST | None) -> str:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            for target in (one for each in targets for one in ast.walk(each)):
                if isinstance(target, ast.Name):
                    yield target.id
                elif isinstance(target, ast.Attribute) and getattr(target.value, "id", "") == "self":
                    yield target.attr


def test_no_other_private_name_is_used() -> None:
    every = frozenset(name for source in HOUSE.values() for name in _defined(ast.parse(source))) - NAMES
    found = [
        f"{module}, line {line}: {name}"
        for module, source in HOUSE.items()
        if module != "keras_private"
        for line, name in private_uses(source, every)
        if OVERRIDDEN.get(name) != module
    ]
    assert not found, "\n".join(found)


def test_each_name_is_used_by_the_one_module() -> None:
    used = {name for _, name in private_uses(HOUSE["keras_private"])}
    assert used | OVERRIDDEN.keys() == NAMES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(model):\n    return model._compile_loss", ["_compile_loss"]),
        ("def f(model):\n    model._anything = 1", ["_anything"]),
        ("class A(keras.Model):\n    def f(self):\n        return self._tracker", ["_tracker"]),
        ("class A(keras.Model):\n    def _symbolic_build(self): ...", ["_symbolic_build"]),
        ("mask = getattr(x, '_keras_mask', None)", ["_keras_mask"]),
        ("from keras.src import backend", ["keras.src"]),
        ("import tensorflow.python.eager", ["tensorflow.python.eager"]),
        ("class A:\n    def f(self):\n        self._own = 1\n        return self._own + other._own", []),
        ("import gin, os\nos._exit(gin.config._CONFIG)\nx._replace(a=1)", []),
        ("class A:\n    _own: int\n    def __init__(self): self.__dict__", []),
    ],
)
def test_a_use_is_found(source: str, found: list[str]) -> None:
    assert [name for _, name in private_uses(source)] == found


def test_no_class_of_ours_has_a_private_name_of_its_keras_base() -> None:
    """Else one would overwrite what is the other's."""
    found, looked_at = [], 0
    for module in HOUSE:
        if "import keras" not in HOUSE[module]:
            continue
        classes = vars(importlib.import_module(f"{PACKAGE}.{module}")).values()
        for kind in [one for one in classes if isinstance(one, type) and one.__module__.endswith(module)]:
            foreign = [base for base in kind.__mro__ if base.__module__.startswith("keras.")]
            looked_at += bool(foreign)
            taken = set().union(*map(_private_names, foreign))
            both = {name for name in _private_names(kind) & taken if OVERRIDDEN.get(name) != module}
            found += [f"{module}: {kind.__name__}.{name}" for name in both]
    assert looked_at > 20
    assert not found, "\n".join(found)


@functools.cache
def _private_names(kind: type) -> set[str]:
    """What a class itself defines or keeps in attributes, not what its bases do."""
    if kind.__module__ == "builtins":
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    generated = {"_api_export_path", "_api_export_symbol_id"}  # Keras marks each class that it exports
    stored = [
        target.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        for target in [node]
        if _root(target) == "self"
    ]
    return {name for name in (*stored, *vars(kind)) if _is_private(name)} - generated


_BACKENDS = [
    "import tf_codistill; tf_codistill.CodistillationModel",
    "import sys, types; keras = sys.modules['keras'] = types.ModuleType('keras');"
    "keras.backend = types.SimpleNamespace(backend=lambda: 'jax');"
    "import tf_codistill; tf_codistill.PeerExchange",
]


@pytest.mark.parametrize("script", _BACKENDS, ids=["to_be_imported", "imported"])
def test_another_backend_is_refused_before_it_is_imported(script: str) -> None:
    ended = _with_backend("-c", script)
    assert "ValueError: the backend of Keras is 'jax', and tf_codistill trains" in ended.stderr


@pytest.mark.parametrize("program", ["train", "launch"])
def test_programs_refuse_another_backend_in_one_sentence(program: str) -> None:
    ended = _with_backend("-m", f"tf_codistill.{program}", "--workdir=/nowhere/run")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: the backend of Keras is 'jax', and tf_codistill trains with TensorFlow; set "
        "KERAS_BACKEND=tensorflow before Keras is imported\n"
    )


def test_a_model_refuses_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="the backend of Keras is 'torch'"):
        compiled(None)


def _with_backend(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

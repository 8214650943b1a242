from __future__ import annotations

import contextlib
import pathlib

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests import faults
from tf_codistill import files, weights


def classifier(units: int = 3) -> keras.Model:
    model = keras.Sequential(
        [keras.layers.Dense(units), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    )
    model.build((None, 4))
    return model


def mixed_arrays() -> list[np.ndarray]:
    return [
        np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3),
        np.array([1.5, -0.25, np.inf], ml_dtypes.bfloat16),
        np.array([2**62, -1], "int64"),
        np.array(7, "int64"),
        np.array(-0.0, "float32"),
        np.zeros((0, 3), "float32"),
    ]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.tobytes() == other.tobytes()


def test_instances_of_one_model_have_one_description() -> None:
    ours, theirs = weights.description(classifier()), weights.description(classifier())
    assert ours == theirs
    assert weights.first_difference(ours, theirs) is None
    kernel = ours[0]
    assert kernel["name"].endswith("dense/kernel")
    assert (kernel["shape"], kernel["dtype"]) == ([4, 3], "float32")
    assert len(ours) == 8, "weights that are not trained are among them"


def test_the_description_does_not_depend_on_being_trainable() -> None:
    frozen = classifier()
    frozen.trainable = False
    assert weights.description(frozen) == weights.description(classifier())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"name": "other/kernel"},
            "weight 1 is 'b' with name 'b' here and 'other/kernel' with name 'other/kernel'",
        ),
        ({"shape": [9]}, r"weight 1 is 'b' with shape \[2\] here and 'b' with shape \[9\] there"),
        (
            {"dtype": "bfloat16"},
            "weight 1 is 'b' with dtype 'float32' here and 'b' with dtype 'bfloat16' there",
        ),
    ],
)
def test_the_first_difference_is_named(change: dict[str, object], sentence: str) -> None:
    ours = [{"name": name, "shape": [2], "dtype": "float32"} for name in "abc"]
    theirs = [ours[0], {**ours[1], **change}, {**ours[2], "shape": [7]}]
    difference = weights.first_difference(ours, theirs)
    assert difference is not None
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(difference)
    assert weights.first_difference(ours, ours[:2]) == "there are 3 weights here and 2 there"


@pytest.mark.parametrize("in_scope", [False, True])
def test_arrays_survive_the_disk_to_the_bit(tmp_path: pathlib.Path, in_scope: bool) -> None:
    arrays = mixed_arrays()
    prefix = str(tmp_path / "weights")
    scope = (
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope() if in_scope else contextlib.nullcontext()
    )
    with scope:
        listing = weights.write(prefix, weights=arrays, states=[])
        found = weights.read(prefix, listing, weights=weights.describe_arrays(arrays), states=[])
    assert_same(found["weights"], arrays)
    assert found["states"] == []
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(listing) == ["weights.data-00000-of-00001", "weights.index"]
    for name, metadata in listing.items():
        assert metadata == files.metadata_of(str(tmp_path / name)), (
            "hashed as it was written, without a second read"
        )


def test_tensorflows_own_tools_can_inspect_what_is_written(tmp_path: pathlib.Path) -> None:
    arrays = mixed_arrays()
    weights.write(str(tmp_path / "weights"), weights=arrays, states=arrays[:1])
    reader = tf.train.load_checkpoint(str(tmp_path / "weights"))
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "weights"))]
    assert names == ["states/000000", *(f"weights/{i:06d}" for i in range(len(arrays)))]
    for name, array in zip(names, [arrays[0], *arrays], strict=True):
        assert_same([reader.get_tensor(name)], [array])


def test_files_are_written_and_read_without_a_variable(tmp_path: pathlib.Path, monkeypatch) -> None:
    """A variable would be made on a GPU where there is one, another copy of the model at each exchange."""

    def none(*_: object, **__: object) -> None:
        raise AssertionError("a variable is made")

    arrays = mixed_arrays()
    monkeypatch.setattr(tf, "Variable", none)
    monkeypatch.setattr(tf.train, "Checkpoint", none)
    listing = weights.write(str(tmp_path / "weights"), weights=arrays)
    weights.read(str(tmp_path / "weights"), listing, weights=weights.describe_arrays(arrays))


def test_given_arrays_are_the_memory_of_variables_on_the_host() -> None:
    variables = [keras.Variable(np.zeros(shape, "float32")) for shape in ((3, 4), (5,), ())]
    arrays = weights.values([keras.Variable(np.full(v.shape, 7, "float32")) for v in variables])
    weights.give(variables, arrays)
    for variable, array in zip(variables, arrays, strict=True):
        np.testing.assert_array_equal(variable.numpy(), array)
        assert np.shares_memory(np.asarray(weights.local_copies(variable)[0].read_value()), array)
    weights.give(variables[:1], [np.asfortranarray(np.arange(12, dtype="float64").reshape(3, 4))])
    np.testing.assert_array_equal(variables[0].numpy(), np.arange(12).reshape(3, 4))
    with pytest.raises(ValueError, match=r"has shape \(5,\), array has \(3,\)"):
        weights.give(variables[1:2], [np.zeros(3, "float32")])


def test_arrays_survive_a_scheme_of_gfile() -> None:
    arrays = mixed_arrays()
    tf.io.gfile.makedirs("ram://weights_test")
    listing = weights.write("ram://weights_test/weights", weights=arrays)
    found = weights.read("ram://weights_test/weights", listing, weights=weights.describe_arrays(arrays))
    assert_same(found["weights"], arrays)


def test_what_was_not_written_cannot_be_read(tmp_path: pathlib.Path) -> None:
    arrays = [np.zeros((2, 3), "float32"), np.ones(4, "float32")]
    prefix = str(tmp_path / "weights")
    listing = weights.write(prefix, weights=arrays, states=arrays[:1])
    good = weights.describe_arrays(arrays)
    for wrong in (
        {"weights": [*good, good[0]], "states": good[:1]},
        {"weights": good[:1], "states": good[:1]},
        {"weights": good},
        {"others": good, "states": good[:1]},
        {"weights": [{**good[0], "shape": [3, 2]}, good[1]], "states": good[:1]},
        {"weights": [{**good[0], "dtype": "float64"}, good[1]], "states": good[:1]},
    ):
        with pytest.raises(ValueError, match="arrays in '.*weights' cannot be read: ."):
            weights.read(prefix, listing, **wrong)
    absent = {name.replace("weights", "absent"): metadata for name, metadata in listing.items()}
    with pytest.raises(ValueError, match=r"absent\.index' is missing"):
        weights.read(str(tmp_path / "absent"), absent, weights=good)
    faults.halve(tmp_path / "weights.data-00000-of-00001")
    with pytest.raises(ValueError, match=r"weights\.data.* is damaged: bytes is 32, its manifest says 64"):
        weights.read(prefix, listing, weights=good, states=good[:1])


def test_what_cannot_be_written_says_where(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="arrays cannot be written to '.*file/weights'"):
        weights.write(str(tmp_path / "file" / "weights"), weights=mixed_arrays())


def test_values_and_assign_reach_every_replica() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = classifier()
    arrays = [np.full(weight.shape, i, "float32") for i, weight in enumerate(model.weights)]
    with strategy.scope():
        weights.assign(model.weights, arrays)
    for weight, array in zip(model.weights, arrays, strict=True):
        copies = weights.local_copies(weight)
        assert len(copies) == 2
        assert len({copy.device for copy in copies}) == 2
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), array)
    assert_same(weights.values(model.weights), arrays)


def test_values_are_copies() -> None:
    variable = keras.Variable(np.zeros(3, "float32"))
    (before,) = weights.values([variable])
    variable.assign(np.ones(3, "float32"))
    np.testing.assert_array_equal(before, np.zeros(3))


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    pool, variable = weights.Pool(), keras.Variable(np.zeros((3, 4), "float32"))
    first = pool.array((3, 4), "float32")
    second = pool.array((3, 4), "float32")
    assert not np.shares_memory(first, second)
    addresses = [first.ctypes.data, second.ctypes.data]
    assert not any(address % 64 for address in addresses)
    first[...] = 7
    weights.give([variable], [first])
    alias = weights.local_copies(variable)[0].read_value()
    del first, second
    assert pool.array((12,), "int32").ctypes.data == addresses[1], "the variable has the other one"
    variable.assign(np.ones((3, 4), "float32"))
    third = pool.array((3, 4), "float32")
    assert third.ctypes.data == addresses[1]
    assert pool.array((3, 4), "float32").ctypes.data not in addresses, "somebody has read the variable"
    np.testing.assert_array_equal(alias, np.full((3, 4), 7))
    del alias
    assert pool.array((3, 4), "float32").ctypes.data == addresses[0]


def test_assign_casts_to_the_dtype_of_the_variable() -> None:
    variables = [keras.Variable(np.zeros(2), dtype="bfloat16"), keras.Variable(np.int64(0), dtype="int64")]
    weights.assign(variables, [np.array([1.5, 2.0], "float32"), np.array(2**40)])
    values = weights.values(variables)
    assert_same(values, [np.array([1.5, 2.0], ml_dtypes.bfloat16), np.array(2**40, "int64")])


def test_arrays_that_do_not_fit_change_nothing() -> None:
    model = classifier()
    before = weights.values(model.weights)
    arrays = [np.full(weight.shape, 9.0, "float32") for weight in model.weights]
    with pytest.raises(ValueError, match="7 arrays do not fit 8 variables"):
        weights.assign(model.weights, arrays[:-1])
    arrays[-1] = np.zeros(99, "float32")
    with pytest.raises(ValueError, match=r"variable '.*dense_?\d*/bias' has shape \(2,\), array has \(99,\)"):
        weights.assign(model.weights, arrays)
    assert_same(weights.values(model.weights), before)


def test_reserved_memory_is_what_copies_go_to() -> None:
    pool, variables = weights.Pool(), [keras.Variable(np.full(5, i, "float32")) for i in range(2)]
    model = [{"name": str(i), "shape": [5], "dtype": "float32"} for i in range(2)]
    for copies in (1, 2, 2):
        pool.reserve(model, copies)
    reserved = {block.ctypes.data for block in pool._blocks}
    first, second = (weights.values(variables, pool) for _ in range(2))
    assert len(reserved) == len(pool._blocks) == 4
    assert len({array.ctypes.data for array in first + second}) == 4
    np.testing.assert_array_equal(second[1], np.ones(5))

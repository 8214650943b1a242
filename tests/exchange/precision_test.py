"""Quantizing arrays: what is lost, what is not, and that nothing broken looks intact."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tf_codistill.exchange import precision as precisions

REDUCED = ("bfloat16", "float16", "int8")
BFLOAT16 = tf.bfloat16.as_numpy_dtype

shapes = arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=20)
finite = arrays_of.arrays(np.float32, shapes, elements=st.floats(-1e6, 1e6, width=32))
matrices = arrays_of.arrays(
    np.float32,
    st.tuples(st.integers(16, 24), st.integers(2, 5)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
quick = hypothesis.settings(max_examples=60, deadline=None)


def round_trip(array: np.ndarray, precision: str) -> np.ndarray:
    return precisions.dequantize(precisions.quantize(array, precision), str(array.dtype))


@quick
@hypothesis.given(array=finite, precision=st.sampled_from(precisions.PRECISIONS))
def test_parts_are_as_the_layout_says_and_give_back_shape_and_type(array: np.ndarray, precision: str) -> None:
    parts = precisions.quantize(array, precision)
    found = [(part.shape, str(part.dtype)) for part in parts]
    assert found == precisions.layout(array.shape, str(array.dtype), precision)
    again = precisions.dequantize(parts, "float32")
    assert (again.shape, again.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(round_trip(again, precision), again, "precision is lost once")


@quick
@hypothesis.given(array=finite)
def test_float32_is_the_array_itself(array: np.ndarray) -> None:
    assert precisions.quantize(array, "float32")[0] is array
    assert precisions.dequantize([array], "float32") is array


@quick
@hypothesis.given(array=matrices)
def test_int8_is_wrong_by_half_a_unit_of_its_channel_at_most(array: np.ndarray) -> None:
    values, scale = precisions.quantize(array, "int8")
    assert np.abs(values.astype(int)).max() <= 127
    highest = np.abs(array).max(axis=0).astype("float64")
    error = np.abs(round_trip(array, "int8").astype("float64") - array).max(axis=0)
    smallest_normal = float(np.finfo("float32").tiny)
    assert (error <= np.maximum(0.5 * highest / 127 * (1 + 1e-4), 127 * smallest_normal)).all()
    assert (scale <= highest / 127 * (1 + 1e-6)).all()


@quick
@hypothesis.given(array=matrices)
@pytest.mark.parametrize(
    ("precision", "relative", "absolute", "highest"),
    [("bfloat16", 2**-8, 2.0**-134, float(tf.bfloat16.max)), ("float16", 2**-11, 2.0**-25, 65504.0)],
)
def test_half_precision_rounds_to_the_nearest_and_does_not_overflow(
    precision: str, relative: float, absolute: float, highest: float, array: np.ndarray
) -> None:
    exact = np.clip(array.astype("float64"), -highest, highest)
    error = np.abs(round_trip(array, precision) - exact)
    assert (error <= np.maximum(relative * np.abs(exact), absolute)).all()


@quick
@hypothesis.given(array=matrices, row=st.integers(0, 15), broken=st.sampled_from([np.nan, np.inf, -np.inf]))
@pytest.mark.parametrize("precision", REDUCED)
def test_what_is_not_finite_stays_so_and_other_channels_do_not_notice(
    precision: str, array: np.ndarray, row: int, broken: float
) -> None:
    spoilt = array.copy()
    spoilt[row, 1] = broken
    found, clean = round_trip(spoilt, precision), round_trip(array, precision)
    assert not np.isfinite(found[row, 1])
    np.testing.assert_array_equal(np.delete(found, 1, axis=1), np.delete(clean, 1, axis=1))


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-38])
def test_a_channel_of_zeros_or_nearly_is_finite(precision: str, tiny: float) -> None:
    array = np.full((16, 2), tiny, "float32")
    array[:, 1] = 1.0
    found = round_trip(array, precision)
    np.testing.assert_allclose(found[:, 0], tiny, atol=1e-36)
    np.testing.assert_allclose(found[:, 1], 1.0, rtol=1e-4)
    assert tiny or not found[:, 0].any()


def test_each_channel_has_a_unit_of_its_own() -> None:
    array = np.random.default_rng(0).normal(size=(64, 3)).astype("float32") * np.array(
        [1e-6, 1, 1e6], "float32"
    )
    error = np.abs(round_trip(array, "int8") - array).max(axis=0) / np.abs(array).max(axis=0)
    assert (error < 0.5 / 126).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((192, 768), "float32", [((192, 768), "int8"), ((768,), "float32")]),
        ((3, 3, 8, 4), "float32", [((3, 3, 8, 4), "int8"), ((4,), "float32")]),
        ((3, 3, 8, 1), "float32", [((3, 3, 8, 1), "bfloat16")]),  # depthwise: nine values a channel
        ((5, 5, 8, 1), "float32", [((5, 5, 8, 1), "int8"), ((8, 1), "float32")]),
        ((15, 4), "float32", [((15, 4), "bfloat16")]),
        ((15, 4), "float16", [((15, 4), "float16")]),
        ((16, 4), "float64", [((16, 4), "int8"), ((4,), "float32")]),
        ((1, 1), "float32", [((1, 1), "bfloat16")]),
        ((16, 0), "float32", [((16, 0), "bfloat16")]),
        ((768,), "float32", [((768,), "float32")]),
        ((), "float32", [((), "float32")]),
        ((64, 64), "int32", [((64, 64), "int32")]),
    ],
)
def test_matrices_become_int8_where_it_saves_enough(shape: tuple, dtype: str, expected: list) -> None:
    assert precisions.layout(shape, dtype, "int8") == expected
    parts = precisions.quantize(np.ones(shape, dtype), "int8")
    assert [(part.shape, str(part.dtype)) for part in parts] == expected


def test_lists_of_arrays_with_their_description() -> None:
    source = np.random.default_rng(0)
    arrays = [source.normal(size=shape).astype("float32") for shape in ((32, 3), (3,), (4, 2))]
    rows = [{"name": str(i), "shape": list(a.shape), "dtype": "float32"} for i, a in enumerate(arrays)]
    quantized = precisions.quantize_all(arrays, "int8")
    described = precisions.quantized_description(rows, "int8")
    assert [row["dtype"] for row in described] == ["int8", "float32", "float32", "bfloat16"]
    assert [tuple(row["shape"]) for row in described] == [part.shape for part in quantized]
    for one, other in zip(precisions.dequantize_all(quantized, rows, "int8"), arrays, strict=True):
        np.testing.assert_array_equal(one, round_trip(other, "int8"))
    assert quantized[3].dtype == BFLOAT16


def test_a_precision_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        ValueError, match="precision is 'int4'; expected one of float32, bfloat16, float16, int8"
    ):
        precisions.check("int4")
    assert [precisions.of_states(name) for name in precisions.PRECISIONS] == [
        "float32",
        "bfloat16",
        "float16",
        "bfloat16",
    ]

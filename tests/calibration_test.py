"""Reliability tables against scikit-learn, the expected calibration error against NumPy, and the picture."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from tf_codistill.calibration import draw_reliability, expected_calibration_error, reliability_table

RNG = np.random.default_rng(1)
PROBABILITIES = RNG.beta(1, 4, 5000)
LABELS = (RNG.random(5000) < PROBABILITIES).astype(int)


@pytest.mark.parametrize(("bins", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_table_is_that_of_scikit_learn(bins, strategy):
    table = reliability_table(PROBABILITIES, LABELS, 10, bins)
    observed, predicted = calibration_curve(LABELS, PROBABILITIES, n_bins=10, strategy=strategy)
    # scikit-learn interpolates quantiles, which moves a row or two from bin to bin
    atol = 1e-12 if bins == "width" else 3e-3
    np.testing.assert_allclose(table.observed, observed, atol=atol)
    np.testing.assert_allclose(table.predicted, predicted, atol=atol)
    assert table.num_rows.sum() == 5000


def test_bins_of_mass_have_equally_many_rows():
    table = reliability_table(PROBABILITIES, LABELS, 20)
    np.testing.assert_allclose(table.num_rows, 250, atol=1)
    np.testing.assert_array_equal(table.weights, table.num_rows)


def test_rows_of_equal_predictions_stay_together():
    table = reliability_table([0.1] * 6 + [0.2] * 4, [0, 0, 0, 0, 0, 1, 0, 1, 1, 1], 5)
    np.testing.assert_array_equal(table.num_rows, [6, 4])
    np.testing.assert_allclose(table.predicted, [0.1, 0.2])
    np.testing.assert_allclose(table.observed, [1 / 6, 3 / 4])
    assert table.error() == pytest.approx(0.6 * (1 / 6 - 0.1) + 0.4 * (0.75 - 0.2))


@pytest.mark.parametrize("bins", ["width", "mass"])
def test_the_error_is_the_mean_distance(bins):
    table = reliability_table(PROBABILITIES, LABELS, 7, bins)
    distances = np.abs(table.predicted - table.observed)
    found = expected_calibration_error(PROBABILITIES, LABELS, 7, bins)
    assert found == pytest.approx((distances * table.num_rows).sum() / 5000)
    assert found < 0.03
    assert expected_calibration_error(PROBABILITIES / 2, LABELS, 7, bins) > 0.07


def test_a_weight_is_as_good_as_so_many_rows():
    weights = RNG.integers(0, 4, 5000)
    one = reliability_table(PROBABILITIES, LABELS, 5, "width", weights)
    two = reliability_table(PROBABILITIES.repeat(weights), LABELS.repeat(weights), 5, "width")
    np.testing.assert_allclose(one.predicted, two.predicted)
    np.testing.assert_allclose(one.observed, two.observed)
    assert one.error() == pytest.approx(two.error())


def test_right_predictions_stay_within_their_deviations():
    table = reliability_table(PROBABILITIES, LABELS, 20)
    off = np.abs(table.observed - table.predicted) / table.deviations()
    assert (off < 4).all()
    assert 0.3 < np.sqrt(np.mean(off**2)) < 2


def test_the_picture_shows_every_model():
    tables = {"lone": reliability_table(PROBABILITIES, LABELS)}
    one = draw_reliability(tables)
    two = draw_reliability({**tables, "other": reliability_table(PROBABILITIES / 2, LABELS)})
    assert one.startswith(b"\x89PNG")
    assert one != two
    with pytest.raises(ValueError, match="no reliability table"):
        draw_reliability({})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([0.5], [1, 0]), "there are 1 probabilities, 2 labels and 1 weights"),
        (([], []), "expected equally many, at least one"),
        (([0.5, 1.5], [1, 0]), "probabilities have 1.5 in row 1; expected 0 to 1"),
        (([0.5, np.nan], [1, 0]), "probabilities have nan in row 1"),
        (([0.5, 0.1], [1, 2]), r"labels have 2\.0 in row 1; expected 0 or 1"),
        (([0.5], [1], 0), "num_bins is 0"),
        (([0.5], [1], 5, "area"), "bins 'area'"),
        (([0.5], [1], 5, "mass", [-1]), r"weights have -1\.0 in row 0"),
        (([0.5], [1], 5, "mass", [0]), "all weights are 0"),
    ],
)
def test_arrays_that_cannot_be_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        reliability_table(*arguments)

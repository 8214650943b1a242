"""Made rows: each a function of its number, shaped like the real ones, labels true to their probabilities."""

from __future__ import annotations

import gzip
import json
import pathlib

import numpy as np
import pytest

from tf_codistill import files
from tf_codistill.example_tables import writing
from tf_codistill.example_tables.synthetic_clicks import MISSING, SyntheticClicks, column_names, entropies
from tf_codistill.jobs.engines import Local

CLICKS = SyntheticClicks(seed=3)
MANY = CLICKS.rows(0, 15_000)  # as many as the counts of the real rows are of

MISSING_NUMBERS = [0.45, 0, 0.20, 0.19, 0.05, 0.25, 0.05, 0, 0.05, 0.45, 0.05, 0.77, 0.19]
MISSING_CATEGORIES = [0, 0, 0.04, 0.04, 0, 0.13, 0, 0, 0, 0, 0.04, 0, 0, 0, 0.04, 0, 0, 0]
MISSING_CATEGORIES += [0.44, 0.44, 0.04, 0.82, 0, 0.04, 0.44, 0.44]
DISTINCT = [205, 408, 7885, 5556, 62, 9, 3917, 115, 3, 3842, 2402, 7523, 1961]
DISTINCT += [25, 2453, 6638, 9, 1344, 665, 4, 7149, 10, 14, 3365, 42, 2599]


def test_a_row_is_the_same_whatever_else_is_made():
    some = CLICKS.rows(700, 9)
    for name in ("labels", "numbers", "is_missing", "categories", "probabilities", "is_stripped"):
        np.testing.assert_array_equal(getattr(some, name), getattr(MANY, name)[700:709])
    assert CLICKS.text(some) == b"".join(CLICKS.text(MANY).splitlines(keepends=True)[700:709])
    assert CLICKS.text(CLICKS.rows(5, 0)) == b""


def test_another_seed_is_another_function_and_other_rows():
    other = SyntheticClicks(seed=4).rows(0, 15_000)
    assert (other.categories != MANY.categories).mean() > 0.5
    same_rows = SyntheticClicks(seed=4)._parts(MANY.numbers, MANY.is_missing, MANY.categories)
    own = CLICKS._parts(MANY.numbers, MANY.is_missing, MANY.categories)
    assert [np.corrcoef(own[:, part], same_rows[:, part])[0, 1] < 0.7 for part in range(3)] == [True] * 3


def test_values_are_missing_as_often_as_in_the_real_rows():
    np.testing.assert_allclose(MANY.is_missing.mean(axis=0), MISSING_NUMBERS, atol=0.015)
    np.testing.assert_allclose((MANY.categories == MISSING).mean(axis=0), MISSING_CATEGORIES, atol=0.015)


def test_columns_have_as_many_categories_as_the_real_ones():
    found = [len(set(column.tolist()) - {MISSING}) for column in MANY.categories.T]
    for own, real in zip(found, DISTINCT, strict=True):
        assert abs(own - real) <= max(5, 0.1 * real)
    top = (MANY.categories == 0).mean(axis=0)
    np.testing.assert_allclose(top[[0, 8, 19]], [0.5, 0.89, 0.45], atol=0.015)


@pytest.mark.parametrize(
    ("column", "quantiles"),
    [
        (1, [-2, 0, 0, 3, 38, 188, 2194, 18522]),
        (4, [0, 14, 299, 2779, 10507, 33138, 299734, 1618112]),
        (6, [0, 0, 0, 3, 10, 29, 178, 1147]),
    ],
)
def test_integers_have_the_quantiles_of_the_real_ones(column, quantiles):
    values = MANY.numbers[:, column][~MANY.is_missing[:, column]]
    found = np.quantile(values, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1])
    np.testing.assert_allclose(found, quantiles, rtol=0.25, atol=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_are_drawn_by_their_probabilities(seed):
    rows = SyntheticClicks(seed=seed).rows(0, 1 << 15)
    error = 4 * 0.5 / np.sqrt(len(rows.labels))
    assert rows.probabilities.mean() == pytest.approx(0.22, abs=error)
    order = np.argsort(rows.probabilities)
    for part in np.array_split(order, 8):
        share, expected = rows.labels[part].mean(), rows.probabilities[part].mean()
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(part))


def test_no_log_loss_is_expected_below_the_best_one():
    best = CLICKS.best_log_loss(0, 15_000)
    assert best == pytest.approx(entropies(MANY.probabilities).mean())
    p, base = MANY.probabilities, MANY.labels.mean()
    realised = -np.where(MANY.labels, np.log(p), np.log1p(-p))
    assert abs(realised.mean() - best) < 4 * realised.std() / np.sqrt(len(p))
    base_loss = entropies(np.array([base]))[0]
    assert best < 0.85 * base_loss
    blurred = 0.8 * p + 0.2 * base  # somebody who knows less
    expected = -(p * np.log(blurred) + (1 - p) * np.log1p(-blurred)).mean()
    assert best < expected < base_loss


def test_who_knows_single_columns_alone_does_not_know_the_pairs():
    """Of what a row says, so much is said by two columns together."""
    with_pairs = CLICKS._parts(MANY.numbers, MANY.is_missing, MANY.categories)
    assert np.abs(np.corrcoef(with_pairs.T)[np.triu_indices(3, 1)]).max() < 0.3
    flat = SyntheticClicks(seed=3, pair_share=0.0, number_share=0.0).rows(0, 1000)
    assert np.abs(flat.probabilities - MANY.probabilities[:1000]).mean() > 0.05


def test_lines_have_the_layout_of_criteo():
    names = column_names()
    assert len(names) == 40
    lines = CLICKS.text(MANY).decode("ascii").splitlines()
    assert len(lines) == 15_000
    num_short = 0
    for number, line in enumerate(lines[:2000]):
        fields = line.split("\t")
        num_short += len(fields) < 40
        fields += [""] * (40 - len(fields))
        assert fields[0] == str(MANY.labels[number])
        for value, own, missing in zip(
            fields[1:14], MANY.numbers[number], MANY.is_missing[number], strict=True
        ):
            assert value == ("" if missing else str(own))
        for value, own in zip(fields[14:], MANY.categories[number], strict=True):
            assert (value == "") == (own == MISSING)
            assert value == "" or (len(value) == 8 and int(value, 16) >= 0)
    assert 200 < num_short < 800  # half of the 44 % that end in a missing value


def test_categories_are_named_one_to_one_and_otherwise_in_every_column():
    ranks = np.arange(5000)
    names = [CLICKS._names(column, ranks).to_pylist() for column in (2, 3)]
    assert len(set(names[0])) == 5000
    assert len(set(names[0]) & set(names[1])) < 10


@pytest.mark.parametrize("compressed", [False, True])
def test_files_hold_the_rows_and_the_manifest_what_is_known_of_them(tmp_path, compressed):
    directory = str(tmp_path / "rows")
    manifest = writing.write(directory, 1000, CLICKS, Local(1), num_files=3, compressed=compressed)
    opened = gzip.open if compressed else open
    names = sorted(manifest["by_file"])
    contents = [opened(f"{directory}/{name}", "rb").read() for name in names]
    assert b"".join(contents) == CLICKS.text(CLICKS.rows(0, 1000))
    assert [len(content.splitlines()) for content in contents] == [333, 333, 334]
    assert manifest["num_clicks"] == MANY.labels[:1000].sum()
    assert manifest["best_log_loss"] == pytest.approx(CLICKS.best_log_loss(0, 1000))
    last = manifest["by_file"][names[-1]]
    assert last["best_log_loss"] == pytest.approx(CLICKS.best_log_loss(666, 334))
    assert not pathlib.Path(directory + ".work").exists()
    assert writing.write(directory, 1000, CLICKS, Local(1), num_files=3, compressed=compressed) == manifest
    assert "1,000 rows in 3 files" in writing.summary(manifest, directory)
    with pytest.raises(ValueError, match="seed of the rows in .* is 3, not 5"):
        writing.write(directory, 1000, SyntheticClicks(seed=5), Local(1), 3, compressed)


def test_files_of_a_run_that_was_stopped_are_not_written_again(tmp_path, monkeypatch):
    directory = str(tmp_path / "rows")
    made = []

    def rows(self, first, number):
        if first >= 500:
            raise KeyboardInterrupt
        made.append(first)
        return original(self, first, number)

    original = SyntheticClicks.rows
    with monkeypatch.context() as patch:
        patch.setattr(SyntheticClicks, "rows", rows)
        with pytest.raises(KeyboardInterrupt):
            writing.write(directory, 1000, CLICKS, Local(1), num_files=4)
    assert made == [0, 250]
    assert files.read_manifest(directory) is None
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(SyntheticClicks, "rows", lambda *given: made.append(given[1]) or original(*given))
        manifest = writing.write(directory, 1000, CLICKS, Local(1), num_files=4)
    assert made == [500, 750]
    whole = writing.write(str(tmp_path / "at_once"), 1000, CLICKS, Local(1), num_files=4)
    assert json.dumps(whole["files"]) == json.dumps(manifest["files"])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"click_rate": 0.0}, "click_rate is 0.0"),
        ({"effect_share": 0.0}, "effect_share 0.0; expected more than 0"),
        ({"signal": -1.0}, "signal is -1.0"),
        ({"num_pairs": 0}, "num_pairs 0"),
        ({"pair_share": 0.7, "number_share": 0.4}, "a sum of at most 1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        SyntheticClicks(**changed)


def test_fewer_rows_than_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_rows is 2 and num_files 3; expected at least one file"):
        writing.write(str(tmp_path), 2, CLICKS, Local(1), num_files=3)

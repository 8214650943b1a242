"""Files of predictions come back as they were written, and what is wrong with one is named."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pytest

from tf_codistill import files
from tf_codistill.reproducibility import prediction_files, questions, sources
from tf_codistill.reproducibility.predictions import Predictions

RNG = np.random.default_rng(0)


def same(found: Predictions, expected: Predictions) -> None:
    for name in ("probabilities", "labels", "keys", "counted"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert list(found.columns) == list(expected.columns)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    assert found.run == expected.run


def test_predictions_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    columns = {"origin": np.array(["JFK", "EWR", "JFK", "LGA"]), "distance": np.array([1.5, 2, np.nan, 3])}
    keys = np.stack([np.arange(4), [0, 0, 1, 1]], axis=1)
    for index, predictions in enumerate(
        (
            Predictions(RNG.uniform(size=4), np.array([0, 1, 1, 0]), keys, columns, run="abc"),
            Predictions(RNG.dirichlet(np.ones(3), 4).astype("float32"), keys=np.array(["x", "y", "z", "w"])),
            Predictions(
                RNG.dirichlet(np.ones(3), (4, 2)),
                RNG.integers(0, 3, (4, 2)),
                counted=RNG.uniform(size=(4, 2)) < 0.5,
            ),
        )
    ):
        path = str(tmp_path / f"{index}.parquet")
        prediction_files.write(path, predictions)
        found = prediction_files.read(path)
        same(found, predictions)
        found.check(path)
        assert found.probabilities.dtype == predictions.probabilities.dtype
        prediction_files.write(str(tmp_path / "all.npy"), predictions)
        same(prediction_files.read(str(tmp_path / "all.npy")), Predictions(predictions.probabilities))
    with pytest.raises(ValueError, match=r"cannot be written to '.*all\.csv'; expected a name in \.parquet"):
        prediction_files.write(str(tmp_path / "all.csv"), predictions)


def test_remote_files(tmp_path: pathlib.Path) -> None:
    predictions = Predictions(RNG.uniform(size=4))
    for name in ("p.npy", "p.parquet"):
        prediction_files.write(f"ram://churn/{name}", predictions)
        same(prediction_files.read(f"ram://churn/{name}"), predictions)


def csv(tmp_path: pathlib.Path, text: str, name: str = "p.csv") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_csv_of_two_and_of_more_classes(tmp_path: pathlib.Path) -> None:
    found = prediction_files.read(csv(tmp_path, "key,label,prediction,origin\n7,1,0.25,JFK\n9,0,1,\n"))
    np.testing.assert_array_equal(found.probabilities, [0.25, 1])
    np.testing.assert_array_equal(found.labels, [1, 0])
    np.testing.assert_array_equal(found.keys, [7, 9])
    assert found.columns["origin"].tolist() == ["JFK", ""]
    found = prediction_files.read(csv(tmp_path, "probability_1,id,probability_0\n.25,a,.75\n.5,b,.5\n"))
    np.testing.assert_array_equal(found.probabilities, [[0.75, 0.25], [0.5, 0.5]])
    assert found.labels is None
    assert found.keys.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id,label\n1,0\n", r"p\.csv' has the columns id and label alone; expected one column probability"),
        ("id,score\n1,0.5\n", r"p\.csv' has the columns score; expected one column probability \(of class 1"),
        ("probability,prediction\n1,0.5\n", "has the columns probability, prediction; expected one column"),
        ("probability_0,probability_2\n1,0.5\n", "has the columns .*; expected one column probability"),
        (
            "probability\n0.5\nhigh\n",
            r"column 'probability' of '.*p\.csv' has 'high' for example 1; expected a",
        ),
        ("label,probability\n0.5,0.5\n", r"label of example 0 of '.*p\.csv' is 0\.5; expected an integer in"),
        (
            "label,probability\n1,0.5\n,0.5\n",
            "label of example 1 of '.*' is nan; expected an integer in every",
        ),
        ("id,probability\n1,0.5\n,0.5\n", "keys of '.*' are missing, for example 1 for one; give all"),
        (
            "id,probability\n1,0.5,3\n",
            r"table '.*p\.csv' cannot be read: CSV parse error: .*2 columns, got 3",
        ),
        ("id,id,probability\n1,1,0.5\n", "has the column 'id' more than once; rename one"),
        ("", r"table '.*p\.csv' cannot be read: "),
    ],
    ids=range(11),
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: pathlib.Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        prediction_files.read(csv(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_probability_is_found_by_its_check(tmp_path: pathlib.Path) -> None:
    found = prediction_files.read(csv(tmp_path, "id,probability\n1,0.5\n2,\n"))
    with pytest.raises(ValueError, match="prediction of 'p' for example 1 is nan; expected a number"):
        found.check("p")


def test_damaged_files_are_named(tmp_path: pathlib.Path) -> None:
    whole = io.BytesIO()
    np.save(whole, np.zeros(100))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for name, content in (
        ("p.npy", whole.getvalue()[:300]),
        ("p.npy", b""),
        ("p.npy", b"text"),
        ("p.npy", pickled.getvalue()),
        ("p.parquet", b"PAR1 and nothing else"),
        ("p.parquet", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name.replace('.', '[.]')}' (is no|cannot be read)"):
            prediction_files.read(str(tmp_path / name))
    (tmp_path / "t.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"t\.npz' is no \.npz file of arrays"):
        prediction_files.read_table(str(tmp_path / "t.npz"))
    with pytest.raises(ValueError, match=r"t\.txt' is of no kind that is known; expected a name in \.csv"):
        prediction_files.read_table(str(tmp_path / "t.txt"))
    with pytest.raises(OSError, match="absent"):
        prediction_files.read(str(tmp_path / "absent.csv"))


def table(tmp_path: pathlib.Path, **arrays: Any) -> prediction_files.Table:
    path = str(tmp_path / "table.npz")
    content = io.BytesIO()
    np.savez(content, **arrays)
    files.write(path, content.getvalue())
    return prediction_files.read_table(path)


def test_a_table_is_joined_by_key_in_any_order(tmp_path: pathlib.Path) -> None:
    known = table(
        tmp_path, id=[9, 5, 7, 3], label=[1, 0, 1, 0], origin=["n", "f", "s", "t"], big=np.ones((4, 2))
    )
    for keys in (np.array([7, 9]), np.array([[7, 0], [9, 1]]), np.array(["7", "9"])):
        found = prediction_files.join(Predictions(np.array([0.1, 0.2]), keys=keys), "p", known)
        assert found.columns["origin"].tolist() == ["s", "n"]
        assert list(found.columns) == ["origin"], "features are no columns"
        np.testing.assert_array_equal(found.labels, [1, 1])
        np.testing.assert_array_equal(found.keys, keys)
    own = Predictions(np.array([0.1]), np.array([0]), np.array([7]), {"origin": np.array(["own"])})
    found = prediction_files.join(own, "p", known)
    assert (found.labels.tolist(), found.columns["origin"].tolist()) == ([0], ["own"])
    with pytest.raises(
        ValueError, match="--data lacks 1 of the 2 keys of 'p', 4 for one; expected a row for"
    ):
        prediction_files.join(Predictions(np.zeros(2), keys=np.array([4, 5])), "p", known)
    twice = table(tmp_path, id=[5, 5], origin=["a", "b"])
    with pytest.raises(ValueError, match="--data has the key 5 more than once"):
        prediction_files.join(Predictions(np.zeros(1), keys=np.array([5])), "p", twice)


def test_a_table_without_keys_is_joined_row_by_row(tmp_path: pathlib.Path) -> None:
    known = table(tmp_path, label=[1, 0], origin=["n", "f"])
    found = prediction_files.join(Predictions(np.zeros(2)), "p", known)
    assert found.columns["origin"].tolist() == ["n", "f"]
    keyed = prediction_files.join(Predictions(np.zeros(2)), "p", table(tmp_path, id=[8, 9]))
    assert keyed.keys.tolist() == [8, 9]
    with pytest.raises(
        ValueError, match=r"table\.npz' has 2 rows and 'p' 3 examples; expected as many, or a"
    ):
        prediction_files.join(Predictions(np.zeros(3)), "p", known)
    with pytest.raises(ValueError, match=r"arrays of '.*' have the lengths \{'label': 2, 'origin': 3\}"):
        table(tmp_path, label=[1, 0], origin=["a", "b", "c"])


def test_keys_that_cannot_be_told_apart_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "hashed.csv"  # of 64 bits without a sign, which Arrow reads as floating point
    path.write_text("id,probability\n13835058055282163713,0.2\n13835058055282163714,0.7\n")
    with pytest.raises(
        ValueError, match="are numbers too large to be told apart, such as 13835058055282163712"
    ):
        prediction_files.read(str(path))


def test_no_two_predictions_are_kept_under_one_name(tmp_path: pathlib.Path) -> None:
    for name in "xy":
        np.save(tmp_path / f"{name}.npy", np.array([0.1, 0.2]))
    found = sources.parse([f"a b={tmp_path}/x.npy", f"a_b={tmp_path}/y.npy"])
    with pytest.raises(
        ValueError, match="predictions of a b, a_b would be kept as a_b, a_b; give each another"
    ):
        questions.answer(found, questions.Question(save_dir=str(tmp_path / "kept")))

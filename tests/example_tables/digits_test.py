"""Digits: real images in class folders, the same bytes each time, ready for `prepare_images`."""

from __future__ import annotations

import io
import pathlib
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tf_codistill import files
from tf_codistill.example_tables import digits, flights

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn comes with the extra 'digits'")


def test_every_digit_is_there_once_in_its_class(tmp_path: pathlib.Path) -> None:
    manifest = digits.write(str(tmp_path / "a"))
    content = (tmp_path / "a" / "digits.zip").read_bytes()
    assert digits.write(str(tmp_path / "a")) == manifest
    digits.write(str(tmp_path / "b"))
    assert (tmp_path / "b" / "digits.zip").read_bytes() == content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        images, labels = datasets.load_digits(return_X_y=True)
        assert [int(name.split("/")[2][:4]) for name in names] == list(range(len(images)))
        assert [int(name.split("/")[1]) for name in names] == list(labels)
        for part, number in manifest["images"].items():
            assert sum(name.startswith(f"{part}/") for name in names) == number
        for number in (0, 700, 1796):
            found = tf.io.decode_jpeg(archive.read(names[number])).numpy()
            assert found.shape == (32, 32, 1)
            small = found.reshape(8, 4, 8, 4).mean(axis=(1, 3)) / 255 * 16
            np.testing.assert_allclose(small, images[number].reshape(8, 8), atol=0.7)
    assert "1,797 images" in digits.summary(manifest, "here")


def test_what_is_missing_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ValueError, match=r"scikit-learn is not installed .*; install tf_codistill\[digits\]"):
        digits.write(str(tmp_path))


@pytest.mark.parametrize("kind", [digits, flights])
def test_a_directory_with_something_else_is_refused(tmp_path: pathlib.Path, kind) -> None:
    files.commit(str(tmp_path), {"kind": "other"})
    with pytest.raises(ValueError, match="holds something else than .*; name another directory"):
        kind.write(str(tmp_path))

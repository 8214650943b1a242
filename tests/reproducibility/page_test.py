"""The page has every figure, escapes what others have written, and its pictures are pictures."""

from __future__ import annotations

import io
import pathlib
import re

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from rich.console import Console

from tf_codistill import pictures
from tf_codistill.reproducibility import page
from tf_codistill.reproducibility.comparing import compare
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.predictions import Predictions

RNG = np.random.default_rng(0)
EVIL = "<script>$x^</script>[red]"


def comparison(number: int = 3, **changes: object) -> ModelComparison:
    labels, columns = RNG.integers(0, 2, 80), {EVIL: RNG.choice([EVIL, "b"], 80)}
    found = {
        f"{EVIL}{index}": Predictions(
            **{"probabilities": RNG.uniform(size=80), "labels": labels, "columns": columns, **changes}
        )
        for index in range(number)
    }
    return compare(found, slices=[EVIL])


def test_a_page_with_pictures(tmp_path: pathlib.Path) -> None:
    found = comparison()
    path = page.write_page(found, str(tmp_path / "new"))
    text = pathlib.Path(path).read_text(encoding="utf-8")
    assert "<script>" not in text
    names = re.findall(r'<img src="([^"]+)"', text)
    assert names == ["churn.png", "slices_1.png"]
    for name in names:
        pixels = image.imread(tmp_path / "new" / name)
        assert pixels.shape[0] > 500
        assert np.ptp(pixels[..., :3]) > 0.5, "something is drawn"
    overall = found.overall["mean_absolute_difference"]
    for number in (overall.value, overall.low, overall.high):
        assert f"{number:.4g}" in text
    assert text.count("<tr>") == (1 + 1) + (1 + 3) + (1 + 3) + (1 + 2) + (1 + 20)
    for note in found.notes:
        assert note.replace("<", "&lt;").replace(">", "&gt;") in text


def test_equal_models_and_models_without_labels(tmp_path: pathlib.Path) -> None:
    page.write_page(comparison(2, probabilities=np.full(80, 0.5)), str(tmp_path))
    page.write_page(comparison(8, labels=None), str(tmp_path))
    text = pathlib.Path(page.write_page(comparison(2, run="1"), str(tmp_path))).read_text()
    assert "Distance of peers, not churn" in text


def test_sequences(tmp_path: pathlib.Path) -> None:
    p, q = (RNG.dirichlet(np.ones(3), (9, 4)) for _ in range(2))
    page.write_page(compare({"a": Predictions(p), "b": Predictions(q)}), str(tmp_path))
    assert "<th>position</th>" in (tmp_path / "index.html").read_text()


def test_a_table_for_the_terminal() -> None:
    text = io.StringIO()
    found = comparison()
    Console(file=text, width=200).print(page.as_table(found))
    shown = text.getvalue()
    assert f"{found.overall['flip_rate'].value:.2%}" in shown
    assert f"auc of {EVIL}1" in shown
    assert "3 pairs of models on 80 examples" in shown


def test_notes_are_text_too() -> None:
    found = comparison()
    text = io.StringIO()
    Console(file=text, width=2000).print(page.notes(found))
    assert text.getvalue().splitlines() == [f"* {note}" for note in found.notes]


def test_values_stand_in_pictures_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "png", lambda figure: figures.append(figure) or b"")
    (slices,) = comparison().slices.values()
    page.draw_slices(EVIL, slices)
    labels = figures[0].axes[0].get_yticklabels()
    shown = [label._preprocess_math(label.get_text()) for label in labels]
    assert (f"{EVIL} ({slices[0].num_examples})", False) in shown

"""What is asked of models that were named, and the answer where their predictions are in files.

question = Question(table=prediction_files.read_table("examples.csv"), slices=["origin"])
comparison = answer(sources.parse(["old.parquet", "new.csv"]), question)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from tf_codistill import files
from tf_codistill.reproducibility import comparing, prediction_files
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.prediction_files import Table
from tf_codistill.reproducibility.predictions import Predictions
from tf_codistill.reproducibility.sources import PredictionSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of models.

    Attributes:
        table: What is known of the examples; features too, where there is no task. None for nothing.
        slices: Columns by whose values to break figures down.
        cluster: A column: examples with the same value are resampled together; None for none.
        threshold: From which probability on class 1 is chosen.
        from_logits: Whether saved models that are given arrays put out logits.
        save_dir: Directory in which to keep the predictions of each model; None to keep none.
    """

    table: Table | None = None
    slices: Sequence[str] = ()
    cluster: str | None = None
    threshold: float = 0.5
    from_logits: bool = False
    save_dir: str | None = None


def answer(
    sources: Sequence[PredictionSource],
    question: Question,
    predict: Callable[[PredictionSource], Predictions] | None = None,
) -> ModelComparison:
    """Compares models by the whole predictions of each.

    Args:
        sources: At least two.
        question: What to ask of them.
        predict: Makes predictions of a source that is no file of them; None if there is no such source.

    Returns:
        The comparison.

    Raises:
        ValueError: A file is not what it should be, or does not fit the rest; or the predictions of two are
            to be kept under one name.
    """
    found: dict[str, Predictions] = {}
    kept = {source.name: re.sub(r"[^\w.-]+", "_", source.name) for source in sources}
    if question.save_dir and len(set(kept.values())) < len(kept):
        raise ValueError(
            f"predictions of {', '.join(kept)} would be kept as {', '.join(kept.values())}; give "
            "each another name, as in first=PATH"
        )
    for source in sources:
        one = prediction_files.read(source.path) if source.has_predictions or not predict else predict(source)
        if question.save_dir:
            files.make_directory(question.save_dir)
            prediction_files.write(files.join(question.save_dir, f"{kept[source.name]}.parquet"), one)
        if question.table is not None:
            one = prediction_files.join(one, source.name, question.table)
        found[source.name] = one
    return comparing.compare(
        found, threshold=question.threshold, slices=question.slices, cluster=question.cluster
    )

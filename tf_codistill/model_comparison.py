"""Models and runs compared on what a task holds out, or on arrays.

sources.parse(["runs/lone_1", "runs/lone_2", "old.parquet"])
    runs, saved models    +  task   -> batch after batch through all of them, nothing large is kept
    saved models          +  data   -> arrays of features, for models of no task of ours
    files of predictions            -> as they are

comparison = compare(sources, task, slices=["label"])
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_codistill import evaluation, runs
from tf_codistill.reproducibility import comparing, prediction_files
from tf_codistill.reproducibility.comparison import ModelComparison
from tf_codistill.reproducibility.measures import Array
from tf_codistill.reproducibility.prediction_files import Table
from tf_codistill.reproducibility.predictions import Predictions
from tf_codistill.reproducibility.questions import Question, answer
from tf_codistill.reproducibility.sources import PredictionSource
from tf_codistill.tasks.base import Task

_FEATURES = "features"
_ELEMENT = re.compile(r"(.+)\[(\d+)\]")
_BATCH_SIZE = 256


def compare(sources: Sequence[PredictionSource], task: Task | None, question: Question) -> ModelComparison:
    """Compares what is named.

    Args:
        sources: At least two.
        task: What runs and saved models have learned; None if there are files of predictions alone, or if
            saved models are given arrays.
        question: What to ask of them.

    Returns:
        The comparison.

    Raises:
        ValueError: Something cannot be loaded, or does not fit the rest.
    """
    from_zero = any(source.group is None and not source.has_predictions for source in sources)
    if task is None or question.save_dir or any(source.has_predictions for source in sources):

        def predict(source: PredictionSource) -> Predictions:
            if task is None:
                return _from_arrays(source, question)
            return evaluation.predictions(task, [_member(source, task, from_zero)], source.run)

        comparison = answer(sources, question, predict)
    else:
        comparison = _by_batches(sources, task, question, from_zero)
    notes = [note for source in sources if (note := source.note)]
    return dataclasses.replace(comparison, notes=[*notes, *comparison.notes])


def _by_batches(
    sources: Sequence[PredictionSource], task: Task, question: Question, from_zero: bool
) -> ModelComparison:
    names = [source.name for source in sources]
    comparer = comparing.Comparer(names, [source.run for source in sources], question.threshold)
    members = [[_member(source, task, from_zero)] for source in sources]
    for batch in evaluation.predicted(task, members):
        columns = _columns_of(batch.features, [*question.slices, question.cluster or ""])
        first = Predictions(batch.probabilities[0], batch.labels, batch.keys, columns)
        if question.table is not None:
            if question.table.keys is None or batch.keys is None:
                raise ValueError(
                    f"{question.table.path!r} has no column id, or the task no keys; expected both, so "
                    "that rows find their examples"
                )
            first = prediction_files.join(first, names[0], question.table)
        comparer.add(batch.probabilities, first.labels, first.keys, first.columns, batch.counted)
    return comparer.result(question.slices, question.cluster)


def _member(source: PredictionSource, task: Task, from_zero: bool) -> evaluation.Member:
    """The model, with the recurrent state that it carries unless all are to begin with a zero state."""
    if source.group is None:
        return evaluation.from_saved_model(task, source.path)
    task.check_beside_model(runs.group_dir(source.path, source.group))
    member = next(iter(evaluation.from_checkpoint(task, source.path, source.group).values()))
    return dataclasses.replace(member, lanes=None) if from_zero else member


def _columns_of(features: Any, names: Sequence[str]) -> dict[str, Array]:
    """Features by name: ``age``, or ``numeric[3]``, or ``features[3]`` where they have no names."""
    arrays = features if isinstance(features, Mapping) else {_FEATURES: features}
    found = {}
    for name in names:
        element = _ELEMENT.fullmatch(name)
        array = arrays.get(element[1] if element else name)
        if not isinstance(array, np.ndarray):
            continue
        rows = array.reshape(len(array), -1)
        index = int(element[2]) if element else 0
        if index < rows.shape[1] and (element or rows.shape[1] == 1):
            found[name] = rows[:, index]
    return found


def _from_arrays(source: PredictionSource, question: Question) -> Predictions:
    """What a saved model of no task of ours says of arrays of features."""
    table = question.table
    if table is None:
        raise ValueError(
            f"{source.path!r} is a model, but there is nothing to predict; give --gin_file with the task "
            "that it has learned, or --data with its features (.npz)"
        )
    try:
        model = keras.saving.load_model(source.path, compile=False)
    except Exception as error:  # Keras has a type of its own for each way in which a file can be bad
        raise ValueError(f"model {source.path!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    outputs = model.predict(_inputs(model, source, table), batch_size=_BATCH_SIZE, verbose=0)
    if not isinstance(outputs, np.ndarray):
        raise ValueError(f"model {source.path!r} has several outputs; expected one, with probabilities")
    outputs = outputs[..., 0] if outputs.ndim > 1 and outputs.shape[-1] == 1 else outputs
    if question.from_logits:
        activation = keras.ops.sigmoid if outputs.ndim == 1 else keras.ops.softmax
        outputs = keras.ops.convert_to_numpy(activation(outputs))
    return Predictions(outputs, table.labels, table.keys, run=source.run)


def _inputs(model: keras.Model, source: PredictionSource, table: Table) -> Any:
    names = [str(one.name) for one in model.inputs]
    if len(names) == 1 and _FEATURES in table.columns:
        return table.columns[_FEATURES]
    if missing := [name for name in names if name not in table.columns]:
        raise ValueError(
            f"{table.path!r} lacks {', '.join(missing)} of the inputs of model {source.path!r}; expected "
            f"arrays named {', '.join(names)}" + (f", or {_FEATURES}" if len(names) == 1 else "")
        )
    return {name: table.columns[name] for name in names}

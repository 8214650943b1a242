r"""Click-through prediction: is this row clicked (Anil et al. 2018, section 3.5).

task = ClickTask(data_dir="clicks", model_fn=click_network, batch_size=512)
task.training(Part(0, 2, seed=1))              rows of a prepared table, see `tables.pipeline`
task.serving(model, "runs/mine/group_0").serve(["5\t\t120\t..."])      {"probabilities": [0.2]}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from tf_codistill import click_metrics, files, settings
from tf_codistill.batches import Stream
from tf_codistill.inputs.clicks import RowStream
from tf_codistill.inputs.order import Order
from tf_codistill.inputs.partition import SWITCHES
from tf_codistill.tables import shards
from tf_codistill.tables.in_graph import InGraph
from tf_codistill.tables.preprocessing import Preprocessing
from tf_codistill.tasks.base import HELD_OUT, Part, Task

_PREPROCESSING = "preprocessing"


class ServedRows(tf.Module):
    """A model behind its preprocessing.

    Args:
        model: The trained model.
        preprocessing: What its training rows were encoded with.

    Attributes:
        serve: Takes rows without their labels, string [B]; returns ``{"probabilities": float32 [B]}``.
    """

    def __init__(self, model: keras.Model, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = InGraph(preprocessing)
        self.serve = tf.function(
            self._serve, input_signature=[tf.TensorSpec([None], tf.string, "rows")], autograph=False
        )

    def _serve(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = self.model(self.preprocessing(rows), training=False)
        return {"probabilities": tf.sigmoid(tf.cast(logits, tf.float32)[:, 0])}


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class ClickTask(Task):
    """Which rows are clicked.

    Attributes:
        data_dir: Directory of a table that `prepare_clicks` has made.
        model_fn: Makes the model from ``num_numeric``, ``cardinalities``, the number of ids of each column of
            categories, and ``batch_size``, the rows of one replica (None for a model that is served). It
            takes ``numeric``, float32 [B, N], and ``categories``, int32 [B, C], and gives logits, [B, 1].
        peer_model_fns: Makes the models of groups that train another architecture, by group, or by student if
            there are several.
        batch_size: Rows of a group in a step, over all workers and replicas.
        data: ``disjoint`` if each group has its own rows, ``same`` if all have all, each in its own order,
            ``same_batches`` if all have the same batches.
        held_out: The part that validation reads, ``validation`` or ``test``.
    """

    data_dir: str
    model_fn: Callable[..., keras.Model]
    peer_model_fns: Mapping[int, Callable[..., keras.Model]] = dataclasses.field(default_factory=dict)
    batch_size: int = 512
    data: str = "disjoint"
    held_out: str = "validation"

    def __post_init__(self) -> None:
        settings.check_types(self)
        for name, choices in (("data", SWITCHES), ("held_out", HELD_OUT)):
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {expected}")

    @functools.cached_property
    def table(self) -> shards.EncodedTable:
        """The table, open for reading; a `ValueError` if it cannot be opened."""
        try:
            return shards.open_table(self.data_dir)
        except ValueError as error:
            raise ValueError(
                f"{error}. Where a table has moved, give --gin_bindings=\"ClickTask.data_dir = '...'\""
            ) from error

    def training(self, part: Part) -> Stream:
        """The rows of a group or student."""
        rows = self.table.part("train")
        order = Order.of_group(len(rows), part.index, part.number, part.seed, self.data)
        return RowStream(rows, len(self.table.preprocessing.numeric), self.batch_size, order)

    def validation(self) -> Stream:
        """The held-out rows, in the order in which they are stored."""
        rows = self.table.part(self.held_out)
        number = len(self.table.preprocessing.numeric)
        return RowStream(rows, number, self.batch_size, Order(len(rows)), is_weighted=True)

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        """Makes a model."""
        make = self.model_fn if group is None else self.peer_model_fns.get(group, self.model_fn)
        preprocessing = self.table.preprocessing
        return make(
            num_numeric=len(preprocessing.numeric), cardinalities=preprocessing.cardinalities, batch_size=rows
        )

    def groups_of_their_own(self) -> set[int]:
        """The groups in `peer_model_fns`."""
        return set(self.peer_model_fns)

    def loss(self) -> keras.losses.Loss:
        """Log loss in nats per row."""
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        """Normalised entropy, area under the ROC curve, calibration."""
        return [
            click_metrics.NormalizedEntropy(),
            click_metrics.AreaUnderROC(),
            click_metrics.Calibration(),
        ]

    def mean_prediction(self, predictions: Sequence[Any]) -> tf.Tensor:
        """The logit of the mean of probabilities."""
        logits = tf.stack(list(predictions))
        positive = tf.reduce_logsumexp(tf.math.log_sigmoid(logits), axis=0)
        return positive - tf.reduce_logsumexp(tf.math.log_sigmoid(-logits), axis=0)

    def probabilities(self, predictions: Any) -> tf.Tensor:
        """Of a click, ``[B]``."""
        return tf.sigmoid(tf.cast(predictions, tf.float32)[:, 0])

    def serving(self, model: keras.Model, directory: str) -> tf.Module:
        """Takes rows as the files have them, without the label, string ``[B]``."""
        kept = files.join(directory, _PREPROCESSING)
        found = Preprocessing.load(kept) if files.exists(kept) else self.table.preprocessing
        return ServedRows(model, found)

    def keep_beside_model(self, directory: str, is_writer: bool = True) -> None:
        """Keeps the preprocessing, and what names the rows."""
        kept = files.join(directory, _PREPROCESSING)
        said = self.table.manifest
        rows = {
            name: [[shard["name"], said["files"][shard["name"]]["sha256"]] for shard in part["shards"]]
            for name, part in said["parts"].items()
        }
        if self._is_kept(directory):
            manifest = files.read_manifest(kept) or {}
            if manifest.get("rows") != rows:
                raise ValueError(
                    f"the rows of {self.data_dir!r} are others than those that the run beside {kept!r} "
                    "began with; "
                    "use the table that it began with, or another workdir"
                )
        elif is_writer:
            files.make_directory(kept)
            self.table.preprocessing.copy_to(kept)
            files.commit(kept, {"fingerprint": self.table.preprocessing.fingerprint, "rows": rows})

    def check_beside_model(self, directory: str) -> None:
        """Checks that a model was trained with the preprocessing of the table."""
        self._is_kept(directory)

    def _is_kept(self, directory: str) -> bool:
        """Whether there is a preprocessing beside a model; an error if it is not that of the table."""
        kept = files.join(directory, _PREPROCESSING)
        manifest = files.read_manifest(kept)
        if manifest is None:
            return False
        found, expected = manifest.get("fingerprint"), self.table.preprocessing.fingerprint
        if found != expected:
            Preprocessing.load(kept).check_columns(self.table.preprocessing.schema)
            raise ValueError(
                f"table {self.data_dir!r} has another preprocessing (fingerprint {expected}) than the "
                "model beside "
                f"{kept!r} (fingerprint {found}); use the table that the model was trained on, or prepare "
                "the rows "
                f"with --preprocessing={kept}"
            )
        return True

"""Codistillation for TensorFlow and Keras (Anil et al., ICLR 2018).

n copies of a model train at the same time, each in its own group of workers; each adds to its loss a term
that pulls it towards the average prediction of stale copies of the others:

    with strategy.scope():
        model = tf_codistill.CodistillationModel(
            model_fn,                                   # () -> keras.Model, for the student and each teacher
            teachers=tf_codistill.PeerExchange("/shared/exchange", group=0, num_groups=2, every_steps=50),
            distillation_loss=tf_codistill.losses.SoftCrossEntropy(),
            distillation_weight=tf_codistill.schedules.BurnIn(steps=3000, weight=1.0),
        )
        model.compile(optimizer="adam", loss=..., metrics=[...])
    model.fit(dataset, epochs=..., callbacks=[tf_codistill.Checkpointing("/shared/group_0", every_steps=500)])
    model.student.save("model.keras")                   # the servable model

Importing this package parses no flags, touches no device and does not import TensorFlow; its names are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_codistill import checkpoints, losses, metrics, recurrent_state, schedules
    from tf_codistill.exchange.topology import teachers_of
    from tf_codistill.experiment import Experiment
    from tf_codistill.models.language_model import LanguageModel
    from tf_codistill.models.transformer import Transformer
    from tf_codistill.tasks.language import LanguageTask
    from tf_codistill.teaching.fellows import FellowStudents
    from tf_codistill.teaching.predictions import PredictionExchange
    from tf_codistill.teaching.saved import SavedTeachers
    from tf_codistill.teaching.snapshots import PeerExchange
    from tf_codistill.training.checkpoint.checkpointing import Checkpointing
    from tf_codistill.training.codistillation import CodistillationModel

__version__ = "0.1.0"

__all__ = [
    "Checkpointing",
    "CodistillationModel",
    "Experiment",
    "FellowStudents",
    "LanguageModel",
    "LanguageTask",
    "PeerExchange",
    "PredictionExchange",
    "SavedTeachers",
    "Transformer",
    "checkpoints",
    "losses",
    "metrics",
    "recurrent_state",
    "schedules",
    "teachers_of",
]

_HOMES = {
    "Checkpointing": "training.checkpoint.checkpointing",
    "CodistillationModel": "training.codistillation",
    "Experiment": "experiment",
    "FellowStudents": "teaching.fellows",
    "LanguageModel": "models.language_model",
    "LanguageTask": "tasks.language",
    "PeerExchange": "teaching.snapshots",
    "PredictionExchange": "teaching.predictions",
    "SavedTeachers": "teaching.saved",
    "Transformer": "models.transformer",
    "teachers_of": "exchange.topology",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.keras_private").check_backend()
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(home, name) if name in _HOMES else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What a gin file may name, beside what is configurable where it is defined.

    Experiment.optimizer = @keras.optimizers.Adam
    Experiment.distillation_weight = @BurnIn()
    Experiment.task = @LanguageTask()
    Experiment.teaching = @PeerExchange

A task or teaching of your own is ``@gin.configurable``, and the gin file begins with ``import my_module``.
"""

from __future__ import annotations

import gin
import keras

from tf_codistill import losses, schedules
from tf_codistill.exchange import topology
from tf_codistill.groups import asynchronous  # noqa: F401 - configurable where it is
from tf_codistill.inputs import frequencies
from tf_codistill.models import (  # noqa: F401 - configurable where they are
    classifiers,
    click_network,
    language_model,
    resnet,
    transformer,
)
from tf_codistill.optimizers import large_batch, sparse_adagrad  # noqa: F401 - so are these
from tf_codistill.tasks import clicks, images, language  # noqa: F401 - so are these
from tf_codistill.teaching import base, fellows, predictions, saved, snapshots  # noqa: F401 - so are these

_OPTIMIZERS = ("Adagrad", "Adam", "AdamW", "Lamb", "Lion", "RMSprop", "SGD")
_LEARNING_RATES = ("CosineDecay", "ExponentialDecay", "PiecewiseConstantDecay", "PolynomialDecay")
_LOSSES = (
    *("SoftCrossEntropy", "KLDivergence", "SquaredProbabilities", "SquaredLogits"),
    *("BinarySoftCrossEntropy", "BinaryKLDivergence", "BinarySquaredProbabilities"),
    *("UniformSmoothing", "UnigramSmoothing"),
)
_SCHEDULES = ("Constant", "BurnIn", "LinearRamp", "Cosine", "Piecewise", "ExponentialDecay", "WeightDecay")

MAY_CHANGE = (
    # not log_every_steps: a checkpoint tells its place in the data in intervals of that length
    *("Experiment.num_steps", "Experiment.validate_every_steps", "Experiment.checkpoint_every_steps"),
    *("Experiment.measure_every_steps", "Experiment.steps_per_execution", "Experiment.jit_compile"),
    *("PeerExchange.directory", "PeerExchange.keep", "PeerExchange.min_age_secs", "PeerExchange.max_bytes"),
    *("PredictionExchange.directory", "PredictionExchange.keep_steps", "PredictionExchange.max_bytes"),
    "PredictionExchange.wait_secs",
    # they may have moved; that they hold the same documents, rows and images is checked
    *("LanguageTask.corpus_dir", "ClickTask.data_dir", "ImageTask.data_dir"),
    *("LanguageTask.held_out", "ClickTask.held_out", "ImageTask.held_out", "ImageTask.num_threads"),
    *("steps_of_run.num_epochs", "steps_of_run.multiple_of"),  # only how long it is
)
"""What may be other than when a run began."""

for _source, _module, _names in (
    (keras.optimizers, "keras.optimizers", _OPTIMIZERS),
    (keras.optimizers.schedules, "keras.optimizers.schedules", _LEARNING_RATES),
    (losses, "tf_codistill.losses", _LOSSES),
    (schedules, "tf_codistill.schedules", _SCHEDULES),
    (base, "tf_codistill.teaching", ("Teaching",)),
    (topology, "tf_codistill.exchange", ("RandomPeers",)),
    (frequencies, "tf_codistill.inputs", ("unigram_frequencies",)),
):
    for _name in _names:
        gin.external_configurable(getattr(_source, _name), module=_module)

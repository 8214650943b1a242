"""Distillation losses: how far the student is from its teachers (psi in Anil et al. 2018, Algorithm 1).

    loss = SoftCrossEntropy()
    aggregated = loss.aggregate([logits_BTC of each teacher], weights_P)    weight 0 leaves a teacher out
    loss(aggregated, student_logits_BTC, sample_weight)                     a scalar, mean over the batch

    SoftCrossEntropy  KLDivergence  SquaredProbabilities  SquaredLogits                        predictions
    BinarySoftCrossEntropy  BinaryKLDivergence  BinarySquaredProbabilities    logistic outputs, predictions
    UniformSmoothing  UnigramSmoothing            label smoothing, no teachers: needs_teachers = False
    Custom(loss)  get(loss)                       any Keras loss, any function of teacher and student

Each knows what the mean over teachers is taken of, `mean_over`: probabilities, logits, or pairwise losses.
`CodistillationModel` lets a task's cross-entropy and psi share their softmax, see `shared_softmax`.
For a loss of your own, beyond what `Custom` does, subclass `Comparison`, `ProbabilityComparison` or, where
nothing of them fits, `DistillationLoss`.
"""

from tf_codistill.losses.base import Comparison, DistillationLoss, ProbabilityComparison
from tf_codistill.losses.custom import Custom, get
from tf_codistill.losses.predictions import (
    BinaryKLDivergence,
    BinarySoftCrossEntropy,
    BinarySquaredProbabilities,
    KLDivergence,
    SoftCrossEntropy,
    SquaredLogits,
    SquaredProbabilities,
)
from tf_codistill.losses.smoothing import UniformSmoothing, UnigramSmoothing

__all__ = [
    "BinaryKLDivergence",
    "BinarySoftCrossEntropy",
    "BinarySquaredProbabilities",
    "Comparison",
    "Custom",
    "DistillationLoss",
    "KLDivergence",
    "ProbabilityComparison",
    "SoftCrossEntropy",
    "SquaredLogits",
    "SquaredProbabilities",
    "UniformSmoothing",
    "UnigramSmoothing",
    "get",
]

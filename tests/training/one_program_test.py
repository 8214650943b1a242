"""A training step is one program of XLA, teaching included, that a TPU's compiler could be given.

It is lowered for the CPU, since there are no kernels for a TPU here, and read as HLO: no call of what only
this platform or this process has, no shape that is not known, none of the 64-bit bitcasts that TPUs lack.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.toy_models import publish, regression, snapshot_of
from tf_codistill import click_metrics, losses, schedules
from tf_codistill.batches import Keyed
from tf_codistill.exchange.topology import RandomPeers
from tf_codistill.models.click_network import click_network
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.models.resnet import cifar_resnet
from tf_codistill.models.transformer import Transformer
from tf_codistill.optimizers.large_batch import CosineRate, MomentumSGD
from tf_codistill.optimizers.sparse_adagrad import SparseAdagrad
from tf_codistill.tasks.images import SmoothedCrossEntropy
from tf_codistill.teaching import quantized_model
from tf_codistill.teaching.base import Teaching
from tf_codistill.teaching.fellows import FellowStudents
from tf_codistill.teaching.saved import SavedTeachers
from tf_codistill.teaching.snapshots import PeerExchange
from tf_codistill.training.codistillation import CodistillationModel

ROWS, TOKENS, VOCABULARY, CLASSES = 4, 4, 20, 5
SIZE, CARDINALITIES = (8, 8, 3), [5, 300, 7]
RNG = np.random.default_rng(0)
HLO = "hlo_no_metadata"

cosine = keras.optimizers.schedules.CosineDecay


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model as its gin files train it, but small."""

    model_fn: Callable[[], keras.Model]
    features: Any
    targets: np.ndarray
    optimizer: Callable[[], keras.optimizers.Optimizer]
    loss: Callable[[], keras.losses.Loss] = lambda: keras.losses.SparseCategoricalCrossentropy(
        from_logits=True
    )
    metrics: Callable[[], Sequence[Any]] = tuple
    psi: Callable[[], Any] = losses.SoftCrossEntropy
    weight_decay: schedules.WeightDecay | None = None

    def batch(self) -> Keyed:
        keys = np.stack([np.arange(ROWS), np.zeros(ROWS)], axis=1).astype("int64")
        return keras.tree.map_structure(tf.constant, Keyed((self.features, self.targets), keys))


def _tokens() -> np.ndarray:
    return RNG.integers(0, VOCABULARY, (ROWS, TOKENS)).astype("int32")


def _lstm() -> keras.Model:
    return LanguageModel(VOCABULARY, 8, 1, 8, batch_size=ROWS, dropout=0.1)


def _transformer() -> keras.Model:
    pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")
    sizes = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12, "tie_word_embeddings": True}
    heads = {"num_query_heads": 2, "num_key_value_heads": 1}
    return Transformer(VOCABULARY, "keras_hub.models.LlamaCausalLM", {**sizes, **heads}, TOKENS, ROWS)


def _adam_w() -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(cosine(0.004, 900), weight_decay=0.1)


FAMILIES = {
    "language": Family(_lstm, _tokens(), _tokens(), _adam_w),
    "transformer": Family(_transformer, _tokens(), _tokens(), _adam_w),
    "images": Family(
        lambda: cifar_resnet(CLASSES, SIZE, ROWS, depth=8, num_filters=4),
        RNG.integers(0, 256, (ROWS, *SIZE)).astype("uint8"),
        RNG.integers(0, CLASSES, ROWS).astype("int32"),
        lambda: MomentumSGD(CosineRate(297, ROWS, 64, 0.4, warmup_epochs=1), nesterov=True),
        lambda: SmoothedCrossEntropy(0.1),
        lambda: [keras.metrics.SparseCategoricalAccuracy(), keras.metrics.SparseTopKCategoricalAccuracy(3)],
        weight_decay=schedules.WeightDecay(1e-4),
    ),
    "clicks": Family(
        lambda: click_network(4, CARDINALITIES, ROWS, hidden_units=(6, 5), embedding_dim=3),
        {
            "numeric": RNG.normal(size=(ROWS, 4)).astype("float32"),
            "categories": RNG.integers(0, CARDINALITIES, (ROWS, 3)).astype("int32"),
        },
        RNG.integers(0, 2, (ROWS, 1)).astype("int32"),
        lambda: SparseAdagrad(cosine(0.05, 1000), initial_accumulator_value=1e-4),
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        lambda: [
            click_metrics.NormalizedEntropy(),
            click_metrics.AreaUnderROC(),
            click_metrics.Calibration(),
        ],
        losses.BinarySoftCrossEntropy,
    ),
    "small": Family(
        regression,
        RNG.normal(size=(ROWS, 5)).astype("float32"),
        RNG.integers(0, 4, ROWS).astype("int32"),
        lambda: keras.optimizers.SGD(0.1),
    ),
}


@pytest.fixture(autouse=True)
def _what_is_done_on_tpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the strategy that there is for one of TPUs."""
    monkeypatch.setattr(tf.distribute, "TPUStrategy", tf.distribute.Strategy)


class Recorded(CodistillationModel):
    """Keeps what it lets XLA compile, and counts how often what is around it is traced."""

    num_traces = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.programs: list[Any] = []

    def _by_xla(self, function: Any) -> Any:
        self.programs.append(super()._by_xla(function))
        return self.programs[-1]

    def before_train_step(self) -> None:
        self.num_traces += 1
        super().before_train_step()


def compiled(family: Family, teaching: Teaching, **options: Any) -> Recorded:
    model = Recorded(
        family.model_fn,
        teaching,
        family.psi(),
        schedules.BurnIn(steps=1),
        family.weight_decay,
        measure_every_steps=2,
        **options,
    )
    model.compile(
        family.optimizer(), family.loss(), weighted_metrics=list(family.metrics()), jit_compile=True
    )
    return model


def train(model: Recorded, family: Family, num_steps: int, **options: Any) -> dict[str, list[float]]:
    data = tf.data.Dataset.from_tensors(family.batch()).repeat(num_steps)
    return model.fit(data, verbose=0, **options).history


def program(model: Recorded, family: Family) -> str:
    """The only program, traced once, with everything that learns or teaches in it, as HLO."""
    (step,) = model.programs
    assert step.experimental_get_tracing_count() == 1
    held = {id(one) for one in step.get_concrete_function(family.batch()).graph.variables}
    taught_by = [
        one for teacher in model.teachers.models().values() for one in quantized_model.stored(teacher)
    ]
    assert {id(one.value) for one in [*model.trainable_variables, *taught_by]} <= held
    assert step.experimental_get_tracing_count() == 1
    return step.experimental_get_compiler_ir(family.batch())(stage=HLO)


INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((\S*)", re.MULTILINE)
LEAVES = {"custom-call", "infeed", "outfeed", "send", "recv"}
WIDE = ("s64", "u64", "f64", "c64", "c128")
ALLOWED = "StatelessRandom"
"""TensorFlow's kernels of random numbers give key and counter another type, of as many bits."""


def unsuitable(hlo: str) -> list[str]:
    """Operations of a program that a TPU's compiler would not take."""
    found = set()
    for name, result, operation, operand in INSTRUCTION.findall(hlo):
        wide = operation == "bitcast-convert" and (result.startswith(WIDE) or operand.startswith(WIDE))
        if "<=" in result:
            found.add(f"dynamic {result}")
        elif operation in LEAVES or (wide and not name.startswith(ALLOWED)):
            found.add(f"{operation}({operand}) -> {result}")
    return sorted(found)


@pytest.mark.parametrize(
    ("kind", "settings", "share"),
    [
        ("language", {}, 1.0),
        ("transformer", {"max_staleness_steps": 9}, 0.5),
        ("images", {"precision": "int8"}, 1.0),
        ("clicks", {"precision": "bfloat16", "min_teacher_quality": 0.9}, 0.5),
    ],
)
def test_a_step_with_peers_is_one_program_whatever_they_publish(
    kind: str, settings: dict[str, Any], share: float, tmp_path: Any
) -> None:
    family, directory, num_traces = FAMILIES[kind], str(tmp_path), []
    teaching = PeerExchange(directory, 0, 2, every_steps=2, wait=True, **settings)
    model = compiled(family, teaching, teaching_share=share)
    publish(directory, 1, 7, family.model_fn())

    def publish_again(step: int, logs: Any = None) -> None:
        if step == 2:
            num_traces.append(model.num_traces)
            publish(directory, 1, 9, family.model_fn())

    again = keras.callbacks.LambdaCallback(on_train_batch_end=publish_again)
    history = train(model, family, 8, callbacks=[again])
    assert teaching.refreshed == 2
    assert teaching.steps() == [9]
    assert history["distillation_loss"][0] > 0
    assert [model.num_traces] == num_traces
    assert unsuitable(program(model, family)) == []


def test_a_step_with_saved_teachers_is_one_program(tmp_path: Any) -> None:
    family, path = FAMILIES["small"], str(tmp_path / "teacher.keras")
    family.model_fn().save(path)
    teachers = SavedTeachers([path])
    model = compiled(family, teachers)
    assert train(model, family, 3)["distillation_loss"][0] > 0
    teachers.refresh(0, snapshot_of(family.model_fn()))
    train(model, family, 3)
    assert unsuitable(program(model, family)) == []


def test_a_step_with_fellow_students_is_one_program() -> None:
    family = FAMILIES["small"]
    model = compiled(family, FellowStudents(3, topology=RandomPeers(1, seed=5), refresh_every_steps=2))
    assert train(model, family, 6)["distillation_loss"][0] > 0
    assert unsuitable(program(model, family)) == []


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: tf.size(tf.boolean_mask(x, x > 0)), ["dynamic s64[<=4,1]{1,0}", "dynamic s64[<=4]{0}"]),
        (
            lambda x: tf.bitcast(tf.cast(x, tf.int64), tf.int32),
            ["bitcast-convert(s64[4]{0}) -> s32[4,2]{1,0}"],
        ),
        (lambda x: tf.bitcast(x, tf.int32), []),
    ],
)
def test_what_is_unsuitable_is_found(function: Any, expected: list[str]) -> None:
    step = tf.function(function, jit_compile=True)
    assert set(expected) <= set(unsuitable(step.experimental_get_compiler_ir(tf.ones(4))(stage=HLO)))

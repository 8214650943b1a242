from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import faults, toy_corpora
from tests.toy_house import Points
from tf_codistill import checkpoints, evaluation, recurrent_state, runs, tokens, weights
from tf_codistill.batches import Keyed, Stream
from tf_codistill.models.language_model import LanguageModel
from tf_codistill.tasks.language import LanguageTask

VOCABULARY, LANES, WINDOW, UNITS = 30, 2, 4, 5


def language_model(seed: int = 0, batch_size: int | None = LANES) -> LanguageModel:
    keras.utils.set_random_seed(seed)
    model = LanguageModel(VOCABULARY, embedding_dim=6, num_layers=2, num_units=UNITS, batch_size=batch_size)
    model.set_weights([3 * weight for weight in model.get_weights()])  # far from predicting all pieces alike
    return model


@pytest.fixture(name="task")
def _task(tmp_path: pathlib.Path) -> LanguageTask:
    documents = toy_corpora.numbered_documents([7, 5, 9]) + toy_corpora.numbered_documents([6, 8])
    directory = toy_corpora.write_corpus(
        str(tmp_path / "corpus"), documents, vocabulary_size=VOCABULARY, split="validation"
    )
    return LanguageTask(
        corpus_dir=directory,
        model_fn=lambda vocabulary_size, batch_size: language_model(5, batch_size),
        num_lanes=LANES,
        window_tokens=WINDOW,
    )


@pytest.fixture(name="stream")
def _stream(task: LanguageTask) -> Stream:
    return task.validation()


def whole_pass(stream: Stream, part: int) -> np.ndarray:
    """Inputs or targets of all steps, lane by lane."""
    elements = stream.dataset(num_steps=stream.steps_per_epoch)
    return np.concatenate([element.data[part] for element in elements], axis=1)


def all_probabilities(model: LanguageModel, stream: Stream, states: list[np.ndarray]) -> np.ndarray:
    """The whole pass in one call of the stateless model, fed by hand with the state that it begins with."""
    recurrent_state.assign(recurrent_state.variables(model), states)
    logits_BTV = np.asarray(model(whole_pass(stream, 0)), "float64")
    exponentials = np.exp(logits_BTV - logits_BTV.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def nats(probabilities: np.ndarray, stream: Stream) -> float:
    targets_BT = whole_pass(stream, 1)
    return float(-np.log(np.take_along_axis(probabilities, targets_BT[..., None], -1)).mean())


def zeros() -> list[np.ndarray]:
    return [np.zeros((LANES, UNITS), "float32")] * 4


def lanes_of(seed: int) -> list[np.ndarray]:
    source = np.random.default_rng(seed)
    return [source.uniform(-1, 1, (LANES, UNITS)).astype("float32") for _ in range(4)]


def test_losses_from_zero_and_from_carried_state_are_those_computed_by_hand(
    task: LanguageTask, stream: Stream
) -> None:
    model, lanes = language_model(), lanes_of(7)
    expected_zero = nats(all_probabilities(model, stream, zeros()), stream)
    expected_carried = nats(all_probabilities(model, stream, lanes), stream)
    assert abs(expected_zero - expected_carried) > 1e-3, "else this test could not tell them apart"
    recurrent_state.assign(recurrent_state.variables(model), lanes_of(99))
    rows = evaluation.evaluate(task, {"alone": evaluation.Member(model, lanes)})
    assert list(rows) == ["alone"], "one model is no ensemble"
    assert rows["alone"]["zero_state_loss"] == pytest.approx(expected_zero, rel=1e-5)
    assert rows["alone"]["carried_state_loss"] == pytest.approx(expected_carried, rel=1e-5)
    assert rows["alone"]["perplexity"] == pytest.approx(np.exp(expected_carried), rel=1e-4)
    assert rows["alone"]["carried_from"] == "checkpoint"


def test_without_lanes_the_state_of_the_first_pass_is_carried_on(task: LanguageTask, stream: Stream) -> None:
    model = language_model()
    expected_zero = nats(all_probabilities(model, stream, zeros()), stream)
    after_first_pass = recurrent_state.values(recurrent_state.variables(model))
    expected_carried = nats(all_probabilities(model, stream, after_first_pass), stream)
    assert abs(expected_zero - expected_carried) > 1e-4
    (row,) = evaluation.evaluate(task, {"saved": evaluation.Member(model, None)}).values()
    assert row["zero_state_loss"] == pytest.approx(expected_zero, rel=1e-5)
    assert row["carried_state_loss"] == pytest.approx(expected_carried, rel=1e-5)
    assert row["carried_from"] == "first pass"


def test_the_ensemble_is_the_mean_of_probabilities(task: LanguageTask, stream: Stream) -> None:
    models = [language_model(seed) for seed in range(3)]
    lanes = [lanes_of(seed) for seed in range(3)]
    members = {
        f"group {i}": evaluation.Member(model, own)
        for i, (model, own) in enumerate(zip(models, lanes, strict=True))
    }
    rows = evaluation.evaluate(task, members)
    assert list(rows) == ["group 0", "group 1", "group 2", runs.ENSEMBLE]
    from_zero = [all_probabilities(model, stream, zeros()) for model in models]
    carried = [all_probabilities(model, stream, own) for model, own in zip(models, lanes, strict=True)]
    ensemble = rows[runs.ENSEMBLE]
    assert ensemble["zero_state_loss"] == pytest.approx(nats(np.mean(from_zero, axis=0), stream), rel=1e-5)
    assert ensemble["carried_state_loss"] == pytest.approx(nats(np.mean(carried, axis=0), stream), rel=1e-5)
    for i in range(3):
        assert rows[f"group {i}"]["carried_state_loss"] == pytest.approx(nats(carried[i], stream), rel=1e-5)
    members["saved"] = evaluation.Member(language_model(9), None)
    assert evaluation.evaluate(task, members)[runs.ENSEMBLE]["carried_from"] == "checkpoint and first pass"


@dataclasses.dataclass(kw_only=True)
class TwoOutputs(Points):
    """Two numbers for each point; of the second only every other point counts."""

    def validation(self) -> Stream:
        stream = super().validation()
        weight = np.arange(self.batch_size) % 2

        def twice(element: Keyed) -> Keyed:
            features, targets = element.data
            both = {"first": targets, "second": 2 * targets}
            return Keyed((features, both, {"first": weight + 1, "second": weight}), element.keys)

        dataset = type(stream).dataset
        return mock.Mock(
            steps_per_epoch=stream.steps_per_epoch,
            dataset=lambda **where: dataset(stream, **where).map(twice),
        )

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        places = keras.Input((2,), batch_size=rows)
        return keras.Model(
            places, {name: keras.layers.Dense(1, name=name)(places) for name in ("first", "second")}
        )

    def loss(self) -> dict[str, str]:
        return {"first": "mse", "second": "mse"}

    def metrics(self) -> dict[str, list[str]]:
        return {"first": ["mae"], "second": []}

    def mean_prediction(self, predictions: Sequence[dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        return keras.tree.map_structure(lambda *parts: sum(parts) / len(parts), *predictions)


def test_disagreement_is_over_all_outputs_where_they_count() -> None:
    task = TwoOutputs()
    models = [task.make_model(task.batch_size) for _ in range(2)]
    evaluator = evaluation.Evaluator(task, dict(zip("ab", models, strict=True)), disagreement=True)
    for _ in range(2):
        rows = evaluator.measure({"a": None, "b": None})
        features = np.concatenate([element.data[0] for element in task.validation().dataset(num_steps=2)])
        first, second = (model.predict(features, verbose=0) for model in models)
        apart = {name: np.abs(first[name] - second[name])[:, 0] for name in first}
        counted = np.concatenate([apart["first"], apart["second"][1::2]])
        assert rows[runs.ENSEMBLE][evaluation.DISAGREEMENT] == pytest.approx(counted.mean(), rel=1e-5)
        assert evaluation.DISAGREEMENT not in rows["a"]
        models[1].set_weights([3 * weight for weight in models[1].get_weights()])  # for the next time
    plain = evaluation.Evaluator(task, dict(zip("ab", models, strict=True))).measure({"a": None, "b": None})
    assert evaluation.DISAGREEMENT not in plain[runs.ENSEMBLE]


def test_a_hopeless_model_has_a_finite_perplexity(task: LanguageTask, stream: Stream) -> None:
    model = language_model()
    bias = np.full(VOCABULARY, -1e5, "float32")
    bias[tokens.SENTENCE_START] = 1e5
    model.head.bias.assign(bias)
    (row,) = evaluation.evaluate(task, {"hopeless": evaluation.Member(model, None)}).values()
    assert row["carried_state_loss"] > 1e4
    assert np.isfinite(row["perplexity"])


def save_checkpoint(
    workdir: str, model: keras.Model, lanes: list[np.ndarray], averages: keras.Model | None = None
) -> str:
    directory = runs.checkpoints_dir(workdir, 1)
    served = weights.values(averages.weights) if averages else []
    shared = {"weights": weights.values(model.weights), "served": served}
    checkpoints.Checkpoints(directory).save(500, shared, {"lanes": lanes}, {})
    return directory


def test_a_member_from_a_checkpoint(tmp_path: pathlib.Path, task: LanguageTask) -> None:
    model, lanes = language_model(), lanes_of(7)
    save_checkpoint(str(tmp_path), model, lanes)
    (member,) = evaluation.from_checkpoint(task, str(tmp_path), 1).values()
    np.testing.assert_array_equal(member.lanes, lanes)
    (found,) = evaluation.evaluate(task, {"": member}).values()
    (expected,) = evaluation.evaluate(task, {"": evaluation.Member(model, lanes)}).values()
    assert found == pytest.approx(expected)


def test_averages_of_weights_are_evaluated(tmp_path: pathlib.Path, task: LanguageTask) -> None:
    averages = language_model(9)
    save_checkpoint(str(tmp_path), language_model(), lanes_of(7), averages)
    (member,) = evaluation.from_checkpoint(task, str(tmp_path), 1).values()
    for found, expected in zip(member.model.get_weights(), averages.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_students_of_one_process_are_members_each(
    tmp_path: pathlib.Path, task: LanguageTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(vocabulary_size: int, batch_size: int | None) -> keras.Model:
        return LanguageModel(vocabulary_size, 4, 1, UNITS, batch_size=batch_size)

    models = [language_model(0), small(VOCABULARY, LANES)]
    shared = {"weights": [array for model in models for array in weights.values(model.weights)]}
    owns = [{"lanes": [*lanes_of(0), *lanes_of(1)[:2]]}]
    monkeypatch.setattr(checkpoints, "read_latest", lambda directory: (500, shared, owns))
    of_two = dataclasses.replace(task, peer_model_fns={1: small})
    members = evaluation.from_checkpoint(of_two, str(tmp_path), 0)
    assert list(members) == ["group 0, student 0", "group 0, student 1"]
    for member, model, lanes in zip(members.values(), models, (lanes_of(0), lanes_of(1)[:2]), strict=True):
        np.testing.assert_array_equal(member.lanes, lanes)
        for found, expected in zip(member.model.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="holds another model"):
        evaluation.from_checkpoint(task, str(tmp_path), 0)


def test_the_lanes_of_all_workers_are_put_together(
    tmp_path: pathlib.Path, task: LanguageTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, owns = language_model(), [{"lanes": lanes_of(0)}, {"lanes": lanes_of(1)}]
    shared = {"weights": weights.values(model.weights)}
    monkeypatch.setattr(checkpoints, "read_latest", lambda directory: (500, shared, owns))
    (member,) = evaluation.from_checkpoint(task, str(tmp_path), 0).values()
    assert [rows.shape for rows in member.lanes] == [(2 * LANES, UNITS)] * 4
    np.testing.assert_array_equal(member.lanes[3], np.concatenate([lanes_of(0)[3], lanes_of(1)[3]]))


def test_a_checkpoint_that_cannot_be_used_is_named(
    tmp_path: pathlib.Path, task: LanguageTask, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ValueError, match="no complete checkpoint in '.*group_1/checkpoints'; has the group been"
    ):
        evaluation.from_checkpoint(task, str(tmp_path), 1)
    directory = save_checkpoint(str(tmp_path), language_model(), lanes_of(0))

    def wider(vocabulary_size: int, batch_size: int | None) -> keras.Model:
        return LanguageModel(vocabulary_size, 6, num_layers=2, num_units=UNITS + 1, batch_size=batch_size)

    with pytest.raises(
        ValueError, match="checkpoint in '.*group_1/checkpoints' holds another model: .*--gin_file"
    ):
        evaluation.from_checkpoint(dataclasses.replace(task, model_fn=wider), str(tmp_path), 1)
    faults.flip(pathlib.Path(directory) / "checkpoint_00000500" / "shared.data-00000-of-00001", 10)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        evaluation.from_checkpoint(task, str(tmp_path), 1)
    assert "shared.data-00000-of-00001' is damaged" in caplog.text


def test_a_member_from_a_saved_model(tmp_path: pathlib.Path, task: LanguageTask) -> None:
    model, served = language_model(), language_model(batch_size=None)
    served.set_weights(model.get_weights())
    path = str(tmp_path / "student.keras")
    served.save(path)
    member = evaluation.from_saved_model(task, path)
    assert member.lanes is None
    (found,) = evaluation.evaluate(task, {"": member}).values()
    (expected,) = evaluation.evaluate(task, {"": evaluation.Member(model, None)}).values()
    assert found == pytest.approx(expected)
    make = f"LanguageTask(corpus_dir={task.corpus_dir!r}, num_lanes=2)"
    load = f"evaluation.from_saved_model({make}, {path!r}).model.count_params()"
    lines = ("from tf_codistill import evaluation", "from tf_codistill.tasks.language import LanguageTask")
    script = "\n".join([*lines, f"print({load})"])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) == model.count_params(), "a process that has imported no model can load it"


def test_a_saved_model_that_cannot_be_used_is_named(tmp_path: pathlib.Path, task: LanguageTask) -> None:
    path = tmp_path / "student.keras"
    with pytest.raises(ValueError, match=r"model '.*student\.keras' cannot be loaded: "):
        evaluation.from_saved_model(task, str(path))
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    with pytest.raises(
        ValueError, match=r"model '.*student\.keras' is a Sequential; expected one of the language"
    ):
        evaluation.from_saved_model(task, str(path))
    language_model(batch_size=None).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no model"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model '.*student\.keras' cannot be loaded: ") as caught:
            evaluation.from_saved_model(task, str(path))
        assert "\n" not in str(caught.value)

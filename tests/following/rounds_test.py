"""Rounds: whose figures they are, what ends them, and that nothing but their own directory is touched."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from tests import toy_clicks, toy_experiments, toy_images, toy_runs
from tests.toy_following import NUM_STEPS, Run
from tests.toy_house import Points
from tf_codistill import checkpoints, evaluation, files, runs, weights
from tf_codistill.exchange.store import Store
from tf_codistill.following.members import Members
from tf_codistill.reproducibility import measures
from tf_codistill.tasks.base import Task
from tf_codistill.tasks.images import ImageTask

DISAGREEMENT = f"{runs.ENSEMBLE}/{evaluation.DISAGREEMENT}"


def clicks(directory: pathlib.Path) -> Task:
    del directory
    return toy_clicks.Clicks()


def points(directory: pathlib.Path) -> Task:
    del directory
    return Points()


def language(directory: pathlib.Path) -> Task:
    return toy_experiments.toy_task(toy_experiments.write_language_corpus(str(directory / "corpus"), 20))


def images(directory: pathlib.Path) -> Task:
    data = toy_images.write_folders(directory / "images", toy_images.contents(3))
    return ImageTask(
        data_dir=data, model_fn=toy_images.small, image_size=8, batch_size=4, label_smoothing=0.1
    )


def everything(directory: pathlib.Path) -> dict[pathlib.Path, int]:
    """All that is there, with the time of its last change, directories too."""
    return {path: path.stat().st_mtime_ns for path in (directory, *directory.rglob("*"))}


@pytest.mark.parametrize("make", [clicks, points, language, images])
def test_figures_are_those_that_evaluate_gives_of_the_same_weights(
    tmp_path: pathlib.Path, make: Callable[[pathlib.Path], Task]
) -> None:
    run = Run(tmp_path, make(tmp_path))
    run.publish(0, 10)
    published = [run.publish(0, 20), run.publish(1, 15)]
    later: list[evaluation.Member] = []
    run.follow(lambda: later.append(run.publish(1, 25)), run.finish)
    assert run.steps() == [[20, 15], [20, 25]]
    for line, members in zip(run.lines(), ([*published], [published[0], *later]), strict=True):
        named = {f"group {group}": member for group, member in enumerate(members)}
        for name, row in evaluation.evaluate(run.task, named).items():
            for figure, value in row.items():
                if figure != "carried_from":
                    assert line[f"{name.replace(' ', '_')}/{figure}"] == value, (name, figure)
        first, second = (
            np.concatenate([batch.probabilities[index] for batch in batches])
            for batches in [list(evaluation.predicted(run.task, [[member] for member in members]))]
            for index in range(2)
        )
        apart = np.abs(measures.classes(first) - measures.classes(second)).sum(axis=-1).mean() / 2
        assert line[DISAGREEMENT] == pytest.approx(apart, rel=1e-5)
        assert apart > 1e-3


def test_figures_are_those_of_a_checkpoint_of_the_same_step(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, language(tmp_path), num_groups=1)
    member = run.publish(0, 50)
    shared = {"weights": weights.values(member.model.weights)}
    directory = runs.checkpoints_dir(str(run.workdir), 0)
    checkpoints.Checkpoints(directory).save(50, shared, {"lanes": member.lanes}, {})
    run.finish()
    run.follow()
    members = evaluation.from_checkpoint(run.task, str(run.workdir), 0)
    row = evaluation.evaluate(run.task, members)["group 0"]
    (line,) = run.lines()
    assert {name: line[f"group_0/{name}"] for name in row if name != "carried_from"} == {
        name: value for name, value in row.items() if name != "carried_from"
    }
    assert line["group_0/carried_state_loss"] != line["group_0/zero_state_loss"]


def test_ensemble_and_disagreement_of_three_groups_by_hand(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=3)
    members = [run.publish(group, 10) for group in range(3)]
    run.finish()
    run.follow()
    rows = run.task.validation().arrays()
    labels, numeric = rows["labels"][:50], rows["numeric"][:50]
    said = []
    for member in members:
        kernel, bias = member.model.get_weights()
        said.append(1 / (1 + np.exp(-(numeric.astype("float64") @ kernel[:, 0] + bias[0]))))
    mean = np.mean(said, axis=0)
    log_loss = -np.mean(np.where(labels == 1, np.log(mean), np.log1p(-mean)))
    apart = np.mean([np.abs(p - q).mean() for p, q in itertools.combinations(said, 2)])
    (line,) = run.lines()
    assert line["ensemble/loss"] == pytest.approx(log_loss, rel=1e-4)
    assert line[DISAGREEMENT] == pytest.approx(apart, rel=1e-5)
    by_measures = [
        measures.measure(p, q)["mean_absolute_difference"] for p, q in itertools.combinations(said, 2)
    ]
    assert apart == pytest.approx(np.mean(by_measures))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_of_fewer_bits_what_peers_are_taught_by_is_scored(tmp_path: pathlib.Path, precision: str) -> None:
    task = images(tmp_path)
    run = Run(tmp_path, task, num_groups=1, precision=precision)
    member = run.publish(0, 10)
    run.finish()
    run.follow()
    (exact,) = evaluation.evaluate(task, {"": member}).values()
    (line,) = run.lines()
    assert line["group_0/loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert line["group_0/loss"] != exact["loss"]


def test_nothing_else_is_touched(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, language(tmp_path))
    for group in range(2):
        run.publish(group, 10)
        toy_runs.learns_from(run.workdir, group, 1 - group)
        toy_runs.hold(run.workdir, group, 1.7e9, pid=1)
    files.write(runs.config_path(str(run.workdir), 0), b"# num_groups: 2\n")
    run.finish()
    before = everything(tmp_path)
    run.follow(output_dir=str(tmp_path.parent / f"{tmp_path.name}_figures"))
    assert everything(tmp_path) == before
    run.follow()
    after = everything(tmp_path)
    own = run.workdir / "evaluation"
    assert {path for path in after if own not in (path, *path.parents)} == set(before)
    assert {path for path in before if before[path] != after[path]} == {run.workdir}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_line_shows_each_round(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks())
    run.publish(1, 10)
    shown = run.follow(lambda: run.publish(0, 5), run.finish)
    alone, both = run.lines()
    assert shown[0] == f"group 1, step 10: {alone['group_1/loss']:.4g}"
    assert "ensemble/loss" not in alone
    assert shown[1] == (
        f"group 0, step 5: {both['group_0/loss']:.4g}  group 1, step 10: {both['group_1/loss']:.4g}  "
        f"ensemble: {both['ensemble/loss']:.4g}  disagreement: {both[DISAGREEMENT]:.4g}"
    )
    assert shown[2].startswith("all groups have finished, faults: 0, figures: ")
    assert [alone["step"], both["step"]] == [10, 10]


def test_groups_that_come_later_or_are_started_again_are_followed(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=3)
    member = run.publish(0, 30)
    described = weights.description(member.model)
    run.follow(
        lambda: run.publish(2, 40),
        lambda: run.publish(0, 60),
        lambda: run.restart(0, 20, described),  # of what it had published nothing is left
        lambda: run.publish(0, 25),
        lambda: run.publish(1, 10),
        run.finish,
    )
    expected = [[30, None, None], [30, None, 40], [60, None, 40], [25, None, 40], [25, 10, 40]]
    assert run.steps() == expected


def test_a_snapshot_before_one_that_is_held_does_not_take_its_place(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks())
    described = weights.description(run.publish(0, 10).model)
    run.publish(0, 20)
    run.follow(lambda: run.restart(0, 15, described), lambda: run.publish(1, 10), run.finish)
    assert len(list(run.exchange.glob("group_0/snapshot_*"))) == 1, "that of step 10"
    assert run.steps() == [[20, None], [20, 10]]


def test_snapshots_of_another_run_are_left_alone(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=1, run_id="earlier")
    run.publish(0, 10)
    name = runs.run_id(str(run.workdir))

    def begin() -> None:
        run.stores[0] = Store(str(run.exchange), 0, run_id=name)
        run.stores[0].announce(weights.description(run.task.make_model(16)), 0)

    run.follow(begin, lambda: run.publish(0, 5), run.finish)
    assert run.steps() == [[5]]


def test_it_waits_for_groups_that_are_yet_to_begin(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=1)
    run.publish(0, 10)
    run.finish()
    files.write(runs.config_path(str(run.workdir), 0), b"# num_groups: 2\nExperiment.seed = 3\n")
    late = Run(tmp_path / "late", run.task)

    def come() -> None:
        toy_runs.log(run.workdir, 1, toy_runs.start(NUM_STEPS), toy_runs.end(NUM_STEPS))
        late.workdir, late.exchange = run.workdir, run.exchange
        late.publish(1, 100)

    run.num_groups = 2
    now = itertools.count(step=50)
    shown = run.follow(lambda: None, lambda: None, come, clock=lambda: next(now))
    assert run.steps() == [[10, None], [10, 100]]
    assert shown.count("waiting for group 1") == 1


def test_what_is_published_just_before_the_end_is_scored(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=1)
    run.publish(0, 10)
    look, number = Members.look, itertools.count()

    def overtaken(self: Members) -> bool:
        is_all = look(self)
        if next(number) == 1:  # the first one with nothing new
            run.publish(0, 100)
            run.finish()
        return is_all

    monkeypatch.setattr(Members, "look", overtaken)
    run.follow(lambda: None)
    assert run.steps() == [[10], [100]]


def test_nothing_to_follow_is_told(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, toy_clicks.Clicks(), num_groups=1)
    now = itertools.count(step=50)
    shown: list[str] = []
    with pytest.raises(ValueError, match=r"have finished, but there was no snapshot .*publish = 'always'"):
        run.follow(*[lambda: None] * 5, run.finish, show=shown.append, clock=lambda: next(now))
    (warning,) = shown
    assert warning.startswith(f"warning: no snapshot of this run is in {str(run.exchange)!r} yet: ")
    assert "bind PeerExchange.publish = 'always'" in warning
    assert "--exchange_dir" in warning


def test_groups_that_train_something_else_are_refused(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, Points())
    run.publish(1, 10)
    run.task = toy_clicks.Clicks()
    with pytest.raises(ValueError, match=r"group 1 of .* trains another model: weight 0 .*check --gin_file"):
        run.follow()
    files.write_json(str(run.workdir / "group_0" / "points.json"), {"num_points": 7})
    run.task = Points()
    with pytest.raises(ValueError, match="points"):
        run.follow()


def test_the_graph_is_traced_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, toy_clicks.Clicks())
    calls = []
    monkeypatch.setattr(
        toy_clicks.Clicks, "mean_prediction", lambda self, said: calls.append(len(said)) or said[0]
    )
    run.publish(0, 10)
    more = [lambda step=step: run.publish(step % 2, step) for step in range(11, 16)]
    run.follow(*more, run.finish)
    assert len(run.lines()) == 6
    assert calls == [2]

"""Shows that a change of the house changes no number: toy runs of every gin file, to the last digit.

    python -m tests.same_numbers --output=before.json [--corpus_dir=...]     in one checkout
    python -m tests.same_numbers --output=after.json                         in another
    python -m tests.same_numbers --compare=before.json --compare=after.json

Every experiment below ``gin/`` is run as one group alone and as two students of one process; group 0 of two
is fed the snapshots that group 1 published, each at the step of which it is; with ``--corpus_dir`` the
quickstart's lone model is trained for 300 steps. Operations are deterministic and threads fixed. What is
compared is each number of each line of ``metrics.jsonl`` but times and rates. Two runs of one checkout are
the control.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import gin
import tensorflow as tf
from absl import app, flags

from tests.toy_experiments import write_language_corpus
from tf_codistill import experiment, files, program, runs
from tf_codistill.exchange.store import Store

_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the numbers of this checkout.")
_CORPUS_DIR = flags.DEFINE_string("corpus_dir", None, "The quickstart's corpus.")
_COMPARE = flags.DEFINE_multi_string("compare", [], "Two of these files.")

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_NO_NUMBERS = ("elapsed_secs", "exchange_secs", "staleness_secs", "time", "units")

CORPUS, LANES, WINDOW = "LanguageTask.corpus_dir", "LanguageTask.num_lanes", "LanguageTask.window_tokens"
TEACHERS = "SavedTeachers.sources"
EVERY, PRECISION = "PeerExchange.every_steps", "PeerExchange.precision"
STUDENTS = [
    "Experiment.teaching = @FellowStudents",
    "FellowStudents.batches = 'different'",
    "FellowStudents.refresh_every_steps = 5",
]

TOY = [
    *("LanguageModel.embedding_dim = 8", "LanguageModel.num_layers = 2", "LanguageModel.num_units = 12"),
    *("Experiment.num_steps = 20", "BurnIn.steps = 5", "Experiment.log_every_steps = 5"),
    *("Experiment.validate_every_steps = 10", "Experiment.checkpoint_every_steps = 10"),
    *(f"{LANES} = 4", f"{WINDOW} = 8", f"{EVERY} = 5"),
]


def train(workdir: str, name: str, bindings: list[str], group: int = 0, num_groups: int = 1) -> list[Any]:
    """Trains one group by a gin file; returns what it logged."""
    gin.clear_config(clear_constants=True)
    flags.FLAGS.gin_file = [name]
    flags.FLAGS.gin_bindings = bindings
    program.parse_gin()
    experiment.configured().train(workdir, group, num_groups)
    return [
        {
            key: value
            for key, value in record.items()
            if key not in _NO_NUMBERS and not key.endswith("_per_sec")
        }
        for record in runs.read_metrics(runs.metrics_path(workdir, group))
    ]


def fed(workdir: str, name: str, bindings: list[str]) -> list[Any]:
    """Trains group 0 of two with recorded snapshots of group 1, each at its step, but the first at once."""
    recorded = os.path.join(workdir, "recorded")
    bindings = [*bindings, "PeerExchange.wait = True", "PeerExchange.run_id = 'fed'"]
    train(recorded, name, bindings, 1, 2)
    theirs, ours = (os.path.join(runs.exchange_dir(one), "group_1") for one in (recorded, workdir))
    os.makedirs(ours)
    shutil.copy(os.path.join(theirs, "model.json"), ours)
    publish = Store.publish

    def bring(step: int) -> None:
        for snapshot in files.names(theirs):
            manifest = files.read_manifest(os.path.join(theirs, snapshot)) if "snapshot" in snapshot else None
            if manifest and manifest["step"] == step:
                shutil.copytree(
                    os.path.join(theirs, snapshot), os.path.join(ours, snapshot), dirs_exist_ok=True
                )

    def publish_and_bring(store: Store, step: int, *arguments: Any) -> int:
        num_bytes = publish(store, step, *arguments)
        bring(step)
        return num_bytes

    bring(5)
    Store.publish = publish_and_bring  # type: ignore[method-assign]
    try:
        return train(workdir, name, bindings, 0, 2)
    finally:
        Store.publish = publish  # type: ignore[method-assign]


def numbers(workdir: str, quickstart_corpus: str | None) -> dict[str, list[Any]]:
    """What every run logs, by the name of the run."""
    corpus = write_language_corpus(os.path.join(workdir, "corpus"), num_documents=120)
    toy = [*TOY, f"{CORPUS} = {corpus!r}"]
    unigram = f"unigram_frequencies.corpus_dir = {corpus!r}"
    found: dict[str, list[Any]] = {}
    for path in sorted(_REPOSITORY.glob("gin/**/*.gin")):
        name, text = str(path.relative_to(_REPOSITORY)), path.read_text()
        if "Experiment." not in text and "quickstart.gin" not in text:
            continue
        own = [*toy, unigram] if "unigram_frequencies" in text else list(toy)
        place = os.path.join(workdir, path.stem)
        if path.stem == "two_phase":
            groups = [os.path.join(workdir, f"phase_one/group_{group}") for group in (0, 1)]
            for group in (0, 1):
                train(os.path.join(workdir, "phase_one"), "gin/baselines/ensemble.gin", toy, group, 2)
            own += [f"{TEACHERS} = {groups!r}", "BurnIn.steps = 0"]
        elif path.stem != "one_process":
            found[f"{name}, one process"] = train(place + "_students", name, own + STUDENTS)
        else:
            own += ["FellowStudents.refresh_every_steps = 1"]
        found[f"{name}, alone"] = train(place, name, own)
    for precision in ("float32", "int8"):
        place = os.path.join(workdir, f"fed_{precision}")
        found[f"fed, {precision}"] = fed(place, "gin/quickstart.gin", [*toy, f"{PRECISION} = {precision!r}"])
    if quickstart_corpus:
        own = [f"{CORPUS} = {quickstart_corpus!r}", "Experiment.num_steps = 300"]
        found["quickstart"] = train(os.path.join(workdir, "long"), "gin/quickstart.gin", own)
    return found


def compare(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> list[str]:
    """Where two of these differ, in words."""
    differences = [f"{name}: only in one" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        if len(before[name]) != len(after[name]):
            differences.append(f"{name}: {len(before[name])} lines, {len(after[name])} lines")
        for one, other in zip(before[name], after[name], strict=False):
            for key in sorted(one.keys() | other.keys()):
                if one.get(key) != other.get(key):
                    where = f"{name}, {one['kind']} {one['step']}, {key}"
                    differences.append(f"{where}: {one.get(key)} {other.get(key)}")
    return differences


def main(argv: list[str]) -> None:
    """Records, or compares."""
    del argv
    if _COMPARE.value:
        before, after = (json.loads(pathlib.Path(path).read_text()) for path in _COMPARE.value)
        differences = compare(before, after)
        print(*differences[:60], f"{len(before)} runs, {len(differences)} differences", sep="\n")
        return
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    tf.config.experimental.enable_op_determinism()
    with tempfile.TemporaryDirectory() as workdir, gin.unlock_config():
        found = numbers(workdir, _CORPUS_DIR.value)
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(found))
    print(*(f"{name}: {len(records)} lines, {records[-2]}" for name, records in found.items()), sep="\n")


if __name__ == "__main__":
    app.run(main)

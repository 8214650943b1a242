"""Groups that exchange predictions, by the real programs, through files and through a server, with kills."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time
from typing import Any

import pytest

from tests import toy_following, toy_house
from tests.forks import REPOSITORY
from tests.integration.programs import SGD, Programs, experiment, final_weights, log_of, metrics, pids_of
from tests.teaching import predictions_test as exchanging
from tf_codistill import files, runs

NUM_STEPS = 40
PREDICTIONS = (
    *("Experiment.teaching = @PredictionExchange", "PredictionExchange.wait_secs = 120.0"),
    *("PredictionExchange.form = @TopK()", "TopK.k = 8", "LanguageTask.data = 'same_batches'"),
)
NAMELESS = b"""
# num_groups: 2
import tests.toy_house

Experiment.num_steps = 100
Experiment.optimizer = @keras.optimizers.SGD
Experiment.task = @Points()
Experiment.teaching = @PredictionExchange
PredictionExchange.ahead = True
"""


def flags_of(
    directory: pathlib.Path, corpus: str, *bindings: str, optimizer: tuple[str, ...] = SGD
) -> list[str]:
    bindings = (f"Experiment.num_steps = {NUM_STEPS}", *bindings)
    return [
        "--num_groups=2",
        *experiment(directory, corpus, *bindings, optimizer=optimizer, teaching=PREDICTIONS),
    ]


def test_groups_that_are_killed_go_on_with_what_had_been_predicted(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    flags = flags_of(tmp_path, corpus)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with programs.started("launch", f"--workdir={killed}", *flags) as running:
        running.wait_until(lambda: max(metrics(killed, 1, "train"), default=0) >= 15)
        os.kill(running.pid, signal.SIGKILL)
    while pids_of(killed):
        time.sleep(0.01)
    programs.succeed("launch", f"--workdir={killed}", *flags)
    programs.succeed("launch", f"--workdir={whole}", *flags)
    for group in (0, 1):
        assert final_weights(log_of(killed, group)) == final_weights(log_of(whole, group))
        train = metrics(killed, group, "train")
        assert list(train) == list(range(5, NUM_STEPS + 1, 5))
        assert {step: line["taught_share"] for step, line in train.items()} == dict.fromkeys(train, 1.0)
        assert train[NUM_STEPS]["distillation_loss"] > 1
        assert train[NUM_STEPS]["teacher_kl"] > 0
        assert {"sent_bytes", "received_bytes", "waited_secs", "absent_peers"} <= train[5].keys()
    status = programs.succeed("status", f"--workdir={killed}", "--json").output
    assert f'"step": {NUM_STEPS}' in status
    programs.succeed("report", f"--runs=pair={killed}", f"--output_dir={tmp_path / 'report'}")
    assert "pair" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
def test_groups_of_two_workers_go_on_while_their_server_is_away(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a secret\n")
    serve = ["--port=0", f"--token_file={token}"]
    with programs.started("serve_predictions", *serve) as server:
        server.wait_until(lambda: "carries predictions" in server.output_so_far())
        port = re.search(r"localhost:(\d+)", server.output_so_far())[1]
        at = (f"PredictionExchange.server = 'localhost:{port}'", f"PredictionExchange.token_file = '{token}'")
        flags = [*flags_of(tmp_path, corpus, "Experiment.num_steps = 300", *at), "--workers_per_group=2"]
        with programs.started("launch", f"--workdir={tmp_path / 'run'}", *flags) as running:
            running.wait_until(lambda: max(metrics(tmp_path / "run", 1, "train"), default=0) >= 20)
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            first = max(metrics(tmp_path / "run", 1, "train"))
            running.wait_until(lambda: max(metrics(tmp_path / "run", 1, "train")) >= first + 10)
            with programs.started("serve_predictions", f"--port={port}", f"--token_file={token}"):
                ended = running.wait()
    assert ended.status == 0, ended
    for group in (0, 1):
        shares = [line["taught_share"] for line in metrics(tmp_path / "run", group, "train").values()]
        assert shares[0] == 1.0
        assert min(shares) == 0.0, "nobody carried anything for a while"
        assert shares[-1] > 0.9, "and they met again"
        weights = {final_weights(log_of(tmp_path / "run", group, worker)) for worker in (0, 1)}
        assert len(weights) == 1


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_the_server_listens_at_an_address_of_ipv6(programs: Programs) -> None:
    with programs.started("serve_predictions", "--host=::1", "--port=0") as server:
        server.wait_until(lambda: "[::1]:" in server.output_so_far())


@pytest.mark.slow
def test_evaluation_only_workers_teach_groups_that_wait_for_nobody(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    """Group 0 is taught from the first snapshot of its peer on; nobody predicts for group 1."""
    teaching = (
        *("Experiment.teaching = @PredictionExchange", "PredictionExchange.ahead = True"),
        *("PredictionExchange.every_steps = 20", "Experiment.num_steps = 1500"),
    )
    workdir, flags = tmp_path / "run", experiment(tmp_path, corpus, optimizer=SGD, teaching=teaching)
    told = programs.run("teach", f"--workdir={tmp_path / 'none'}", "--peer=1", "--group=0", flags[0])
    assert "LanguageTask" in told.sentence() or "none" in told.sentence()
    with (
        programs.started("launch", "--num_groups=2", f"--workdir={workdir}", *flags) as running,
        programs.started("teach", f"--workdir={workdir}", "--peer=1", "--group=0") as teacher,
    ):
        assert running.wait().status == 0
        ended = teacher.wait()
    assert ended.status == 0, ended
    assert "group 1 predicts for group 0 from step" in ended.output
    assert "group 0 has finished" in ended.output
    shares = [
        [line["taught_share"] for line in metrics(workdir, group, "train").values()] for group in (0, 1)
    ]
    assert max(shares[0]) > 0.9
    assert max(shares[1]) == 0.0
    assert metrics(workdir, 0, "train")[1500]["waited_secs"] < 1.0


def test_an_evaluation_only_worker_that_is_there_first_waits_to_learn_how_many_groups_there_are(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    teaching = ("Experiment.teaching = @PredictionExchange", "PredictionExchange.ahead = True")
    flags = experiment(tmp_path, corpus, optimizer=SGD, teaching=teaching)
    with programs.started("teach", f"--workdir={tmp_path}", "--peer=0", "--group=1", *flags) as teacher:
        teacher.wait_until(lambda: "waiting for a group of" in teacher.output_so_far())


def test_an_evaluation_only_worker_follows_a_run_that_nobody_has_given_a_name(
    programs: Programs, tmp_path: pathlib.Path
) -> None:
    """Groups that are started one by one are of the run that their exchange names."""
    run = toy_following.Run(tmp_path, toy_house.Points())
    run.publish(1, 10)
    files.write(runs.config_path(str(run.workdir), 0), NAMELESS)
    with programs.started("teach", f"--workdir={run.workdir}", "--peer=1", "--group=0") as teacher:
        teacher.wait_until(lambda: "group 1 predicts for group 0" in teacher.output_so_far())


def certificate_of(directory: pathlib.Path, name: str) -> tuple[str, str]:
    """A key and a certificate that vouches for itself, by the command of docs/predictions.md."""
    documented = (REPOSITORY / "docs" / "predictions.md").read_text()
    command = shlex.split(re.search(r"openssl req .*?\n(?! )", documented, re.DOTALL)[0].replace("\\\n", ""))
    at = {"server.key": str(directory / f"{name}.key"), "server.pem": str(directory / f"{name}.pem")}
    command = [at.get(word, word.replace("host-of-server", "localhost")) for word in command]
    subprocess.run(command, check=True, capture_output=True)
    return at["server.key"], at["server.pem"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates by openssl")
def test_over_tls_those_meet_who_know_certificate_and_token(
    programs: Programs, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (key, certificate), (_, other) = (certificate_of(tmp_path, name) for name in ("server", "other"))
    for name in ("token", "wrong"):
        (tmp_path / name).write_text(name)
    flags = [f"--tls_key={key}", f"--tls_certificate={certificate}", f"--token_file={tmp_path / 'token'}"]
    told = programs.run("serve_predictions", "--port=0", f"--tls_key={key}", f"--tls_certificate={other}")
    assert told.sentence().endswith("it is taken or not of this machine, or key and certificate do not fit")
    with programs.started("serve_predictions", "--port=0", *flags) as server:
        server.wait_until(lambda: "carries predictions" in server.output_so_far())
        at = re.search(r"localhost:\d+", server.output_so_far())[0]

        def fitted(name: str, numbers: range, wait_secs: float, token: str, **tls: str) -> list[Any]:
            arguments = {"server": at, "token_file": str(tmp_path / token), "wait_secs": wait_secs, **tls}
            made = [exchanging.group(tmp_path / name, number, **arguments) for number in numbers]
            fits = [functools.partial(exchanging.fit, one) for one in exchanging.models(made)]
            return exchanging.side_by_side(*(functools.partial(one, exchanging.keyed(3)) for one in fits))

        for history in fitted("met", range(2), 20.0, "token", tls_certificate=certificate):
            assert (history["taught_share"], history["failed_exchanges"]) == ([1.0], [0.0])
        for name, tls, complaint in [
            ("plain", {}, "it is out of reach, or speaks TLS where this end does not, or the reverse"),
            ("other", {"tls_certificate": other}, "tls_certificate does not vouch for it"),
        ]:
            caplog.clear()
            (history,) = fitted(name, range(1), 0.0, "token", **tls)
            assert (history["taught_share"], history["absent_peers"]) == ([0.0], [3.0]), "training goes on"
            assert history["failed_exchanges"][0] >= 3.0
            told = [record.message for record in caplog.records if "group_0 cannot" in record.message]
            assert told
            assert all(one.endswith(f"server {at!r} does not answer: {complaint}") for one in told), told
        for token, pem, complaint in [
            ("wrong", certificate, "cannot be exchanged: .* it wants another token"),
            ("token", key, "tls_certificate holds no certificate .* expected that of the server, in PEM"),
        ]:
            with pytest.raises(ValueError, match=complaint):
                fitted("refused", range(1), 0.0, token, tls_certificate=pem)


def test_wrong_tokens_and_other_examples_end_a_run_in_a_sentence(
    programs: Programs, corpus: str, tmp_path: pathlib.Path
) -> None:
    told = programs.run("serve_predictions", "--host=0.0.0.0").sentence()
    assert told == "--host is '0.0.0.0', which others reach; give --token_file with a secret"
    flags = flags_of(tmp_path, corpus, "LanguageTask.data = 'same'")
    ended = programs.run("launch", f"--workdir={tmp_path / 'other'}", *flags)
    assert "peers predict other examples than this group; give all groups the same data" in ended.error
    assert ended.status == 1

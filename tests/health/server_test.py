import http.client
import json
import socket
import threading

import pytest

from tests import toy_runs
from tf_codistill import runs
from tf_codistill.health import overview, server

NOW = 1_800_000_000.0


@pytest.fixture(name="serve")
def fixture_serve(tmp_path):
    """Serves a run; returns what asks it."""
    toy_runs.write(tmp_path, NOW)
    started = []

    def read():
        started[-1].reads += 1
        if started[-1].reads == 2:
            raise OSError("storage is away")
        return overview.read(str(tmp_path), runs.exchange_dir(str(tmp_path)), 45.0, NOW)

    def serve(host="127.0.0.1", read_secs=3600.0):
        serving = server.Server(read, host, 0, read_secs)
        serving.reads = 0
        started.append(serving)
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

        def ask(method, path, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", serving.server_address[1], timeout=30)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read().decode()

        return serving, ask

    yield serve
    for serving in started:
        serving.shutdown()
        serving.server_close()


def test_the_page_its_body_and_json(serve):
    serving, ask = serve()
    answer, text = ask("GET", "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "1350/2000" in text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith("; frame-ancestors 'none'")
    assert policy.removesuffix("; frame-ancestors 'none'") in text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    _, body = ask("GET", "/body")
    assert body in text
    answer, figures = ask("GET", "/status.json")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert [group["step"] for group in json.loads(figures)["groups"]] == [1350, 1300]
    assert serving.reads == 1, "however often one looks"


def test_head_has_no_content(serve):
    _, ask = serve()
    answer, text = ask("HEAD", "/")
    assert (answer.status, text) == (200, "")
    assert int(answer.headers["Content-Length"]) == len(ask("GET", "/")[1].encode())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_else_is_served(serve, method):
    _, ask = serve()
    assert ask(method, "/")[0].status == 501


@pytest.mark.parametrize("path", ["/group_0/metrics.jsonl", "/../run.json", "/%2e%2e/run.json", "/body/"])
def test_no_file_is_served(serve, path):
    _, ask = serve()
    answer, text = ask("GET", path)
    assert answer.status == 404
    assert path not in text


@pytest.mark.parametrize(
    ("name", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:1", 200), ("evil.example", 403), ("[x", 403)],
)
def test_a_local_server_answers_to_its_own_names(serve, name, status):
    _, ask = serve()
    assert ask("GET", "/", Host=name)[0].status == status


def test_a_public_server_answers_to_any_name(serve):
    serving, ask = serve("0.0.0.0")
    assert ask("GET", "/", Host="node-7.example")[0].status == 200
    assert serving.url.startswith("http://0.0.0.0:")


def test_storage_that_is_away_is_told(serve):
    _, ask = serve(read_secs=0.0)
    assert [ask("GET", "/body")[0].status for _ in range(3)] == [200, 503, 200]


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"port {port} cannot be served .*; choose another --host or --serve"
        ):
            server.Server(lambda: None, "127.0.0.1", port)


@pytest.mark.parametrize(("error", "is_told"), [(BrokenPipeError(), False), (ZeroDivisionError(), True)])
def test_a_browser_that_goes_away_is_no_news(serve, capsys, error, is_told):
    serving, _ = serve()
    try:
        raise error
    except type(error):
        serving.handle_error(None, ("127.0.0.1", 1))
    assert ("Traceback" in capsys.readouterr().err) is is_told

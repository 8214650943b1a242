r"""Carries predictions between groups on the same batches, in memory; until Ctrl-C.

    python -m tf_codistill.serve_predictions --port=7000
    PredictionExchange.server = 'localhost:7000'        in the gin file of the run

Other machines reach it with --host=0.0.0.0, which needs --token_file; add --tls_key and --tls_certificate
where others listen in. It may be killed and started again while groups train.
"""

from __future__ import annotations

import contextlib

from absl import flags

from tf_codistill import files, program

_HOST = flags.DEFINE_string("host", "localhost", "Address to listen at.")
_PORT = flags.DEFINE_integer("port", 7000, "Port to listen at; 0 for a free one.", 0, 65535)
_TOKEN_FILE = flags.DEFINE_string("token_file", None, "File with the token that groups have to know.")
_TLS_KEY = flags.DEFINE_string("tls_key", None, "PEM file with the private key, to encrypt.")
_TLS_CERTIFICATE = flags.DEFINE_string("tls_certificate", None, "PEM file with the certificate chain.")
_MAX_BYTES = flags.DEFINE_float("max_bytes", 1e9, "Size of all predictions that are kept, at most.", 1.0)
_MAX_MESSAGE_BYTES = flags.DEFINE_integer(
    "max_message_bytes", 1 << 28, "Size of a group's predictions for one replica and step, at most.", 1
)


def main() -> None:
    """Serves."""
    from tf_codistill.exchange.predictions import server

    is_open = _HOST.value not in ("localhost", "127.0.0.1", "::1")
    if is_open and _TOKEN_FILE.value is None:
        raise ValueError(f"--host is {_HOST.value!r}, which others reach; give --token_file with a secret")
    if (_TLS_KEY.value is None) != (_TLS_CERTIFICATE.value is None):
        raise ValueError("give both --tls_key and --tls_certificate, or neither of them")
    token = files.read(_TOKEN_FILE.value).decode().strip() if _TOKEN_FILE.value else None
    if token == "":
        raise ValueError(f"--token_file={_TOKEN_FILE.value!r} is empty; write a secret into it")
    tls = None
    if _TLS_KEY.value:
        tls = files.read(_TLS_KEY.value), files.read(_TLS_CERTIFICATE.value)
    predictions = server.PredictionServer(_MAX_BYTES.value, token)
    host = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value  # of IPv6
    running, port = server.serve(predictions, f"{host}:{_PORT.value}", _MAX_MESSAGE_BYTES.value, tls)
    print(f"{host}:{port} carries predictions until Ctrl-C", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        running.wait_for_termination()
    running.stop(grace=0).wait()


if __name__ == "__main__":
    program.run(main)

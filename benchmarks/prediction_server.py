"""How many messages of predictions a second are carried: by files, by `serve_predictions`, by bare gRPC.

    python -m benchmarks.prediction_server                           TopK(16) of 32 x 32 positions
    python -m benchmarks.prediction_server --num_bytes=2060848       float16 logits of 1,006 classes

1, 2 and 4 client processes put messages, take them, or do both in turn, one call after the other, as replicas
do in a step. Bare gRPC has as many calls and bytes, and a server that keeps nothing: what is possible.
Printed are medians over turns, of messages a second and of the time of processors that one takes, clients and
server together, which says more on a machine that does something else, too. At last four clients put what
nobody reads, and the server is to stay near `--max_bytes`. Wanted are 10,000 a second, or what cores give.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent import futures
from typing import Any

import grpc
from absl import flags

from tf_codistill import program
from tf_codistill.exchange.predictions import server
from tf_codistill.exchange.predictions.client import ServerChannel

NUM_BYTES = flags.DEFINE_integer("num_bytes", 66096, "Size of a message.")
MAX_BYTES = flags.DEFINE_float("max_bytes", 2.56e8, "What the server may keep.")
TURN_SECS = flags.DEFINE_float("turn_secs", 1.0, "Seconds of a turn.")
NUM_TURNS = flags.DEFINE_integer("num_turns", 3, "Turns of each kind.")

KINDS, WORKS, KEPT = ("files", "server", "bare gRPC"), ("put", "take", "put and take"), 100


class Bare(grpc.GenericRpcHandler):
    """Answers with as many bytes as it is asked for."""

    def service(self, handler_call_details: Any) -> Any:
        """What gRPC calls."""
        number = int(handler_call_details.method.rpartition("/")[2])
        return grpc.unary_unary_rpc_method_handler(lambda body, context: bytes(number))


class BareChannel(ServerChannel):
    """Calls it."""

    def begin(self, *arguments: Any) -> None:
        """Nothing."""

    def put(self, source: str, step: int, part: int, content: bytes) -> None:
        """Sends bytes."""
        self._channel.unary_unary("/Bare/0")(content)

    def get(self, source: str, step: int, part: int, wait_secs: float, max_bytes: int) -> bytes:
        """Has bytes sent."""
        return self._channel.unary_unary(f"/Bare/{max_bytes}")(b"")


def run_server(kind: str, max_bytes: float, port: Any) -> None:
    """The process of a server, until it is killed; tells its port."""
    if kind == "server":
        running, at = server.serve(server.PredictionServer(max_bytes), "localhost:0", 1 << 28)
    else:
        options = [("grpc.max_receive_message_length", -1)]
        running = grpc.server(futures.ThreadPoolExecutor(100), [Bare()], options=options)
        at = running.add_insecure_port("localhost:0")
        running.start()
    port.send(at)
    running.wait_for_termination()


def channel_of(kind: str, where: str) -> Any:
    """What a client calls."""
    from tf_codistill.exchange.predictions.channel import FileChannel  # not in servers: it needs TensorFlow

    if kind == "files":
        return FileChannel(where, KEPT)
    return (ServerChannel if kind == "server" else BareChannel)(where, "benchmark")


def client(kind: str, work: str, where: str, number: int, begin: float, secs: float, size: int) -> Any:
    """Messages of a client in a turn that begins at a time of the clock, and seconds of a processor."""
    channel, source, content = channel_of(kind, where), f"group_{number}", bytes(size)
    channel.begin(source, {}, 0)
    for step in range(KEPT if work == "take" else 1):
        channel.put(source, step, 0, content)
    time.sleep(max(0.0, begin - time.time()))
    spent, count = time.process_time(), 0
    while time.time() - begin < secs:
        step = {"put": count, "take": count % KEPT, "put and take": count // 2}[work]
        if work == "take" or (count % 2 and work != "put"):
            channel.get(source, step, 0, 0.0, size)
        else:
            channel.put(source, step, 0, content)
        count += 1
    channel.close()
    return count, time.process_time() - spent


def turn(
    pool: Any, processes: dict[str, Any], kind: str, work: str, where: str, clients: Iterable[int]
) -> list[float]:
    """Messages a second of these clients, and seconds of processors that each message takes."""
    begin = time.time() + 1.5  # until they have connected
    shared = (begin, TURN_SECS.value, NUM_BYTES.value)
    done = [pool.submit(client, kind, work, where, number, *shared) for number in clients]
    time.sleep(max(0.0, begin - time.time()))
    before = server_secs(processes.get(kind))
    counts, spent = zip(*(one.result() for one in done), strict=True)
    spent_by_server = server_secs(processes.get(kind)) - before
    return [sum(counts) / TURN_SECS.value, (sum(spent) + spent_by_server) / max(sum(counts), 1)]


def server_secs(process: Any) -> float:
    """What a server has spent of processors; files have none."""
    if process is None:
        return 0.0
    ticks = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints rates, and what the server takes when nobody reads."""
    spawn, processes, where = multiprocessing.get_context("spawn"), {}, {}
    with tempfile.TemporaryDirectory() as where["files"], futures.ProcessPoolExecutor(4, spawn) as pool:
        for kind in KINDS[1:]:
            told, tell = spawn.Pipe(duplex=False)
            processes[kind] = spawn.Process(
                target=run_server, args=(kind, MAX_BYTES.value, tell), daemon=True
            )
            processes[kind].start()
            where[kind] = f"localhost:{told.recv()}"
        first = [pool.submit(client, "files", "put", where["files"], number, 0, 0, 1) for number in range(4)]
        futures.wait(first)  # clients have imported what they need
        for work, clients in itertools.product(WORKS, (1, 2, 4)):
            each = [
                [turn(pool, processes, kind, work, where[kind], range(clients)) for kind in KINDS]
                for _ in range(NUM_TURNS.value)
            ]
            print(f"{work}, {clients} clients:", end="")
            for kind, turns in zip(KINDS, zip(*each, strict=True), strict=True):
                rate, secs = map(statistics.median, zip(*turns, strict=True))
                print(f"  {kind} {rate:,.0f}/s, {1e6 * secs:.0f} us", end="")
            ratio = statistics.median(bare[1] / ours[1] for _, ours, bare in each)
            print(f";  bare / server {ratio:.2f}", flush=True)
        put, number = 0.0, 4
        while put < 4 * MAX_BYTES.value:  # by others each time: who begins again forgets what he has left
            rate, _ = turn(pool, processes, "server", "put", where["server"], range(number, number + 4))
            put, number = put + NUM_BYTES.value * TURN_SECS.value * rate, number + 4
        status = pathlib.Path(f"/proc/{processes['server'].pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
        print(f"{put / 1e6:,.0f} MB that nobody reads; the server has {peak:,.0f} MB at most")
        for process in processes.values():
            process.kill()


if __name__ == "__main__":
    program.run(main)

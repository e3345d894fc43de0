#!/usr/bin/env python3
"""Compares the server's processor time per message between event loops of asyncio.

Like compare.py: server and load on separate cores, alternating rounds; the best round, and the ratio to asyncio's own
loop: the median of the rounds (least–most). Needs an interpreter with couplet-twisted, perhaps uvloop, and uvicorn and
httptools for their row: bench/loops.py --python VENV/bin/python.
"""

import argparse
import asyncio
import importlib
import os
import statistics
import sys

from compare import HERE, Failed, command, expect, importable, processor_time, tell

LOOPS = {"asyncio": "asyncio:SelectorEventLoop", "uvloop": "uvloop:Loop", "couplet": "couplet_twisted:EventLoop"}
# Name: (the load's kind, connections, messages).
ROWS = {
    "protocol": ("echo", 50, 60_000),
    "streams": ("echo", 50, 30_000),
    "short": ("short", 0, 4_000),
    "bulk": ("bulk", 1, 1_500),
    "uvicorn": ("web", 50, 12_000),
}


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def stream(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": b"hello, world\n"})


async def serve(role):
    """Serves until standard input ends; prints the port on standard error."""
    loop = asyncio.get_running_loop()
    if role == "streams":
        server = await asyncio.start_server(stream, "127.0.0.1", 0)
    elif role == "uvicorn":
        import uvicorn

        config = uvicorn.Config(hello, lifespan="off", http="httptools", access_log=False, log_level="error", port=0)
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        server = server.servers[0]
    else:
        kind = asyncio.Protocol if role == "bulk" else Echo
        server = await loop.create_server(kind, "127.0.0.1", 0, backlog=4096)
    os.write(2, b"%d\n" % server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


def factory(name):
    module, _, attribute = LOOPS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def measured(row, name, options):
    """Runs one round of a row; returns the microseconds of one message."""
    kind, connections, count = ROWS[row]
    own, other = options.cores
    server, load = command(options.python, own, __file__, "--serve", name, row), None
    try:
        port = server.stderr.readline().strip()
        if not port.isdigit():
            raise Failed(port + server.stderr.read())
        load = command(options.python, other, HERE / "load.py", kind, port, connections, count)
        expect(load, "ready")
        before = processor_time(server.pid)
        tell(load)
        expect(load, "done")
        return (processor_time(server.pid) - before) / count * 1e6
    finally:
        for process in filter(None, [load, server]):
            process.kill()
            process.communicate()


def main():
    if sys.argv[1:2] == ["--serve"]:
        with asyncio.Runner(loop_factory=factory(sys.argv[2])) as runner:
            runner.run(serve(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--python", default=sys.executable, help="the interpreter for all processes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    options.cores = cores[0], cores[-1]
    names = [name for name in LOOPS if importable(options.python, LOOPS[name].partition(":")[0])]
    for row in options.rows or ROWS:
        if row == "uvicorn" and not importable(options.python, "uvicorn, httptools"):
            print("uvicorn   skipped: uvicorn and httptools are not installed")
            continue
        rounds = {name: [] for name in names}
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                rounds[name].append(measured(row, name, options))
        for name, costs in rounds.items():
            ratios = sorted(cost / model for cost, model in zip(costs, rounds[names[0]]))
            ratio = f"{statistics.median(ratios):6.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})"
            print(f"{row:9} {name:9} {min(costs):9.2f} µs {ratio}", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compares the cost of a Deferred from a Rust future and of `deferToThread`.

Prints the processor time of one Deferred in microseconds, user and system, of all threads: when 10 000 are made together
and when each is made after the last one has fired. `tokio` is a future on two threads of tokio, `reactor` one that the
reactor's thread polls and that calls a Python function, `thread` is `deferToThread` of Python's `int`. The result is the
best of several rounds, which alternate. Needs an interpreter with twisted, couplet-twisted and the extension of
examples/futures: VENV/bin/python bench/futures.py epoll.
"""

import importlib
import sys
import time

ROUNDS, TOGETHER, ALONE = 7, 10_000, 2_000
REACTORS = {"couplet": "couplet_twisted", "epoll": "twisted.internet.epollreactor"}


async def together(make):
    """The cost of one of many Deferreds, in microseconds."""
    before = time.process_time()
    await defer.gatherResults([make() for _ in range(TOGETHER)])
    return (time.process_time() - before) / TOGETHER * 1e6


async def alone(make):
    """The cost of one Deferred after another, in microseconds."""
    before = time.process_time()
    for _ in range(ALONE):
        await make()
    return (time.process_time() - before) / ALONE * 1e6


async def main(reactor):
    kinds = {
        "tokio": lambda: rust_futures.mean("1 2 3"),
        "reactor": lambda: rust_futures.each(int, ["1"], False),
        "thread": lambda: threads.deferToThread(int, "1"),
    }
    best = {}
    for _ in range(ROUNDS):
        for kind, make in kinds.items():
            for measure in (together, alone):
                row = (kind, measure.__name__)
                best[row] = min(best.get(row, float("inf")), await measure(make))
    for (kind, name), cost in best.items():
        print(f"{kind:8} {name:9} {cost:6.1f} µs ({cost / best['thread', name]:.2f})")


if __name__ == "__main__":
    importlib.import_module(REACTORS[sys.argv[1]]).install()
    import rust_futures
    from twisted.internet import defer, task, threads

    task.react(lambda reactor: defer.ensureDeferred(main(reactor)))

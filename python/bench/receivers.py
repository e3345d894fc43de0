#!/usr/bin/env python3
"""Compares the cost of a message in the receivers of Twisted and of couplet_twisted.basic, without a connection.

Prints the processor time of one message in nanoseconds, including the call of a Python function that does nothing.
A chunk has 16 messages of 62 bytes. The result is the best of many rounds, which alternate. Needs an interpreter
with twisted and couplet-twisted: VENV/bin/python bench/receivers.py.
"""

import time

from twisted.internet.testing import StringTransport
from twisted.protocols import basic as model

from couplet_twisted import basic as own

TEXT = b"l" * 62
COUNT = 16
ROUNDS, CHUNKS = 30, 1_000
FRAMED = {
    "LineReceiver": TEXT + b"\r\n",
    "NetstringReceiver": b"62:" + TEXT + b",",
    "Int8StringReceiver": b"\x3e" + TEXT,
    "Int16StringReceiver": b"\0\x3e" + TEXT,
    "Int32StringReceiver": b"\0\0\0\x3e" + TEXT,
}


def receiver(kind):
    """A protocol of a class that ignores its messages."""

    class Receiver(kind):
        def lineReceived(self, line):
            pass

        def stringReceived(self, string):
            pass

    made = Receiver()
    made.makeConnection(StringTransport())
    return made


def cost(made, chunk):
    """The cost of one message of the chunk, in nanoseconds."""
    before = time.process_time_ns()
    for _ in range(CHUNKS):
        made.dataReceived(chunk)
    return (time.process_time_ns() - before) / CHUNKS / COUNT


def main():
    for name, framed in FRAMED.items():
        contestants = [receiver(getattr(module, name)) for module in (model, own)]
        rounds = [[cost(made, framed * COUNT) for made in contestants] for _ in range(ROUNDS)]
        theirs, ours = map(min, zip(*rounds))
        print(f"{name:20} twisted {theirs:6.0f} ns   couplet {ours:6.0f} ns   {ours / theirs:.2f}")


if __name__ == "__main__":
    main()

"""Exceptions of user code, even those that would end another program, have no wider effects than under the model."""

import os
import pathlib
import signal
import threading
import tomllib
import unittest

from twisted.internet import abstract, defer, protocol

from kit.cases import Cases


class Foreign(BaseException):
    """An exception that is not an `Exception` and that no library knows."""


# `KeyboardInterrupt` has separate tests.
KINDS = [ValueError, SystemExit, GeneratorExit, Foreign]


class Raising(protocol.Protocol):
    """Raises in one of its methods."""

    def __init__(self, case, where, error):
        self.case, self.where, self.error = case, where, error
        self.ended = defer.Deferred()

    def here(self, where):
        if where == self.where:
            raise self.error

    def connectionMade(self):
        self.here("made")

    def dataReceived(self, data):
        self.here("data")
        self.transport.write(data)

    def connectionLost(self, reason):
        self.case.say("server", "lost", reason.type.__name__)
        self.ended.callback(None)
        self.here("lost")


class Asking(protocol.Protocol):
    """Writes, closes after an answer, and notes the end."""

    def __init__(self, case):
        self.case, self.ended = case, defer.Deferred()

    def connectionMade(self):
        self.transport.write(b"question")

    def dataReceived(self, data):
        self.case.say("client", data)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.case.say("client", "lost", reason.type.__name__)
        self.ended.callback(None)


async def connection(case, where, error):
    """Runs a connection whose server raises the error in the method `where`."""
    server, client = Raising(case, where, error), Asking(case)
    await case.connect(case.listen(lambda: server), client)
    await defer.gatherResults([server.ended, client.ended])
    await case.sleep(0.01)


class Exceptions(Cases):
    """The error is logged, the connection is lost or not, as under the model, and the loop continues."""

    async def test_in_a_protocol(case):
        for where in ("made", "data", "lost"):
            for kind in KINDS:
                await connection(case, where, kind("raised"))

    async def test_in_build_protocol(case):
        def build():
            raise errors.pop()

        # The client's end is not compared: under the model the socket stays open until the exception is freed.
        errors = [kind("raised") for kind in KINDS]
        number = case.listen(build)
        for kind in KINDS:
            client = await case.connect(number, protocol.Protocol())
            await case.sleep(0.02)
            client.transport.abortConnection()
        case.say("left", len(errors))

    async def test_in_timed_calls_and_calls_from_threads(case):
        def call(error):
            raise error

        for kind in KINDS:
            case.reactor.callLater(0, call, kind("raised"))
        await case.sleep(0.02)
        for kind in [*KINDS, KeyboardInterrupt]:
            case.reactor.callInThread(case.reactor.callFromThread, call, kind("raised"))
            await case.sleep(0.02)

    async def test_in_readers(case):
        for kind in [*KINDS, KeyboardInterrupt]:
            reads, writes = os.pipe()

            class Reader(abstract.FileDescriptor):
                def fileno(self):
                    return reads

                def doRead(self):
                    raise kind("raised")

                def connectionLost(self, reason):
                    case.say("reader", "lost", reason.type.__name__)
                    self.ended.callback(None)

            reader = Reader(case.reactor)
            reader.ended = defer.Deferred()
            reader.startReading()
            os.write(writes, b"x")
            await reader.ended
            os.close(reads)
            os.close(writes)

    async def test_in_a_signals_handler_while_the_loop_waits(case):
        def handle(*_):
            raise errors.pop()

        signal.signal(signal.SIGUSR1, handle)
        errors = [kind("raised") for kind in [*KINDS, KeyboardInterrupt]]
        while errors:
            threading.Timer(0.02, signal.pthread_kill, [threading.main_thread().ident, signal.SIGUSR1]).start()
            await case.sleep(0.1)
        case.say("left", len(errors))

    async def test_an_interrupt_in_a_protocol_and_in_a_timed_call(case):
        def call():
            raise KeyboardInterrupt("raised")

        for where in ("made", "data", "lost"):
            await connection(case, where, KeyboardInterrupt("raised"))
        case.reactor.callLater(0, call)
        await case.sleep(0.02)
        # The text before the exception depends on the place that caught it.
        notes = case.notes.get("log", [])
        case.notes["log"] = [note[note.index("KeyboardInterrupt") :] for note in notes]


class Panics(unittest.TestCase):
    """A panic of the native half becomes an exception if Python called the code, and ends the connection if the loop
    called it. Both need panics that unwind."""

    def test_panics_unwind(self):
        manifest = pathlib.Path(__file__).resolve().parent.parent / "Cargo.toml"
        for name, profile in tomllib.loads(manifest.read_text())["profile"].items():
            self.assertNotIn("panic", profile, name)

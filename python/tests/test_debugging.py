"""Debuggers, profilers and stack dumps see Python's frames, also below native ones."""

import cProfile
import faulthandler
import pstats
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

from twisted.internet import defer, protocol, threads

from kit import reactors
from kit.cases import SUBJECT, Cases, case, only_subject
from kit.connections import Called


async def while_called(case, function):
    """Calls the function from a protocol that the loop calls."""
    server = Called(function)
    client = await case.connect(case.listen(lambda: server), protocol.Protocol())
    client.transport.write(b"data")
    await server.called
    client.transport.loseConnection()


def frames(file):
    """The functions in a stack dump, most recent call first."""
    file.seek(0)
    return [line.split(" in ")[1].strip() for line in file.read().splitlines() if " in " in line]


def until_written(file):
    """Waits for the dump, whose last line is the outermost call of the main thread."""
    while "_run_module_as_main" not in open(file.name).read():
        pass


class Dumps(Cases, by=only_subject):
    """Dumps of `faulthandler`, triggered by a timer or a signal."""

    @staticmethod
    def check(file, *functions):
        """Checks that the dump has these functions in this order, perhaps with others in between."""
        found = iter(frames(file))
        missing = [function for function in functions if function not in found]
        assert not missing, f"{missing} are not in this order in {frames(file)}"

    async def test_later_while_the_loop_waits(case):
        with tempfile.NamedTemporaryFile("w+") as file:
            faulthandler.dump_traceback_later(0.02, file=file)
            # The loop is idle until then. The dump has all threads, the loop's thread last.
            await threads.deferToThread(until_written, file)
            Dumps.check(file, "until_written", "mainLoop", "run")

    async def test_later_while_a_protocol_runs(case):
        with tempfile.NamedTemporaryFile("w+") as file:

            def busy(data):
                faulthandler.dump_traceback_later(0.02, file=file)
                until_written(file)

            await while_called(case, busy)
            Dumps.check(file, "until_written", "busy", "dataReceived", "mainLoop", "run")

    async def test_by_a_signal_while_the_loop_waits(case):
        with tempfile.NamedTemporaryFile("w+") as file:
            faulthandler.register(signal.SIGUSR1, file=file, all_threads=False)

            def signalled():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                until_written(file)

            await threads.deferToThread(signalled)
            Dumps.check(file, "mainLoop", "run")
            # The loop continues.
            await case.sleep(0.001)

    async def test_by_a_signal_while_a_protocol_runs(case):
        with tempfile.NamedTemporaryFile("w+") as file:
            faulthandler.register(signal.SIGUSR1, file=file, all_threads=False)
            await while_called(case, lambda data: signal.raise_signal(signal.SIGUSR1))
            Dumps.check(file, "<lambda>", "dataReceived", "mainLoop", "run")


async def everything(case):
    """Makes the loop call all kinds of callbacks, each with a distinct name."""

    def of_protocol(data):
        pass

    def of_timer():
        pass

    def of_thread():
        fired.callback(None)

    await while_called(case, of_protocol)
    case.reactor.callLater(0, of_timer)
    await case.sleep(0.01)
    fired = defer.Deferred()
    case.reactor.callInThread(case.reactor.callFromThread, of_thread)
    await fired


# `connectionLost` is missing, because transports have one too, in Python or native.
NAMES = ["buildProtocol", "dataReceived", "of_protocol", "of_timer", "of_thread"]


class Tracing(Cases):
    """Tracers and profilers see the loop's calls as often as under the model."""

    @staticmethod
    def note(case, seen):
        for name in NAMES:
            case.say("seen", name, seen.count(name))

    async def test_settrace(case):
        seen = []
        sys.settrace(lambda frame, event, _: seen.append(frame.f_code.co_name))
        await everything(case)
        sys.settrace(None)
        Tracing.note(case, seen)

    async def test_setprofile(case):
        seen = []
        sys.setprofile(lambda frame, event, _: event == "call" and seen.append(frame.f_code.co_name))
        await everything(case)
        sys.setprofile(None)
        Tracing.note(case, seen)

    @unittest.skipUnless(hasattr(sys, "monitoring"), "there is no sys.monitoring before Python 3.12")
    @case
    async def test_monitoring(case):
        seen, tool = [], sys.monitoring
        tool.use_tool_id(tool.PROFILER_ID, "test")
        tool.register_callback(tool.PROFILER_ID, tool.events.PY_START, lambda code, _: seen.append(code.co_name))
        tool.set_events(tool.PROFILER_ID, tool.events.PY_START)
        await everything(case)
        tool.set_events(tool.PROFILER_ID, 0)
        Tracing.note(case, seen)

    async def test_cprofile(case):
        profile = cProfile.Profile()
        profile.enable()
        await everything(case)
        profile.disable()
        counts = {name: calls for (_, _, name), (calls, *_) in pstats.Stats(profile).stats.items() if name in NAMES}
        case.say("seen", sorted(counts.items()))


DEBUGGED = """
import pdb, sys
from kit import reactors
reactor = reactors.install(sys.argv[1])
from twisted.internet import protocol

class Server(protocol.Protocol):
    def dataReceived(self, data):
        local = data.upper()
        pdb.set_trace()
        self.transport.write(local)

class Client(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"data")
    def dataReceived(self, data):
        print("answer", data)
        reactor.stop()

factory = protocol.ClientFactory.forProtocol(Client)
port = reactor.listenTCP(0, protocol.Factory.forProtocol(Server), interface="127.0.0.1")
reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
reactor.run()
"""


class Debugger(unittest.TestCase):
    """`pdb` over standard input."""

    maxDiff = None

    def session(self, reactor):
        """The debugger's answers to commands."""
        commands = ["p local", "p type(self.transport).__name__", "where", "local = b'changed'", "next", "continue"]
        command = [sys.executable, "-c", DEBUGGED, reactor]
        ended = subprocess.run(command, input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=300)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        return ended.stdout

    def test_a_breakpoint_in_a_protocol(self):
        for name in dict.fromkeys((reactors.MODEL, SUBJECT)):
            said = self.session(name)
            for words in ("b'DATA'", "'Server'", "answer b'changed'", "mainLoop", "dataReceived"):
                self.assertIn(words, said, name)

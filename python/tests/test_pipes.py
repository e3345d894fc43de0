"""Pipes and terminals of child processes, and standard input and output: protocols get the same as under the model."""

import atexit
import collections
import ctypes
import fcntl
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import tty
import unittest
import zlib

from twisted.internet import defer, interfaces, process, protocol, stdio

from kit import connections, reactors
from kit.cases import SUBJECT, Cases
from kit.connections import Producer

# Copies descriptor 0 to 1, and the complement of its bytes to 3; says at the end on 2 how many there were.
COPY = """
import os
total, complement = 0, bytes(range(255, -1, -1))
while data := os.read(0, 30000):
    total += len(data)
    for fd, some in ((1, data), (3, data.translate(complement))):
        while some:
            some = some[os.write(fd, some):]
os.write(2, str(total).encode())
"""


class Child(protocol.ProcessProtocol):
    """Notes how a child ends, and the bytes from each descriptor; of many only the number and the checksum."""

    def __init__(self, case, party="child"):
        self.case, self.party = case, party
        self.data = collections.defaultdict(bytearray)
        self.ended = defer.Deferred()
        self.closed = collections.defaultdict(defer.Deferred)
        self.wants = []

    def childDataReceived(self, number, data):
        self.data[number] += data
        wants, self.wants = self.wants, []
        for want in wants:
            self.wait(*want)

    def wait(self, number, size, fired):
        if len(self.data[number]) >= size:
            fired.callback(None)
        else:
            self.wants.append((number, size, fired))

    def wanted(self, number, size):
        """A Deferred that fires when `size` bytes have come from a descriptor."""
        fired = defer.Deferred()
        self.wait(number, size, fired)
        return fired

    def childConnectionLost(self, number):
        self.closed[number].callback(number)

    def processExited(self, reason):
        self.case.say(self.party, "exited", reason.getErrorMessage())

    def processEnded(self, reason):
        found = [
            (number, bytes(data) if len(data) < 500 else (len(data), zlib.crc32(data)))
            for number, data in sorted(self.data.items())
            if data
        ]
        self.case.say(self.party, "ended", reason.getErrorMessage(), found, sorted(self.closed))
        self.ended.callback(None)


def started(case, script, kind=Child, party="child", **options):
    child = kind(case, party)
    options = {"env": {"PATH": os.defpath}, **options}
    case.reactor.spawnProcess(child, "/bin/sh", ["sh", "-c", script], **options)
    return child


def copying(case, party="child"):
    child = Child(case, party)
    case.reactor.spawnProcess(
        child, sys.executable, [sys.executable, "-c", COPY], childFDs={0: "w", 1: "r", 2: "r", 3: "r"}
    )
    return child


async def stormed(case, seed):
    """Writes, pauses, resumes and waits at random, for several children at a time."""

    async def one(number):
        rng = random.Random(f"{seed} {number}")
        child = copying(case, f"child {number}")
        transport, wrote = child.transport, 0
        for _ in range(rng.randrange(1, 25)):
            step = rng.choice(("write", "write", "write", "pause", "turn", "wait"))
            if step == "write":
                data = rng.randbytes(rng.choice((1, 60, 4096, 70_000, 300_000)))
                half = rng.randrange(len(data))
                wrote += len(data)
                if half % 2:
                    transport.write(data)
                else:
                    transport.writeSequence([data[:half], b"", data[half:]])
            elif step == "pause":
                transport.pauseProducing()
                await case.sleep(rng.choice((0, 0.001)))
                transport.resumeProducing()
            elif step == "turn":
                await case.sleep()
            else:
                await child.wanted(rng.choice((1, 3)), rng.randrange(wrote + 1))
        transport.closeStdin()
        transport.write(b"too late")
        await child.ended

    await defer.gatherResults([defer.ensureDeferred(one(number)) for number in range(5)])


class Pipes(Cases):
    """Pipes of children."""

    async def test_random_reads_and_writes(case):
        for seed in range(6):
            await stormed(case, seed)

    async def test_a_pull_producer_writes_all_it_has(case):
        child = copying(case)
        Producer(case, child.transport.pipes[0], False, 200)
        await child.ended

    async def test_a_push_producer_is_paused_while_the_child_reads_nothing(case):
        child = started(case, "exec sleep 100")
        producer = Producer(case, child.transport.pipes[0], True, 200)
        case.say("test", producer.paused)
        await case.sleep()
        child.transport.signalProcess("KILL")
        await child.ended

    async def test_a_child_that_closes_its_input_ends_the_pipe(case):
        child = started(case, "exec 0<&-; echo closed; exec sleep 100")
        await child.closed[0]
        await child.wanted(1, 7)
        case.say("test", sorted(child.transport.pipes))
        child.transport.write(b"nobody reads this")
        child.transport.signalProcess("KILL")
        await child.ended

    async def test_output_that_a_child_does_not_read_is_lost_with_it(case):
        child = started(case, "read line; exec 0<&-; echo closed")
        child.transport.write(b"line\n" + bytes(10**6))
        await child.ended

    async def test_each_pipe_is_closed_alone(case):
        # `sh` dies of SIGPIPE if it writes to a closed pipe.
        child = started(case, "trap '' PIPE; cat; echo gone >&2; echo gone; exit 3")
        transport = child.transport
        case.say("test", sorted(transport.pipes))
        transport.closeStdout()
        await child.closed[1]
        case.say("test", sorted(transport.pipes))
        transport.closeChildFD(1)
        transport.closeStdin()
        await child.ended
        case.say("test", sorted(transport.pipes), transport.pid)

    async def test_a_paused_child_is_read_later(case):
        child = started(case, "echo early; exec sleep 100")
        child.transport.pauseProducing()
        for _ in range(3):
            await case.sleep(0.01)
        case.say("test", child.data[1])
        child.transport.resumeProducing()
        await child.wanted(1, 6)
        child.transport.signalProcess("KILL")
        await child.ended

    async def test_output_of_a_child_that_has_exited_waits_while_it_is_paused(case):
        class Exiting(Child):
            def processExited(self, reason):
                super().processExited(reason)
                exited.callback(None)

        exited = defer.Deferred()
        child = started(case, "echo early; exit 2", Exiting)
        child.transport.pauseProducing()
        await exited
        for _ in range(3):
            await case.sleep()
        case.say("test", sorted(child.data.items()), {1, 2} & child.closed.keys())
        child.transport.resumeProducing()
        await child.ended

    async def test_an_exception_of_the_protocol_is_logged_and_loses_the_pipe(case):
        class Raising(Child):
            def childDataReceived(self, number, data):
                super().childDataReceived(number, data)
                if number == 1:
                    raise ValueError("not this")

            def childConnectionLost(self, number):
                super().childConnectionLost(number)
                if number == 2:
                    raise ValueError("nor this")

        child = started(case, "trap '' PIPE; echo one; read line; echo two; echo three >&2", Raising)
        await child.closed[1]
        child.transport.write(b"line\n")
        await child.ended

    async def test_the_classes_and_attributes_of_pipes(case):
        child = copying(case)
        transport = child.transport
        for number, pipe in sorted(transport.pipes.items()):
            kinds = [isinstance(pipe, kind) for kind in (process.ProcessReader, process.ProcessWriter)]
            fd = pipe.fileno()
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            case.say("test", number, kinds, pipe.name, pipe.proc is transport, fd == pipe.fd, bool(pipe.connected))
            case.say("test", bool(flags & os.O_NONBLOCK), os.get_inheritable(fd), pipe.disconnecting)
            case.say("test", interfaces.ITransport.providedBy(pipe), interfaces.IConsumer.providedBy(pipe))
            case.say("test", pipe.logPrefix(), pipe in case.reactor.getReaders(), pipe in case.reactor.getWriters())
        pipes = dict(transport.pipes)
        transport.closeStdin()
        await child.ended
        for number, pipe in sorted(pipes.items()):
            case.say("test", number, bool(pipe.connected), pipe.disconnected, pipe in case.reactor.getReaders())

    async def test_pipes_with_classes_of_the_program(case):
        class Reader(process.ProcessReader):
            def dataReceived(self, data):
                super().dataReceived(data.upper())

        class Noting(Child):
            def childDataReceived(self, number, data):
                super().childDataReceived(number, data)
                case.say("data", number, data)

        process.Process.processReaderFactory = Reader
        try:
            child = started(case, "cat", Noting)
        finally:
            process.Process.processReaderFactory = process.ProcessReader
        child.transport.write(b"abc")
        await child.wanted(1, 3)
        child.transport.closeStdin()
        await child.ended

    async def test_the_shutdown_of_the_reactor_closes_the_pipes(case):
        child = started(case, "echo line; exec sleep 100")
        for number in range(3):
            child.closed[number].addCallback(lambda number: case.say(f"descriptor {number}", "closed"))
        await child.wanted(1, 5)
        case.reactor.addSystemEventTrigger("after", "shutdown", lambda: case.say("test", sorted(child.closed)))
        # Later: the last turn may still report a death.
        atexit.register(os.kill, child.transport.pid, signal.SIGKILL)

    async def test_another_thread_uses_a_child(case):
        from twisted.internet import threads

        child = copying(case)
        await threads.deferToThread(child.transport.write, b"from a thread")
        await child.wanted(1, 13)
        await threads.deferToThread(child.transport.closeStdin)
        await child.ended


class Noting(connections.Noting):
    """Notes the class of its transport too."""

    def __init__(self, case):
        super().__init__(case, "protocol")

    def connectionMade(self):
        self.say("made", type(self.transport).__name__)


class Half(Noting, connections.Half):
    """Notes half-closes too."""


async def arrived(case, read, size):
    """The next bytes that a function reads without blocking, `size` of them or all until the end."""
    found = b""
    while len(found) < size:
        try:
            data = read(size - len(found))
        except BlockingIOError:
            await case.sleep()
            continue
        if not data:
            break
        found += data
    return found


class Ends:
    """A StandardIO on two pipes, and their other ends."""

    def __init__(self, case, kind=Noting):
        self.stdin, self.input = os.pipe()
        self.output, self.stdout = os.pipe()
        os.set_blocking(self.output, False)
        self.protocol = kind(case)
        self.stdio = stdio.StandardIO(self.protocol, self.stdin, self.stdout, case.reactor)
        self.case = case

    async def read(self, size):
        """The next bytes of the output, `size` of them or all until its end."""
        return await arrived(self.case, lambda size: os.read(self.output, size), size)

    def say_flags(self):
        """Notes whether the output blocks; Twisted's code does not change the input."""
        self.case.say("flags", os.get_blocking(self.stdout))


class StandardIO(Cases):
    """Standard input and output."""

    async def test_bytes_pass_in_both_directions(case):
        ends = Ends(case)
        for size in (1, 100, 8192, 60_000):
            os.write(ends.input, b"i" * size)
            ends.stdio.write(b"o" * size)
            ends.stdio.writeSequence([b"p", b"", b"q"])
            case.say("output", zlib.crc32(await ends.read(size + 2)))
        await ends.protocol.wanted(68_293)
        ends.stdio.loseConnection()
        await ends.protocol.lost
        ends.say_flags()

    async def test_lose_connection_flushes_and_stops_reading(case):
        ends = Ends(case)
        ends.stdio.write(b"x" * 10**6)
        ends.stdio.loseConnection()
        ends.stdio.write(b"late")
        os.write(ends.input, b"unread")
        data = await ends.read(10**6 + 4)
        case.say("output", len(data), data[-4:])
        await ends.protocol.lost
        ends.say_flags()
        # Both descriptors are the program's.
        case.say("test", os.read(ends.stdin, 10))
        os.write(ends.stdout, b"after")
        case.say("output", await ends.read(5))

    async def test_the_end_of_the_input_is_the_end(case):
        ends = Ends(case)
        os.write(ends.input, b"last words")
        os.close(ends.input)
        await ends.protocol.lost
        ends.say_flags()

    async def test_a_half_closeable_protocol_writes_after_the_end_of_the_input(case):
        ends = Ends(case, Half)
        os.write(ends.input, b"question")
        os.close(ends.input)
        await ends.protocol.readLost
        ends.stdio.write(b"answer")
        case.say("output", await ends.read(6))
        ends.stdio.loseConnection()
        await ends.protocol.lost

    async def test_a_half_closeable_protocol_reads_after_its_output_is_closed(case):
        ends = Ends(case, Half)
        ends.stdio.write(b"all")
        ends.stdio.loseWriteConnection()
        await ends.protocol.writeLost
        os.write(ends.input, b"more input")
        await ends.protocol.wanted(10)
        os.close(ends.input)
        await ends.protocol.readLost
        case.say("output", await ends.read(3))
        ends.stdio.loseConnection()

    async def test_a_reader_that_leaves_ends_the_output(case):
        for kind in (Half, Noting):
            ends = Ends(case, kind)
            os.close(ends.output)
            if kind is Half:
                await ends.protocol.writeLost
            else:
                await case.sleep(0.01)
            ends.stdio.write(b"nobody")
            os.write(ends.input, b"still read")
            await ends.protocol.wanted(10)
            os.close(ends.input)
            await (ends.protocol.readLost if kind is Half else ends.protocol.lost)

    async def test_producers_and_pauses(case):
        ends = Ends(case)
        Producer(case, ends.stdio, False, 30)
        case.say("output", zlib.crc32(await ends.read(180_000)))
        await ends.protocol.lost
        ends = Ends(case)
        producer = Producer(case, ends.stdio, True, 30)
        case.say("test", producer.paused)
        ends.stdio.pauseProducing()
        os.write(ends.input, b"waits")
        await case.sleep(0.01)
        case.say("test", ends.protocol.size)
        case.say("output", zlib.crc32(await ends.read(180_000)))
        ends.stdio.resumeProducing()
        await ends.protocol.lost

    async def test_files_and_the_null_device(case):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "file")
            with open(path, "wb") as file:
                file.write(os.urandom(1000) * 300)
                file.truncate(250_000)
                file.seek(0)
                file.write(bytes(250_000))
            with open(path, "rb") as source, open(path + "2", "wb") as target, open("/dev/null", "r+b", 0) as null:
                for stdin, stdout in ((source, target), (null, target), (null, null)):
                    proto = Half(case)
                    made = stdio.StandardIO(proto, stdin.fileno(), stdout.fileno(), case.reactor)
                    made.write(b"output " * 30_000)
                    await proto.readLost
                    made.loseConnection()
                    await proto.lost
                    case.say("test", os.path.getsize(path + "2"))

    async def test_one_socket_for_both(case):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            proto = Noting(case)
            # Under the model, one number has one reader or writer.
            made = stdio.StandardIO(proto, theirs.fileno(), os.dup(theirs.fileno()), case.reactor)
            made.write(b"hello")
            ours.setblocking(False)
            ours.send(b"hi")
            await proto.wanted(2)
            case.say("test", await arrived(case, lambda size: ours.recv(size), 5))
            ours.shutdown(socket.SHUT_WR)
            await proto.lost

    async def test_a_terminal_for_both(case):
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        os.set_blocking(ours, False)
        for kind in (Noting, Half):
            proto = kind(case)
            # Under the model, one number has one reader or writer.
            made = stdio.StandardIO(proto, theirs, os.dup(theirs), case.reactor)
            made.write(b"prompt> ")
            case.say("test", await arrived(case, lambda size: os.read(ours, size), 8))
            os.write(ours, b"typed")
            await proto.wanted(5)
            if kind is Half:
                # The terminal is still read, and must not block the reactor.
                made.loseWriteConnection()
                await proto.writeLost
                os.write(ours, b" more")
                await proto.wanted(10)
            made.loseConnection()
            if kind is Noting:
                await proto.lost
                case.say("flags", os.get_blocking(theirs))

    async def test_a_wrong_descriptor(case):
        wrong = os.dup(0)
        os.close(wrong)
        case.attempt("test", stdio.StandardIO, Noting(case), wrong, wrong, case.reactor)


class Terminals(Cases):
    """Children on terminals."""

    async def test_a_terminal_echoes_and_ends_with_its_child(case):
        child = started(case, "stty -echo; echo ready; read line; echo got $line; exit 4", usePTY=True)
        await child.wanted(1, 7)
        transport = child.transport
        case.say("test", isinstance(transport, process.PTYProcess), os.isatty(transport.fileno()))
        case.say("test", transport in case.reactor.getReaders(), transport.connected)
        transport.write(b"a line\n")
        await child.ended
        case.say("test", transport.connected, transport.disconnected, transport.pid)

    async def test_much_output_and_input_of_a_terminal(case):
        child = started(case, "stty raw -echo; echo ready; head -c 300000 | tee /dev/null", usePTY=True)
        await child.wanted(1, 6)
        child.transport.writeSequence([b"0123456789" * 10_000] * 3)
        await child.ended

    async def test_a_terminal_of_the_program(case):
        ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        child = started(case, "read line; echo $line", usePTY=(ours, theirs, os.ttyname(theirs)))
        case.say("test", child.transport.fileno() == ours)
        child.transport.pauseProducing()
        child.transport.write(b"hello\n")
        await case.sleep(0.02)
        case.say("test", child.data[1])
        child.transport.resumeProducing()
        await child.ended

    async def test_descriptors_beside_a_terminal_are_refused(case):
        case.attempt("test", started, case, "true", usePTY=True, childFDs={0: "w"})


# The function by which the child closes its descriptors.
CLOSE = "posix_spawn_file_actions_addclosefrom_np"

# Two parties that send each other a message again and again: a program and its child `cat`, or two watched sockets.
ECHOES = {
    "child": """
class Child(protocol.ProcessProtocol):
    def connectionMade(self):
        self.transport.write(MESSAGE)

    def outReceived(self, data):
        received(self.transport)

reactor.callWhenRunning(reactor.spawnProcess, Child(), "/bin/cat", ["cat"], env={})
""",
    "stdio": """
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        received(self.transport)

child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
stdio.StandardIO(Echo(), child.stdout.fileno(), child.stdin.fileno(), reactor).write(MESSAGE)
""",
    "terminal": """
class Child(protocol.ProcessProtocol):
    def outReceived(self, data):
        received(self.transport)

reactor.callWhenRunning(
    reactor.spawnProcess, Child(), "/bin/sh", ["sh", "-c", "stty raw -echo; echo ready; exec cat"], usePTY=True
)
""",
    "watched": """
class Watched(abstract.FileDescriptor):
    connected = 1

    def __init__(self, socket):
        super().__init__(reactor)
        self.socket, self.fileno = socket, socket.fileno
        socket.setblocking(False)
        self.startReading()

    def doRead(self):
        self.socket.recv(100)
        received(self)

    def writeSomeData(self, data):
        return self.socket.send(data)

one, other = map(Watched, socket.socketpair())
one.write(MESSAGE)
""",
}
# Starts a child while many descriptors are open.
START = """
import os
from kit import reactors
reactor = reactors.install("couplet")
from twisted.internet import protocol

class Child(protocol.ProcessProtocol):
    def processEnded(self, reason):
        os.write(2, b"mark")
        reactor.stop()

def start():
    many = [os.dup(0) for _ in range(300)]
    os.write(2, b"mark")
    reactor.spawnProcess(Child(), "/bin/true", ["true"], env={})

reactor.callWhenRunning(start)
"""
BEGINNING = """
import os, socket, subprocess
from kit import reactors
reactor = reactors.install("couplet")
from twisted.internet import abstract, protocol, stdio
MESSAGE = b"m" * 62
count = 0

def received(transport):
    global count
    count += 1
    if count in (5, 105):
        os.write(2, b"mark")
    if count == 105:
        reactor.stop()
    else:
        transport.write(MESSAGE)
"""


@unittest.skipUnless(shutil.which("strace"), "there is no strace")
@unittest.skipUnless(SUBJECT == reactors.SUBJECT, "it counts the system calls of Couplet's reactor")
class SystemCalls(unittest.TestCase):
    """The system calls of a hundred messages that return, and of a child."""

    def counts(self, program):
        """How often the main thread makes each system call between the marks."""
        with tempfile.TemporaryDirectory() as folder:
            command = ["strace", "-o", f"{folder}/calls", sys.executable, "-c", program + "reactor.run()"]
            ended = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
            self.assertEqual((ended.returncode, ended.stderr), (0, b"markmark"))
            with open(f"{folder}/calls") as calls:
                parts = calls.read().split('write(2, "mark"')
        return collections.Counter(line.partition("(")[0] for line in parts[1].splitlines()[1:])

    def test_a_message_through_a_pipe_takes_three(self):
        for name in ("child", "stdio"):
            with self.subTest(name):
                counts = self.counts(BEGINNING + ECHOES[name])
                self.assertEqual((counts["epoll_ctl"], counts["writev"], counts["read"]), (0, 100, 100), counts)
                self.assertLessEqual(counts.total(), 310, counts)

    def test_a_terminal_is_read_until_it_has_nothing(self):
        counts = self.counts(BEGINNING + ECHOES["terminal"])
        self.assertEqual((counts["epoll_ctl"], counts["writev"]), (0, 100), counts)
        self.assertLessEqual(counts["read"], 200, counts)

    def test_a_watched_descriptor_takes_no_epoll_ctl_for_each_event(self):
        counts = self.counts(BEGINNING + ECHOES["watched"])
        self.assertEqual(counts["epoll_ctl"], 0, counts)
        self.assertEqual(counts["sendto"], 100, counts)
        self.assertLessEqual(counts.total(), 430, counts)

    @unittest.skipUnless(hasattr(ctypes.CDLL(None), CLOSE), "the C library can't have a child close its descriptors")
    def test_the_start_of_a_child_costs_the_same_however_many_descriptors_are_open(self):
        counts = self.counts(START)
        self.assertLessEqual(counts.total(), 90, counts)

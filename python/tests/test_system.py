"""Errors in user code, time, threads, signals, processes, datagrams, standard streams."""

import os
import signal
import socket
import sys
import threading
import time

from twisted.internet import defer, protocol

from kit.cases import Cases
from kit.connections import Echo, Noting, Reader, close, ended, pair
from test_streams import Push


class Oops(Exception):
    """An error of user code."""


class Errors(Cases):
    """An exception in user code is logged and ends its connection, as under the model."""

    async def test_in_data_received(case):
        class Server(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                raise Oops("data")

        server, client = await pair(case, Server(case, "server"))
        client.transport.write(b"x")
        await ended(client, server)

    async def test_in_connection_made(case):
        class Server(Noting):
            def connectionMade(self):
                super().connectionMade()
                case.reactor.callLater(0.05, self.transport.loseConnection)
                raise Oops("made")

        server, client = await pair(case, Server(case, "server"))
        await case.sleep(0.3)

    async def test_in_connection_lost(case):
        class Server(Noting):
            def connectionLost(self, reason):
                super().connectionLost(reason)
                raise Oops("lost")

        server, client = await pair(case, Server(case, "server"))
        await close(client, server)
        await case.sleep(0.05)

    async def test_in_build_protocol(case):
        def build():
            raise Oops("build")

        client = Noting(case, "client")
        await case.connect(case.listen(build), client)
        await case.sleep(0.1)
        client.transport.loseConnection()
        await client.lost

    async def test_build_protocol_that_declines(case):
        client = Noting(case, "client")
        await case.connect(case.listen(lambda: None), client)
        await client.lost

    async def test_in_a_producer(case):
        class Failing(Push):
            written = False

            def resumeProducing(self):
                # The program itself causes the first call, by `registerProducer`.
                if self.written:
                    raise Oops("producer")
                self.written = True
                self.transport.write(b"x")

        server, client = await pair(case)
        client.transport.registerProducer(Failing(case, client.transport, 0), False)
        await ended(client, server)

    async def test_in_timed_calls_and_calls_from_threads(case):
        def fail(text):
            raise Oops(text)

        case.reactor.callLater(0, fail, "timed")
        case.reactor.callFromThread(fail, "from a thread")
        case.reactor.callWhenRunning(case.say, "program", "goes on")
        await case.sleep(0.05)

    async def test_in_a_shutdown_trigger(case):
        def fail():
            raise Oops("shutdown")

        for phase in ("before", "during", "after"):
            case.reactor.addSystemEventTrigger(phase, "shutdown", case.say, "triggers", phase)
            case.reactor.addSystemEventTrigger(phase, "shutdown", fail)

    async def test_a_write_of_text_is_a_type_error(case):
        server, client = await pair(case)
        for wrong in ("text", 5, None):
            case.attempt("client", client.transport.write, wrong)
        await close(client, server)

    async def test_in_calls_of_foreign_descriptors(case):
        reading, writing = os.pipe()
        lost = defer.Deferred()

        def read(reader):
            raise Oops("read")

        case.reactor.addReader(Reader(reading, read, lambda reason: lost.callback(reason.type.__name__)))
        os.write(writing, b"x")
        case.say("reader", await lost)


class Time(Cases):
    """Timed calls."""

    async def test_calls_come_in_the_order_of_their_times(case):
        later = case.reactor.callLater
        for number, delay in enumerate((0.03, 0.01, 0, 0.02, 0, 0.01)):
            later(delay, case.say, "call", number)
        cancelled = later(0.01, case.say, "call", "cancelled")
        cancelled.cancel()
        moved = later(0.01, case.say, "call", "moved")
        moved.reset(0.04)
        delayed = later(0.01, case.say, "call", "delayed")
        delayed.delay(0.04)
        case.say("count", len(case.reactor.getDelayedCalls()))
        await case.sleep(0.1)
        for call in (cancelled, moved):
            case.attempt("call", call.cancel)
        case.say("count", len(case.reactor.getDelayedCalls()))

    async def test_a_call_made_by_a_call_waits_for_the_next_turn(case):
        def first():
            case.say("call", "first")
            case.reactor.callLater(0, case.say, "call", "third")

        case.reactor.callLater(0, first)
        case.reactor.callLater(0, case.say, "call", "second")
        await case.sleep(0.05)

    async def test_a_call_made_while_bytes_come_is_before_the_next_bytes(case):
        class Server(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                # The peer is in this process, so it could get the answer before the call is made.
                self.transport.write(data)
                case.reactor.callLater(float(data), case.say, "order", "call")

        class Client(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                case.say("order", "answer")

        server, client = await pair(case, Server(case, "server"), Client(case, "client"))
        await case.sleep(0.01)
        # twisted.internet.task.Cooperator uses the second delay.
        for delay in (b"0", b"0.00000001"):
            client.transport.write(delay)
            await case.sleep(0.05)
        await close(client, server)

    async def test_calls_that_are_due_after_a_long_callback_come_before_the_next_events(case):
        """Each kind of callback blocks the loop until a call is due and bytes have arrived."""
        tellers = [Noting(case, "server") for _ in range(2)]
        waiting = iter(tellers)
        port = case.listen(lambda: next(waiting))
        socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        await case.sleep(0.05)
        told, ended = tellers

        def hold(where):
            case.reactor.callLater(0.02, case.say, "order", where, "call")
            socks[0].sendall(b"x")
            time.sleep(0.05)

        told.dataReceived = lambda data: case.say("order", "bytes")

        class Datagrams(protocol.DatagramProtocol):
            def datagramReceived(self, data, address):
                hold("datagram")

        udp = case.reactor.listenUDP(0, Datagrams(), interface="127.0.0.1")
        udp.write(b"x", ("127.0.0.1", udp.getHost().port))
        await case.sleep(0.2)
        case.reactor.callInThread(case.reactor.callFromThread, hold, "thread")
        await case.sleep(0.2)
        case.reactor.callLater(0, hold, "timed call")
        await case.sleep(0.2)
        ended.dataReceived = lambda data: hold("bytes of another")
        socks[1].sendall(b"x")
        await case.sleep(0.2)
        ended.connectionLost = lambda reason: hold("end of another")
        socks[1].close()
        await case.sleep(0.2)
        socks[0].close()
        await told.lost
        await udp.stopListening()

    async def test_a_delay_counts_from_the_request(case):
        class Server(protocol.Protocol):
            def dataReceived(self, data):
                time.sleep(0.2)
                requested = time.monotonic()
                moved = case.reactor.callLater(100, note, requested)
                moved.reset(0.15)
                case.reactor.callLater(0.1, note, requested)

        def note(requested):
            case.say("call", time.monotonic() - requested > 0.09)

        client = Noting(case, "client")
        await case.connect(case.listen(Server), client)
        client.transport.write(b"x")
        await case.sleep(0.6)
        client.transport.loseConnection()
        await client.lost

    async def test_a_delayed_call_knows_the_time(case):
        call = case.reactor.callLater(5, print)
        case.say("call", abs(call.getTime() - call.seconds() - 5) < 1)
        call.cancel()

    async def test_wrong_delays_are_refused(case):
        for delay in (-1, "1", None):
            case.attempt("call", case.reactor.callLater, delay, print)

    async def test_another_clock_tells_the_times(case):
        case.reactor.seconds, before = (lambda: 100.0), case.reactor.seconds
        call = case.reactor.callLater(5, case.say, "call", "made")
        case.say("clock", call.getTime(), call.seconds())
        call.reset(7)
        case.say("clock", call.getTime())
        call.delay(1)
        case.say("clock", call.getTime())
        case.reactor.seconds = before
        case.say("clock", case.reactor.seconds() > 100)
        call.cancel()


class Threads(Cases):
    """Other threads."""

    async def test_a_call_from_a_thread_wakes_the_loop(case):
        # Only the call ends the wait: without a wake-up the test hangs.
        for number in range(100):
            woken = defer.Deferred()
            threading.Timer(0.001, case.reactor.callFromThread, [woken.callback, number]).start()
            case.say("call", await woken)

    async def test_calls_from_threads_that_make_more_starve_nobody(case):
        server, client = await pair(case, Echo(case, "server"))

        def again():
            if case.reactor.running:
                case.reactor.callFromThread(again)

        again()
        await case.sleep(0.01)
        client.transport.write(b"x")
        await client.wanted(1)
        await close(client, server)

    async def test_work_in_threads(case):
        from twisted.internet import threads

        case.say("thread", await threads.deferToThread(sum, range(1000)))
        try:
            await threads.deferToThread(lambda: 1 / 0)
        except ZeroDivisionError as error:
            case.say("thread", error)

        def blocking():
            return threads.blockingCallFromThread(case.reactor, case.reactor.getThreadPool) is not None

        case.say("thread", await threads.deferToThread(blocking))
        results = await defer.gatherResults([threads.deferToThread(pow, 2, each) for each in range(200)])
        case.say("thread", sum(results))

    async def test_names_are_resolved_in_threads(case):
        case.say("name", await case.reactor.resolve("localhost"))


class Signals(Cases):
    """Signals end the run in the same order as under the model."""

    async def test_sigterm(case):
        await stopped_by(case, signal.SIGTERM)

    async def test_sigint(case):
        await stopped_by(case, signal.SIGINT)

    async def test_a_handler_of_the_users(case):
        seen = defer.Deferred()
        signal.signal(signal.SIGUSR1, lambda *_: case.reactor.callFromThread(seen.callback, "seen"))
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        case.say("signal", await seen)


async def stopped_by(case, number):
    """Waits for a signal that ends the otherwise idle run."""
    for phase in ("before", "during", "after"):
        case.reactor.addSystemEventTrigger(phase, "shutdown", case.say, "triggers", phase)
    server, client = await pair(case, Echo(case, "server"))
    threading.Timer(0.05, os.kill, [os.getpid(), number]).start()
    await defer.Deferred()


class Child(protocol.ProcessProtocol):
    """Notes the events of a process."""

    def __init__(self, case):
        self.case, self.out, self.err = case, b"", b""
        self.ended = defer.Deferred()

    def connectionMade(self):
        self.case.say("child", "made")

    def outReceived(self, data):
        self.out += data

    def errReceived(self, data):
        self.err += data

    def processExited(self, reason):
        self.case.say("exit", reason.type.__name__, reason.value.exitCode, reason.value.signal)

    def processEnded(self, reason):
        self.case.say("child", "ended", len(self.out), self.out[:20], self.err)
        self.ended.callback(None)


class Processes(Cases):
    """Child processes."""

    async def test_bytes_through_a_child(case):
        child = Child(case)
        case.reactor.spawnProcess(child, "/bin/cat", ["cat"], env=None)
        child.transport.write(b"c" * (1 << 20))
        child.transport.closeStdin()
        await child.ended

    async def test_exit_codes_and_signals(case):
        for script in ("exit 3", "echo out; echo err >&2", "kill -9 $$"):
            child = Child(case)
            case.reactor.spawnProcess(child, "/bin/sh", ["sh", "-c", script], env=None)
            await child.ended
        child = Child(case)
        process = case.reactor.spawnProcess(child, "/bin/sleep", ["sleep", "100"], env=None)
        process.signalProcess("TERM")
        await child.ended

    async def test_many_children_at_once(case):
        children = [Child(case) for _ in range(20)]
        for child in children:
            case.reactor.spawnProcess(child, "/bin/echo", ["echo", "hello"], env=None)
        await defer.gatherResults([child.ended for child in children])

    async def test_a_terminal(case):
        child = Child(case)
        case.reactor.spawnProcess(child, "/bin/sh", ["sh", "-c", "test -t 0 && echo terminal"], env=None, usePTY=True)
        await child.ended

    async def test_standard_streams(case):
        program = (
            "import sys; from kit import reactors; reactor = reactors.install(sys.argv[1])\n"
            "from twisted.internet import stdio, protocol\n"
            "class Echo(protocol.Protocol):\n"
            "    def dataReceived(self, data):\n"
            "        self.transport.write(data.upper())\n"
            "        self.transport.loseConnection()\n"
            "    def connectionLost(self, reason): reactor.stop()\n"
            "stdio.StandardIO(Echo()); reactor.run()\n"
        )
        child = Child(case)
        command = [sys.executable, "-c", program, sys.argv[3]]
        case.reactor.spawnProcess(child, sys.executable, command, env=os.environ)
        child.transport.write(b"hello\n")
        await child.ended


class Datagrams(Cases):
    """UDP."""

    async def test_datagrams_come_back(case):
        got = defer.Deferred()

        class Server(protocol.DatagramProtocol):
            def datagramReceived(self, data, address):
                self.transport.write(data, address)

        class Client(protocol.DatagramProtocol):
            left = 100

            def startProtocol(self):
                case.say("client", "started")
                self.transport.connect("127.0.0.1", port.getHost().port)
                self.transport.write(b"0")

            def datagramReceived(self, data, address):
                case.say("client", data)
                self.left -= 1
                if self.left:
                    self.transport.write(b"%d" % self.left)
                else:
                    got.callback(None)

            def stopProtocol(self):
                case.say("client", "stopped")

        port = case.reactor.listenUDP(0, Server(), interface="127.0.0.1")
        client = case.reactor.listenUDP(0, Client(), interface="127.0.0.1")
        await got
        await client.stopListening()


"""The reactor itself: runs that end before they begin, nested turns, forks, wrapped pollers, delayed calls."""

import functools
import os
import select
import socket
import subprocess
import sys
import time
import unittest

from twisted.internet import base, defer, interfaces, protocol, threads
from zope.interface.verify import verifyObject

from kit import running
from kit.cases import SUBJECT, Cases, only_subject
from kit.connections import MIB, Called, Echo, Noting, Producer, Reader, close, ended, pair

MADE = """
import os, sys, threading
from kit import reactors
reactor = reactors.install(sys.argv[1])
from twisted.internet import defer, error, protocol, task, threads
"""

# On older releases, resets the state that asyncio of Python 3.12 resets in a forked child.
FORGETTING = """
import asyncio, os, signal, sys

def on_fork():
    asyncio.set_event_loop(None)
    asyncio.events._set_running_loop(None)
    signal.set_wakeup_fd(-1)

if sys.version_info < (3, 12):
    os.register_at_fork(after_in_child=on_fork)
"""


class Programs(unittest.TestCase):
    """Programs that run the reactor in unusual ways."""

    maxDiff = None

    def says(self, text, name=SUBJECT):
        """A program's output and status."""
        status, said = running.ended("-c", FORGETTING + MADE + text, name)
        return f"{said}status {status}"

    def test_another_event_loop_of_asyncio_is_made_before_the_run(self):
        # pytest-twisted does this. If tasks belonged to that loop, Scrapy's tests would hang.
        program = """
import asyncio
from twisted.internet import asyncioreactor
try:
    asyncioreactor.install()
except error.ReactorAlreadyInstalledError:
    print("refused")
tasks = []
async def program():
    await asyncio.sleep(0.01)
    print("ended")
    reactor.stop()
reactor.callLater(0, lambda: tasks.append(asyncio.ensure_future(program())))
reactor.callLater(200, reactor.stop)
reactor.run()
"""
        self.assertMultiLineEqual(self.says(program, "asyncio"), self.says(program))

    # Under the model both processes of a fork continue too, but report an unexpected state of their epoll.

    def test_c106a_both_processes_of_a_fork_run_the_reactor(self):
        said = self.says(
            """
import time
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

class Client(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")
    def dataReceived(self, data):
        got.callback(data)
        self.transport.loseConnection()

def exchange():
    # Each process has its port and its client.
    global got
    got = defer.Deferred()
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    factory = protocol.ClientFactory.forProtocol(Client)
    reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
    return got.addBoth(lambda data: port.stopListening() and data)

@defer.inlineCallbacks
def program(where):
    print(where, (yield exchange()), flush=True)
    print(where, (yield threads.deferToThread(sum, [1, 2])), flush=True)
    child = yield task.deferLater(reactor, 0.01, os.fork)
    where = "child" if child == 0 else "parent"
    if child:
        # In their order, as they share what they print on.
        os.waitpid(child, 0)
    print(where, (yield exchange()), flush=True)
    print(where, (yield task.deferLater(reactor, 0.01, lambda: "timed")), flush=True)
    reactor.callFromThread(print, where, "from a thread", flush=True)
    thread = threading.Timer(0.01, reactor.callFromThread, [reactor.stop])
    thread.start()

def begin(where):
    program(where).addErrback(lambda failure: (print(failure.getTraceback()), reactor.stop()))

reactor.callWhenRunning(begin, "both")
reactor.run()
print("ended", flush=True)
"""
        )
        after = "{0} b'hello'\n{0} timed\n{0} from a thread\nended\n"
        before = "both b'hello'\nboth 3\n"
        self.assertEqual(said, before + after.format("child") + after.format("parent") + "status 0")

    def test_c106a_a_fork_before_the_run(self):
        said = self.says(
            """
port = reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")
reactor.callLater(0.01, print, "timed", flush=True)
child = os.fork()
if child:
    os.waitpid(child, 0)
threading.Timer(0.05, reactor.callFromThread, [reactor.stop]).start()
reactor.run()
print("ended", flush=True)
"""
        )
        self.assertEqual(said, "timed\nended\n" * 2 + "status 0")

    def test_c106a_children_end_in_both_processes_of_a_fork(self):
        said = self.says(
            """
from twisted.internet import utils

@defer.inlineCallbacks
def program():
    yield utils.getProcessOutput("/bin/echo", ["before"])
    child = yield task.deferLater(reactor, 0.01, os.fork)
    for number in range(20):
        yield utils.getProcessOutput("/bin/echo", [str(number)])
    # Only the signal reports its end.
    yield utils.getProcessValue("/bin/sh", ["-c", "exec 0<&- 1>&- 2>&-; sleep 0.1"])
    if child:
        os.waitpid(child, 0)
    print("ended", flush=True)
    reactor.stop()

reactor.callWhenRunning(program)
reactor.run()
"""
        )
        self.assertEqual(said, "ended\n" * 2 + "status 0")

    @unittest.skipUnless(SUBJECT == "couplet", "epoll's has no event loop of asyncio")
    def test_c106a_asyncio_reads_and_children_end_in_both_processes_of_a_fork(self):
        text = """
import socket
async def slept():
    await asyncio.sleep(0.01)
    return asyncio.get_running_loop()

@defer.inlineCallbacks
def program():
    child = yield task.deferLater(reactor, 0.01, os.fork)
    if child:
        os.waitpid(child, 0)
    loop = asyncio.get_event_loop()
    print(loop is (yield defer.Deferred.fromFuture(loop.create_task(slept()))), flush=True)
    ends, readable = socket.socketpair(), defer.Deferred()
    loop.add_reader(ends[0], lambda: (loop.remove_reader(ends[0]), readable.callback(None)))
    ends[1].send(b"x")
    yield readable
    yield task.deferLater(reactor, 0)
    print(asyncio._get_running_loop() is loop, flush=True)
    ended = defer.Deferred()
    class Child(protocol.ProcessProtocol):
        def processExited(self, reason):
            ended.callback(None)
    # Its end has no other sign than SIGCHLD.
    reactor.spawnProcess(Child(), "/bin/sleep", ["sleep", "0.05"], childFDs={})
    yield ended
    reactor.stop()

reactor.callWhenRunning(program)
reactor.run()
"""
        for name, running in ((SUBJECT, False), ("couplet-asyncio", True)):
            with self.subTest(name):
                self.assertEqual(self.says(text, name), f"True\n{running}\n" * 2 + "status 0")


class Forks(Cases, by=only_subject):
    """Connections across a fork."""

    async def test_the_parent_keeps_connections_that_the_child_closes(case):
        server, client = await pair(case, Echo(case, "server"))
        child = os.fork()
        if child == 0:
            # The child closes its connections and ports; the parent's continue.
            case.ports[0].stopListening()
            client.transport.loseConnection()
            server.transport.loseConnection()
            case.reactor.callLater(0.05, os._exit, 7)
            return await defer.Deferred()
        await case.sleep(0.01)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status

    async def test_a_connection_that_the_parent_closes_is_not_watched_any_more(case):
        def registrations():
            return sum(text.count("tfd:") for text in map(descriptor, os.listdir("/proc/self/fdinfo")))

        def descriptor(number):
            try:
                return open(f"/proc/self/fdinfo/{number}").read()
            except FileNotFoundError:
                return ""

        server = Noting(case, "server")
        port = case.listen(lambda: server)
        await case.sleep(0.01)
        before = registrations()
        client = Noting(case, "client")
        await case.connect(port, client)
        await case.sleep(0.01)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            # The child has copies of the connection's descriptors until the test lets it exit.
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        for each in (server, client):
            each.transport.loseConnection()
            each.transport.abortConnection()
        await ended(client, server)
        await case.sleep(0.01)
        after = registrations()
        os.close(writing)
        os.waitpid(child, 0)
        assert after == before, (before, after)

    async def test_calls_from_threads_wake_their_own_process(case):
        # The parent wakes itself constantly; the child must sleep meanwhile.
        woken = defer.Deferred()
        child = os.fork()
        if child == 0:
            before = os.times()
            await case.sleep(0.3)
            after = os.times()
            os._exit(int(after.user + after.system - before.user - before.system > 0.1))
        until = time.monotonic() + 0.25

        def again():
            if time.monotonic() < until:
                case.reactor.callFromThread(again)
            else:
                woken.callback(None)

        again()
        await woken
        _, status = os.waitpid(child, 0)
        assert status == 0, status


def turn_until(case, holds):
    """Iterates inside a callback until `holds` returns true. Fails after 100 seconds."""
    until = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < until, "the turns do not bring it about"
        case.reactor.iterate(0.01)


def exchange(case, port, name):
    """Inside a callback: connects, sends by a producer, receives the echo, loses the connection, and uses a thread."""
    client = Noting(case, f"client of {name}")
    connected = []
    case.connect(port, client).addCallback(connected.append)
    turn_until(case, lambda: connected)
    Producer(case, client.transport, False, 3, closes=False)
    turn_until(case, lambda: client.size == 18_000)
    client.transport.loseConnection()
    turn_until(case, lambda: client.lost.called)
    got = []
    threads.deferToThread(sum, [1, 2]).addCallback(got.append)
    turn_until(case, lambda: got)
    case.say(name, "returns", got)


async def in_a_protocol(case, nested, event):
    """Iterates when a factory builds a protocol, or when that is connected, gets data, is lost, or drained."""

    class Nesting(Noting):
        def connectionMade(self):
            super().connectionMade()
            if event == "made":
                nested()
            elif event == "resumed":
                self.transport.registerProducer(self, True)
                self.transport.write(b"r" * 8 * MIB)

        def dataReceived(self, data):
            super().dataReceived(data)
            nested()

        def pauseProducing(self):
            self.resumeProducing = self.resumed

        def resumed(self):
            self.resumeProducing = lambda: None
            nested()
            self.transport.unregisterProducer()

        def stopProducing(self):
            pass

        def connectionLost(self, reason):
            if event == "lost":
                nested()
            super().connectionLost(reason)

    server, client = Nesting(case, "nesting"), Noting(case, "client")

    def build():
        if event == "build":
            nested()
        return server

    await case.connect(case.listen(build), client)
    if event == "data":
        client.transport.write(b"x")
    await (client.wanted(8 * MIB) if event == "resumed" else case.sleep(0.05))
    await close(client, server)


async def in_a_reader(case, nested):
    """Iterates in `doRead`, after it has read."""
    reading, writing = os.pipe()
    done = defer.Deferred()

    def read(reader):
        os.read(reading, 1)
        nested()
        case.reactor.removeReader(reader)
        done.callback(None)

    os.write(writing, b"1")
    case.reactor.addReader(Reader(reading, read))
    await done
    os.close(reading)
    os.close(writing)


async def in_a_datagram(case, nested):
    """Iterates in `datagramReceived`."""
    done = defer.Deferred()

    class Datagrams(protocol.DatagramProtocol):
        def datagramReceived(self, data, address):
            nested()
            done.callback(None)

    udp = case.reactor.listenUDP(0, Datagrams(), interface="127.0.0.1")
    udp.write(b"datagram", ("127.0.0.1", udp.getHost().port))
    await done
    await udp.stopListening()


async def in_a_process(case, nested):
    """Iterates in the callbacks of a process protocol."""
    done = defer.Deferred()

    class Process(protocol.ProcessProtocol):
        def connectionMade(self):
            self.transport.write(b"input")

        def outReceived(self, data):
            nested()
            self.transport.closeStdin()

        def processEnded(self, reason):
            nested()
            done.callback(None)

    case.reactor.spawnProcess(Process(), "/bin/cat", ["cat"])
    await done


async def in_a_timed_call(case, nested):
    done = defer.Deferred()
    case.reactor.callLater(0, lambda: done.callback(nested()))
    await done


async def in_a_call_from_a_thread(case, nested):
    done, begun = defer.Deferred(), []

    def once():
        # The nested turn makes this call again, because it is still in the queue.
        if not begun:
            begun.append(True)
            done.callback(nested())

    case.reactor.callInThread(case.reactor.callFromThread, once)
    await done


CALLBACKS = {
    "timed": in_a_timed_call,
    "from a thread": in_a_call_from_a_thread,
    **{
        event: functools.partial(in_a_protocol, event=event) for event in ("build", "made", "data", "lost", "resumed")
    },
    "read": in_a_reader,
    "datagram": in_a_datagram,
    "process": in_a_process,
}


class Turns(Cases):
    """Turns inside a callback of the reactor."""

    async def test_readers_and_writers_are_called(case):
        reading, writing = os.pipe()

        def read(reader):
            got = os.read(reading, 1)
            case.say("reader", got)
            if got == b"1":
                # More input is readable, and the nested turn delivers it.
                case.reactor.iterate(0)
                case.say("reader", "iterated")
            elif got == b"3":
                case.reactor.removeReader(reader)

        os.write(writing, b"123")
        case.reactor.addReader(Reader(reading, read))
        await case.sleep(0.1)

    async def test_bytes_of_the_same_connection_arrive_inside_its_callback(case):
        class Nesting(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                if self.size == 5:
                    client.transport.write(b"second")
                    turn_until(case, lambda: self.size == 11)
                    case.say("server", "returns")

        server, client = await pair(case, Nesting(case, "server"))
        client.transport.write(b"first")
        await server.wanted(11)
        await close(client, server)

    async def test_the_end_of_a_connection_inside_its_callback(case):
        class Nesting(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                if data:
                    turn_until(case, lambda: self.lost.called)
                    case.say("server", "returns")

        for end in ("loseConnection", "abortConnection"):
            server, client = await pair(case, Nesting(case, "server"))
            client.transport.write(b"x")
            await server.wanted(1)
            getattr(client.transport, end)()
            await ended(client, server)

    async def test_a_connection_is_paused_or_aborted_inside_the_callback_of_another(case):
        # Both have bytes to deliver in the same turn.
        class Ending(Noting):
            def dataReceived(self, data):
                if self.size:
                    return super().dataReceived(data)
                super().dataReceived(data)
                other = pair[pair[0] is self]
                if not other.size:
                    getattr(other.transport, end)()
                    for _ in range(5):
                        case.reactor.iterate(0)
                    case.say("other", other.size, other.lost.called)
                    if end == "pauseProducing":
                        other.transport.resumeProducing()
                        turn_until(case, lambda: other.size)
                    case.say("other", other.size)

        for end in ("pauseProducing", "abortConnection"):
            pair = [Ending(case, end) for _ in range(2)]
            clients = [Noting(case, "client") for _ in pair]
            left = list(pair)
            port = case.listen(left.pop)
            for each in clients + pair:
                # Either may be the first.
                each.say = lambda *_: None
            for client in clients:
                await case.connect(port, client)
            for client in clients:
                client.transport.write(b"x")
            await case.sleep(0.05)
            for each in clients + pair:
                each.transport.loseConnection()
            await defer.gatherResults([each.lost for each in clients + pair])

    async def test_connections_are_served_inside_other_callbacks(case):
        servers = []

        def serve():
            servers.append(Echo(case, "server"))
            return servers[-1]

        port = case.listen(serve)
        for callback, run in CALLBACKS.items():
            case.say("callback", callback)
            await run(case, lambda: exchange(case, port, callback))
        await defer.gatherResults([each.lost for each in servers])

    async def test_due_calls_that_an_earlier_one_moves_or_cancels(case):
        def first():
            case.say("calls", "first")
            later.reset(0.05)
            delayed.delay(0.1)
            cancelled.cancel()
            case.say("calls", later.active(), delayed.active(), cancelled.active(), last.active())
            case.say("pending", sum(each in case.reactor.getDelayedCalls() for each in calls))

        case.reactor.callLater(0.01, first)
        calls = [
            case.reactor.callLater(0.01 + number / 10000, case.say, "calls", name)
            for number, name in enumerate(("later", "delayed", "cancelled", "last"))
        ]
        later, delayed, cancelled, last = calls
        time.sleep(0.02)
        await case.sleep(0.3)
        case.say("pending", sum(each in case.reactor.getDelayedCalls() for each in calls))

    async def test_a_stop_before_a_turn_inside_of_a_call_ends_the_run(case):
        def nested():
            case.reactor.stop()
            case.reactor.iterate(0)
            case.reactor.iterate(0)
            case.say("nested", "returns")

        case.reactor.callLater(0, nested)
        await case.sleep(20)


class Waits(Cases, by=only_subject):
    """Replaced pollers."""

    async def test_a_wrapped_poll_is_called_once_a_turn_with_the_wait_in_it(case):
        # Synapse measures turns like this.
        selector = case.reactor._asyncioEventloop._selector

        class Wrapper:
            def __init__(self, wrapped):
                self.wrapped, self.waited, self.between = wrapped, [], []
                self.ended = time.monotonic()

            def __getattr__(self, name):
                return getattr(self.wrapped, name)

            def poll(self, *args):
                begins = time.monotonic()
                self.between.append(begins - self.ended)
                result = self.wrapped.poll(*args)
                self.ended = time.monotonic()
                self.waited.append(self.ended - begins)
                return result

        wrapper = selector._selector = Wrapper(selector._selector)
        server, client = await pair(case, Echo(case, "server"))
        before = len(wrapper.waited)
        await case.sleep(0.2)
        assert 1 <= len(wrapper.waited) - before < 20, wrapper.waited[before:]
        assert max(wrapper.waited) > 0.1 > max(wrapper.between), (wrapper.waited, wrapper.between)
        case.reactor.callLater(0, time.sleep, 0.2)
        await case.sleep(0.01)
        assert max(wrapper.between) > 0.15, wrapper.between
        before = len(wrapper.waited)
        for number in range(1, 101):
            client.transport.write(b"x")
            await client.wanted(number)
        # Each round trip takes a turn for the server and one for the client, perhaps the same.
        assert len(wrapper.waited) - before >= 100, len(wrapper.waited) - before
        # Other events still arrive.
        assert await threads.deferToThread(sum, [1, 2]) == 3
        import asyncio

        async def program():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            return await reader.readexactly(5)

        port = case.listen(lambda: Echo(case, "another"))
        asking = asyncio.ensure_future(program(), loop=asyncio.get_event_loop())
        assert await defer.Deferred.fromFuture(asking) == b"hello"
        await close(client, server)

    async def test_an_unwrapped_poller_is_left_alone(case):
        assert isinstance(case.reactor._asyncioEventloop._selector._selector, select.epoll)


class Calls(Cases):
    """Delayed calls."""

    async def test_calls_provide_their_interface_and_pass_for_twisteds_class(case):
        call = case.reactor.callLater(5, int)
        case.say("call", interfaces.IDelayedCall.providedBy(call), verifyObject(interfaces.IDelayedCall, call))
        case.say("call", isinstance(call, base.DelayedCall), call.__class__ is base.DelayedCall, call in {call})
        call.cancel()

    async def test_calls_describe_their_function_and_arguments(case):
        def described(call):
            text = str(call)
            return text.split(" [")[0].split(" 0x")[0], text.partition("] ")[2] or text.partition("s] ")[2]

        call = case.reactor.callLater(5, sorted, [3], reverse=True)
        case.say("call", *described(call))
        case.say("call", call.func is sorted, call.args, call.kw)
        call.cancel()
        case.say("call", *described(call), call.cancelled, call.called)
        case.say("call", hasattr(call, "func"))

    async def test_in_debug_mode_calls_have_the_stack_of_their_creation(case):
        case.say("debug", base.DelayedCall.debug)
        call = case.reactor.callLater(5, int)
        case.say("call", call.debug, call.creator)
        call.debug = True
        call.cancel()
        case.say("call", call.debug, " cancelled=0 int()" in str(call))
        base.DelayedCall.debug = True

        def maker():
            return case.reactor.callLater(5, int)

        call = maker()
        case.say("call", call.debug, "in maker" in str(call), "traceback at creation" in str(call))
        case.say("call", "in maker" in call.creator[-1])
        call.cancel()
        base.DelayedCall.debug = False

    async def test_in_debug_mode_an_error_shows_where_its_call_was_made(case):
        from twisted.logger import formatEvent, globalLogPublisher
        from twisted.python import log

        said = []
        log.removeObserver(case.observe)
        globalLogPublisher.addObserver(lambda event: said.append(formatEvent(event)))
        base.DelayedCall.debug = True

        def maker():
            case.reactor.callLater(0, lambda: 1 / 0)

        maker()
        await case.sleep(0.01)
        base.DelayedCall.debug = False
        said = [text for text in said if "timed call" in text]
        case.say("log", len(said), "from a DelayedCall created here" in said[0], "in maker" in said[0])


class Accepting(Cases):
    """Effects of a failing factory on its client."""

    # The model closes the socket when the exception is freed.
    @only_subject
    async def test_a_build_protocol_that_raises_ends_the_connection_cleanly(case):
        def build():
            # Wait for the client's bytes.
            time.sleep(0.01)
            raise ValueError("build")

        port = case.listen(build)
        for first in (b"", b"first"):
            client = Noting(case, "client")
            client.connectionMade = lambda: client.transport.write(first)
            await case.connect(port, client)
            await client.lost
        assert [note.split()[1] for note in case.notes["client"]] == ["ConnectionDone"] * 2, case.notes


class Fairness(Cases, by=only_subject):
    """Constant requests of one kind delay nothing else."""

    async def test_a_storm_of_calls_from_a_thread_holds_up_no_timed_call(case):
        import threading

        is_over, late = threading.Event(), []

        def storm():
            while not is_over.is_set():
                case.reactor.callFromThread(int)

        def tick(due):
            late.append(time.monotonic() - due)

        storms = [threading.Thread(target=storm, daemon=True) for _ in range(4)]
        for thread in storms:
            thread.start()
        for _ in range(20):
            due = time.monotonic() + 0.01
            case.reactor.callLater(0.01, tick, due)
            await case.sleep(0.01)
        is_over.set()
        for thread in storms:
            thread.join()
        case.reactor.threadCallQueue.clear()
        # Without a limit on the calls in a turn, each turn would take longer than the one before.
        assert sorted(late)[len(late) // 2] < 0.2, late

    async def test_calls_that_take_long_are_made_in_several_turns(case):
        order = []
        for number in range(64):
            case.reactor.callFromThread(lambda number: (order.append(number), time.sleep(0.002)), number)
        case.reactor.callLater(0, order.append, "timed")
        await case.sleep(0.3)
        assert 0 < order.index("timed") < 64, order
        assert [each for each in order if each != "timed"] == list(range(64)), order

    async def test_input_at_hand_precedes_a_timed_call_that_it_postpones(case):
        # Twisted's reactors make due calls before they read.
        for begin in Busy.BEGINNINGS:
            for _ in range(2):
                wait = 0.2
                while not await Busy(case, wait).rest(begin):
                    wait *= 2


class Busy(protocol.Protocol):
    """A connection with a timeout, in a loop that is busy or stopped beyond it while input arrives."""

    def __init__(self, case, wait):
        self.case, self.reactor, self.wait = case, case.reactor, wait
        self.received = defer.Deferred()
        self.is_valid = False
        self.events = []

    async def rest(self, begin):
        """Returns whether the input arrived before the timeout. `begin` has the loop call `be_busy`."""
        self.client = socket.create_connection(("127.0.0.1", self.case.listen(lambda: self)))
        self.made = defer.Deferred()
        await self.made
        self.timeout = self.reactor.callLater(self.wait, self.note, "timeout")
        # The timeout was requested some turns ago.
        for _ in range(5):
            await self.case.sleep()
        begin(self)
        await self.received
        if self.timeout.active():
            self.timeout.cancel()
        self.client.close()
        await self.case.ports.pop().stopListening()
        assert not self.is_valid or self.events == ["input"], (begin.__name__, self.events)
        return self.is_valid

    def connectionMade(self):
        self.made.callback(None)

    def dataReceived(self, data):
        self.note("input")
        if self.timeout.active():
            self.timeout.reset(3600)
        self.received.callback(None)

    def note(self, event):
        self.events.append(event)

    def left(self):
        return self.timeout.getTime() - time.time() if self.timeout.active() else -1

    def be_busy(self):
        """Sends the input, and lets the time pass. Valid if neither this machine nor the loop is late."""
        self.is_valid = self.left() > 0
        self.client.send(b"x")
        time.sleep(max(0, self.left()) + 0.05)

    def in_a_timed_call(self):
        self.reactor.callLater(0, self.be_busy)

    def in_a_call_from_a_thread(self):
        self.reactor.callInThread(self.reactor.callFromThread, self.be_busy)

    def in_an_event(self):
        other = socket.create_connection(("127.0.0.1", self.case.listen(lambda: Called(lambda data: self.be_busy()))))
        other.send(b"x")
        self.received.addBoth(lambda _: (other.close(), self.case.ports.pop(0).stopListening())[1])

    def in_a_callback_of_asyncio(self):
        import asyncio

        asyncio.get_event_loop().call_soon(self.be_busy)

    def in_a_reader(self):
        near, far = socket.socketpair()
        reader = when_readable(self.reactor, near, self.be_busy)
        far.send(b"x")
        self.received.addBoth(lambda _: (reader, far.close()))

    def before_an_iteration_inside_a_call(self):
        self.reactor.callLater(0, lambda: (self.be_busy(), self.reactor.iterate()))

    def stopped(self):
        """A child process stops this one, and sends the input."""
        child = """
import os, socket, sys, time
parent, client, until = os.getppid(), socket.socket(fileno=int(sys.argv[1])), float(sys.argv[2])
os.kill(parent, 19)
in_time = time.time() < until
client.send(b"x")
time.sleep(max(0, until - time.time()) + 0.05)
os.kill(parent, 18)
sys.exit(not in_time)
"""
        number = self.client.fileno()
        command = [sys.executable, "-S", "-c", child, str(number), str(self.timeout.getTime())]
        process = subprocess.Popen(command, pass_fds=[number])

        def ended(_):
            self.is_valid = process.wait() == 0

        self.received.addBoth(ended)

    BEGINNINGS = [
        in_a_timed_call,
        in_a_call_from_a_thread,
        in_an_event,
        in_a_callback_of_asyncio,
        in_a_reader,
        before_an_iteration_inside_a_call,
        stopped,
    ]


def when_readable(reactor, socket, function):
    """Calls a function once a socket is readable, and closes it."""

    def read(reader):
        reactor.removeReader(reader)
        socket.close()
        function()

    reader = Reader(socket.fileno(), read)
    reactor.addReader(reader)
    return reader

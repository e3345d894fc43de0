"""asyncio's event loop in the reactor's thread, as with Twisted's asyncio reactor."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import unittest

import couplet_twisted
from couplet_twisted import transports
from twisted.internet import asyncioreactor, defer, task

from kit.cases import SUBJECT, Cases, beside, only_subject
from kit.connections import Echo, Noting, close, in_thread, pair
from kit.cases import case as beside_epoll

case = beside("asyncio")
# For programs in which asyncio's event loop counts as running everywhere.
everywhere = beside("asyncio", "couplet-asyncio" if SUBJECT == "couplet" else SUBJECT)


async def running(case):
    """asyncio's event loop, once the reactor has started it."""
    await case.sleep()
    return asyncio.get_event_loop()


def is_running():
    """Whether an asyncio event loop counts as running here."""
    try:
        return asyncio.get_running_loop().is_running()
    except RuntimeError:
        return False


def deferred(awaitable):
    """A Deferred of an awaitable that asyncio runs."""
    return defer.Deferred.fromFuture(asyncio.ensure_future(awaitable, loop=asyncio.get_event_loop()))


class Faces(Cases, by=case):
    """Ways in which programs detect asyncio."""

    async def test_the_reactor_passes_for_twisteds_asyncio_reactor(case):
        await running(case)
        case.say("is one", isinstance(case.reactor, asyncioreactor.AsyncioSelectorReactor))
        case.say("is set", asyncio.get_event_loop() is case.reactor._asyncioEventloop)
        case.say("is running", asyncio.get_event_loop().is_running())

    @everywhere
    async def test_the_event_loop_runs_in_every_callback_if_requested(case):
        await asked_everywhere(case)
        case.say("runs", asyncio.get_running_loop() is case.reactor._asyncioEventloop)

    @beside_epoll
    async def test_no_event_loop_runs_in_twisteds_callbacks(case):
        # Django's ORM uses this check, and refuses to run inside asyncio.
        await asked_everywhere(case)

    @only_subject
    async def test_the_event_loop_runs_only_in_callbacks_of_asyncio(case):
        loop, seen = await running(case), []

        async def program():
            seen.append(is_running())
            await asyncio.sleep(0)
            seen.append(is_running() and asyncio.get_running_loop() is loop)
            asyncio.create_task(asyncio.sleep(0))

        loop.call_soon(lambda: seen.append(is_running()))
        await deferred(program())
        seen.append(is_running())
        await case.sleep(0.01)
        # asyncio also calls the callbacks of a Deferred made from its future.
        assert seen == [True, True, True, True], seen
        assert not is_running()

    @beside_epoll
    async def test_generators_of_twisteds_side_end_without_asyncio(case):
        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                case.say("generator", "closed")

        await case.sleep()
        generator = numbers()
        case.say("generator", await anext(generator))
        del generator
        case.say("generator", "dropped")

    @only_subject
    async def test_the_event_loop_has_couplets_connections(case):
        async def program():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return type(writer.transport)

        port = case.listen(lambda: Echo(case, "server"))
        assert isinstance(await running(case), couplet_twisted.EventLoop)
        assert await deferred(program()) is transports.SocketTransport

    async def test_no_loop_runs_after_the_reactor(case):
        import atexit

        atexit.register(lambda: is_running() or os.write(2, b"no loop"))


async def asked_everywhere(case):
    """Notes for each kind of reactor callback whether an asyncio event loop counts as running."""

    def ask(where):
        case.say(where, is_running())

    class Asking(Noting):
        def dataReceived(self, data):
            ask(self.party)
            super().dataReceived(data)

        def connectionLost(self, reason):
            ask(self.party)
            super().connectionLost(reason)

    server, client = await pair(case, Echo(case, "server"), Asking(case, "client"))
    client.transport.write(b"x")
    case.reactor.callLater(0, ask, "timed call")
    case.reactor.callFromThread(ask, "call from a thread")
    case.reactor.addSystemEventTrigger("during", "shutdown", ask, "trigger")
    await case.sleep(0.1)
    ask("program")
    await close(client, server)


class Awaiting(Cases, by=case):
    """Each side awaits the other."""

    async def test_a_deferred_as_a_future(case):
        loop = await running(case)

        async def program():
            waited = await task.deferLater(case.reactor, 0.01, lambda: "later").asFuture(loop)
            case.say("future", waited)
            try:
                await defer.fail(ValueError("no")).asFuture(loop)
            except ValueError as error:
                case.say("future", "failed", error)

        await deferred(program())

    async def test_sleeps_and_tasks_end_in_order(case):
        async def sleeper(name, seconds):
            await asyncio.sleep(seconds)
            case.say("sleepers", name)
            return name

        case.reactor.callLater(0.06, case.say, "sleepers", "the reactor's")
        names = await deferred(asyncio.gather(sleeper("last", 0.12), sleeper("soon", 0), sleeper("first", 0.02)))
        case.say("gathered", *names)

    async def test_callbacks_that_schedule_more_do_not_starve_connections(case):
        loop = await running(case)
        count, is_over = 0, False

        def again():
            nonlocal count
            count += 1
            if not is_over:
                loop.call_soon(again)

        loop.call_soon(again)
        server, client = await pair(case, Echo(case, "server"))
        client.transport.write(b"x")
        await case.sleep(0.05)
        is_over = True
        await close(client, server)
        case.say("called", count > 100)

    async def test_the_event_loop_reports_an_error_in_a_callback(case):
        loop = await running(case)
        loop.set_exception_handler(lambda loop, context: case.say("handler", repr(context["exception"])))

        def fail():
            raise ValueError("oops")

        loop.call_soon(fail)
        await case.sleep(0.02)

    async def test_generators_are_closed(case):
        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                case.say("generator", "closed")

        async def program():
            async for number in numbers():
                case.say("generator", number)
                break

        await deferred(program())
        await case.sleep(0.02)


class Sockets(Cases, by=case):
    """asyncio's own transports, in the same thread as ours."""

    async def test_a_client_of_asyncio_and_a_server_of_twisted(case):
        port = case.listen(lambda: Echo(case, "server"))

        async def program():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for size in (1, 70_000, 3_000_000):
                writer.write(b"a" * size)
                case.say("client", len(await reader.readexactly(size)))
            writer.close()
            await writer.wait_closed()

        await deferred(program())

    async def test_a_server_of_asyncio_and_a_client_of_twisted(case):
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await deferred(asyncio.start_server(serve, "127.0.0.1", 0))
        client = Noting(case, "client")
        await case.connect(server.sockets[0].getsockname()[1], client)
        client.transport.write(b"hello")
        await case.sleep(0.05)
        client.transport.loseWriteConnection()
        await client.lost
        server.close()

    async def test_readers_and_writers(case):
        loop = await running(case)
        one, other = socket.socketpair()
        one.setblocking(False)
        got = defer.Deferred()

        def readable():
            case.say("reader", one.recv(10))
            loop.remove_reader(one)
            loop.add_writer(one, writable)

        def writable():
            case.say("writer", "ready")
            loop.remove_writer(one)
            got.callback(None)

        loop.add_reader(one, readable)
        case.reactor.callLater(0.01, other.send, b"x")
        await got
        one.close()
        other.close()

    async def test_a_child_and_a_datagram(case):
        class Datagrams(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                case.say("datagram", data)
                got.callback(None)

        async def program():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
            transport.sendto(b"to myself", transport.get_extra_info("sockname"))
            child = await loop.run_in_executor(None, os.popen, "echo of a thread")
            case.say("executor", child.read().strip())
            child.close()
            return transport

        got = defer.Deferred()
        transport = await deferred(program())
        await got
        transport.close()


class Threads(Cases, by=case):
    """Other threads, signals, and the end of a run."""

    async def test_calls_from_threads_to_either_side(case):
        loop, both = await running(case), [defer.Deferred(), defer.Deferred()]

        def elsewhere():
            loop.call_soon_threadsafe(both[0].callback, "asyncio")
            case.reactor.callFromThread(both[1].callback, "twisted")

        await in_thread(elsewhere)
        case.say("called", *await defer.gatherResults(both))
        case.say("to_thread", await deferred(asyncio.to_thread(sum, [1, 2])))

    async def test_a_signal_ends_the_run(case):
        case.reactor.callLater(0.01, os.kill, os.getpid(), signal.SIGTERM)
        case.reactor.addSystemEventTrigger("during", "shutdown", case.say, "trigger", "called")
        await deferred(asyncio.sleep(30))

    async def test_stopped_by_a_task(case):
        async def program():
            await asyncio.sleep(0.01)
            case.reactor.stop()

        case.kept = asyncio.ensure_future(program())
        await defer.Deferred()

    async def test_a_coroutine_runs_before_and_after_the_reactor(case):
        case.reactor.addSystemEventTrigger(
            "before", "shutdown", lambda: deferred(asyncio.sleep(0.01)).addCallback(lambda _: case.say("before", "waited"))
        )

    async def test_an_idle_reactor_waits(case):
        before = os.times()
        await case.sleep(0.3)
        await deferred(asyncio.sleep(0.3))
        after = os.times()
        case.say("idle", after.user + after.system - before.user - before.system < 0.1)


EXIT = """
import asyncio, sys
from kit import reactors
reactor = reactors.install(sys.argv[1])
async def program():
    await asyncio.sleep(0)
    sys.exit(5)
reactor.callWhenRunning(lambda: setattr(reactor, "kept", asyncio.ensure_future(program())))
reactor.run()
"""


class Exits(unittest.TestCase):
    """Exceptions that end a program."""

    def test_a_task_that_exits_ends_the_run(self):
        for name in ("asyncio", SUBJECT):
            ended = subprocess.run([sys.executable, "-c", EXIT, name], stderr=subprocess.DEVNULL, timeout=300)
            self.assertEqual(ended.returncode, 5, name)

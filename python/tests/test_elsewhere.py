"""Other threads use the reactor and its transports."""

import functools
import threading

from twisted.internet import protocol

from kit import reactors, running
from kit.cases import SUBJECT, Cases, only_subject
from kit.connections import Echo, Noting, Source, close, ended, in_thread, pair, quiet


async def settled(case, server=None):
    """A server and its connected client, when both are connected."""
    both = await pair(case, server)
    await case.sleep(0.01)
    return both


class Transports(Cases):
    """The reactor's thread carries out the requests of another thread in order."""

    async def test_bytes_are_sent_in_order(case):
        server, client = await settled(case)

        def write():
            for number in range(100):
                client.transport.write(b"%d," % number)
                client.transport.writeSequence([b"a", b"b", b"c,"])
            changing = bytearray(b"first")
            client.transport.write(bytes(changing))
            changing[:] = b"other"
            client.transport.loseConnection()

        await in_thread(write)
        await ended(client, server)
        expected = b"".join(b"%d,abc," % number for number in range(100)) + b"first"
        case.say("sent", server.size == len(expected))

    @only_subject
    async def test_a_write_copies_the_bytes_of_a_mutable_buffer(case):
        got = []
        server, client = await settled(case)
        server.dataReceived = got.append
        changing = bytearray(b"first")

        def write():
            client.transport.write(changing)
            changing[:] = b"other"

        await in_thread(write)
        await close(client, server)
        assert b"".join(got) == b"first", got

    async def test_answers_and_exceptions_come_immediately(case):
        server, client = await settled(case)
        await in_thread(case.attempt, "text", client.transport.write, "text")
        peer, host = await in_thread(lambda: (server.transport.getPeer(), server.transport.getHost()))
        case.say("server", peer == client.transport.getHost(), host == client.transport.getPeer())
        # Now the addresses are known.
        for each in (server.transport, client.transport):
            here = each.getHost(), each.getPeer()
            case.say("same", here == await in_thread(lambda: (each.getHost(), each.getPeer())))
        await close(client, server)

    async def test_a_close_and_an_abort(case):
        for name in ("loseConnection", "abortConnection"):
            server, client = await settled(case)
            await in_thread(getattr(server.transport, name))
            await ended(client, server)

    # The model does not handle this call from another thread.
    @only_subject
    async def test_a_half_close(case):
        server, client = await settled(case)
        await in_thread(client.transport.loseWriteConnection)
        await ended(client, server)
        assert case.notes["server"][-1].startswith("lost ConnectionDone"), case.notes

    async def test_a_pause_and_a_resume(case):
        server, client = await settled(case)
        await in_thread(server.transport.pauseProducing)
        await case.sleep(0.02)
        client.transport.write(b"x")
        await case.sleep(0.05)
        case.say("paused", server.size)
        await in_thread(server.transport.resumeProducing)
        await server.wanted(1)
        await close(client, server)

    @only_subject
    async def test_a_write_meets_the_loss_of_a_paused_connection(case):
        server, client = await settled(case)
        server.transport.pauseProducing()
        client.transport.abortConnection()
        await client.lost
        await case.sleep(0.02)
        assert not server.lost.called, "it neither reads nor writes"
        await in_thread(server.transport.write, b"x")
        await server.lost

    async def test_producers_and_options(case):
        server, client = await settled(case)
        source = Source(functools.partial(case.say, "producer"))
        for name, *arguments in (("registerProducer", source, True), ("unregisterProducer",)):
            await in_thread(getattr(client.transport, name), *arguments)
            await case.sleep(0.01)
            case.say("registered", client.transport.producer is not None)
        await in_thread(client.transport.setTcpNoDelay, True)
        await in_thread(client.transport.setTcpKeepAlive, True)
        await case.sleep(0.01)
        case.say("options", client.transport.getTcpNoDelay(), client.transport.getTcpKeepAlive())
        await close(client, server)

    @only_subject
    async def test_one_warning_says_where(case):
        from twisted.logger import LogLevel, globalLogPublisher

        warnings = []

        def observe(event):
            if event["log_level"] is LogLevel.warn and event.get("log_namespace") == "couplet":
                warnings.append(event["stack"])

        globalLogPublisher.addObserver(observe)
        server, client = await settled(case)

        def culprit():
            client.transport.write(b"x")
            client.transport.write(b"y")

        await in_thread(culprit)
        await in_thread(culprit)
        await close(client, server)
        assert len(warnings) == 1 and "in culprit" in warnings[0], warnings

    async def test_a_remote_reference_that_another_thread_collects(case):
        # PB notifies the peer in `__del__`.
        class Writing:
            def __del__(self):
                client.transport.write(b"gone")

        server, client = await settled(case)
        kept = [Writing() for _ in range(51)]
        await in_thread(kept.clear)
        await server.wanted(51 * 4)
        await close(client, server)


class Time(Cases):
    """Timed calls that another thread requests and changes."""

    async def test_calls_are_made_moved_and_cancelled(case):
        later = case.reactor.callLater

        def elsewhere():
            later(0.01, case.say, "call", "made")
            later(0.01, case.say, "call", "cancelled at once").cancel()
            cancelled.cancel()
            moved.reset(0.05)
            delayed.delay(-4.9)
            case.reactor.callFromThread(case.say, "from a thread", "called")
            return len(case.reactor.getDelayedCalls())

        cancelled = later(5, case.say, "call", "cancelled")
        moved = later(5, case.say, "call", "moved")
        delayed = later(5, case.say, "call", "delayed")
        end = later(10, print)
        case.say("count", await in_thread(elsewhere))
        # This call reuses the number of a cancelled one.
        later(0.03, case.say, "call", "again")
        await case.sleep(0.25)
        end.cancel()
        case.say("active", cancelled.active(), moved.active(), delayed.active(), cancelled.cancelled, moved.called)
        case.say("count", len(case.reactor.getDelayedCalls()))

    async def test_a_call_that_is_cancelled_while_it_is_due(case):
        async def cancel():
            await in_thread(call.cancel)

        call = case.reactor.callLater(0, case.say, "call", "made")
        thread = threading.Thread(target=call.cancel)
        thread.start()
        thread.join()
        case.reactor.callLater(0, case.say, "call", "another")
        await case.sleep(0.02)


class Ports(Cases):
    """Ports and clients that another thread requests."""

    async def test_a_port_and_a_client(case):
        server, client = Echo(case, "server"), Noting(case, "client")
        listening = quiet(lambda: server)
        dialling = quiet(lambda: client, protocol.ClientFactory)

        def elsewhere():
            port = case.reactor.listenTCP(0, listening, interface="127.0.0.1")
            case.reactor.connectTCP("127.0.0.1", port.getHost().port, dialling)
            case.reactor.callFromThread(int)

        await in_thread(elsewhere)
        await case.sleep(0.05)
        client.transport.write(b"hello")
        await client.wanted(5)
        await close(client, server)


MADE = """
import os, sys, threading
from kit import reactors, running
reactor = reactors.install(sys.argv[1])
from kit.connections import Reader
from twisted.internet import protocol
from twisted.python import log
log.addObserver(lambda event: event.get("isError") and print("log", event.get("why"), event["failure"].type.__name__))
"""


class Running(Cases):
    """The thread that runs the reactor need not be the one that imported it: notebooks, crochet, `scrapy shell`."""

    def program(self, text, *names):
        """A program's status and output under the subject, which must be the same as under the model."""
        said = []
        for name in names or (reactors.MODEL, SUBJECT):
            status, printed = running.ended("-c", MADE + text, name)
            # The reactors may serve the sides of a connection in different order.
            said.append((status, "".join(sorted(printed.splitlines(True)))))
        self.assertEqual(said[0], said[-1])
        return said[0]

    def test_a_thread_that_runs_the_reactor_serves_earlier_requests(self):
        status, said = self.program(
            """
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

class Client(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")
    def dataReceived(self, data):
        print("client", data, threading.current_thread() is thread)
        port.stopListening()
        reactor.callLater(0.02, reactor.stop)

def never():
    print("called after a cancel")

port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
other = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
other.stopListening()
factory = protocol.ClientFactory.forProtocol(Client)
reactor.connectTCP("127.0.0.1", port.getHost().port, factory)
reading, writing = os.pipe()
def read(self):
    print("read", os.read(reading, 10))
    reactor.removeReader(self)
reactor.addReader(Reader(reading, read))
ended = Reader(os.dup(reading), read)
reactor.addReader(ended)
reactor.removeReader(ended)
os.close(ended.fd)
os.write(writing, b"x")
reactor.callLater(0, print, "timed")
reactor.callLater(0, never).cancel()
moved = reactor.callLater(100, print, "moved")
moved.reset(0.001)
reactor.callWhenRunning(print, "runs")
print("calls", len(reactor.getDelayedCalls()) > 2)
thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False})
thread.start()
thread.join(300)
print("ended", not thread.is_alive(), reactor.running)
"""
        )
        self.assertEqual(status, 0, said)
        for words in ("client b'hello' True", "read b'x'", "timed", "moved", "ended True False"):
            self.assertIn(words, said)

    def test_watching_a_bad_descriptor_fails_before_the_run(self):
        self.program(
            """
def read(self):
    print("read", len(os.read(self.fd, 10)))
    reactor.removeReader(self)
    reactor.stop()
reactor.addReader(Reader(os.open(sys.executable, os.O_RDONLY), read))
try:
    reactor.addReader(Reader(9999, read))
except OSError as error:
    print(error.errno)
reactor.run()
"""
        )

    def test_calls_from_the_thread_that_imported_it(self):
        self.program(
            """
from twisted.internet import threads
thread = threading.Thread(target=reactor.run, args=[False])
thread.start()
print(threads.blockingCallFromThread(reactor, lambda: threading.current_thread() is thread))
reactor.callFromThread(reactor.stop)
thread.join(300)
print(thread.is_alive())
"""
        )

    def test_asyncios_loop_belongs_to_the_thread_of_the_reactor(self):
        self.program(
            """
import asyncio
def ask():
    print(asyncio.get_event_loop() is reactor._asyncioEventloop)
    asyncio.get_event_loop().call_later(0.001, reactor.stop)
reactor.callWhenRunning(ask)
thread = threading.Thread(target=reactor.run, args=[False])
thread.start()
thread.join(300)
print(thread.is_alive())
""",
            SUBJECT,
        )

    def test_a_second_thread_is_refused_by_an_exception(self):
        status, said = self.program(
            """
reactor.callLater(0, reactor.crash)
reactor.run()
def again():
    for run in (reactor.run, reactor.iterate):
        try:
            run()
        except RuntimeError as error:
            print(error)
thread = threading.Thread(target=again)
thread.start()
thread.join(300)
print("ended", not thread.is_alive())
reactor.callLater(0, reactor.stop)
reactor.run()
print("ran again")
""",
            SUBJECT,
        )
        refusal = "cannot run the reactor: it belongs to another thread\n"
        self.assertEqual((status, said), (0, refusal * 2 + "ended True\nran again\n"))

    def test_a_run_in_another_thread_during_a_run_fails(self):
        self.program(
            """
def again():
    try:
        reactor.run()
    except Exception as error:
        print(type(error).__name__)
    reactor.callFromThread(reactor.stop)
reactor.callWhenRunning(lambda: threading.Thread(target=again).start())
reactor.run()
"""
        )

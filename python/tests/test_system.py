"""Time, threads and signals."""

import os
import signal
import socket
import threading
import time

from twisted.internet import defer, protocol

from kit.cases import Cases
from kit.connections import Echo, Noting, close, pair


class Time(Cases):
    """Timed calls."""

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

    async def test_a_replaced_clock_determines_the_reported_times(case):
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

    async def test_calls_from_threads_that_make_more_do_not_starve_connections(case):
        server, client = await pair(case, Echo(case, "server"))

        def again():
            if case.reactor.running:
                case.reactor.callFromThread(again)

        again()
        await case.sleep(0.01)
        client.transport.write(b"x")
        await client.wanted(1)
        await close(client, server)


class Signals(Cases):
    """Handlers of programs."""

    async def test_a_handler_of_the_users(case):
        seen = defer.Deferred()
        signal.signal(signal.SIGUSR1, lambda *_: case.reactor.callFromThread(seen.callback, "seen"))
        threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        case.say("signal", await seen)


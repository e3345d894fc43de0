"""Connections over TCP and UNIX sockets: protocols get the same events as under the model."""

import os
import socket
import sys
import tempfile

from twisted.internet import defer, interfaces
from zope.interface import implementer

from kit.cases import Cases
from kit.connections import MIB, Echo, Half, Noting, Producer, close, ended, pair, reset, unix_pair


class Tcp(Cases):
    """TCP connections."""

    async def test_pieces_of_all_kinds_arrive_in_order_and_are_released(case):
        class Own(bytes):
            pass

        server, client = await pair(case)
        large, own = bytes(range(256)) * 4096, Own(b"o" * 100_000)
        before = sys.getrefcount(large), sys.getrefcount(own)
        client.transport.writeSequence([b"one", large, b"", own, b"two", large])
        client.transport.write(large)
        await close(client, server)
        case.say("client", "released", (sys.getrefcount(large), sys.getrefcount(own)) == before)

    async def test_bytes_written_after_lose_connection_in_the_same_callback_arrive(case):
        class Closing(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                self.transport.write(b"before")
                self.transport.loseConnection()
                self.transport.write(b"after")
                case.reactor.callLater(0, self.say, "called")

            def connectionLost(self, reason):
                self.say("lost")
                super().connectionLost(reason)

        server, client = await pair(case, Closing(case, "server"))
        client.transport.write(b"x")
        await ended(client, server)

    async def test_a_connection_that_does_not_read_is_not_among_the_readers(case):
        def readers(when):
            found = case.reactor.getReaders()
            for each in (server, client):
                case.say(each.party, when, each.transport in found)

        server, client = await pair(case, Half(case, "server"), Half(case, "client"))
        await case.sleep(0.01)
        readers("open")
        client.transport.pauseProducing()
        readers("the client pauses")
        client.transport.resumeProducing()
        client.transport.loseWriteConnection()
        await case.sleep(0.05)
        readers("the client ended")
        removed = case.reactor.removeAll()
        case.say("all", [each.transport in removed for each in (server, client)])

    async def test_a_connection_that_neither_reads_nor_writes_notices_a_reset_later(case):
        for name, unsent, then in (
            ("reads", 0, None),
            ("unsent", 64 * MIB, None),
            ("write", 0, lambda transport: transport.write(b"x")),
            ("read", 0, lambda transport: transport.resumeProducing()),
            ("close", 0, lambda transport: transport.loseConnection()),
        ):
            server = Noting(case, name)
            raw = socket.create_connection(("127.0.0.1", case.listen(lambda: server)))
            while server.transport is None:
                await case.sleep(0.01)
            server.transport.write(b"u" * unsent)
            if name != "reads":
                server.transport.pauseProducing()
            await case.sleep(0.02)
            reset(raw)
            await (server.lost if name in ("reads", "unsent") else case.sleep(0.05))
            case.say(name, "heard of it:", not server.transport.connected)
            if then:
                then(server.transport)
            await server.lost

    async def test_a_server_factory_that_declines_ends_the_connection(case):
        client = Noting(case, "client")
        await case.connect(case.listen(lambda: None), client)
        await client.lost

    async def test_a_port_that_stops_keeps_its_connections(case):
        server, client = Echo(case, "server"), Noting(case, "client")
        number = case.listen(lambda: server)
        await case.connect(number, client)
        await case.sleep(0.01)
        await defer.maybeDeferred(case.ports[0].stopListening)
        try:
            await case.connect(number, Noting(case, "refused"))
        except Exception as error:
            case.say("refused", type(error).__name__)
        client.transport.write(b"still here")
        await client.wanted(10)
        await close(client, server)


class Producers(Cases):
    """Backpressure."""

    async def test_a_push_producer_is_paused_and_resumed(case):
        server, client = await pair(case)
        await case.sleep(0.01)
        server.transport.pauseProducing()
        producer = Producer(case, client.transport, True, 2800)
        case.say("producer", "paused", producer.paused)
        await case.sleep(0.05)
        case.say("producer", "waits", producer.left > 0)
        server.transport.resumeProducing()
        await ended(client, server)
        case.say("producer", producer.pauses > 1)

    async def test_producers_are_stopped_when_the_connection_is_lost(case):
        for streaming in (True, False):
            server, client = await pair(case)
            await case.sleep(0.01)
            server.transport.pauseProducing()
            Producer(case, client.transport, streaming, 1 << 40)
            await case.sleep(0.05)
            server.transport.abortConnection()
            # With a paused producer, the connection notices its loss at the next write.
            client.transport.write(b"x")
            await ended(server, client)
            case.notes["client"] = [note.rsplit(" ", 2)[0] for note in case.notes["client"]]

    async def test_an_exception_of_a_producer_ends_the_connection(case):
        class Failing(Producer):
            def resumeProducing(self):
                # The program itself causes the first call, by `registerProducer`.
                if self.left == 1:
                    raise ValueError("producer")
                super().resumeProducing()

        server, client = await pair(case)
        Failing(case, client.transport, False, 2)
        await ended(client, server)


class Unix(Cases):
    """Stream sockets of the UNIX family."""

    async def test_bytes_come_back_over_a_unix_socket(case):
        server, client = await unix_pair(case, Echo(case, "server"), wantPID=True)
        client.transport.write(b"u" * MIB)
        await client.wanted(MIB)
        case.say("client", client.transport.getPeer().name)
        await close(client, server)
        await defer.maybeDeferred(case.ports[0].stopListening)
        case.say("server", sorted(os.listdir()))

    async def test_many_descriptors_travel_in_order_both_ways(case):
        count, both = 40, [defer.Deferred(), defer.Deferred()]

        @implementer(interfaces.IFileDescriptorReceiver)
        class Each(Noting):
            def connectionMade(self):
                super().connectionMade()
                self.sizes = []
                for number in range(count):
                    with tempfile.TemporaryFile() as file:
                        file.truncate(number)
                        descriptor = os.dup(file.fileno())
                    opened.append(descriptor)
                    self.transport.sendFileDescriptor(descriptor)
                    self.transport.write(b"x")

            def fileDescriptorReceived(self, descriptor):
                self.sizes.append(os.fstat(descriptor).st_size)
                os.close(descriptor)
                if len(self.sizes) == count:
                    self.say(self.sizes)
                    both.pop().callback(None)

        opened = []
        # An abstract name.
        path, sent = f"\0couplet-{os.getpid()}", defer.gatherResults(both)
        server, client = await unix_pair(case, Each(case, "server"), Each(case, "client"), path)
        await sent
        # The last byte arrives after its descriptor.
        await case.sleep()
        for descriptor in opened:
            os.close(descriptor)
        await close(client, server)

"""Connections over TCP, UNIX sockets and TLS: protocols get the same events as under the model."""

import functools
import os
import socket
import sys
import tempfile

from twisted.internet import defer, interfaces, protocol
from twisted.protocols import basic
from zope.interface import implementer

from kit.cases import Cases
from kit.connections import MIB, Echo, Half, Noting, Source, close, ended, pair, reset, unix_pair

class Tcp(Cases):
    """TCP connections."""

    async def test_bytes_come_back_from_an_echo(case):
        server = Echo(case, "server")
        client = await case.connect(case.listen(lambda: server), Noting(case, "client"))
        for size in (1, 100, 65536, 3 * MIB):
            before = client.size
            client.transport.write(b"x" * size)
            await client.wanted(before + size)
        client.transport.writeSequence([b"a", b"", b"b" * 10])
        await client.wanted(client.size + 11)
        await close(client, server)

    async def test_what_was_written_before_lose_connection_arrives(case):
        server, client = await pair(case)
        client.transport.write(b"y" * 5 * MIB)
        client.transport.loseConnection()
        client.transport.write(b"too late")
        await ended(client, server)

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

    async def test_what_is_written_after_lose_connection_in_the_same_callback_arrives(case):
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

    async def test_half_close_lets_the_other_side_answer(case):
        server, client = Half(case, "server"), Half(case, "client")
        server.answer = b"z" * MIB
        await case.connect(case.listen(lambda: server), client)
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        await ended(client, server)

    async def test_who_does_not_read_is_no_reader(case):
        class Open(Half):
            def readConnectionLost(self):
                self.say("read side lost", self.size)

        def readers(when):
            found = case.reactor.getReaders()
            for each in (server, client):
                case.say(each.party, when, each.transport in found)

        server, client = await pair(case, Open(case, "server"), Open(case, "client"))
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

    async def test_half_close_ends_a_protocol_that_does_not_know_it(case):
        server, client = await pair(case)
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        await ended(client, server)

    async def test_abort_drops_what_was_written(case):
        server, client = await pair(case)
        # The peer does not read, so some bytes remain unsent.
        server.transport.pauseProducing()
        client.transport.write(b"w" * 64 * MIB)
        await case.sleep(0.05)
        client.transport.abortConnection()
        client.transport.abortConnection()
        await client.lost
        server.transport.resumeProducing()
        await server.lost
        case.say("server", server.size < 64 * MIB)
        server.size = server.sum = 0
        case.notes["server"] = [note for note in case.notes["server"] if "lost" not in note]

    async def test_a_close_does_not_wait_for_a_producer_that_is_not_paused(case):
        for close in ("loseConnection", "loseWriteConnection"):
            server, client = await pair(case)
            client.transport.registerProducer(Source(functools.partial(case.say, "producer")), True)
            client.transport.write(b"last words")
            getattr(client.transport, close)()
            await ended(client, server)

    async def test_a_forwarded_connection_ends_on_both_sides(case):
        from twisted.protocols import portforward

        for ends in ("client", "server"):
            sides = {"server": Echo(case, "server"), "client": Noting(case, "client")}
            target = case.listen(lambda: sides["server"])
            factory = portforward.ProxyFactory("127.0.0.1", target)
            factory.noisy = False
            forwarder = case.reactor.listenTCP(0, factory, interface="127.0.0.1")
            await case.connect(forwarder.getHost().port, sides["client"])
            sides["client"].transport.write(b"f" * 10_000)
            await sides["client"].wanted(10_000)
            sides[ends].transport.loseConnection()
            await defer.gatherResults([side.lost for side in sides.values()])

    async def test_a_reset_is_a_lost_connection(case):
        server = Noting(case, "server")
        port = case.listen(lambda: server)
        raw = socket.create_connection(("127.0.0.1", port))
        await case.sleep(0.05)
        reset(raw)
        await server.lost

    async def test_who_neither_reads_nor_writes_hears_of_a_reset_later(case):
        for name, unsent, then in (
            ("unsent", 64 * MIB, None),
            ("write", 0, lambda transport: transport.write(b"x")),
            ("read", 0, lambda transport: transport.resumeProducing()),
            ("close", 0, lambda transport: transport.loseConnection()),
        ):
            server = Noting(case, name)
            raw = socket.create_connection(("127.0.0.1", case.listen(lambda: server)))
            await case.sleep(0.02)
            server.transport.write(b"u" * unsent)
            server.transport.pauseProducing()
            await case.sleep(0.02)
            reset(raw)
            await case.sleep(0.02)
            case.say(name, "heard of it:", not server.transport.connected)
            if then:
                then(server.transport)
            await server.lost

    async def test_a_refused_connection_fails_the_connector(case):
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        factory = protocol.ClientFactory()
        failed = defer.Deferred()
        factory.startedConnecting = lambda connector: case.say("client", "started")
        factory.clientConnectionFailed = lambda connector, reason: failed.callback(reason.type.__name__)
        case.reactor.connectTCP("127.0.0.1", probe.getsockname()[1], factory)
        case.say("client", await failed)

    async def test_options_and_addresses(case):
        server, client = Noting(case, "server"), Noting(case, "client")
        port = case.listen(lambda: server)
        await case.connect(port, client)
        case.say("client", client.transport.getPeer().port == port, client.transport.getHost().type)
        client.transport.setTcpNoDelay(True)
        client.transport.setTcpKeepAlive(True)
        case.say("client", client.transport.getTcpNoDelay(), client.transport.getTcpKeepAlive())
        await case.sleep(0.01)
        case.say("server", server.transport.getPeer() == client.transport.getHost())
        interfaces_ = [interfaces.ITCPTransport, interfaces.IHalfCloseableDescriptor, interfaces.ISSLTransport]
        case.say("client", [each.providedBy(client.transport) for each in interfaces_])
        await close(client, server)
        case.say("client", client.transport.connected, client.transport.disconnected)

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


@implementer(interfaces.IPushProducer)
class Push:
    """Writes blocks until it is paused, and continues when it is resumed."""

    def __init__(self, case, transport, total):
        self.case, self.transport, self.left = case, transport, total
        self.paused = False
        self.pauses = 0

    def pauseProducing(self):
        self.pauses += 1
        self.paused = True

    def resumeProducing(self):
        self.paused = False
        while not self.paused and self.left:
            self.transport.write(b"p" * 65536)
            self.left -= 65536
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self):
        self.case.say("producer", "stopped")
        self.left = 0


@implementer(interfaces.IPullProducer)
class Pull:
    """Writes one block for each `resumeProducing`."""

    def __init__(self, case, transport, total):
        self.case, self.transport, self.left = case, transport, total
        self.asked = 0

    def resumeProducing(self):
        self.asked += 1
        self.transport.write(b"q" * 65536)
        self.left -= 65536
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self):
        self.case.say("producer", "stopped")


class Producers(Cases):
    """Backpressure."""

    async def test_a_push_producer_is_paused_and_resumed(case):
        server, client = await pair(case)
        await case.sleep(0.01)
        server.transport.pauseProducing()
        producer = Push(case, client.transport, 16 * MIB)
        client.transport.registerProducer(producer, True)
        producer.resumeProducing()
        case.say("producer", "paused", producer.paused)
        await case.sleep(0.05)
        left = producer.left
        case.say("producer", "waits", left > 0)
        server.transport.resumeProducing()
        await ended(client, server)
        case.say("producer", producer.pauses > 1)

    async def test_a_pull_producer_is_asked_for_each_block(case):
        server, client = await pair(case)
        producer = Pull(case, client.transport, 8 * MIB)
        client.transport.registerProducer(producer, False)
        await ended(client, server)
        case.say("producer", producer.asked)

    async def test_producers_are_stopped_when_the_connection_is_lost(case):
        for kind, streaming in ((Push, True), (Pull, False)):
            server, client = await pair(case)
            await case.sleep(0.01)
            server.transport.pauseProducing()
            client.transport.registerProducer(kind(case, client.transport, 1 << 40), streaming)
            await case.sleep(0.05)
            server.transport.abortConnection()
            # With a paused producer, the connection notices its loss at the next write.
            client.transport.write(b"x")
            await server.lost
            await client.lost
            case.notes["client"] = [note.rsplit(" ", 2)[0] for note in case.notes["client"]]

    async def test_a_second_producer_is_refused(case):
        server, client = await pair(case)
        client.transport.registerProducer(Push(case, client.transport, 0), True)
        try:
            client.transport.registerProducer(Push(case, client.transport, 0), True)
        except RuntimeError as error:
            case.say("client", str(error).startswith("Cannot register producer"))
        client.transport.loseConnection()
        case.say("client", "waits for the producer", client.transport.connected)
        client.transport.unregisterProducer()
        await ended(client, server)

    async def test_a_producer_registered_after_the_end_is_stopped(case):
        server, client = await pair(case)
        await close(client, server)
        client.transport.registerProducer(Push(case, client.transport, 0), True)

    async def test_pausing_holds_the_bytes_back(case):
        server, client = await pair(case)
        await case.sleep(0.01)
        server.transport.pauseProducing()
        client.transport.write(b"held")
        await case.sleep(0.05)
        case.say("server", server.size)
        server.transport.resumeProducing()
        await server.wanted(4)
        await close(client, server)


class Lines(Cases):
    """Twisted's line receiver."""

    async def test_lines_pauses_and_raw_mode(case):
        ended = defer.Deferred()

        class Receiver(basic.LineReceiver):
            def lineReceived(self, line):
                case.say("server", "line", line)
                if line == b"pause":
                    self.pauseProducing()
                    case.reactor.callLater(0.02, self.resumeProducing)
                elif line == b"raw":
                    self.setRawMode()
                elif line == b"end":
                    self.sendLine(b"bye")
                    self.transport.loseConnection()

            def rawDataReceived(self, data):
                case.say("server", "raw", data[:3])
                self.setLineMode(data[3:])

            def connectionLost(self, reason):
                case.say("server", reason.type.__name__)
                ended.callback(None)

        client = await case.connect(case.listen(Receiver), Noting(case, "client"))
        client.transport.write(b"one\r\npause\r\ntwo\r\nraw\r\nabcthree\r\nend\r\nunseen\r\n")
        await defer.gatherResults([ended, client.lost])

    async def test_a_line_that_is_too_long_ends_the_connection(case):
        server = basic.LineReceiver()
        lost = defer.Deferred()
        server.connectionLost = lambda reason: lost.callback(case.say("server", reason.type.__name__))
        client = await case.connect(case.listen(lambda: server), Noting(case, "client"))
        client.transport.write(b"l" * 20000)
        await defer.gatherResults([lost, client.lost])


class Unix(Cases):
    """Stream and datagram sockets of the UNIX family."""

    async def test_bytes_come_back_over_a_unix_socket(case):
        server, client = await unix_pair(case, Echo(case, "server"), wantPID=True)
        client.transport.write(b"u" * MIB)
        await client.wanted(MIB)
        case.say("client", client.transport.getPeer().name)
        await close(client, server)
        await defer.maybeDeferred(case.ports[0].stopListening)
        case.say("server", sorted(os.listdir()))

    async def test_descriptors_travel(case):
        got = defer.Deferred()

        @implementer(interfaces.IFileDescriptorReceiver)
        class Receiver(Noting):
            def fileDescriptorReceived(self, descriptor):
                self.say("descriptor")
                got.callback(descriptor)

        server, client = await unix_pair(case, Receiver(case, "server"))
        reading, writing = os.pipe()
        client.transport.sendFileDescriptor(writing)
        client.transport.write(b"x")
        os.write(await got, b"through")
        case.say("client", os.read(reading, 10))
        await close(client, server)

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

    async def test_a_descriptor_without_a_byte_ends_the_connection(case):
        server, client = await unix_pair(case)
        client.transport.sendFileDescriptor(1)
        await ended(client, server)


def contexts():
    """TLS settings of a server with a self-signed certificate, and of a client that trusts it."""
    from twisted.internet import ssl

    key = ssl.KeyPair.generate(size=2048)
    name = ssl.DN(commonName="localhost")
    request = key.certificateRequest(name)
    data = key.signCertificateRequest(name, request, lambda name: True, 1)
    own = key.newCertificate(data)
    return own.options(), ssl.CertificateOptions()


class Tls(Cases):
    """TLS by pyOpenSSL over Couplet's connections."""

    async def test_start_tls_on_both_sides(case):
        ours, theirs = contexts()

        class Server(Echo):
            def dataReceived(self, data):
                if data == b"STARTTLS":
                    self.say("starts")
                    self.transport.write(b"READY")
                    self.transport.startTLS(ours)
                else:
                    super().dataReceived(data)

        server, client = await pair(case, Server(case, "server"))
        client.transport.write(b"STARTTLS")
        await client.wanted(5)
        client.transport.startTLS(theirs)
        client.transport.write(b"s" * MIB)
        await client.wanted(MIB + 5)
        case.say("client", client.transport.getPeerCertificate().get_subject().CN, client.transport.TLS)
        await close(client, server)

    async def test_tls_from_the_start_with_a_producer(case):
        ours, theirs = contexts()
        server, client = Noting(case, "server"), Noting(case, "client")
        port = case.listen(lambda: server, ours)
        connected = defer.Deferred()
        client.connectionMade = lambda: connected.callback(None)
        factory = protocol.ClientFactory()
        factory.buildProtocol = lambda address: client
        case.reactor.connectSSL("127.0.0.1", port, factory, theirs)
        await connected
        producer = Push(case, client.transport, 8 * MIB)
        client.transport.registerProducer(producer, True)
        producer.resumeProducing()
        await ended(client, server)

    async def test_clear_text_to_a_tls_server_fails(case):
        ours, _ = contexts()
        server, client = Noting(case, "server"), Noting(case, "client")
        await case.connect(case.listen(lambda: server, ours), client)
        client.transport.write(b"GET / HTTP/1.0\r\n\r\n")
        await ended(client, server)
        case.notes["client"] = []

    async def test_an_abort_of_tls(case):
        ours, theirs = contexts()
        server, client = Noting(case, "server"), Noting(case, "client")
        await case.connect(case.listen(lambda: server, ours), client)
        client.transport.startTLS(theirs)
        client.transport.write(b"hello")
        await server.wanted(5)
        server.transport.abortConnection()
        await ended(client, server)

"""Datagrams over UDP and UNIX sockets: protocols get the same ones, the same errors and ends as under the model."""

import array
import os
import socket

from twisted.internet import defer, protocol, threads

from kit.cases import Cases, only_subject
from kit.running import descriptors


class Noting(protocol.DatagramProtocol):
    """Notes its events; answers with the datagram reversed."""

    def __init__(self, case, party, act=None):
        self.case, self.party, self.act = case, party, act
        self.wanted = defer.Deferred()

    def say(self, *words):
        self.case.say(self.party, *words)

    def named(self, address):
        return type(address).__name__, len(address), address[0]

    def startProtocol(self):
        self.say("start")

    def datagramReceived(self, data, address):
        self.say("received", len(data), data[:20], self.named(address))
        wanted, self.wanted = self.wanted, defer.Deferred()
        try:
            if self.act is not None:
                self.act(self, data, address)
        finally:
            wanted.callback(address)

    def stopProtocol(self):
        self.say("stop")


def answer(self, data, address):
    """Sends the datagram back, reversed."""
    if data == b"fail":
        raise ValueError("as asked")
    self.transport.write(data[::-1], address)


class Datagrams(Cases):
    """Ports on the loopback interface."""

    @staticmethod
    async def pair(case):
        """A server that answers, a client, and the server's address."""
        server, client = Noting(case, "server", answer), Noting(case, "client")
        port = case.reactor.listenUDP(0, server, interface="127.0.0.1")
        case.reactor.listenUDP(0, client, interface="127.0.0.1")
        return server, client, ("127.0.0.1", port.getHost().port)

    async def test_datagrams_and_exceptions(case):
        server, client, to = await Datagrams.pair(case)
        for data in (b"abc", b"", b"x" * 8000, b"fail", b"last"):
            heard = server.wanted if data == b"fail" else client.wanted
            client.transport.write(data, to)
            await heard
        case.say("client", repr(client.transport).partition(" on ")[0][-20:])
        for port in (server.transport, client.transport):
            await defer.maybeDeferred(port.stopListening)
        case.say("client", client.transport)

    async def test_a_connected_port_receives_only_from_its_peer(case):
        server, client, to = await Datagrams.pair(case)
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.sendto(b"before", (to[0], client.transport.getHost().port))
        await client.wanted
        client.transport.connect(*to)
        other.sendto(b"after", (to[0], client.transport.getHost().port))
        client.transport.write(b"one")
        await client.wanted
        other.close()

    async def test_a_port_that_stops_reading_receives_nothing_until_it_resumes(case):
        server, client, to = await Datagrams.pair(case)
        server.transport.stopReading()
        client.transport.write(b"late", to)
        await case.sleep(0.05)
        case.say("server", "reads again")
        server.transport.startReading()
        await client.wanted

    async def test_addresses_that_cannot_be_written_to(case):
        server, client, to = await Datagrams.pair(case)
        for host in ("localhost", "::1", "<broadcast>"):
            case.attempt("client", client.transport.write, b"x", (host, to[1]))
        case.attempt("client", client.transport.write, b"x" * 70_000, to)
        client.transport.write(b"sent", to)
        await client.wanted
        # The host is known now.
        for data, address in ((b"x" * 70_000, to), ("text", to), (b"x", (to[0], 70_000)), (b"x", (to[0],)), (b"x", to)):
            case.attempt("client", client.transport.write, data, address)
        await client.wanted

    @staticmethod
    async def arrived(case, act, wanted=None, **options):
        """A port that reads five datagrams at once, and its protocol; waits for `wanted` of them."""
        server = Noting(case, "server", act)
        port = case.reactor.listenUDP(0, server, interface="127.0.0.1", **options)
        port.stopReading()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for number in range(5):
                other.sendto(b"%d" % number * (number + 1), ("127.0.0.1", port.getHost().port))
        port.startReading()
        for _ in range(wanted or 5):
            await server.wanted
        # The port receives no more in this turn.
        await case.sleep()
        return server, port

    async def test_an_exception_in_a_batch_does_not_lose_the_rest(case):
        def act(self, data, address):
            if data == b"11":
                raise ValueError("as asked")

        await Datagrams.arrived(case, act)

    async def test_a_port_with_the_least_throughput_receives_all(case):
        _, port = await Datagrams.arrived(case, lambda self, *_: setattr(self.transport, "maxThroughput", 1))
        port.maxPacketSize = 3
        port.write(b"cut short", ("127.0.0.1", port.getHost().port))
        await port.protocol.wanted

    async def test_a_pause_in_a_batch_and_more_datagrams_after_it(case):
        def act(self, data, address):
            if data == b"0":
                self.transport.stopReading()

        _, port = await Datagrams.arrived(case, act)
        port.write(b"more", ("127.0.0.1", port.getHost().port))
        await case.sleep(0.02)
        case.say("server", "reads again")
        port.startReading()
        await port.protocol.wanted

    async def test_a_port_that_is_lost_in_a_batch_receives_nothing_more(case):
        def act(self, data, address):
            if data == b"11":
                self.transport.connectionLost()

        await Datagrams.arrived(case, act, 2)
        await case.sleep(0.02)

    @only_subject
    async def test_a_port_that_is_stopped_in_a_batch_receives_nothing_more(case):
        received, stopped = [], []

        def act(self, data, address):
            received.append(data)
            if data == b"11":
                stopped.append(self.transport.stopListening())

        await Datagrams.arrived(case, act, 2)
        await stopped[0]
        await case.sleep(0.02)
        assert received == [b"0", b"11"], received

    async def test_the_protocol_may_change_in_a_batch(case):
        def act(self, data, address):
            if data == b"0":
                self.transport.protocol = other
                other.transport = self.transport

        other = Noting(case, "other")
        server, port = await Datagrams.arrived(case, act, 1)
        port.protocol = server

    @only_subject
    async def test_a_refusal_is_reported_to_a_connected_port_which_survives(case):
        """The epoll reactor takes the refusal for the end of the port."""
        refusals = []

        class Refused(Noting):
            def connectionRefused(self):
                refusals.append(None)
                wanted, self.wanted = self.wanted, defer.Deferred()
                wanted.callback(None)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", 0))
            to = other.getsockname()
            client = Refused(case, "client")
            port = case.reactor.listenUDP(0, client, interface="127.0.0.1")
            port.connect(*to)
        assert port.write(b"lost") == 4
        await client.wanted
        # Not a reader: the next datagram reports the refusal of the one before.
        port.stopReading()
        assert port.write(b"lost") == 4
        assert port.write(b"lost") is None
        assert len(refusals) == 2, refusals
        port.startReading()
        try:
            port.write(b"x", ("127.0.0.1", 1))
        except AssertionError:
            case.say("client", "not the peer")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(to)
            assert port.write(b"found", to) == 5
            other.sendto(b"answer", other.recvfrom(10)[1])
            await client.wanted

    async def test_more_peers_than_a_port_remembers_get_their_answers(case):
        server = Noting(case, "server", answer)
        server.say = lambda *words: None
        port = case.reactor.listenUDP(0, server, interface="127.0.0.1")
        right = 0
        for number in range(1200):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"%d" % number, ("127.0.0.1", port.getHost().port))
                address = await server.wanted
                right += address == other.getsockname() and other.recv(10) == (b"%d" % number)[::-1]
        case.say("client", right)

    async def test_other_threads_and_other_types_write_too(case):
        server, client, to = await Datagrams.pair(case)
        heard = client.wanted
        await threads.deferToThread(client.transport.write, b"from a thread", to)
        await heard
        for data in (bytearray(b"array"), memoryview(b"view")):
            client.transport.write(data, to)
            await client.wanted

    async def test_a_port_is_a_reader_of_the_reactor_while_it_reads(case):
        port = case.reactor.listenUDP(0, Noting(case, "server"), interface="127.0.0.1")
        for act in (lambda: None, port.stopReading, port.startReading):
            act()
            case.say("server", port in case.reactor.getReaders(), port in case.reactor.getWriters())
        await port.stopListening()
        case.say("server", port in case.reactor.getReaders())


class Peer(protocol.ConnectedDatagramProtocol):
    """Notes its events: a connected port over a UNIX socket."""

    def __init__(self, case, party, act=None):
        self.case, self.party, self.act = case, party, act
        self.wanted = defer.Deferred()

    def noted(self, *words):
        self.case.say(self.party, *words)
        wanted, self.wanted = self.wanted, defer.Deferred()
        wanted.callback(None)

    def startProtocol(self):
        self.case.say(self.party, "start")

    def datagramReceived(self, data):
        try:
            if self.act is not None:
                self.act(self, data)
        finally:
            self.noted("received", data)

    def connectionRefused(self):
        self.noted("refused")

    def connectionFailed(self, failure):
        self.noted("failed", failure.type.__name__)

    def stopProtocol(self):
        self.case.say(self.party, "stop")


class Named(Noting):
    """Notes the whole names of senders."""

    def named(self, address):
        return repr(address)


class UNIXDatagrams(Cases):
    """Ports in the folder of the test, which is its working directory, and with abstract names."""

    async def test_datagrams_and_exceptions(case):
        server, client = Named(case, "server", answer), Peer(case, "client")
        port = case.reactor.listenUNIXDatagram("server", server)
        peer = case.reactor.connectUNIXDatagram("server", client, bindAddress="client")
        for data in (b"abc", b"", b"x" * 8000, b"fail", b"last"):
            heard = server.wanted if data == b"fail" else client.wanted
            case.say("client", peer.write(data))
            await heard
        case.say("names", port.getHost(), peer.getHost(), peer.getPeer(), repr(port))
        for each in (peer, port):
            await each.stopListening()
        case.say("names", repr(port), os.path.exists("server"))

    async def test_names_of_senders(case):
        server = Named(case, "server")
        abstract = f"\0couplet-test-{os.getpid()}"
        server.say = lambda *words: case.say("server", *(str(word).replace(str(os.getpid()), "PID") for word in words))
        case.reactor.listenUNIXDatagram(os.fsdecode(b"server-\xff"), server)
        for name in (None, "plain", b"raw-\xfe", "\u00fc", abstract, abstract.encode() + b"\0\xff"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                if name is not None:
                    other.bind(name)
                other.sendto(b"hello", b"server-\xff")
                await server.wanted

    async def test_targets_of_every_type(case):
        abstract = f"\0couplet-test-{os.getpid()}"
        server, other, client = Named(case, "server"), Named(case, "abstract"), Named(case, "client")
        for name, each in (("server", server), (abstract, other)):
            case.reactor.listenUNIXDatagram(name, each)
        port = case.reactor.listenUNIXDatagram("", client)
        plain = [("server", server), (b"server", server), (bytearray(b"server"), server)]
        for name, to in (*plain, (abstract, other), (abstract.encode(), other)):
            for data in (b"bytes", bytearray(b"array"), memoryview(b"view")):
                heard = to.wanted
                case.say("client", port.write(data, name))
                await heard
        port.writeSequence([b"a", b"sequence"], "server")
        await server.wanted
        # The name ends with the NUL.
        heard = server.wanted
        for name in (None, "", "missing", "x" * 200, "server\0more", ("127.0.0.1", 1), 7):
            # The texts differ.
            try:
                case.say("client", port.write(b"x", name))
            except Exception as raised:
                case.say("client", repr(name)[:20], type(raised).__name__)
        await heard
        for data in ("text", b"x" * (1 << 20)):
            case.attempt("client", port.write, data, "server")

    async def test_an_error_of_an_answer_is_raised_in_the_callback(case):
        def act(self, data, address):
            other.close()
            case.attempt("server", self.transport.write, b"answer", address)

        server = Named(case, "server", act)
        case.reactor.listenUNIXDatagram("server", server)
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.bind("other")
        other.sendto(b"question", "server")
        await server.wanted
        os.unlink("other")

    async def test_a_full_queue_drops_datagrams(case):
        sent = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind("other")
            client = Named(case, "client")
            port = case.reactor.listenUNIXDatagram("client", client)
            peer = case.reactor.connectUNIXDatagram("other", Peer(case, "peer"))
            while None not in sent:
                sent.append(port.write(b"%d" % len(sent), "other"))
            case.say("client", sent[0], peer.write(b"too many"))
            for number in range(len(sent) - 1):
                assert other.recv(10) == b"%d" % number
            case.say("client", port.write(b"again", "other"), other.recv(10))

    async def test_a_batch_with_an_exception_a_pause_and_a_stop(case):
        def act(self, data, address):
            if data == b"1":
                raise ValueError("as asked")
            if data == b"2":
                self.transport.stopReading()
                case.reactor.callLater(0.02, self.transport.startReading)
            if data == b"4":
                stopped.append(self.transport.stopListening())

        server, stopped = Named(case, "server", act), []
        case.reactor.listenUNIXDatagram("server", server)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect("server")
            for number in range(4):
                other.send(b"%d" % number)
            for _ in range(4):
                await server.wanted
            other.send(b"4")
            await server.wanted
            await stopped[0]

    async def test_a_connected_port_and_its_exceptions(case):
        def act(self, data):
            if data == b"fail":
                raise ValueError("as asked")

        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind("other")
            client = Peer(case, "client", act)
            port = case.reactor.connectUNIXDatagram("other", client, bindAddress="client")
            other.connect("client")
            for data in (b"one", b"", b"fail", b"last"):
                other.send(data)
                await client.wanted
            for arguments in ((b"text", "other"), ("text",)):
                case.attempt("client", port.write, *arguments)
            case.say("client", port.write(b"heard"), other.recv(10), port in case.reactor.getReaders())
            case.attempt("client", port.write, b"x" * (1 << 20))
        # The peer has ended.
        for _ in range(2):
            case.attempt("client", port.write, b"lost")
        await port.stopListening()
        case.say("client", port in case.reactor.getReaders())

    async def test_a_failed_connect_and_a_name_in_use(case):
        client = Peer(case, "client")
        failed = client.wanted
        port = case.reactor.connectUNIXDatagram("missing", client, bindAddress="client")
        await failed
        await case.sleep(0.02)
        case.say("client", hasattr(port, "protocol"), port.connected)
        case.attempt("second", case.reactor.listenUNIXDatagram, "client", Named(case, "second"))

    async def test_long_datagrams(case):
        """Longer than any over UDP; and one that is cut."""
        server = Named(case, "server")
        port = case.reactor.listenUNIXDatagram("server", server, maxPacketSize=200_000)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect("server")
            for size in (100_000, 150_000):
                other.send(b"x" * size)
                await server.wanted
            port.maxPacketSize = 10
            other.send(b"0123456789abc")
            await server.wanted

    async def test_descriptors_that_come_with_a_datagram_are_closed(case):
        server = Named(case, "server")
        case.reactor.listenUNIXDatagram("server", server)
        before = descriptors()
        reading, writing = os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.connect("server")
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
            other.sendmsg([b"with one"], passed)
            await server.wanted
        os.close(writing)
        case.say("end", os.read(reading, 1))
        os.close(reading)
        case.say("descriptors", descriptors() - before)

    async def test_other_threads_write_too(case):
        server = Named(case, "server")
        ports = [case.reactor.listenUNIXDatagram(each.party, each) for each in (server, Named(case, "client"))]
        heard = server.wanted
        await threads.deferToThread(ports[1].write, b"from a thread", "server")
        await heard

    @only_subject
    async def test_couplet_receives_and_sends(case):
        """No descriptor of Twisted's is watched."""
        before = set(case.reactor._reads)
        server, client = Named(case, "server", answer), Peer(case, "client")
        ports = [
            case.reactor.listenUNIXDatagram("server", server),
            case.reactor.connectUNIXDatagram("server", client, bindAddress="client"),
        ]
        ports[1].write(b"question")
        await client.wanted
        assert set(case.reactor._reads) == before
        for port in ports:
            assert port in case.reactor._streams
            await port.stopListening()
            assert port not in case.reactor._streams

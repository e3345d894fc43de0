"""UDP: protocols get the same datagrams, errors and ends as under the model."""

import socket
import unittest

from twisted.internet import defer, error, protocol

from kit.cases import Cases, case


class Noting(protocol.DatagramProtocol):
    """Notes its events; answers with the datagram reversed."""

    def __init__(self, case, party, act=None):
        self.case, self.party, self.act = case, party, act
        self.wanted = defer.Deferred()

    def say(self, *words):
        self.case.say(self.party, *words)

    def startProtocol(self):
        self.say("start")

    def datagramReceived(self, data, address):
        self.say("received", len(data), data[:20], type(address).__name__, len(address), address[0])
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

    async def pair(self, case, interface="127.0.0.1", **options):
        """A server that answers, and a client; their ports."""
        server, client = Noting(case, "server", answer), Noting(case, "client")
        ports = case.reactor.listenUDP(0, server, interface=interface, **options), case.reactor.listenUDP(
            0, client, interface=interface
        )
        return server, client, (interface, ports[0].getHost().port)

    @case
    async def test_datagrams_and_exceptions(case):
        server, client, to = await Datagrams.pair(None, case)
        for data in (b"abc", b"", b"x" * 8000, b"fail", b"last"):
            heard = server.wanted if data == b"fail" else client.wanted
            client.transport.write(data, to)
            await heard
        case.say("client", repr(client.transport).partition(" on ")[0][-20:])
        for port in (server.transport, client.transport):
            await defer.maybeDeferred(port.stopListening)
        case.say("client", client.transport)

    @case
    async def test_ipv6(case):
        server, client, to = await Datagrams.pair(None, case, "::1")
        client.transport.write(b"six", to)
        await client.wanted

    @case
    async def test_a_datagram_that_is_too_long_is_cut(case):
        server, client, to = await Datagrams.pair(None, case, maxPacketSize=10)
        client.transport.write(b"0123456789abc", to)
        await client.wanted

    @case
    async def test_a_connected_port_hears_only_its_peer(case):
        server, client, to = await Datagrams.pair(None, case)
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.sendto(b"before", (to[0], client.transport.getHost().port))
        await client.wanted
        client.transport.connect(*to)
        other.sendto(b"after", (to[0], client.transport.getHost().port))
        client.transport.write(b"one")
        await client.wanted
        other.close()

    @case
    async def test_a_port_that_stops_reading_hears_nothing_until_it_reads_again(case):
        server, client, to = await Datagrams.pair(None, case)
        server.transport.stopReading()
        client.transport.write(b"late", to)
        await case.sleep(0.05)
        case.say("server", "reads again")
        server.transport.startReading()
        await client.wanted

    @case
    async def test_a_port_may_stop_in_its_callback(case):
        stopped = defer.Deferred()

        def stop(self, data, address):
            defer.maybeDeferred(self.transport.stopListening).addCallback(stopped.callback)

        server = Noting(case, "server", stop)
        port = case.reactor.listenUDP(0, server, interface="127.0.0.1")
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.sendto(b"stop", ("127.0.0.1", port.getHost().port))
        await stopped
        await case.sleep(0.02)
        other.close()

    @case
    async def test_addresses_that_cannot_be_written_to(case):
        server, client, to = await Datagrams.pair(None, case)
        for host in ("localhost", "::1", "<broadcast>"):
            try:
                client.transport.write(b"x", (host, to[1]))
            except (error.InvalidAddressError, OSError) as raised:
                case.say("client", type(raised).__name__)
        try:
            client.transport.write(b"x" * 70_000, to)
        except error.MessageLengthError as raised:
            case.say("client", raised)
        client.transport.write(b"sent", to)
        await client.wanted
        # The host is known now.
        for data, address in ((b"x" * 70_000, to), ("text", to), (b"x", (to[0], 70_000)), (b"x", (to[0],)), (b"x", to)):
            try:
                case.say("client", client.transport.write(data, address))
            except (error.MessageLengthError, TypeError, OverflowError) as raised:
                case.say("client", type(raised).__name__)
        await client.wanted

    @case
    async def test_a_port_at_an_address_in_use(case):
        server, client, to = await Datagrams.pair(None, case)
        try:
            case.reactor.listenUDP(to[1], Noting(case, "third"), interface="127.0.0.1")
        except error.CannotListenError as raised:
            case.say("third", type(raised).__name__, raised.interface)


if __name__ == "__main__":
    unittest.main()

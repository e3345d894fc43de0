"""Programs that reach through a transport, for its socket, its buffers or pyOpenSSL's object: they find the same as
under the model. The comments name programs that do so."""

import fcntl
import socket
import struct
import types

from OpenSSL import SSL
from twisted.internet import interfaces, ssl
from twisted.protocols import policies
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from kit.cases import Cases, only_subject
from kit.connections import Echo, Noting, close, ended, pair
from test_tls import SERVER, linked, trusting


def queued(number):
    """Bytes in the system's buffers: an ioctl on the descriptor."""
    return lambda transport: struct.unpack("I", fcntl.ioctl(transport.getHandle().fileno(), number, bytes(4)))[0]


def option(level, name, *value):
    return lambda transport: getattr(transport.getHandle(), "setsockopt" if value else "getsockopt")(level, name, *value)


def set_client(transport):
    transport.client = ("forwarded", transport.client[1])
    return transport.client[0]


# On a connection without TLS.
PLAIN = {
    # Synapse: metrics of its replication.
    "unsent": lambda transport: len(transport.dataBuffer) + transport._tempDataLen,
    "received by the system": queued(0x541B),
    "sent by the system": queued(0x5411),
    # OpenCanary: keepalive.
    "setsockopt": option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "setsockopt, idle": option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 11),
    "getsockopt": option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    # Cowrie and OpenCanary: a session of a log.
    "sessionno": lambda transport: type(getattr(transport, "sessionno", 0)).__name__,
    # Evennia: the address that a proxy forwards.
    "client": lambda transport: hasattr(transport, "client") and set_client(transport),
    # Synapse, Buildbot and Evennia.
    "connected, disconnecting": lambda transport: (bool(transport.connected), bool(transport.disconnecting)),
    "disconnected": lambda transport: bool(transport.disconnected),
    "producer": lambda transport: (transport.producer, transport.streamingProducer),
    "isSendBufferFull": lambda transport: transport._isSendBufferFull(),
    "addresses": lambda transport: (
        transport.getHandle().getsockname()[1] == transport.getHost().port,
        transport.getHandle().getpeername()[1] == transport.getPeer().port,
    ),
    "kind of socket": lambda transport: (transport.getHandle().family.name, transport.getHandle().type.name),
    "is a socket": lambda transport: isinstance(transport.getHandle(), socket.socket),
    "is the socket": lambda transport: transport.getHandle() is transport.socket,
    "descriptor": lambda transport: transport.socket.fileno() == transport.fileno(),
    "timeout": lambda transport: transport.socket.gettimeout(),
    "duplicate": lambda transport: transport.socket.dup().detach() != transport.fileno(),
    "peeked": lambda transport: peeked(transport.socket),
    "protocol": lambda transport: type(transport.protocol).__name__,
    "TLS": lambda transport: (transport.TLS, interfaces.ISSLTransport.providedBy(transport)),
    "bufferSize": lambda transport: transport.bufferSize,
    "reactor": lambda transport: interfaces.IReactorTCP.providedBy(transport.reactor),
    "is a": lambda transport: type(transport).__name__,
}


def peeked(skt):
    try:
        return skt.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return "nothing"


def channel(transport, is_server):
    """Autobahn, and so Crossbar and Daphne: the identity of a channel, "tls-unique"."""
    if not isinstance(transport, TLSMemoryBIOProtocol):
        return "no TLS"
    connection = transport.getHandle()
    assert connection and isinstance(connection, SSL.Connection)
    finished = connection.get_peer_finished() if is_server else connection.get_finished()
    return None if finished is None else len(finished)


def finished(transport):
    """The lengths of both ends' last messages of a handshake, in an order that both ends share."""
    ours, theirs = transport.getHandle().get_finished(), transport.getHandle().get_peer_finished()
    return sorted([len(ours), len(theirs)]), ours != theirs


# On a connection with TLS, in `connectionMade` and later.
ENCRYPTED = {
    "channel": channel,
    "is an SSL transport": lambda transport, _: interfaces.ISSLTransport.providedBy(transport),
    # Scrapy, Foolscap, Autobahn, Twisted's Certificate.peerFromTransport.
    "getPeerCertificate": lambda transport, is_server: bool(transport.getPeerCertificate()),
    "negotiatedProtocol": lambda transport, _: transport.negotiatedProtocol,
    # Scrapy: verbose logging.
    "getHandle, version": lambda transport, _: transport.getHandle().get_protocol_version_name(),
    "getHandle, certificate": lambda transport, _: bool(transport.getHandle().get_peer_certificate(as_cryptography=True)),
    "_tlsConnection": lambda transport, _: isinstance(transport._tlsConnection, SSL.Connection),
    "get_app_data": lambda transport, _: transport.getHandle().get_app_data() is transport,
    "get_state_string": lambda transport, _: transport.getHandle().get_state_string(),
    "total_renegotiations": lambda transport, _: transport.getHandle().total_renegotiations(),
    "get_context": lambda transport, _: type(transport.getHandle().get_context()).__name__,
    "get_cipher_list": lambda transport, _: len(transport.getHandle().get_cipher_list()) > 5,
    "wrappedProtocol": lambda transport, _: isinstance(transport, policies.ProtocolWrapper),
    "connected": lambda transport, _: (bool(transport.connected), bool(transport.disconnecting)),
}


class Reaching(Noting):
    """Reaches through its transport in `connectionMade`, with output before and after, and when it has data."""

    def __init__(self, case, party, reaches, is_server):
        super().__init__(case, party)
        self.reaches, self.is_server, self.has_answered = reaches, is_server, False

    def reach(self, when):
        for name in self.reaches:
            self.say(when, name, ENCRYPTED[name](self.transport, self.is_server))

    def connectionMade(self):
        # A program may keep the method.
        self.write = self.transport.write
        self.write(b"be")
        self.transport.write(b"fore ")
        self.reach("made")
        self.write(b"af")
        self.transport.write(b"ter")

    def dataReceived(self, data):
        super().dataReceived(data)
        if self.size >= 12 and not self.has_answered:
            self.has_answered = True
            self.reach("received")
            self.write(b"!")
            self.transport.write(b"!")
        if self.size == 14:
            self.transport.loseConnection()


class Reached(Cases):
    """Attributes and methods of transports."""

    async def test_without_tls(case):
        server, client = await pair(case)
        await case.sleep(0.1)
        for each in (server, client):
            for name, reach in PLAIN.items():
                each.say(name, reach(each.transport))
        await close(client, server)
        for each in (server, client):
            each.say("socket", hasattr(each.transport, "socket"))

    async def test_unsent_output_is_counted(case):
        server, client = await pair(case)
        server.transport.pauseProducing()
        unsent = PLAIN["unsent"]
        client.transport.write(b"x" * 100)
        case.say("client", unsent(client.transport))
        client.transport.write(b"x" * (20 << 20))
        await case.sleep(0.1)
        case.say("client", unsent(client.transport) > 1 << 20, client.transport._isSendBufferFull())
        server.transport.resumeProducing()
        await close(client, server)

    async def test_with_tls(case):
        for name in ENCRYPTED:
            for reaches in ("server", "client", "both"):
                # The parties' notes are separate.
                mine = f"{name}, {reaches}"
                server = Reaching(case, f"{mine}: server", [name] * (reaches != "client"), True)
                client = Reaching(case, f"{mine}: client", [name] * (reaches != "server"), False)
                # With TLS 1.2, the only version of this identity.
                versions = {"lowerMaximumSecurityTo": ssl.TLSVersion.TLSv1_2} if name == "channel" else {}
                pair = SERVER.options(**versions), trusting()
                await linked(case, pair, server, client)
                await ended(server, client)

    async def test_in_the_call_that_starts_tls(case):
        async def one(name):
            class Starting(Noting):
                def dataReceived(self, data):
                    super().dataReceived(data)
                    if self.size == 1:
                        self.transport.write(b"in clear")
                        self.transport.startTLS(SERVER.options())
                        self.transport.write(b"be")
                        self.say(name, ENCRYPTED[name](self.transport.protocol, True))
                        self.transport.write(b"fore")

            class Client(Noting):
                def dataReceived(self, data):
                    super().dataReceived(data)
                    if self.size == 8:
                        self.transport.startTLS(trusting())
                        self.say(name, ENCRYPTED[name](self.transport.protocol, False))
                        self.transport.write(b"plain")
                    if self.size == 14:
                        self.say(name, ENCRYPTED[name](self.transport.protocol, False))
                        self.transport.loseConnection()

            server, client = await pair(case, Starting(case, f"{name}: server"), Client(case, f"{name}: client"))
            client.transport.write(b"x")
            await ended(server, client)

        for name in ENCRYPTED:
            await one(name)

    async def test_when_the_handshake_is_complete(case):
        """Both ends know the same identity of a channel, also on the first connection."""
        helpers = types.SimpleNamespace(finished=finished)

        @implementer(interfaces.IHandshakeListener)
        class Directly(Noting):
            def handshakeCompleted(self):
                self.say(*finished(self.transport))
                self.transport.write(b"x")

            def dataReceived(self, data):
                super().dataReceived(data)
                self.transport.loseConnection()

        class ByAMethod(Directly):
            def handshakeCompleted(self):
                self.completed()

            def completed(self):
                super().handshakeCompleted()

        class ByAClosure(Directly):
            def handshakeCompleted(self):
                (lambda: self.say(*helpers.finished(self.transport)))()
                finished(self.transport)
                self.transport.write(b"x")

        class Later(Directly):
            def handshakeCompleted(self):
                case.reactor.callLater(0, super().handshakeCompleted)

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for kind in (Directly, ByAMethod, ByAClosure, Later):
                name = f"{kind.__name__}, {version.name}"
                server, client = kind(case, f"{name}: server"), kind(case, f"{name}: client")
                pair = SERVER.options(raiseMinimumTo=version, lowerMaximumSecurityTo=version), trusting()
                await linked(case, pair, server, client)
                await ended(server, client)

    @only_subject
    async def test_listeners_that_do_not_need_pyopenssl_leave_rustls(case):
        @implementer(interfaces.IHandshakeListener)
        class Listens(Noting):
            def handshakeCompleted(self):
                self.say(self.transport.getPeerCertificate(), self.transport.negotiatedProtocol)

        class Reaches(Listens):
            def handshakeCompleted(self):
                finished(self.transport)

        for kind, engine in ((Listens, "rustls"), (Reaches, "pyOpenSSL")):
            server, client = await linked(case, "both", kind(case, "server"), kind(case, "client"))
            engines = server.transport.tls_engine, client.transport.tls_engine
            assert engines == (engine, engine), engines
            await close(client, server)

    @only_subject
    async def test_pyopenssl_is_used_only_where_its_object_is_needed(case):
        from twisted import logger

        warnings = []
        logger.globalLogPublisher.addObserver(
            lambda event: event["log_level"] is logger.LogLevel.warn and warnings.append(logger.formatEvent(event))
        )

        class Asks(Noting):
            def connectionMade(self):
                self.transport.getHandle().get_finished()

        for _ in range(2):
            server, client = await linked(case, "both", Asks(case, "server"), Noting(case, "client"))
            engines = server.transport.tls_engine, client.transport.tls_engine
            assert engines == ("pyOpenSSL", "rustls"), engines
            await close(client, server)
        assert len(warnings) == 1 and "Asks" in warnings[0], warnings
        # After the handshake it is too late for this connection: the next one gets it.
        options = SERVER.options()
        for expected in ("rustls", "pyOpenSSL", "pyOpenSSL"):
            server, client = Echo(case, "server"), Noting(case, "client")
            await linked(case, (options, trusting()), server, client)
            client.transport.write(b"x")
            await client.wanted(1)
            assert server.transport.tls_engine == expected, (expected, server.transport.tls_engine)
            finished = server.transport.getHandle().get_peer_finished()
            assert bool(finished) == (expected == "pyOpenSSL")
            assert hasattr(server.transport.getHandle(), "renegotiate") == (expected == "pyOpenSSL")
            await close(client, server)
        assert len(warnings) == 3 and "get_peer_finished" in warnings[1], warnings

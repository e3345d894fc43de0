"""TLS: programs get the same events as under the model, whether rustls encrypts or pyOpenSSL."""

import socket
import ssl as python

from twisted.internet import endpoints, interfaces, protocol, ssl, threads
from zope.interface import implementer

from kit import certificates
from kit.cases import Cases, only_subject
from kit.connections import MIB, Echo, Noting, Producer, close, ended, pair, quiet, unix_pair

AUTHORITY = certificates.made("authority", is_authority=True)
SERVER = certificates.made("server", "localhost", by=AUTHORITY)
CLIENT = certificates.made("client", by=AUTHORITY)
EXPIRED = certificates.made("expired", "localhost", by=AUTHORITY, ends=-certificates.DAY)
STRANGER = certificates.made("stranger", "localhost")


def trusting(host="localhost", trust=AUTHORITY, **more):
    """The options of a client that verifies the server."""
    return ssl.optionsForClientTLS(host, trust.trust(), **more)


def by_openssl(options):
    """The same options, whose context the program takes."""
    options.getContext()
    return options


class Unverified(ssl.ClientContextFactory):
    """A client that verifies nothing, by pyOpenSSL."""


# The options of the two ends, by the ends that rustls encrypts: each engine meets itself and the other one.
PAIRS = {
    "both": lambda: (SERVER.options(), trusting()),
    "server": lambda: (SERVER.options(), Unverified()),
    "client": lambda: (by_openssl(SERVER.options()), trusting()),
    "neither": lambda: (by_openssl(SERVER.options()), Unverified()),
}


def connect(case, server, options, made):
    """Connects a protocol to a server's port."""
    endpoint = endpoints.TCP4ClientEndpoint(case.reactor, "127.0.0.1", server)
    if isinstance(options, ssl.ClientContextFactory):
        endpoint = endpoints.SSL4ClientEndpoint(case.reactor, "127.0.0.1", server, options)
    else:
        endpoint = endpoints.wrapClientTLS(options, endpoint)
    return endpoints.connectProtocol(endpoint, made)


async def linked(case, pair, server, client):
    """Connects two protocols by TLS."""
    ours, theirs = PAIRS[pair]() if isinstance(pair, str) else pair
    await connect(case, case.listen(lambda: server, ours), theirs, client)
    return server, client


@implementer(interfaces.IHandshakeListener)
class Listening(Noting):
    """Notes the negotiated parameters."""

    def handshakeCompleted(self):
        handle = self.transport.getHandle()
        peer = self.transport.getPeerCertificate()
        subject = peer and peer.to_cryptography().subject.rfc4514_string()
        self.say("handshake", subject, self.transport.negotiatedProtocol)
        self.say(handle.get_protocol_version_name(), handle.get_cipher_version(), handle.get_servername())
        self.say(handle.get_alpn_proto_negotiated(), interfaces.ISSLTransport.providedBy(self.transport))


class Saying(Listening):
    """Sends its name at once, and closes when the peer's has arrived."""

    def connectionMade(self):
        super().connectionMade()
        self.transport.write(self.party.encode())

    def dataReceived(self, data):
        super().dataReceived(data)
        if self.size == 6:
            self.transport.loseConnection()


async def said(case, pair):
    """Two protocols send their names. Notes the failure of the client's handshake."""
    await linked(case, pair, server := Saying(case, "server"), client := Saying(case, "client"))
    await ended(server, client)


class Streams(Cases):
    """Bytes and ends."""

    async def test_bytes_come_back_from_an_echo(case):
        for pair in PAIRS:
            server, client = await linked(case, pair, Echo(case, f"{pair} server"), Noting(case, f"{pair} client"))
            for size in (1, 100, 16384, 16385, 65536, 3 * MIB):
                before = client.size
                client.transport.write(b"x" * size)
                await client.wanted(before + size)
            client.transport.writeSequence([b"a", b"", b"b" * 10])
            await client.wanted(client.size + 11)
            await close(client, server)

    async def test_bytes_written_before_lose_connection_arrive(case):
        for pair in PAIRS:
            server, client = await linked(case, pair, Noting(case, f"{pair} server"), Listening(case, f"{pair} client"))
            client.transport.write(b"y" * 5 * MIB)
            client.transport.loseConnection()
            client.transport.write(b"too late")
            await ended(server, client)

    async def test_a_server_that_closes_first_sends_everything(case):
        class Closing(Noting):
            def connectionMade(self):
                super().connectionMade()
                self.transport.write(b"z" * 2 * MIB)
                self.transport.loseConnection()

        for pair in PAIRS:
            await ended(*await linked(case, pair, Closing(case, f"{pair} server"), Noting(case, f"{pair} client")))

    async def test_a_connection_is_aborted_before_its_handshake(case):
        class Aborting(Noting):
            def connectionMade(self):
                super().connectionMade()
                getattr(self.transport, self.how)()

        for how in ("abortConnection", "loseConnection"):
            server, client = Aborting(case, f"server {how}"), protocol.Protocol()
            server.how = how
            await case.connect(case.listen(lambda: server, SERVER.options()), client)
            await server.lost

    async def test_a_callback_that_raises_ends_the_connection(case):
        class Raising(Listening):
            def dataReceived(self, data):
                super().dataReceived(data)
                raise RuntimeError("data")

        for pair in PAIRS:
            both = await linked(case, pair, Raising(case, f"{pair} server"), Noting(case, f"{pair} client"))
            both[1].transport.write(b"hello")
            await ended(*both)

    async def test_producers_are_paused_and_resumed(case):
        class Producing(Noting):
            def connectionMade(self):
                super().connectionMade()
                self.producer = Producer(case, self.transport, self.streaming, 1200)

        for pair in PAIRS:
            for streaming in (True, False):
                server = Producing(case, f"{pair} {streaming} server")
                server.streaming = streaming
                await ended(*await linked(case, pair, server, Noting(case, f"{pair} {streaming} client")))
                server.say("paused", server.producer.pauses > 0)

    async def test_a_reader_that_pauses_gets_everything_later(case):
        for pair in PAIRS:
            server, client = await linked(case, pair, Echo(case, f"{pair} server"), Noting(case, f"{pair} client"))
            client.transport.write(b"first")
            await client.wanted(5)
            client.transport.pauseProducing()
            client.transport.write(b"q" * MIB)
            await server.wanted(MIB + 5)
            await case.sleep(0.05)
            client.say("while paused", client.size)
            client.transport.resumeProducing()
            await client.wanted(MIB + 5)
            await close(client, server)


class Handshakes(Cases):
    """Negotiated parameters, and failures."""

    async def test_names_versions_and_protocols_are_negotiated(case):
        new, old = {"raiseMinimumTo": ssl.TLSVersion.TLSv1_3}, {"lowerMaximumSecurityTo": ssl.TLSVersion.TLSv1_2}
        for options in ({}, new, old):
            await said(case, (SERVER.options(**options), trusting()))
            await said(case, (SERVER.options(), trusting(extraCertificateOptions=options)))
            await said(case, (by_openssl(SERVER.options(**options)), trusting()))
            await said(case, (SERVER.options(**options), Unverified()))
        for theirs in ([b"a"], [b"b", b"a"], [b"c", b"b"]):
            pair = SERVER.options(acceptableProtocols=[b"a", b"b"]), trusting(acceptableProtocols=theirs)
            await said(case, pair)
            await said(case, (by_openssl(pair[0]), pair[1]))

    async def test_versions_that_do_not_meet_fail(case):
        new, old = {"raiseMinimumTo": ssl.TLSVersion.TLSv1_3}, {"lowerMaximumSecurityTo": ssl.TLSVersion.TLSv1_2}
        await failed(case, SERVER.options(**old), trusting(extraCertificateOptions=new))
        await failed(case, SERVER.options(**new), trusting(extraCertificateOptions=old))

    async def test_a_server_that_is_not_trusted_is_refused(case):
        for server, client, tells in (
            (SERVER, trusting("elsewhere"), False),
            (SERVER, trusting("127.0.0.1"), False),
            (SERVER, trusting(trust=STRANGER), True),
            (EXPIRED, trusting(), True),
            (STRANGER, trusting(), True),
        ):
            await failed(case, server.options(), client, tells)
            await failed(case, by_openssl(server.options()), client, tells)
        await said(case, (STRANGER.options(), trusting(trust=STRANGER)))

    async def test_clients_show_certificates(case):
        for options in ({"requireCertificate": True}, {"requireCertificate": False}):
            asking = {"verify": True, "caCerts": [AUTHORITY.x509], **options}
            await said(case, (SERVER.options(**asking), trusting(clientCertificate=CLIENT.private())))
            if options["requireCertificate"]:
                await failed(case, SERVER.options(**asking), trusting())
            else:
                await said(case, (SERVER.options(**asking), trusting()))
            await failed(case, SERVER.options(**asking), trusting(clientCertificate=STRANGER.private()))
        await said(case, (SERVER.options(), trusting(clientCertificate=CLIENT.private())))

    async def test_bytes_that_are_not_tls_end_the_connection(case):
        hello = b"\x16\x03\x01\x00\xc8\x01"
        for number, (data, how) in enumerate(
            (
                (b"", "close"),
                (hello, "close"),
                (b"GET / HTTP/1.1\r\n\r\n", "wait"),
                (b"\x80" * 100, "wait"),
                (b"\x16\x03\x01\xff\xff" + b"x" * 70000, "wait"),
                (b"", "reset"),
                (hello, "reset"),
            )
        ):
            server = Noting(case, f"server {number}")
            server.why = lambda reason: ""
            port = case.listen(lambda: server, SERVER.options())
            client = protocol.Protocol()
            await case.connect(port, client)
            client.transport.write(data)
            await case.sleep(0.02)
            if how == "close":
                client.transport.loseConnection()
            elif how == "reset":
                client.transport.abortConnection()
            await server.lost
            client.transport.abortConnection()


async def failed(case, server, client, tells=True):
    """Notes how a handshake fails, at both ends. Twisted's client `tells` the server nothing about a wrong name."""
    both = [Noting(case, "server"), Noting(case, "client")]
    if not tells:
        both[0].why = lambda reason: ""
        both[0].say = lambda *words: None
    await linked(case, (server, client), *both)
    await ended(*both)


class Starting(Cases):
    """`startTLS` on a connection that is open."""

    async def test_tls_starts_in_the_middle(case):
        class Starter(Noting):
            def dataReceived(self, data):
                super().dataReceived(data)
                if self.size == 5:
                    self.transport.write(self.answer)
                    self.transport.startTLS(self.context, self.normal)
                    self.transport.write(b"secret")
                    self.say(interfaces.ISSLTransport.providedBy(self.transport), self.transport.TLS)
                if self.size == 11:
                    self.transport.loseConnection()

        for normal in (True, False):
            for engines in PAIRS:
                server, client = Starter(case, f"server {normal}"), Starter(case, f"client {normal}")
                server.normal = client.normal = normal
                await case.connect(case.listen(lambda: server), client)
                await case.sleep()
                # The server of TLS, and its client, which sends first.
                first, second = (server, client) if normal else (client, server)
                first.context, second.context = PAIRS[engines]()
                first.answer, second.answer = b"clear", b""
                second.transport.write(b"begin")
                await ended(server, client)

    @only_subject
    async def test_bytes_before_a_descriptor_are_encrypted_once_tls_has_started(case):
        class Sending(Noting):
            def connectionMade(self):
                super().connectionMade()
                # The loop does not have the socket yet.
                self.transport.write(b"clear")
                self.transport.startTLS(trusting())
                self.transport.write(b"secret")
                self.transport.sendFileDescriptor(0)
                self.transport.write(b"secret")

        class Receiving(Noting):
            raw = b""

            def dataReceived(self, data):
                self.raw += data
                super().dataReceived(data)

        server, client = await unix_pair(case, Receiving(case, "server"), Sending(case, "client"))
        await server.wanted(6)
        # The type of a record with a message of the handshake.
        assert server.raw[:6] == b"clear\x16" and b"secret" not in server.raw, server.raw
        client.transport.abortConnection()
        await ended(server, client)

    async def test_tls_inside_tls(case):
        from twisted.protocols.tls import TLSMemoryBIOFactory

        server, client = Saying(case, "server"), Saying(case, "client")
        inner = quiet(lambda: server)
        factory = TLSMemoryBIOFactory(SERVER.options(), False, inner)
        port = case.reactor.listenSSL(0, factory, SERVER.options(), interface="127.0.0.1")
        endpoint = endpoints.TCP4ClientEndpoint(case.reactor, "127.0.0.1", port.getHost().port)
        endpoint = endpoints.wrapClientTLS(trusting(), endpoints.wrapClientTLS(trusting(), endpoint))
        await endpoints.connectProtocol(endpoint, client)
        await ended(server, client)


class Engines(Cases, by=only_subject):
    """Which of the two encrypts."""

    async def test_rustls_encrypts_if_it_supports_the_options(case):
        from couplet_twisted import _tls

        class Own(ssl.CertificateOptions):
            def _makeContext(self, *rest):
                return super()._makeContext(*rest)

        class Making(ssl.CertificateOptions):
            def make(self, protocol):
                return self._makeTLSConnection(protocol)

        class Other(ssl.CertificateOptions):
            """Has none of the attributes, but a context."""

            def __init__(self, of):
                self.getContext, self._acceptableProtocols = of.getContext, None

        old = ssl.TLSVersion.TLSv1_1
        making = Making(trustRoot=AUTHORITY.trust())
        both = certificates.made("both", "localhost", is_authority=True)
        optional = {"verify": True, "caCerts": [AUTHORITY.x509], "requireCertificate": False}
        ciphers = ssl.AcceptableCiphers.fromOpenSSLCipherString("AES256-GCM-SHA384:ECDH+AESGCM")
        for server, client, expected in (
            (SERVER.options(), trusting(), "rustls rustls"),
            (SERVER.options(acceptableProtocols=[b"a"]), trusting(acceptableProtocols=[b"a"]), "rustls rustls"),
            (SERVER.options(enableSessions=True, extraCertChain=[AUTHORITY.x509]), trusting(), "rustls rustls"),
            (SERVER.options(**optional), trusting(), "rustls rustls"),
            (ssl.CertificateOptions(SERVER.key, SERVER.certificate), trusting(), "rustls rustls"),
            (by_openssl(SERVER.options()), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(insecurelyLowerMinimumTo=old), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(contextForServerName=lambda name: None), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(fixBrokenPeers=True), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(verifyDepth=3), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(acceptableCiphers=ciphers), trusting(), "pyOpenSSL rustls"),
            (Other(SERVER.options()), trusting(), "pyOpenSSL rustls"),
            (Own(certificate=SERVER.x509, privateKey=SERVER.pkey), trusting(), "pyOpenSSL rustls"),
            (SERVER.options(), Unverified(), "rustls pyOpenSSL"),
            (SERVER.options(), trusting(sendServerName=False), "rustls pyOpenSSL"),
            (SERVER.options(), type(trusting())(making.make, "localhost"), "rustls pyOpenSSL"),
            (both.options(), trusting(trust=both), "rustls pyOpenSSL"),
        ):
            two = await linked(case, (server, client), Saying(case, "server"), Saying(case, "client"))
            engines = " ".join(each.transport.tls_engine for each in two)
            assert engines == expected, (engines, expected, _tls._told)
            await ended(*two)
        assert (True, None) in _tls._told, _tls._told

    async def test_a_connection_that_starts_tls_names_its_engine(case):
        for engine, expected in ((lambda options: options, "rustls"), (by_openssl, "pyOpenSSL")):
            server, client = await pair(case)
            await case.sleep()
            server.transport.startTLS(engine(SERVER.options()))
            client.transport.startTLS(trusting())
            assert server.transport.tls_engine == expected
            client.transport.write(b"x")
            await server.wanted(1)
            await close(client, server)

    async def test_a_handle_names_the_method_that_rustls_lacks(case):
        server, client = await linked(case, "both", Echo(case, "server"), Noting(case, "client"))
        client.transport.write(b"x")
        await client.wanted(1)
        handle = client.transport.getHandle()
        assert handle.get_cipher_name() == "TLS_AES_256_GCM_SHA384", handle.get_cipher_name()
        assert handle.get_cipher_bits() == 256
        assert handle.get_app_data() is client.transport
        assert len(handle.get_peer_cert_chain()) == 1
        assert server.transport.getHandle().get_certificate(as_cryptography=True) == SERVER.certificate
        try:
            handle.renegotiate()
        except AttributeError as error:
            assert "rustls has no 'renegotiate'" in str(error)
        else:
            raise AssertionError("it can renegotiate")
        await close(client, server)
        await case.sleep()
        assert client.transport.getHandle() is None

    async def test_a_peer_of_another_library_gets_a_close_notify_and_resumes(case):
        servers, resumed = [], []

        def build():
            servers.append(Echo(case, "server"))
            return servers[-1]

        def client(port, session):
            context = python.SSLContext(python.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, python.CERT_NONE
            context.maximum_version = python.TLSVersion.TLSv1_2
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    wrapped = context.wrap_socket(plain, suppress_ragged_eofs=False, session=session)
                    wrapped.sendall(b"hello")
                    assert wrapped.recv(100) == b"hello"
                    resumed.append(wrapped.session_reused)
                    session = wrapped.session
                    case.reactor.callFromThread(servers[-1].transport.loseConnection)
                    # Python's library raises an error without a close_notify.
                    assert wrapped.recv(100) == b""

        for resumes in (False, True):
            port = case.listen(build, SERVER.options(enableSessions=resumes, enableSessionTickets=resumes))
            await threads.deferToThread(client, port, None)
        await ended(*servers)
        assert resumed == [False, False, False, True], resumed

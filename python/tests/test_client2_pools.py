"""HTTP/2 for clients: pools and agents over TLS, with Twisted's servers and independent ones."""

import io

import couplet_twisted
from twisted.internet import defer, error, interfaces, protocol, ssl, task
from twisted.web import _newclient, client
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from kit import certificates
from kit.cases import Cases, only_subject
from kit.client2 import H2Server, Nghttpd
from kit.pages import peer, site
from kit.running import descriptors

SERVER = certificates.made("server", "localhost")
MIB = 1024 * 1024


def answer(request):
    """A body of the length that the path says; of the request's otherwise."""
    kind, _, number = request.path[1:].partition(b"/")
    if kind == b"get":
        return b"g" * int(number)
    if kind == b"never":
        return None
    if kind == b"to":
        request.redirect(b"/get/" + number)
        return b""
    return b"%s %d" % (request.method, len(request.content.read()))


class Counting(protocol.Factory):
    """Wraps a factory, and counts its connections."""

    noisy = False

    def __init__(self, wrapped, protocols=(b"h2", b"http/1.1")):
        self.wrapped, self.protocols, self.connections = wrapped, list(protocols), []

    def buildProtocol(self, address):
        made = self.wrapped.buildProtocol(address)
        self.connections.append(made)
        return made


@implementer(interfaces.IProtocolNegotiationFactory)
class Offering(Counting):
    def acceptableProtocols(self):
        return self.protocols


def listening(case, made, protocols=(b"h2", b"http/1.1")):
    """Serves a factory over TLS: the wrapper that counts connections, and the port's number."""
    made = Offering(made, protocols)
    port = case.reactor.listenSSL(0, made, SERVER.options(), interface="127.0.0.1")
    case.ports.append(port)
    return made, port.getHost().port


def pooled(case, pool=None, policy=None):
    """An agent, and its pool."""
    pool = pool or couplet_twisted.HTTP2ConnectionPool(case.reactor)
    policy = policy or client.BrowserLikePolicyForHTTPS(SERVER.trust())
    return client.Agent(case.reactor, policy, pool=pool), pool


@implementer(IPolicyForHTTPS)
class Policy:
    """Makes connections by a program's options."""

    def __init__(self, made):
        self.creatorForNetloc = lambda host, port: made


async def fetched(agent, url, method=b"GET", headers=None, producer=None):
    """A response and its body."""
    response = await agent.request(method, url.encode(), headers, producer)
    return response, await client.readBody(response)


async def together(fetches):
    """The results of several fetches at a time."""
    return await defer.gatherResults([defer.ensureDeferred(each) for each in fetches])


def failures(requests):
    """A Deferred of the types of the requests' failures; `None` for a success."""
    found = defer.DeferredList(requests, consumeErrors=True)
    return found.addCallback(lambda pairs: [getattr(result, "type", None) for _, result in pairs])


async def until(case, condition):
    """Waits for a condition in the turns of the reactor."""
    while not condition():
        await case.sleep(0.001)


class Attempts(Cases, by=only_subject):
    """Which connections are made."""

    async def test_requests_wait_for_the_first_connection_to_a_server_unless_it_chose_http1(case):
        agent, pool = pooled(case)
        key = (b"https", b"a.example", 443)

        class Endpoint:
            def connect(self, factory):
                attempts.append(defer.Deferred())
                return attempts[-1]

        attempts = []
        for _ in range(3):
            pool.getConnection(key, Endpoint()).addErrback(lambda _: None)
        assert len(attempts) == 1
        attempts[0].errback(error.ConnectionRefusedError())
        pool._chose(key, False)
        for _ in range(3):
            pool.getConnection(key, Endpoint()).addErrback(lambda _: None)
        assert len(attempts) == 4
        # The server has learned the newer protocol.
        pool._chose(key, True)
        for _ in range(3):
            pool.getConnection(key, Endpoint()).addErrback(lambda _: None)
        assert len(attempts) == 5
        for scheme in (b"http", b"wss"):
            for _ in range(3):
                pool.getConnection((scheme, b"a.example", 80), Endpoint())
        assert len(attempts) == 11


class Pools(Cases, by=only_subject):
    """Agents and pools over TLS."""

    async def test_all_requests_share_a_connection(case):
        made, port = listening(case, site(answer))
        agent, pool = pooled(case)
        seen = await together([fetched(agent, f"https://localhost:{port}/get/{n}") for n in range(50)])
        assert [len(body) for _, body in seen] == list(range(50))
        assert all(response.version == (b"HTTP", 2, 0) for response, _ in seen)
        assert seen[0][0].request.absoluteURI == f"https://localhost:{port}/get/0".encode()
        upload = client.FileBodyProducer(io.BytesIO(b"u" * 3 * MIB))
        response, body = await fetched(agent, f"https://localhost:{port}/", b"POST", producer=upload)
        assert body == b"POST %d" % (3 * MIB)
        response, body = await fetched(agent, f"https://localhost:{port}/get/{3 * MIB}")
        assert (response.length, len(body)) == (3 * MIB, 3 * MIB)
        assert len(made.connections) == 1

    async def test_both_engines_of_tls_negotiate(case):
        made, port = listening(case, site(answer))
        engines = []
        for more in ({}, {"verifyDepth": 8}):
            options = ssl.optionsForClientTLS("localhost", SERVER.trust(), extraCertificateOptions=more)
            agent, pool = pooled(case, policy=Policy(options))
            response, body = await fetched(agent, f"https://localhost:{port}/get/5")
            engines.append(response._transport._connection.transport.tls_engine)
            assert (response.version, body) == ((b"HTTP", 2, 0), b"ggggg")
            reading = fetched(agent, f"https://localhost:{port}/get/{MIB}")
            assert len((await reading)[1]) == MIB
            await pool.closeCachedConnections()
        assert engines == ["rustls", "pyOpenSSL"], engines

    async def test_policies_of_programs_decide_what_tls_offers(case):
        from OpenSSL import SSL

        @implementer(interfaces.IOpenSSLContextFactory)
        class Context:
            def getContext(self):
                return SSL.Context(SSL.TLS_METHOD)

        more = dict(acceptableProtocols=[b"h2", b"http/1.1"])
        made, port = listening(case, site(answer))
        for policy, version in [
            (Policy(ssl.optionsForClientTLS("localhost", SERVER.trust(), **more)), 2),
            (Policy(ssl.CertificateOptions(verify=False)), 2),
            (client.HostnameCachingHTTPSPolicy(client.BrowserLikePolicyForHTTPS(SERVER.trust())), 2),
            (Policy(Context()), 1),
        ]:
            agent, pool = pooled(case, policy=policy)
            response = await agent.request(b"GET", f"https://localhost:{port}/get/5".encode())
            assert response.version[1] == version, (policy, response.version)
            await pool.closeCachedConnections()

    async def test_a_server_without_http2_gets_http1_on_a_connection_for_each_request(case):
        for protocols in ([b"http/1.1"], []):
            made, port = listening(case, site(answer), protocols)
            agent, pool = pooled(case)
            for _ in range(2):
                seen = await together([fetched(agent, f"https://localhost:{port}/get/{n}") for n in range(5)])
                assert [len(body) for _, body in seen] == list(range(5))
                assert all(response.version == (b"HTTP", 1, 1) for response, _ in seen)
            # Two stay in the pool.
            assert len(made.connections) == 8
            await pool.closeCachedConnections()

    async def test_plain_http_is_unchanged(case):
        made = Counting(site(answer))
        port = case.reactor.listenTCP(0, made, interface="127.0.0.1").getHost().port
        agent, pool = pooled(case)
        seen = await together([fetched(agent, f"http://localhost:{port}/get/{n}") for n in range(5)])
        assert all(response.version == (b"HTTP", 1, 1) for response, _ in seen) and len(made.connections) == 5
        await pool.closeCachedConnections()

    async def test_an_idle_connection_is_closed_after_the_pools_time(case):
        clock = task.Clock()
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case, couplet_twisted.HTTP2ConnectionPool(clock))
        pool.cachedConnectionTimeout = 7
        await fetched(agent, f"https://localhost:{port}/get/5")
        await until(case, lambda: pool._timeouts)
        clock.advance(6)
        await fetched(agent, f"https://localhost:{port}/get/5")
        await until(case, lambda: pool._timeouts)
        clock.advance(6)
        assert not made.connections[0].isLost and len(made.connections) == 1
        clock.advance(1)
        await until(case, lambda: made.connections[0].isLost)
        assert made.connections[0].isLeft, "it got a GOAWAY"
        await fetched(agent, f"https://localhost:{port}/get/5")
        assert len(made.connections) == 2

    async def test_closing_the_pool_closes_idle_connections(case):
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case)
        await fetched(agent, f"https://localhost:{port}/get/5")
        await until(case, lambda: pool._timeouts)
        await pool.closeCachedConnections()
        await until(case, lambda: made.connections[0].isLost)
        assert not pool._timeouts and not pool._shared

    async def test_a_pool_that_does_not_persist_closes_each_connection(case):
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case, couplet_twisted.HTTP2ConnectionPool(case.reactor, persistent=False))
        await together([fetched(agent, f"https://localhost:{port}/get/{n}") for n in range(3)])
        assert len(made.connections) == 3
        await until(case, lambda: all(each.isLost for each in made.connections))
        assert not pool._timeouts and not pool._shared

    async def test_failed_connections_fail_their_requests(case):
        agent, pool = pooled(case)
        port = case.reactor.listenTCP(0, protocol.Factory(), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        requests = [agent.request(b"GET", f"https://127.0.0.1:{number}/".encode()) for _ in range(3)]
        assert await failures(requests) == [error.ConnectionRefusedError] * 3
        made, number = listening(case, H2Peers())
        # The certificate is of another host.
        requests = [agent.request(b"GET", f"https://127.0.0.1:{number}/".encode()) for _ in range(3)]
        assert await failures(requests) == [_newclient.ResponseNeverReceived] * 3
        assert len(made.connections) == 1 and not pool._attempts and not pool._shared

    async def test_requests_that_wait_for_a_connection_can_be_cancelled(case):
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case)
        url = f"https://localhost:{port}/get/5".encode()
        cancelled, kept = agent.request(b"GET", url), agent.request(b"GET", url)
        cancelled.cancel()
        assert await failures([cancelled]) == [defer.CancelledError]
        assert (await kept).code == 200
        silent = case.reactor.listenTCP(0, protocol.Factory.forProtocol(protocol.Protocol), interface="127.0.0.1")
        url = f"https://localhost:{silent.getHost().port}/".encode()
        for turns in (0, 30):
            requests = [agent.request(b"GET", url) for _ in range(2)]
            for _ in range(turns):
                await case.sleep(0.001)
            for each in requests:
                each.cancel()
            found = set(await failures(requests))
            assert found <= {defer.CancelledError, error.ConnectingCancelledError}, found
            assert not pool._attempts
            await case.sleep(0.01)
        assert "log" not in case.notes, case.notes

    async def test_requests_to_a_server_that_leaves_are_sent_again_on_another_connection(case):
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case)
        url = f"https://localhost:{port}/get/5"
        await fetched(agent, url)
        for method in (b"GET", b"POST"):
            # The server refuses all further requests.
            made.connections[-1].refuses = True
            response, body = await fetched(agent, url, method)
            assert (response.code, len(body)) == (200, 5)
        assert len(made.connections) == 3
        await until(case, lambda: all(each.isLost for each in made.connections[:2]))

    async def test_requests_on_a_lost_connection_are_sent_again_if_they_are_idempotent(case):
        made, port = listening(case, H2Peers())
        agent, pool = pooled(case)
        url = f"https://localhost:{port}/get/5"
        for method, retries in [(b"GET", True), (b"POST", True), (b"GET", False)]:
            pool.retryAutomatically = retries
            await fetched(agent, url)
            made.connections[-1].dies = True
            request = agent.request(method, url.encode())
            [(_, result)] = await defer.DeferredList([request], consumeErrors=True)
            if method == b"GET" and retries:
                assert result.code == 200
                await client.readBody(result)
            else:
                assert result.type is _newclient.ResponseNeverReceived, result

    async def test_a_server_that_requires_http1_gets_it(case):
        made, port = listening(case, Choosing(site(answer)))
        agent, pool = pooled(case)
        url = f"https://localhost:{port}/get/5"
        for _ in range(2):
            response, body = await fetched(agent, url)
            assert (response.version, len(body)) == ((b"HTTP", 1, 1), 5)
        assert len(made.connections) == 2, "one for each version"
        await pool.closeCachedConnections()

    async def test_a_server_with_few_streams_gets_no_more(case):
        made, port = listening(case, H2Peers(streams=3))
        agent, pool = pooled(case)
        for _ in range(2):
            seen = await together([fetched(agent, f"https://localhost:{port}/get/{n}") for n in range(20)])
            assert [len(body) for _, body in seen] == list(range(20))
        assert len(made.connections) == 1

    async def test_keys_of_older_servers_are_forgotten_beyond_a_limit(case):
        agent, pool = pooled(case)
        assert pool.maxRememberedKeys == 1000
        pool.maxRememberedKeys = 3
        ports = [listening(case, site(answer), [])[1] for _ in range(4)]
        for port in ports:
            await fetched(agent, f"https://localhost:{port}/get/1")
        assert [key[2] for key in pool._older] == ports[1:]
        await pool.closeCachedConnections()

    async def test_agents_around_an_agent_work_as_usual(case):
        import gzip
        from http.cookiejar import CookieJar

        def answered(request):
            seen.append((request.clientproto, dict(request.received_cookies)))
            if request.path == b"/from":
                request.addCookie(b"k", b"v")
                request.redirect(b"/to")
                return b""
            request.responseHeaders.addRawHeader(b"content-encoding", b"gzip")
            return gzip.compress(b"unpacked")

        seen = []
        made, port = listening(case, site(answered))
        agent, pool = pooled(case)
        agent = client.CookieAgent(agent, CookieJar())
        agent = client.RedirectAgent(client.ContentDecoderAgent(agent, [(b"gzip", client.GzipDecoder)]))
        response, body = await fetched(agent, f"https://localhost:{port}/from")
        assert body == b"unpacked" and seen == [(b"HTTP/2", {}), (b"HTTP/2", {b"k": b"v"})], (body, seen)
        assert response.previousResponse.code == 302 and len(made.connections) == 1

    async def test_requests_leave_no_descriptors_and_no_timers(case):
        made, port = listening(case, site(answer))
        agent, pool = pooled(case)
        before, timers = descriptors(), len(case.reactor.getDelayedCalls())
        for round in range(20):
            await together([fetched(agent, f"https://localhost:{port}/get/{n}") for n in range(500)])
        assert len(made.connections) == 1
        await until(case, lambda: pool._timeouts)
        await pool.closeCachedConnections()
        await until(case, lambda: descriptors() == before and len(case.reactor.getDelayedCalls()) == timers)


class Choosing(protocol.Factory):
    """Answers only over HTTP/1.1, and refuses each request over HTTP/2."""

    noisy = False

    def __init__(self, wrapped):
        self.wrapped = wrapped
        self.refusing = H2Server()
        self.refusing.answer = lambda served, stream: served.conn.reset_stream(stream, 13)

    def buildProtocol(self, address):
        older, newer = self.wrapped.buildProtocol(address), self.refusing.build()

        class Chosen(protocol.Protocol):
            chosen = None

            def dataReceived(self, data):
                if self.chosen is None:
                    self.chosen = newer if self.transport.negotiatedProtocol == b"h2" else older
                    self.chosen.makeConnection(self.transport)
                self.chosen.dataReceived(data)

            def connectionLost(self, reason):
                if self.chosen is not None:
                    self.chosen.connectionLost(reason)

        return Chosen()


class H2Peers(H2Server):
    """A factory of servers by Python's h2, which can refuse requests, or die of them."""

    noisy = False

    def buildProtocol(self, address):
        from h2 import errors

        made = self.build()
        made.refuses = made.dies = False
        receive = made.dataReceived

        def dataReceived(data):
            if made.dies:
                made.transport.abortConnection()
            elif made.refuses:
                last = made.conn.highest_inbound_stream_id
                made.conn.close_connection(errors.ErrorCodes.NO_ERROR, last_stream_id=last)
                made.flush()
            else:
                receive(data)

        made.dataReceived = dataReceived
        return made


class Peers(Cases, by=only_subject):
    """Independent servers."""

    async def test_h2_of_python_answers(case):
        for peer in (H2Peers(), H2Peers(streams=2), H2Peers(window=1000)):
            made, port = listening(case, peer)
            agent, pool = pooled(case)
            url = f"https://localhost:{port}"
            seen = await together([fetched(agent, f"{url}/get/{n}") for n in (0, 1, 70_000, MIB) * 5])
            assert [len(body) for _, body in seen] == [0, 1, 70_000, MIB] * 5
            uploads = [client.FileBodyProducer(io.BytesIO(b"u" * 300_000)) for _ in range(3)]
            seen = await together([fetched(agent, f"{url}/", b"POST", producer=each) for each in uploads])
            assert [body for _, body in seen] == [b"300000"] * 3 and len(made.connections) == 1
            await pool.closeCachedConnections()

    @peer("nghttpd")
    @only_subject
    async def test_nghttpd_answers(case):
        for option in (None, "--max-concurrent-streams=2", "--window-bits=10", "--padding=200", "--trailer=a: b"):
            with Nghttpd(SERVER, *filter(None, [option])) as peer:
                agent, pool = pooled(case)
                url = f"https://localhost:{peer.port}"
                seen = await together([fetched(agent, f"{url}/{name}") for name in ["small", "large", "none"] * 10])
                for at, (response, body) in enumerate(seen):
                    expected = [(200, b"small"), (200, b"l" * 1_000_000), (404, body)][at % 3]
                    assert (response.code, body) == expected and response.version == (b"HTTP", 2, 0)
                upload = client.FileBodyProducer(io.BytesIO(b"u" * 300_000))
                response, body = await fetched(agent, f"{url}/small", b"POST", producer=upload)
                assert response.code == 200, (option, response.code)
                await pool.closeCachedConnections()

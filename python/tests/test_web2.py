"""HTTP/2: web servers answer by Couplet's state machine as they do by Twisted's."""

import gc
import os
import pathlib
import shutil
import tempfile
import unittest
import weakref
import zlib

from twisted.internet import defer, endpoints, error, interfaces, protocol, ssl, task, utils
from twisted.python.failure import Failure
from twisted.web import server, static
from zope.interface import implementer

from kit import certificates, pages
from kit.cases import Cases, case, only_subject
from kit.pages import Page, peer
from kit.web2 import GET, PREFACE, Client, Peer, frame, frames
from test_web import compare_sites, python

SERVER = certificates.made("server", "localhost")
MIB = 1024 * 1024


class Answers(unittest.TestCase):
    """Hundreds of conversations in memory."""

    def test_a_server_answers_as_under_epoll_and_its_resources_see_the_same(self):
        compare_sites(self, "kit.web2", 250)


class Waiting(Page):
    """Keeps its requests, in order, and notes their ends by their paths."""

    def __init__(self):
        super().__init__(self.keep)
        self.requests, self.ends = [], []

    def keep(self, request):
        self.requests.append(request)
        note = self.ends.append
        request.notifyFinish().addCallbacks(
            lambda _: note((request.uri, "finished")),
            lambda failure: note((request.uri, failure.type.__name__, failure.getErrorMessage())),
        )


def site(answer, clock=None):
    """A site in memory."""
    return pages.site(answer, reactor=clock or task.Clock())


def opened(site, **options):
    """A client whose connection is open."""
    client = Client(site, **options)
    client.exchange()
    return client


def talking(answer, **options):
    """The same, of a site of one resource, or of a function's answers."""
    return opened(site(answer), **options)


class Channels(Cases, by=only_subject):
    """The class of a connection."""

    async def test_a_connection_is_couplets_and_an_instance_of_twisteds(case):
        from twisted.web import _http2

        client = talking(lambda request: b"hello")
        channel = client.protocol._channel
        assert type(channel).__module__ == "couplet_twisted._web2" and isinstance(channel, _http2.H2Connection)
        seen = []
        client = talking(lambda request: seen.append(request.channel) or b"hello")
        client.ask("GET", "/")
        assert isinstance(seen[0], _http2.H2Stream) and seen[0].transport is None
        assert interfaces.ITransport.providedBy(seen[0]) and interfaces.IConsumer.providedBy(seen[0])

    def test_a_server_runs_without_the_packages_of_http2(self):
        lines = [
            "import sys; sys.modules['h2'] = None",
            "import couplet_twisted; couplet_twisted.install()",
            "from twisted.web import server, http; print(http.H2_ENABLED, server.Request.process.__module__)",
        ]
        self.assertEqual(python("-c", "\n".join(lines)), "False couplet_twisted._web\n")


@implementer(interfaces.IPushProducer)
class Pushing:
    """Writes numbered blocks while it is not paused."""

    size = 10_000

    def __init__(self, request, count):
        self.request, self.left, self.states = request, count, []
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self):
        self.states.append("resumed")
        self.is_paused = False
        while self.left and not self.is_paused:
            self.left -= 1
            self.request.write(b"%10d" % self.left * (self.size // 10))
        if not self.left:
            self.request.unregisterProducer()
            self.request.finish()

    def pauseProducing(self):
        self.states.append("paused")
        self.is_paused = True

    def stopProducing(self):
        self.states.append("stopped")
        self.is_paused = True


class Windows(Cases, by=only_subject):
    """Flow control, both ways."""

    async def test_a_push_producer_pauses_while_its_client_reads_slowly(case):
        made = []
        client = talking(lambda request: made.append(Pushing(request, 100)))
        client.is_slow = True
        stream = client.ask("GET", "/")
        producer = made[0]
        # A window, the buffers of the state machine, and a block.
        assert producer.is_paused and 100 - producer.left <= (65_535 + 65_536) // producer.size + 1, producer.left
        while client.held:
            client.release()
            client.exchange()
        body = client.seen[stream][1]
        assert body == "".join("%10d" % number * 1000 for number in reversed(range(100)))
        assert client.seen[stream][2] == ["StreamEnded", 0] and len(producer.states) > 10, producer.states

    async def test_a_push_producer_pauses_while_the_transport_is_full(case):
        made = []
        client = talking(lambda request: made.append(Pushing(request, 100)), window=2**30)
        client.conn.increment_flow_control_window(2**29)
        client.exchange()
        transport = client.transport
        stream = client.request("GET", "/")
        transport.producer.pauseProducing()
        client.exchange()
        # The output, the other buffers of the state machine, and a block.
        written = 100 - made[0].left
        assert made[0].is_paused and written <= (256 * 1024 + 65_536) // 10_000 + 2, written
        transport.producer.resumeProducing()
        client.exchange()
        assert len(client.seen[stream][1]) == 1_000_000

    async def test_a_file_is_sent_in_pieces_and_closed(case):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "file"
            path.write_bytes(bytes(range(256)) * 4096)
            files = lambda: [each for each in os.listdir("/proc/self/fd") if is_open(each, path)]  # noqa: E731
            client = talking(static.File(folder))
            client.is_slow = True
            first, second = client.request("GET", "/file"), client.request("GET", "/file")
            while not client.held:
                await case.sleep()
                client.exchange()
            assert len(files()) == 2
            client.conn.reset_stream(first, 8)
            client.exchange()
            assert len(files()) == 1
            while client.seen[second][-1] != ["StreamEnded", 0]:
                client.release()
                client.exchange()
                await case.sleep()
            assert client.seen[second][1].encode("latin-1") == path.read_bytes() and not files()

    async def test_a_paused_request_holds_its_window_and_leaves_some_to_others(case):
        seen = []

        class Uploading(server.Request):
            def gotLength(self, length):
                super().gotLength(length)
                seen.append(self)
                if len(seen) < 6:
                    self.channel.pauseProducing()

        made = site(lambda request: b"%d" % len(request.content.read()))
        made.requestFactory = Uploading
        client = opened(made)
        for _ in range(5):
            stream = client.request("POST", "/", body=b"u" * MIB)
            for _ in range(99):
                client.send(stream)
                client.exchange()
            unsent = sum(map(len, client.parts[stream]))
            assert MIB // 2 < unsent < MIB, unsent
        # The paused requests leave window to others.
        other = client.request("POST", "/", body=b"u" * MIB)
        while other in client.parts:
            before = sum(map(len, client.parts[other]))
            client.send(other)
            client.exchange()
            assert sum(map(len, client.parts.get(other, ()))) < before
        assert client.seen[other][1] == str(MIB), client.seen
        seen[4].channel.resumeProducing()
        while stream in client.parts:
            client.exchange()
            client.send(stream)
        client.exchange()
        assert client.seen[stream][1] == str(MIB), client.seen

    async def test_windows_come_back_from_requests_that_are_lost_or_answered_early(case):
        class Uploading(server.Request):
            def gotLength(self, length):
                super().gotLength(length)
                if self.channel.path == b"/paused":
                    self.channel.pauseProducing()
                elif self.channel.path == b"/early":
                    self.write(b"answered")
                    self.finish()

        made = site(lambda request: b"%d" % len(request.content.read()))
        made.requestFactory = Uploading
        client = opened(made)
        for number in range(60):
            stream = client.request("POST", ["/paused", "/early"][number % 2], body=b"u" * 200_000)
            while client.parts.get(stream) and client.conn.local_flow_control_window(stream) > 0:
                client.send(stream)
                client.exchange()
            client.parts.pop(stream, None)
            if number % 2 == 0:
                client.conn.reset_stream(stream)
            client.exchange()
        stream = client.request("POST", "/", body=b"u" * 10)
        client.send(stream)
        client.exchange()
        assert client.seen[stream][1] == "10", client.seen


def is_open(number, path):
    try:
        return os.readlink(f"/proc/self/fd/{number}") == str(path)
    except FileNotFoundError:
        return False


class Ends(Cases, by=only_subject):
    """The ends of streams and of connections."""

    async def test_a_reset_ends_only_its_request(case):
        page = Waiting()
        client = talking(page)
        streams = [client.request("GET", f"/{number}") for number in range(3)]
        client.exchange()
        producer = Pushing(page.requests[1], 100)
        client.conn.reset_stream(streams[1], 8)
        client.exchange()
        assert page.ends == [(b"/1", "ConnectionLost", "Connection to the other side was lost in a non-clean fashion: "
                              "Stream reset with code 8.")], page.ends
        assert producer.states[-1] == "stopped"
        for request in page.requests:
            request.write(b"late")
        page.requests[0].finish()
        page.requests[2].finish()
        client.exchange()
        assert [client.seen[stream][-1] for stream in streams[::2]] == [["StreamEnded", 0]] * 2
        assert page.ends[1:] == [(b"/0", "finished"), (b"/2", "finished")]

    @case
    async def test_a_lost_connection_ends_its_requests(case):
        page = Waiting()
        client = talking(page)
        for number in range(3):
            client.request("GET", f"/{number}")
        client.ask("POST", "/4", body=b"never sent")
        client.protocol.connectionLost(Failure(error.ConnectionDone()))
        for end in page.ends:
            case.say("server", *end)

    async def test_a_request_may_finish_others_when_it_is_lost(case):
        page = Waiting()
        client = talking(page)
        for number in range(3):
            client.request("GET", f"/{number}")
        client.exchange()
        page.requests[0].notifyFinish().addErrback(lambda _: [each.finish() for each in page.requests[1:]])
        client.protocol.connectionLost(Failure(error.ConnectionDone()))
        assert [end[1] for end in page.ends] == ["ConnectionDone", "finished", "finished"], page.ends

    async def test_a_request_may_lose_or_abort_its_stream(case):
        for way in ("loseConnection", "abortConnection", "stopProducing"):
            for writes in (True, False):
                page = Waiting()
                client = talking(page)
                lost, kept = client.request("GET", "/lost"), client.request("GET", "/kept")
                client.exchange()
                if writes:
                    page.requests[0].write(b"begun")
                getattr(page.requests[0].channel, way)()
                assert len(page.ends) == 1 and page.ends[0][0] == b"/lost", page.ends
                page.requests[0].write(b"late")
                page.requests[1].write(b"kept")
                page.requests[1].finish()
                client.exchange()
                ended = "StreamEnded" if writes and way == "loseConnection" else "StreamReset"
                assert client.seen[lost][-1][0] == ended, (way, writes, client.seen)
                assert client.seen[kept][1:] == ["kept", ["StreamEnded", 0]]

    async def test_a_request_may_end_before_it_is_processed(case):
        class Hasty(server.Request):
            def gotLength(self, length):
                super().gotLength(length)
                if self.channel.path == b"/finish":
                    self.write(b"early")
                    self.finish()
                elif self.channel.path == b"/lose":
                    self.loseConnection()

        made = site(lambda request: b"late")
        made.requestFactory = Hasty
        client = Client(made)
        streams = [client.request("GET", path, ("expect", "100-continue")) for path in ("/finish", "/lose", "/")]
        client.exchange()
        seen = [client.seen[stream][-2:] for stream in streams]
        assert [each[-1][0] for each in seen] == ["StreamEnded", "StreamReset", "StreamEnded"], seen
        assert [each[0] for each in seen[::2]] == ["early", "late"], seen

    async def test_a_client_that_leaves_gets_its_answers(case):
        page = Waiting()
        client = talking(page)
        stream = client.ask("GET", "/")
        client.conn.close_connection()
        client.protocol.dataReceived(client.conn.data_to_send())
        assert not page.ends and not client.transport.disconnecting
        page.requests[0].write(b"answer")
        page.requests[0].finish()
        assert client.transport.disconnecting and b"answer" in client.transport.value() and stream == 1

    async def test_a_drain_answers_the_requests_that_were_sent(case):
        page = Waiting()
        client = Client(site(page))
        send, channel = client.protocol.dataReceived, client.transport
        send(PREFACE + frame(1, 5, 1, GET))
        client.protocol._channel.drain()
        # On its way when the client learns of the drain.
        send(frame(1, 5, 3, GET))
        *_, farewell, ping = frames(channel.value())
        assert (farewell[0], farewell[3][:8], ping[0]) == (7, b"\x7f\xff\xff\xff" + bytes(4), 6)
        channel.clear()
        send(frame(6, 1, 0, ping[3]))
        assert [(each[0], each[3]) for each in frames(channel.value())] == [(7, b"\0\0\0\3" + bytes(4))]
        # Too late.
        send(frame(1, 5, 5, GET))
        assert len(page.requests) == 2 and not channel.disconnecting
        for request in page.requests:
            request.write(b"answer")
            request.finish()
        ended = [each[2] for each in frames(channel.value()) if each[0] == 0 and each[1] == 1]
        assert ended == [1, 3] and channel.disconnecting

    @case
    async def test_a_silent_connection_times_out(case):
        for is_open in (False, True):
            clock = task.Clock()
            client = Client(site(Waiting(), clock))
            client.transport.abortConnection = lambda: case.say("server", "aborted")
            client.exchange()
            if is_open:
                client.ask("GET", "/")
            clock.advance(59)
            case.say("server", client.transport.disconnecting)
            clock.advance(1)
            case.say("server", client.transport.disconnecting)
            for event in client.conn.receive_data(client.transport.value()):
                case.say("server", type(event).__name__, getattr(event, "error_code", None))
            clock.advance(15)
            client.protocol.connectionLost(Failure(error.ConnectionDone()))
            case.say("server", len(clock.getDelayedCalls()))

    @case
    async def test_a_connection_that_receives_or_sends_is_not_silent(case):
        clock, page = task.Clock(), Waiting()
        client = Client(site(page, clock))
        client.ask("GET", "/")
        for _ in range(3):
            clock.advance(40)
            client.protocol.dataReceived(frame(8, 0, 0, (1).to_bytes(4)))
            case.say("server", client.transport.disconnecting)
        for _ in range(3):
            clock.advance(40)
            page.requests[0].write(b"more")
            # Twisted sends it in later turns.
            for _ in range(9):
                await case.sleep()
            case.say("server", client.transport.disconnecting)
        clock.advance(60)
        case.say("server", client.transport.disconnecting)

    async def test_an_answered_request_is_freed_at_once(case):
        gc.disable()
        found = []
        client = talking(lambda request: found.append(weakref.ref(request)) or b"hello")
        client.ask("GET", "/", ("cookie", "a=b"))
        stream = client.request("POST", "/", body=b"body")
        client.send(stream)
        client.exchange()
        assert [each() for each in found] == [None, None]


class Talking(protocol.Protocol):
    """A client over a socket."""

    def __init__(self):
        self.peer, self.ended = Peer(), defer.Deferred()

    def connectionMade(self):
        self.transport.write(self.peer.conn.data_to_send())

    def dataReceived(self, data):
        for event in self.peer.conn.receive_data(data):
            self.peer.note(event)
        self.go()

    def go(self):
        """Sends as much as the windows allow, and fires `ended` when all streams have ended."""
        for stream in list(self.peer.parts):
            while stream in self.peer.parts and self.peer.conn.local_flow_control_window(stream) > 0:
                self.peer.send(stream)
        self.transport.write(self.peer.conn.data_to_send())
        answers = [seen for stream, seen in self.peer.seen.items() if stream]
        if len(answers) == self.count and all(seen and seen[-1] == ["StreamEnded", 0] for seen in answers):
            self.ended.callback(None)


def listening(case, root):
    """The number of a port that serves a site over TLS."""
    port = case.reactor.listenSSL(0, pages.site(root), SERVER.options(), interface="127.0.0.1")
    case.ports.append(port)
    return port.getHost().port


def connect(case, port, made, version=b"h2"):
    options = ssl.optionsForClientTLS("localhost", SERVER.trust(), acceptableProtocols=[version])
    endpoint = endpoints.TCP4ClientEndpoint(case.reactor, "127.0.0.1", port)
    return endpoints.connectProtocol(endpoints.wrapClientTLS(options, endpoint), made)


def answer(request):
    """A body of the length that the path says; of the request's otherwise."""
    kind, _, number = request.path[1:].partition(b"/")
    if kind == b"get":
        return b"g" * int(number)
    if kind == b"later":
        task.deferLater(reactor(), 0.001 * (int(number) % 7), lambda: (request.write(number), request.finish()))
        return None
    return b"%s %d %s" % (request.method, len(request.content.read()), str(request.isSecure()).encode())


def reactor():
    from twisted.internet import reactor

    return reactor


class Sockets(Cases):
    """Connections over TLS, for which ALPN chooses HTTP/2."""

    async def test_clients_get_their_answers(case):
        port = listening(case, answer)
        clients = [await connect(case, port, Talking()) for _ in range(3)]
        for number, client in enumerate(clients):
            for path in ("get/0", "get/5", f"get/{2 * MIB}", "get/70000", *(f"later/{each}" for each in range(30))):
                client.peer.request("GET", f"/{path}")
            client.peer.request("HEAD", "/get/70000")
            client.peer.request("POST", "/post", body=b"p" * 300_000 * number, pieces=9)
            client.count = 36
            client.go()
        await defer.gatherResults([client.ended for client in clients])
        for number, client in enumerate(clients):
            answers = sorted((stream, seen) for stream, seen in client.peer.seen.items() if stream)
            case.say(f"client {number}", len(answers), zlib.crc32(repr(answers).encode()), answers[-1])

    async def test_a_thousand_streams_are_open_one_after_the_other_and_together(case):
        port = listening(case, answer)
        client = await connect(case, port, Talking())
        for round in range(10):
            for number in range(100):
                client.peer.request("GET", f"/later/{number}")
            client.count, client.ended = 100 * (round + 1), defer.Deferred()
            client.go()
            await client.ended
        bodies = [seen[1] for stream, seen in client.peer.seen.items() if stream]
        case.say("client", len(bodies), sorted(set(bodies), key=int))

    async def test_a_server_without_http2_speaks_the_older_protocol(case):
        port = listening(case, answer)
        made, got = protocol.Protocol(), defer.Deferred()
        made.connectionMade = lambda: made.transport.write(b"GET /get/5 HTTP/1.1\r\nHost: a\r\n\r\n")
        made.dataReceived = got.callback
        await connect(case, port, made, b"http/1.1")
        case.say("client", (await got).endswith(b"\r\n\r\nggggg"))


class Closes(Cases, by=only_subject):
    """Connections over TLS that the server closes."""

    async def test_a_fault_a_farewell_and_a_silence_close_it(case):
        for sent, code, kinds in [
            (PREFACE + frame(1, 5, 2, GET), 1, {4, 8, 7}),
            (PREFACE + frame(1, 5, 1, GET) + frame(7, 0, 0, bytes(8)), None, {4, 8, 1, 0}),
            (PREFACE, 0, {4, 8, 7}),
        ]:
            made = pages.site(answer, timeout=0.2 if code == 0 else 60)
            port = case.reactor.listenSSL(0, made, SERVER.options(), interface="127.0.0.1")
            client, received, lost = protocol.Protocol(), [], defer.Deferred()
            client.connectionMade = lambda: client.transport.write(sent)
            client.dataReceived, client.connectionLost = received.append, lambda reason: lost.callback(None)
            await connect(case, port.getHost().port, client)
            await lost
            seen = frames(b"".join(received))
            assert {each[0] for each in seen} == kinds, seen
            assert code is None or int.from_bytes(seen[-1][3][4:8]) == code, seen
            await port.stopListening()


async def told(case, program, *arguments):
    """The output of a client's program."""
    out, problems, status = await utils.getProcessOutputAndValue(shutil.which(program), arguments, os.environ)
    assert status == 0, (status, out, problems)
    return out.decode()


class Peers(Cases):
    """Independent clients."""

    @peer("curl")
    @only_subject
    async def test_curl_downloads_and_uploads(case):
        port = listening(case, answer)
        with tempfile.NamedTemporaryFile() as upload:
            upload.write(b"u" * 3 * MIB)
            upload.flush()
            plain = ["--insecure", "--silent", "--http2", "--write-out", "|%{http_version} %{http_code}"]
            assert await told(case, "curl", *plain, f"https://localhost:{port}/get/5") == "ggggg|2 200"
            said = await told(case, "curl", *plain, f"https://localhost:{port}/get/{3 * MIB}")
            assert said == "g" * 3 * MIB + "|2 200", len(said)
            said = await told(case, "curl", *plain, "--data-binary", f"@{upload.name}", f"https://localhost:{port}/")
            assert said == f"POST {3 * MIB} True|2 200", said
            said = await told(case, "curl", *plain, "--head", f"https://localhost:{port}/get/7")
            assert "content-length: 7" in said and said.endswith("|2 200"), said

    @peer("nghttp")
    @only_subject
    async def test_nghttp_multiplexes(case):
        port = listening(case, answer)
        urls = [f"https://localhost:{port}/{path}" for path in ("get/1000000", "later/3", "get/0", "post", "later/1")]
        said = await told(case, "nghttp", "--no-verify-peer", "--stat", "--null-out", *urls)
        assert said.count(" 200 ") == len(urls), said

    @peer("h2load")
    @only_subject
    async def test_h2load_makes_ten_thousand_requests(case):
        port = listening(case, answer)
        for path in ("get/13", "later/1", "get/20000"):
            url = f"https://localhost:{port}/{path}"
            said = await told(case, "h2load", "-n", "10000", "-c", "10", "-m", "100", url)
            assert " 10000 succeeded, 0 failed" in said, said


class Faults(Cases, by=only_subject):
    """Faults and floods of clients end only their own connection or stream."""

    async def test_malformed_frames_end_the_connection_with_a_code(case):
        for text, code in [
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
            (PREFACE + frame(6, 0, 0, b"short"), 6),
            (PREFACE + frame(1, 5, 3, GET) + frame(1, 5, 1, GET), 1),
        ]:
            page = Waiting()
            client, other = Client(site(page)), talking(lambda request: b"hello")
            try:
                client.protocol.dataReceived(text)
                seen = frames(client.transport.value())
                assert seen[-1][0] == 7 and int.from_bytes(seen[-1][3][4:8]) == code, (text, seen)
                assert client.transport.disconnecting
                client.protocol.dataReceived(frame(1, 5, 5, GET) * 10)
                assert len(page.requests) <= 1
                assert all(end[1] == "ConnectionLost" for end in page.ends) and len(page.ends) == len(page.requests)
                stream = other.request("GET", "/")
                other.exchange()
                assert other.seen[stream][1] == "hello"
            except Exception as raised:
                raise AssertionError(text) from raised

    async def test_floods_end_the_connection_with_a_code(case):
        def reset(number):
            return frame(1, 5, 2 * number + 1, GET) + frame(3, 0, 2 * number + 1, bytes(4))

        for flood in [
            reset,
            lambda number: frame(4, 0, 0),
            lambda number: frame(6, 0, 0, bytes(8)),
            lambda number: frame(0, 0, 1),
            lambda number: frame(2, 0, 1, bytes(5)),
            lambda number: frame(99, 0, 1),
        ]:
            page = Waiting()
            client = Client(site(page))
            client.protocol.dataReceived(PREFACE + frame(1, 4, 1, GET))
            # The client does not read.
            client.transport.producer.pauseProducing()
            for number in range(1, 5000):
                if not client.protocol._channel._stillProducing:
                    break
                client.protocol.dataReceived(flood(number))
            else:
                raise AssertionError(flood(1))
            client.transport.producer.resumeProducing()
            seen = frames(client.transport.value())
            assert seen[-1][0] == 7 and int.from_bytes(seen[-1][3][4:8]) == 11, seen[-1]
            assert client.transport.disconnecting and len(client.transport.value()) < 50_000
            assert len(page.ends) == len(page.requests)

    async def test_a_client_that_reads_nothing_is_not_read_from(case):
        client = Client(site(lambda request: b"a" * 999))
        transport = client.transport
        # The client's windows are open.
        client.protocol.dataReceived(client.conn.data_to_send() + frame(8, 0, 0, (2**30).to_bytes(4)))
        transport.producer.pauseProducing()
        transport.clear()
        count = 0
        while transport.producerState == "producing":
            count += 1
            client.protocol.dataReceived(frame(1, 5, 2 * count + 1, GET))
            assert count < 5000
        assert count > 100 and not transport.value()
        transport.producer.resumeProducing()
        assert transport.producerState == "producing"
        ended = [each[2] for each in frames(transport.value()) if each[0] == 0 and each[1] == 1]
        assert len(ended) == count, (count, len(ended))

    async def test_a_mistake_of_the_program_resets_the_stream(case):
        def answer(request):
            request.setResponseCode(code)
            return b"hello"

        for code in (99, 1000, 70_000, 101):
            client = talking(answer)
            stream = client.ask("GET", "/")
            assert client.seen[stream] == [["StreamReset", 2]], client.seen
            code = 200
            stream = client.ask("GET", "/")
            assert client.seen[stream][1] == "hello"

"""HTTP/2 for clients: a program sees the same events as over HTTP/1.1."""

import random

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.web import _newclient
from twisted.web._responses import RESPONSES
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from kit.cases import Cases, only_subject
from kit.client2 import DATA, HEADERS, Body, Reader, Wire, literal
from kit.web2 import frame


class Older:
    """A request over HTTP/1.1 by Twisted's protocol, as `Newer` makes one over HTTP/2."""

    def __init__(self, request):
        from twisted.internet.testing import StringTransport

        self.protocol = _newclient.HTTP11ClientProtocol()
        self.transport = StringTransport()
        self.transport.abortConnection = self.transport.loseConnection
        self.protocol.makeConnection(self.transport)
        self.deferred = self.protocol.request(request)
        self.later = []

    def head(self, code, fields, length):
        phrase = RESPONSES[code]
        lines = [b"HTTP/1.1 %d %s" % (code, phrase), *(b"%s: %s" % field for field in fields)]
        lines.append(b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length)
        self.isChunked = length is None
        self.receive(b"\r\n".join([*lines, b"", b""]))

    def data(self, part):
        self.receive(b"%x\r\n%s\r\n" % (len(part), part) if self.isChunked else part)

    def end(self, hasBody):
        if self.isChunked and hasBody:
            self.receive(b"0\r\n\r\n")

    def receive(self, data):
        self.later.append(data)
        self.flush()

    def flush(self):
        # A paused connection notices its end when it is resumed.
        while self.later and self.transport.producerState == "producing":
            data = self.later.pop(0)
            if data is None:
                self.protocol.connectionLost(Failure(error.ConnectionDone()))
            elif not self.transport.disconnecting:
                self.protocol.dataReceived(data)

    def lose(self):
        self.receive(None)


class Newer:
    """A request over HTTP/2."""

    def __init__(self, request):
        self.wire = Wire().hello()
        self.deferred = self.wire.connection.request(request)
        self.flags = 0

    def head(self, code, fields, length):
        head = literal(b":status", b"%d" % code) + b"".join(literal(*field) for field in fields)
        if length is not None:
            head += literal(b"content-length", b"%d" % length)
        self.last = frame(HEADERS, 5, 1, head), frame(HEADERS, 4, 1, head)

    def data(self, part):
        self.wire.receive(self.last[1])
        self.last = frame(DATA, 1, 1, part), frame(DATA, 0, 1, part)

    def end(self, hasBody):
        self.wire.receive(self.last[0])

    def flush(self):
        self.wire.clock.advance(0)

    def lose(self):
        if hasattr(self, "last"):
            self.wire.receive(self.last[1])
        self.wire.lose()


class Conversation:
    """A request, its response and the actions of its program, all random. `seen` has the program's events."""

    def __init__(self, seed, server):
        self.random = random.Random(seed)
        self.seen = []
        self.run(server)

    def run(self, server):
        choice = self.random.choice
        method = choice([b"GET", b"GET", b"HEAD", b"POST", b"PUT"])
        body = choice([None, Body(6), Body(UNKNOWN_LENGTH)]) if method in (b"POST", b"PUT") else None
        code = choice([200, 200, 204, 304, 404, 500])
        fields = [choice([(b"set-cookie", b"a=b"), (b"x-a", b"b"), (b"etag", b"e")]) for _ in range(choice([0, 1, 3]))]
        parts = [b"p" * choice([1, 5, 3000]) for _ in range(choice([0, 1, 2, 7]))]
        # Over HTTP/2, the length of an empty body is always known.
        length = choice([None, sum(map(len, parts))]) if parts else 0
        hasBody = method != b"HEAD" and code not in (204, 304)
        if not hasBody:
            parts = []
        self.reading = choice(["immediately", "late", "pausing"])
        cut = choice([None] * 5 + ["cancel", "lose before", "lose within", "fail"])
        headers = Headers({b"Host": [b"a.example"]})
        made = server(_newclient.Request._construct(method, b"/", headers, body, persistent=True))
        made.deferred.addCallbacks(self.got, lambda reason: self.note("failed", reason))
        if body is not None:
            if cut == "fail":
                body.finished.errback(Failure(ZeroDivisionError()))
            elif cut != "cancel":
                body.consumer.write(b"sent")
                body.consumer.write(b"!!")
                body.finished.callback(None)
        if cut == "cancel":
            made.deferred.cancel()
        elif cut == "lose before":
            made.lose()
        elif cut != "fail" or body is None:
            made.head(code, fields, length)
            for part in parts[: 1 if cut == "lose within" else None]:
                made.data(part)
            if cut == "lose within" and parts and (length is None or len(parts) > 1):
                made.lose()
            else:
                if cut == "lose within":
                    for part in parts[1:]:
                        made.data(part)
                made.end(hasBody)
            self.finish(made)
        if body is not None:
            self.seen.append(body.events)

    def note(self, what, reason):
        found = getattr(reason.value, "reasons", [])[:1]
        self.seen.append((what, reason.type.__name__, *(each.type.__name__ for each in found)))

    def got(self, response):
        self.response = response
        fields = sorted(response.headers.getAllRawHeaders())
        self.seen.append((response.code, response.phrase, fields, response.length))
        if self.reading != "late":
            self.read()

    def read(self):
        self.reader = reader = Reader()
        if self.reading == "pausing":
            receive = reader.dataReceived
            reader.dataReceived = lambda data: (receive(data), reader.transport.pauseProducing())
        self.response.deliverBody(reader)

    def finish(self, made):
        if not hasattr(self, "response"):
            return
        if self.reading == "late":
            self.read()
        for _ in range(9):
            self.reader.transport.resumeProducing()
            made.flush()
        self.seen.append(len(self.reader.data))
        self.note("ended", self.reader.reason)


class Chaos:
    """A connection whose program and server act at random."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.wire = Wire(maxConcurrentStreams=self.random.choice([1, 3, 100])).hello()
        self.deferreds, self.readers, self.bodies, self.numbers = [], [], [], []
        acts = [self.ask, self.ask, self.upload, self.cancel, self.read, self.pause, self.resume, self.give_up]
        acts += [self.produce, self.fill, self.drain, self.respond, self.respond, self.data, self.data, self.end]
        acts += [self.reset, self.widen, self.settings, self.leave]
        for _ in range(self.random.randrange(5, 120)):
            self.random.choice(acts)()
            self.wire.clock.advance(0)
            self.numbers += [stream for kind, stream in self.wire.kinds() if kind == HEADERS]
        self.finish()

    def any(self, found):
        return self.random.choice(found) if found else None

    def ask(self, method=b"GET", producer=None):
        self.deferreds.append(self.wire.request(method, b"/", producer))

    def upload(self):
        self.bodies.append(Body(self.random.choice([6, UNKNOWN_LENGTH])))
        self.ask(b"PUT", self.bodies[-1])

    def cancel(self):
        if self.deferreds:
            self.any(self.deferreds).cancel()

    def read(self):
        response = self.any([each for each in self.wire.results if isinstance(each, _newclient.Response)])
        if response is not None and response not in [each.response for each in self.readers]:
            reader = Reader()
            reader.response = response
            self.readers.append(reader)
            response.deliverBody(reader)

    def pause(self):
        if self.readers:
            self.any(self.readers).transport.pauseProducing()

    def resume(self):
        if self.readers:
            self.any(self.readers).transport.resumeProducing()

    def give_up(self):
        if self.readers:
            transport = self.any(self.readers).transport
            self.random.choice([transport.loseConnection, transport.abortConnection, transport.stopProducing])()

    def produce(self):
        body = self.any([each for each in self.bodies if each.events[:1] and not each.finished.called])
        if body is not None and body.events[-1] in ("start", "resume"):
            size = self.random.choice([3, 3, 100_000])
            if self.random.random() < 0.3:
                body.finished.callback(None)
            elif body.length is UNKNOWN_LENGTH or size == 3:
                body.consumer.write(b"b" * size)

    def fill(self):
        if self.wire.transport.producer is not None:
            self.wire.transport.producer.pauseProducing()

    def drain(self):
        if self.wire.transport.producer is not None:
            self.wire.transport.producer.resumeProducing()

    def stream(self):
        """An open stream, and rarely another one."""
        opened = list(self.wire.connection._streams)
        return self.any(opened if opened and self.random.random() < 0.97 else self.numbers[-3:])

    def receive(self, kind, flags, stream, payload=b""):
        if stream is not None and not self.wire.isClosed:
            self.wire.receive(frame(kind, flags, stream, payload))

    def respond(self):
        head = self.random.choice([b"\x88", b"\x88", b"\x8d", literal(b":status", b"100"), literal(b"a", b"b")])
        self.receive(HEADERS, self.random.choice([4, 5]), self.stream(), head)

    def data(self):
        self.receive(DATA, 0, self.stream(), b"d" * self.random.choice([0, 5, 16_000]))

    def end(self):
        self.receive(DATA, 1, self.stream())

    def reset(self):
        self.receive(3, 0, self.stream(), self.random.choice([0, 2, 2, 8, 8, 8, 7]).to_bytes(4))

    def widen(self):
        self.receive(8, 0, self.any([0, self.stream()]), (100_000).to_bytes(4))

    def settings(self):
        name, value = self.random.choice([(3, 0), (3, 2), (3, 100), (4, 0), (4, 70_000)])
        self.receive(4, 0, 0, name.to_bytes(2) + value.to_bytes(4))

    def leave(self):
        if self.random.random() < 0.1:
            self.receive(7, 0, 0, self.any([0, *self.numbers, 2**31 - 1]).to_bytes(4) + bytes(4))

    def finish(self):
        """The connection is lost, and everything ends."""
        wire = self.wire
        if not wire.connection._streams and not wire.connection._waiting:
            assert wire.connection.state in ("QUIESCENT", "RETIRED"), wire.connection.state
        wire.lose()
        wire.clock.advance(0)
        assert all(deferred.called for deferred in self.deferreds) and None not in wire.results
        for reader in self.readers:
            reader.transport.resumeProducing()
            assert reader.reason is not None
        assert not wire.connection._streams and not wire.connection._waiting and not wire.pool._shared
        for body in self.bodies:
            assert body.events.count("start") <= 1 and body.events.count("stop") <= 1, body.events
            holds = [each for each in body.events if each in ("pause", "resume")]
            assert holds == ["pause", "resume"] * (len(holds) // 2) + ["pause"] * (len(holds) % 2), body.events


class Programs(Cases, by=only_subject):
    """The same programs over HTTP/1.1 and HTTP/2."""

    async def test_all_requests_end_for_random_actions_of_program_and_server(case):
        for seed in range(2000):
            try:
                Chaos(seed)
            except Exception as raised:
                raise AssertionError(f"seed {seed}") from raised
        # A body that fails after its response is an error of the program.
        notes = [note for note in case.notes.pop("log", []) if "WrongBodyLength" not in note]
        assert not notes, notes[:3]

    async def test_a_program_sees_the_same_as_over_http1(case):
        kinds = set()
        for seed in range(2000):
            try:
                older, newer = Conversation(seed, Older).seen, Conversation(seed, Newer).seen
            except Exception as raised:
                raise AssertionError(f"seed {seed}") from raised
            assert older == newer, (seed, older, newer)
            kinds.update(each[1] for each in newer if isinstance(each, tuple) and isinstance(each[0], str))
        assert len(kinds) >= 4, kinds

"""HTTP/2 for clients: a program sees the same events as over HTTP/1.1."""

import random
import unittest

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
    """A request, its response and the actions of its program, all random. `seen` has what the program sees."""

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


class Programs(Cases):
    """The same programs over HTTP/1.1 and HTTP/2."""

    @only_subject
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


if __name__ == "__main__":
    unittest.main()

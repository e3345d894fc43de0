"""A web client in memory, and the scripted server that answers it: `webclient.py REACTOR SEED COUNT` prints the
client's output and its program's events, a line of JSON for each conversation. The lines are the same under every
reactor."""

import gc
import gzip
import json
import random
import re
import sys
import warnings
from http.cookiejar import CookieJar

from kit import reactors

if __name__ == "__main__":
    # The modules that are imported now find it.
    reactors.install(sys.argv[1])

from twisted.internet import defer, error, task
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.python.compat import nativeString
from twisted.python.failure import Failure
from twisted.web import _newclient, client
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from kit.webserver import overriding, split

# The output that differs between runs.
VARYING = re.compile(r"(?<= at )0x[0-9a-f]*")

PACKED = gzip.compress(b"packed " * 99, mtime=0)
# Of a response with a body of two bytes: other first lines, fields before its length, and fields instead of that.
FIRST_LINES = [b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 0200 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1  200 OK"]
FIRST_LINES += [b"HTTP/2.0 200 OK", b"ICY/1.1 200 OK", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200 OK\r"]
FIELDS = [b"X: a\r\n b\r\n\tc", b" folded", b"sp ace: x", b"X: a\x00b\x0bc\x0c", b"X: a\rb", b"X: a\x85\xff"]
FIELDS += [b"\r\n".join([b"X: y"] * 600), b"X: " + b"y" * 16380, b"X: " + b"y" * 16381]
FIELDS += [b"Keep-Alive: 5\r\nTE: x\r\nTrailers: t\r\nProxy-Connection: p"]
LENGTHS = [b"content-length: 2\r\ncontent-length: 2", b"Content-Length: 2, 02", b"Content-Length: 2\r\nContent-Length: 3"]
LENGTHS += [b"Content-Length: +2", b"Content-Length:", b"Content-Length: 123456789012345678901234567890"]
LENGTHS += [b"Content-Length: 2\r\nConnection: " + token for token in (b"close", b"Close", b"close, x")]
LENGTHS += [b"Content-Length: 2\r\nConnection: x\r\nConnection:  close "]
RESPONSES = [
    *(b"%s\r\nContent-Length: 2\r\n\r\nok" % line for line in FIRST_LINES),
    *(b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: 2\r\n\r\nok" % fields for fields in FIELDS),
    *(b"HTTP/1.1 200 OK\r\n%s\r\n\r\nok" % fields for fields in LENGTHS),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\nSet-Cookie: a=b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 12\r\nConnection: keep-alive\r\nETAG: t\r\n\r\nhello, world",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: 1\r\nx:\t2 \t\r\nwww-authenticate: w\r\nX-Empty:\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"l" * 70000,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(PACKED), PACKED),
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nbad",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nk",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi",
    b"HTTP/1.1 302 Found\r\nLocation: /else?x#y\r\nContent-Length: 4\r\n\r\ngone",
    b"HTTP/1.1 302 Found\r\nLocation: http://b.example:81/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 303 See Other\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 307 Again\r\nLocation: //c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 999 Odd  Phrase \xff\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 two OK\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.x 200 OK\r\n\r\n",
    b"garbage",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nok",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"",
]

URIS = b"""http://a.example/ http://a.example/ http://a.example/x/y?q=1&r=%20#fragment http://a.example
    http://a.example?q http://a.example/? http://a.example//double// http://a.example/p;a=b?c;d
    http://a.example:81/ http://a.example:081/ http://a.example:/ http://a.example:x/ https://a.example/
    https://a.example:443/ http://[::1]:80/v6 http://u:p@a.example/ HTTP://A.example/ http:///nowhere
    ftp://a.example/ /relative""".split()
URIS += [b"  http://a.example/padded\t", b"http://caf\xc3\xa9/", b"http://a.example/sp ace", b"http://a.example/\x7f", b""]
METHODS = [b"GET"] * 30 + [b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"BREW", b"", b"G T", "GET"]


def headers(random):
    """The headers of a request."""
    odd = Headers()
    odd._rawHeaders = {b"Host": [b"h"], b"x-Raw": [b"1\r\n2"], b"X-Text": [b"t"]}
    if random.random() < 0.5:
        return None
    return random.choice(
        [
            Headers(),
            Headers({b"Host": [b"other"]}),
            Headers({"user-agent": ["caf\xe9"], b"etag": [b"a\nb", b"c"], "X-Empty": []}),
            Headers({b"host": [b"one", b"two"]}),
            Headers({b"host": []}),
            type("Own", (Headers,), {})({b"accept": [b"*/*"]}),
            odd,
        ]
    )


class Conversation:
    """One client, its connections and its events."""

    def __init__(self, seed, number):
        self.random = random.Random(f"{seed} {number}")
        self.isOverridden = number % 3 == 1
        self.clock, self.seen, self.wires = task.Clock(), [], []

    def note(self, *words):
        self.seen.append([word if isinstance(word, (int, str)) else repr(word)[:300] for word in words])

    def failed(self, failure):
        self.note("failed", *causes(failure))

    def run(self):
        agent = self.agent()
        for _ in range(self.random.randint(1, 4)):
            self.request(agent)
            for _ in range(self.random.randint(1, 3)):
                self.serve()
            if self.random.random() < 0.1:
                self.pool.closeCachedConnections().addBoth(lambda result: self.note("closed", result))
        for _ in range(4):
            self.clock.advance(1)
            self.serve()
        calls = sorted(round(call.getTime() - self.clock.seconds(), 3) for call in self.clock.getDelayedCalls())
        idle = {repr(key): len(found) for key, found in self.pool._connections.items()}
        self.note("end", calls, idle, len(self.pool._timeouts), [wire.protocol.state for wire in self.wires])
        for wire in self.wires:
            wire.lose(wire.random.random() < 0.5)
        self.clock.advance(999)
        return self.seen

    def serve(self):
        for wire in self.wires:
            wire.serve()

    def agent(self):
        """An agent, perhaps of classes that override some steps, perhaps wrapped."""
        random, kinds = self.random, [client.HTTPConnectionPool, client.Agent]
        if self.isOverridden:
            kinds = [overridden(kind, POOL_STEPS + AGENT_STEPS, self) for kind in kinds]
        self.pool = kinds[0](self.clock, persistent=random.random() < 0.8)
        self.pool.maxPersistentPerHost = random.randint(1, 2)
        self.pool.retryAutomatically = random.random() < 0.8
        self.pool._factory = factory(self)
        if self.isOverridden and random.random() < 0.1:
            self.pool._putConnection = None
        agent = kinds[1].usingEndpointFactory(self.clock, Endpoints(self), self.pool)
        if random.random() < 0.2:
            agent = client.CookieAgent(agent, CookieJar())
        if random.random() < 0.2:
            agent = random.choice([client.RedirectAgent, client.BrowserLikeRedirectAgent])(agent)
        if random.random() < 0.3:
            agent = client.ContentDecoderAgent(agent, [(b"gzip", client.GzipDecoder)])
        return agent

    def request(self, agent):
        random = self.random
        method, uri = random.choice(METHODS), random.choice(URIS[:2] if random.random() < 0.6 else URIS)
        sent = headers(random)
        body = None if random.random() < 0.7 else Body(self, random.choice(BODIES))
        try:
            deferred = agent.request(method, uri, sent, body)
        except Exception as raised:
            self.note("raised", raised)
            return
        self.note("requested", type(deferred).__name__)
        deferred.addCallbacks(self.got, self.failed)
        if random.random() < 0.1:
            self.clock.callLater(random.choice([0, 0.5, 1]), deferred.cancel)

    def got(self, response):
        """Looks at a response, and reads its body in one of many ways."""
        request, fields = response.request, response.headers
        code = response.code
        self.note("got", response.version, code, response.phrase, response.length, type(code).__name__)
        self.note("asked", request.method, request.absoluteURI, request.headers)
        self.note("previous", response.previousResponse and response.previousResponse.code)
        if self.random.random() < 0.7:
            self.note("headers", list(fields.getAllRawHeaders()), fields, fields.copy(), fields.getRawHeaders("x-empty"))
        way = self.random.choice(READERS)
        if self.random.random() < 0.2:
            self.clock.callLater(1, self.read, way, response)
        else:
            return self.read(way, response)

    def read(self, way, response):
        try:
            if way == "whole":
                body = client.readBody(response)
                body.addCallbacks(lambda body: self.note("body", len(body), body[:99]), self.failed)
                if self.random.random() < 0.1:
                    body.cancel()
                return body
            for _ in range(DELIVERIES.get(way, 1)):
                response.deliverBody(reader(self, way))
        except Exception as raised:
            self.note("raised", raised)


# How often a body is delivered, if not once, and the ways to read it.
DELIVERIES = {"nothing": 0, "twice": 2}
READERS = ["whole"] * 6 + "nothing pieces pieces twice pausing stopping losing failing early".split()
BODIES = "now later unknown-now unknown-later short long fails raises fails-later never".split()
POOL_STEPS = "getConnection _newConnection _putConnection _removeConnection".split()
AGENT_STEPS = "_getEndpoint _requestWithEndpoint _computeHostValue".split()
PROTOCOL_STEPS = """request dataReceived connectionLost _finishResponse _finishResponse_WAITING _disconnectParser _giveUp
    connectionMade""".split()
PARSER_STEPS = """lineReceived headerReceived statusReceived allHeadersReceived rawDataReceived isConnectionControlHeader
    switchToBodyMode _finished connectionLost dataReceived parseVersion""".split()


def causes(failure):
    """The exceptions of a failure, and those behind them."""
    value = failure.value
    found = [type(value).__name__, str(value)[:99] if not hasattr(value, "reasons") else ""]
    for reason in getattr(value, "reasons", ()):
        found.append(causes(reason))
    if getattr(value, "response", None) is not None:
        found.append(getattr(value.response, "code", value.response))
    return found


def overridden(cls, steps, conversation):
    """A class that notes calls of some methods."""
    steps = [step for step in steps if hasattr(cls, step)]
    chosen = conversation.random.sample(steps, conversation.random.randint(0, 2))
    return overriding(cls, chosen, conversation.seen)


def factory(conversation):
    """A factory of protocols, perhaps of a class that overrides some steps, perhaps with parsers of another class."""
    if not conversation.isOverridden:
        return client._HTTP11ClientFactory
    protocol = overridden(_newclient.HTTP11ClientProtocol, PROTOCOL_STEPS, conversation)
    parser = overridden(_newclient.HTTPClientParser, PARSER_STEPS, conversation)

    class Other(protocol):
        def request(self, request):
            if conversation.random.random() < 0.2:
                raise ValueError("no request")
            deferred = super().request(request)
            if self._parser is not None:
                self._parser.__class__ = parser
            return deferred

    made = Other if conversation.random.random() < 0.5 else protocol

    class Factory(client._HTTP11ClientFactory):
        def buildProtocol(self, addr):
            return made(self._quiescentCallback)

    return Factory


class Endpoints:
    """Connects to the scripted server."""

    def __init__(self, conversation):
        self._conversation = conversation

    def endpointForURI(self, uri):
        self._conversation.note("uri", sorted(vars(uri).items()), uri.originForm)
        if uri.scheme not in (b"http", b"https"):
            raise SchemeNotSupported(uri.scheme)
        named = HostnameEndpoint(MemoryReactorClock(), nativeString(uri.host), uri.port)
        self._conversation.note("endpoint", named, named._hostBytes, named._hostText, named._badHostname)
        return self

    def __repr__(self):
        return "<endpoints>"

    def connect(self, factory):
        conversation = self._conversation
        conversation.note("connect")
        if conversation.random.random() < 0.1:
            return defer.fail(error.ConnectionRefusedError())
        wire = Wire(conversation)
        protocol = wire.protocol = factory.buildProtocol(None)
        connected = defer.Deferred()

        def done():
            conversation.wires.append(wire)
            protocol.makeConnection(wire)
            if not connected.called:
                connected.callback(protocol)

        if conversation.random.random() < 0.7:
            done()
        else:
            conversation.clock.callLater(0.5, done)
        return connected


class Wire:
    """A connection: a transport, and the server at its other end."""

    disconnecting = False

    def __init__(self, conversation):
        self.conversation, self.random = conversation, conversation.random
        self.written, self.pieces, self.answered = b"", [], 0
        self.isPaused = self.isLost = self.isAborted = False
        self.producer = None

    def serve(self):
        """Sends some pieces of responses, pauses the client's producer, or ends the connection."""
        if self.producer and self.random.random() < 0.3:
            self.producer.pauseProducing()
            self.conversation.clock.callLater(0, lambda: self.producer and self.producer.resumeProducing())
        asked = self.written.count(b" HTTP/1.1\r\n")
        if self.answered and self.answered < asked and self.random.random() < 0.2:
            # A kept connection ends before the next response.
            self.lose(True)
        if not self.pieces and (self.answered < asked or self.random.random() < 0.05):
            self.answered += 1
            self.pieces = split(self.random, self.random.choice(RESPONSES))
        while self.pieces and not (self.isLost or self.disconnecting):
            if self.isPaused and self.random.random() < 0.8 or self.random.random() < 0.1:
                break
            try:
                self.protocol.dataReceived(self.pieces.pop(0))
            except Exception as raised:
                self.conversation.note("raised", raised)
                self.lose(False)
        if self.disconnecting or self.random.random() < 0.07:
            self.lose(self.random.random() < 0.7)

    def lose(self, isClean):
        if not self.isLost:
            self.isLost = True
            reason = error.ConnectionDone() if isClean else error.ConnectionLost()
            try:
                self.protocol.connectionLost(Failure(error.ConnectionAborted() if self.isAborted else reason))
            except Exception as raised:
                self.conversation.note("raised", raised)

    def write(self, data):
        self.writeSequence([data])

    def writeSequence(self, pieces):
        if self.random.random() < 0.03:
            raise OSError("no write")
        data = b"".join(pieces)
        self.written += data
        self.conversation.note("wrote", data.decode("latin-1"))

    def pauseProducing(self):
        self.conversation.note("pause")
        self.isPaused = True

    def resumeProducing(self):
        self.conversation.note("resume")
        self.isPaused = False

    def stopProducing(self):
        self.conversation.note("stop")
        self.disconnecting = True

    def loseConnection(self):
        self.conversation.note("lose")
        self.disconnecting = True

    def abortConnection(self):
        self.conversation.note("abort")
        self.disconnecting = self.isAborted = True

    def registerProducer(self, producer, streaming):
        self.conversation.note("producer", streaming)
        self.producer = producer

    def unregisterProducer(self):
        self.conversation.note("no producer")
        self.producer = None

    def __repr__(self):
        return "<wire>"


class Body:
    """The producer of a body."""

    def __init__(self, conversation, way):
        self._note, self._clock, self._way = conversation.note, conversation.clock, way
        self.length = UNKNOWN_LENGTH if "unknown" in way else 4

    def startProducing(self, consumer):
        self._note("start", type(consumer).__name__)
        if self._way == "raises":
            raise ValueError("no body")
        finished = defer.Deferred(lambda deferred: self._note("cancelled"))
        if "later" in self._way:
            consumer.write(b"bo")
            self._clock.callLater(1, self._end, consumer, finished)
        else:
            self._end(consumer, finished)
        return finished

    def _end(self, consumer, finished):
        try:
            rest = b"dy" if "later" in self._way else b"body"
            consumer.write({"short": b"b", "long": b"body and more"}.get(self._way, rest))
        except Exception as raised:
            self._note("raised", raised)
        if self._way == "never" or finished.called:
            return
        if "fails" in self._way:
            finished.errback(ValueError("lost body"))
        else:
            finished.callback(None)

    def stopProducing(self):
        self._note("body stop")

    def pauseProducing(self):
        self._note("body pause")

    def resumeProducing(self):
        self._note("body resume")


def reader(conversation, way):
    """A protocol that receives a body."""
    note = conversation.note

    class Reader(Protocol):
        def connectionMade(self):
            note("reader", type(self.transport).__name__, self.transport._producer)
            if way == "early":
                self.transport.loseConnection()

        def dataReceived(self, data):
            note("piece", len(data), data[:99])
            if way == "pausing":
                self.transport.pauseProducing()
                conversation.clock.callLater(0.5, self.transport.resumeProducing)
            elif way == "stopping":
                self.transport.stopProducing()
            elif way == "losing":
                self.transport.loseConnection()
            elif way == "failing":
                raise ValueError("no more")

        def connectionLost(self, reason):
            note("end of body", *causes(reason))
            if way == "failing":
                raise ValueError("no end")

    return Reader()


def conversations(seed, count):
    """The events of each client and of its server."""
    for number in range(count):
        conversation, unhandled = Conversation(seed, number), []

        def observe(event):
            failure, text = event.get("log_failure"), event.get("log_format") or ""
            words = [text, *(causes(failure) if failure else [])]
            if "Unhandled" in text or failure and not text:
                # When a Deferred is collected differs.
                unhandled.append(words)
            else:
                conversation.note("log", *words)

        globalLogPublisher.addObserver(observe)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                seen = conversation.run()
            texts = [(repr(warning.message), warning.filename[-20:]) for warning in warned]
            del conversation
            gc.collect()
        finally:
            globalLogPublisher.removeObserver(observe)
        yield VARYING.sub("-", json.dumps([number, seen, texts, sorted(map(repr, unhandled))]))


def main():
    _, seed, count = sys.argv[1:]
    # Collections between conversations skip the modules.
    gc.freeze()
    for line in conversations(int(seed), int(count)):
        print(line)


if __name__ == "__main__":
    main()

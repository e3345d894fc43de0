"""A web server in memory, and the requests that it gets: `webserver.py REACTOR SEED COUNT` prints the answers and
the notes of the resources, a line of JSON for each conversation. The lines are the same under every reactor."""

import json
import random
import re
import sys
import unittest.mock

from kit import reactors

if __name__ == "__main__":
    # The modules that are imported now find it.
    reactors.install(sys.argv[1])

from twisted.internet import address, error, task
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import http, resource, server, static, util
from zope.interface import directlyProvides

# The output that differs between runs.
VARYING = re.compile(r"Date: [^\\]*|(?<= at )0x[0-9a-f]*|(?<=b'Date'\", \"b')[^']*")

PATHS = b"""later later?lost pieces cookies cookies?lines empty fails text code?204 code?304 code?599 big redirect headers
    again declared known"""
# The fields of a GET of /show.
FIELDS = [b"A: b\r\n c\r\n\td", b"no colon", b"sp ace: x", b": x", b"A: b\x00c", b"A: b\nc", b"A: b\rc"]
FIELDS += [b"X-Odd:\r\nx-odd: \t v \t\r\nETAG: e\r\nwww-authenticate: w\r\nx-xss-protection: 1"]
FIELDS += [b"X: " + b"y" * 16370, b"X: " + b"y" * 16300, *(b"\r\n".join([b"X: y"] * count) for count in (500, 501))]
FIELDS += [b"Host: " + host for host in (b"a.b-c_d:8080", b"", b":1", b"a:", b"a:x", b"a:1:2", b"[::1]:80")]
FIELDS += [b"Host: " + host for host in (b"[a]", b"]", b"\xff", b"a b:1")]
PIECES = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /show/a%20b//c?x=1&y=&x=2&z HTTP/1.1\r\nHost: a\r\nCookie: k=v; w\r\nCookie: u=%20\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /show HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /show HTTP/1.0\r\n\r\n",
    b"GET /'it's%22\"\\ HTTP/1.1\r\nReferer: a'b\"c\\d\xff\te\r\nUser-Agent: \r\n\r\n",
    b"GET /it's HTTP/1.1\r\nReferer: x\r\nUser-Agent: \\'\r\n\r\n",
    b"GET /show HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: Keep-Alive, close\r\nconnection: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: x\r\nConnection: close\r\n\r\n",
    *(b"GET /show HTTP/1.1\r\n%s\r\n\r\n" % fields for fields in FIELDS),
    b"POST /show HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /show?q HTTP/1.1\r\nContent-Length: 5\r\nContent-Type: text/plain\r\nCookie: k=v\r\n\r\nhello",
    b"POST /show HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"POST /show HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"POST /show HTTP/1.1\r\nContent-Length: 5\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\na=1&b",
    b"POST /show?q=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    b"POST /show HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\nxyz",
    b"POST /show HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nxyz",
    b"POST /show HTTP/1.1\r\nContent-Length: +3\r\n\r\nxyz",
    b"POST /show HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /show HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /show HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 62\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nvalue\r\n--b--',
    b"POST /show HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /large HTTP/1.1\r\nContent-Length: 120000\r\n\r\n" + b"l" * 120000,
    b"PUT /none/such HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    b"BREW / HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET /show HTTP/1.1\nA: b\n\n",
    b"GET  /show HTTP/1.1\r\n\r\n",
    b"GET /sh\xffow HTTP/1.1\r\n\r\n",
    b"GET /show HTTP/2.0\r\n\r\n",
    b"GET /show\r\n\r\n",
    b"G@T /show HTTP/1.1\r\n\r\n",
    b"\r\nGET /show HTTP/1.1\r\n\r\n",
    b"\r\n\r\nGET /show HTTP/1.1\r\n\r\n",
    b"GET /" + b"s" * 17000 + b" HTTP/1.1\r\n\r\n",
    *(b"GET /%s HTTP/1.1\r\n\r\n" % path for path in PATHS.split()),
    b"GET /pieces HTTP/1.0\r\n\r\n",
    b"GET /known HTTP/1.1\r\nIf-None-Match: tag\r\n\r\n",
    b"GET /known HTTP/1.1\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:10 GMT\r\n\r\n",
    b"GET /gzip HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /headers HTTP/1.1\r\nConnection: close\r\n\r\n",
]

NAMES = b"small.html empty.tar.gz none %2e%2e/small.html sub sub/ sub/inner large.bin"
FILES = [
    *(b"GET /files/%s HTTP/1.1\r\n\r\n" % path for path in NAMES.split()),
    b"HEAD /files/small.html HTTP/1.1\r\n\r\n",
    b"GET /files/small.html HTTP/1.1\r\nRange: bytes=1-3\r\n\r\n",
    b"GET /files/small.html HTTP/1.1\r\nIf-Modified-Since: Thu, 01 Jan 2099 00:00:10 GMT\r\n\r\n",
]


def conversation(random, requests):
    """The bytes of some requests, in the pieces in which they arrive."""
    sent = b"".join(random.choice(requests) for _ in range(random.randint(1, 4)))
    return split(random, sent, 0.4)


def split(random, text, whole=0.5):
    """The pieces in which bytes arrive, one of them perhaps changed."""
    if random.random() < 0.1 and text:
        at = random.randrange(len(text))
        text = text[:at] + bytes([random.randrange(256)]) + text[at + 1 :]
    return [text] if random.random() < whole else cut(random, text)


def cut(random, text):
    """The text in pieces."""
    pieces = []
    while text:
        length = random.choice([1, 2, 7, 30, 100, 65536])
        pieces.append(text[:length])
        text = text[length:]
    return pieces


# Methods of requests and of channels that programs override.
REQUEST_STEPS = """gotLength handleContentChunk parseCookies requestReceived process render write finish setHeader
    getHeader notifyFinish setResponseCode registerProducer unregisterProducer connectionLost _cleanup""".split()
CHANNEL_STEPS = """dataReceived lineReceived headerReceived allHeadersReceived allContentReceived checkPersistence
    requestDone writeHeaders write writeSequence setTimeout resetTimeout rawDataReceived setLineMode""".split()


def overriding(cls, steps, seen):
    """A class that notes calls of some methods."""

    def noting(name):
        original = getattr(cls, name)

        def step(self, *args, **kw):
            seen.append([name, [repr(arg)[:80] for arg in args if isinstance(arg, (bytes, int, str, tuple))]])
            return original(self, *args, **kw)

        return step

    return type(cls.__name__, (cls,), {name: noting(name) for name in steps})


def overridden(made, random, seen):
    """Has a site use classes that override some steps."""
    steps = random.sample(REQUEST_STEPS, random.randint(0, 3))
    request = overriding(server.Request, steps, seen)
    if random.random() < 0.2:
        request.content = None
    if random.random() < 0.2:
        request.cookies = []
    if random.random() < 0.2:
        request.defaultContentType = random.choice([None, b"text/x", b"text/x\r\nX-Evil: 1"])
    if random.random() < 0.1:
        request.etag = b"of the class"
    made.requestFactory = (lambda *args: request(*args)) if random.random() < 0.3 else request
    channel = overriding(http.HTTPChannel, random.sample(CHANNEL_STEPS, random.randint(0, 2)), seen)
    if random.random() < 0.2:
        channel.totalHeadersSize, channel.maxHeaders = 1000, 3
    made.protocol = lambda: http._GenericHTTPChannelProtocol(channel())


def site(folder, clock, seen):
    """A site whose resources note their requests."""
    root = resource.Resource()

    def page(name, **more):
        """Adds a resource of this name, whose GET a function answers."""

        def adds(answer):
            renders = {f"render_{method}": lambda _, request, do=do: do(request) for method, do in more.items()}
            renders["render_GET"] = lambda _, request: answer(request)
            root.putChild(name.encode(), type(name.title(), (resource.Resource,), {"isLeaf": True, **renders})())
            return answer

        return adds

    def show(request):
        content = request.content.read()
        seen.append(
            [
                repr(value)
                for value in (
                    [request.method, request.uri, request.path, request.clientproto, request.args],
                    [request.prepath, request.postpath, request.sitepath],
                    list(request.requestHeaders.getAllRawHeaders()),
                    [request.getHeader("x-odd"), request.getHeader(b"etag"), request.getCookie(b"k")],
                    [request.received_cookies, request.getAllHeaders(), request.requestHeaders],
                    [request.client, request.host, request.isSecure(), request.getRequestHostname()],
                    [len(content), content[:99], request.code, request.startedWriting, request.finished],
                )
            ]
        )
        return b"shown\n"

    def large(request):
        seen.append([type(request.content).__name__, len(request.content.read())])
        return b"large\n"

    page("show", POST=show)(show)
    page("large", POST=large)(show)

    @page("later")
    def later(request):
        request.notifyFinish().addBoth(lambda result: seen.append(["finished", repr(result)[:60]]))
        if b"lost" in request.args:
            clock.callLater(1, request.loseConnection)
        else:
            clock.callLater(1, lambda: request._disconnected or (request.write(b"later\n"), request.finish()))
        return server.NOT_DONE_YET

    @page("pieces")
    def pieces(request):
        request.notifyFinish().addBoth(lambda result: seen.append(["finished", repr(result)[:60]]))
        request.setHeader("X-Text", "caf\xe9\r\nX-Evil: 1")
        request.write(b"")
        request.write(b"one\n")
        request.write(b"two\n")
        request.finish()
        return server.NOT_DONE_YET

    @page("known")
    def known(request):
        if request.setETag(b"tag") is http.CACHED or request.setLastModified(9.5) is http.CACHED:
            return b""
        return b"known\n"

    @page("cookies")
    def cookies(request):
        request.addCookie("a", "b", path="/", httpOnly=True)
        request.addCookie(b"c", b"d")
        if request.uri.endswith(b"?lines"):
            # Twisted makes a space of the end of a line.
            request.cookies.append(b"e=f\r\nX-Forged: yes")
        return b"cookies\n"

    @page("code")
    def code(request):
        request.setResponseCode(int(request.uri.partition(b"?")[2]))
        return b"body"

    @page("again")
    def again(request):
        """More data arrives while a request is answered."""

        request.channel.dataReceived(b"GET /show?again HTTP/1.1\r\n\r\n")
        return b"again\n"

    @page("headers")
    def headers(request):
        """A program reads and changes the headers of its answer."""

        request.setHeader(b"x-set", b"1")
        seen.append(shown(request))
        request.responseHeaders.setRawHeaders("server", ["other"])
        request.responseHeaders.addRawHeader(b"X-More", b"2")
        request.responseHeaders.addRawHeader(b"X-More", b"3")
        request.setHeader(b"x-set", b"4")
        seen.append(shown(request))
        return b"headers\n"

    # An instance encodes, and its class does not.
    declared = static.Data(b"d" * 99, "text/x")
    declared.getEncoder = server.GzipEncoderFactory().encoderForRequest
    directlyProvides(declared, resource._IEncodingResource)

    @page("fails")
    def fails(request):
        raise ValueError("no")

    page("text")(lambda request: "text")
    page("redirect")(lambda request: util.redirectTo(b"/else?where", request))
    for name, child in [
        ("", static.Data(b"hello\n", "text/plain")),
        ("declared", declared),
        ("empty", static.Data(b"", "text/plain")),
        ("big", static.Data(b"b" * 100_000, "application/octet-stream")),
        ("gzip", resource.EncodingResourceWrapper(static.Data(b"z" * 999, "text/x"), [server.GzipEncoderFactory()])),
        ("files", static.File(folder)),
    ]:
        root.putChild(name.encode(), child)
    return started(root, clock, seen)


def shown(request):
    """The headers of an answer, without the time."""
    return [repr(header) for header in request.responseHeaders.getAllRawHeaders() if header[0] != b"Date"]


def started(root, clock, seen, shows=False):
    """A site with this resource, which notes the lines of its log, and shows tracebacks if asked."""
    made = server.Site(root, reactor=clock)
    made.displayTracebacks = shows
    made.doStart()
    made._logFile = unittest.mock.Mock(write=lambda line: seen.append(["logged", line]))
    # Files are logged in other turns.
    made._logDateTimeCall.cancel()
    made._logDateTime = "[-]"
    return made


def connected(made):
    """The transport of a connection to the site, and its protocol, which is not connected yet."""
    transport = StringTransport(peerAddress=address.IPv4Address("TCP", "192.0.2.1", 999))
    # As a reactor's transports do.
    transport.protocol = made.buildProtocol(transport.getPeer())
    return transport, transport.protocol


def ended(transport, clock):
    """Ends a connection. Returns its state before, the times of calls, and the output."""
    calls = sorted(round(call.getTime() - clock.seconds(), 3) for call in clock.getDelayedCalls())
    state = [transport.disconnecting, transport.producerState]
    transport.protocol.connectionLost(Failure(error.ConnectionDone()))
    return state, calls, transport.value().decode("latin-1")


def answers(folder, seed, count):
    """The answers of the server, and the notes of its resources."""
    # Twisted's files are sent by tasks, whose turns are made here.
    turns = []
    task._theCooperator = task.Cooperator(scheduler=lambda turn: turns.append(turn) or unittest.mock.Mock())

    def finish_files():
        while turns:
            turns.pop()()

    for number in range(count):
        generator = random.Random(f"{seed} {number}")
        clock, seen = task.Clock(), []
        # Twisted sends a file in later turns, and Couplet a small one at once, so events come in another order.
        has_files = number % 3 == 0
        pieces = conversation(generator, PIECES + 3 * FILES if has_files else PIECES)
        made = site(folder, clock, seen)
        if number % 3 == 1:
            overridden(made, generator, seen)
        transport, protocol = connected(made)
        if generator.random() < 0.3:
            made.log = lambda request: seen.append(["logs", *shown(request)])
        protocol.makeConnection(transport)
        for piece in pieces:
            if transport.disconnecting:
                break
            try:
                protocol.dataReceived(piece)
            except Exception as raised:
                # The transport would end the connection. A request after a file may be read in a later turn.
                if not has_files:
                    seen.append(["raised", repr(raised)])
                break
            finish_files()
            if generator.random() < 0.2:
                clock.advance(1)
        for _ in range(3):
            clock.advance(1)
            finish_files()
        state, calls, output = ended(transport, clock)
        state.append(None if has_files else calls)
        if has_files:
            seen.sort()
        yield VARYING.sub("-", json.dumps([number, [len(piece) for piece in pieces][:9], state, seen, output]))


def main():
    _, folder, seed, count = sys.argv[1:]
    for line in answers(folder, int(seed), int(count)):
        print(line)


if __name__ == "__main__":
    main()

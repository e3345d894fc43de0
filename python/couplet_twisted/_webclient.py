"""
A faster client of C{twisted.web}: the same classes, whose most frequent steps are Couplet's. L{install} replaces
methods of L{twisted.web.client} and L{twisted.web._newclient}; programs keep their imports.

Couplet parses a response whose head is plain and arrives as a whole; Twisted parses all others, such as an interim
response or one with a malformed line. A request without a body is written immediately. A protocol or a parser whose
class overrides one of Twisted's steps takes Twisted's steps.
"""

import functools

from twisted.internet import endpoints
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web._newclient import (
    BODY,
    HEADER,
    STATUS,
    HTTP11ClientProtocol,
    HTTPClientParser,
    Request,
    RequestGenerationFailed,
    Response,
    ResponseDone,
    TransportProxyProducer,
    _moduleLog,
)
from twisted.web.client import (
    URI,
    HTTPConnectionPool,
    _AgentBase,
    _ReadBodyProtocol,
    _RetryingHTTP11ClientProtocol,
)
from twisted.web.http import _IdentityTransferDecoder
from twisted.web.http_headers import Headers

from couplet_twisted._couplet import add_header, is_sound, parse_response, request_head, set_headers, split_uri
from couplet_twisted._webcommon import Kinds, Received, canonicalNames, has, originals, replace, takeIdle

__all__ = ["install"]

_VERSIONS = {True: (b"HTTP", 1, 1), False: (b"HTTP", 1, 0)}

# Names of hosts that are remembered, and their length.
_MOST_HOSTS = 1000
_LONGEST_HOST = 255

# Whether a parser reads heads as Twisted's does.
_parsers = Kinds(
    lambda cls: has(
        cls,
        HTTPClientParser,
        *"lineReceived headerReceived statusReceived parseVersion isConnectionControlHeader connectionMade".split(),
        *"CONNECTION_CONTROL_HEADERS delimiter lineLengthExceeded allHeadersReceived".split(),
    )
)

# Whether a request without a body is written as Twisted's are.
_requests = Kinds(lambda cls: has(cls, Request, "writeTo", "_writeHeaders", "_writeToEmptyBodyContentLength"))


# The parts of a request.


@functools.lru_cache(_MOST_HOSTS)
def _host(host, idnaBytes, idnaText):
    return originals[HostnameEndpoint, "_hostAsBytesAndText"](host)


def hostAsBytesAndText(host):
    """
    @see: L{HostnameEndpoint._hostAsBytesAndText}
    """
    if len(host) > _LONGEST_HOST:
        return originals[HostnameEndpoint, "_hostAsBytesAndText"](host)
    # Programs replace these two.
    return _host(host, endpoints._idnaBytes, endpoints._idnaText)


def fromBytes(cls, uri, defaultPort=None):
    """
    @see: L{URI.fromBytes}
    """
    parts = split_uri(uri, defaultPort) if uri.__class__ is bytes else None
    if parts is None:
        return originals[URI, "fromBytes"].__func__(cls, uri, defaultPort)
    return cls(*parts)


def originForm(self):
    """
    @see: L{URI.originForm}
    """
    path, query = self.path, self.query
    if self.params or path[:1] != b"/" or path[:2] == b"//" or query.__class__ is not bytes:
        return originals[URI, "originForm"].__get__(self)
    return path + b"?" + query if query else path


def setRawHeaders(self, name, values):
    """
    @see: L{Headers.setRawHeaders}
    """
    if not set_headers(self._rawHeaders, canonicalNames, name, values):
        originals[Headers, "setRawHeaders"](self, name, values)


def addRawHeader(self, name, value):
    """
    @see: L{Headers.addRawHeader}
    """
    if not add_header(self._rawHeaders, canonicalNames, name, value):
        originals[Headers, "addRawHeader"](self, name, value)


def requestInit(self, method, uri, headers, bodyProducer, persistent=False):
    """
    @see: L{Request.__init__}
    """
    if method.__class__ is not bytes or uri.__class__ is not bytes or not is_sound(method, uri):
        originals[Request, "__init__"](self, method, uri, headers, bodyProducer, persistent)
        return
    self.method = method
    self.uri = uri
    self.headers = headers
    self.bodyProducer = bodyProducer
    self.persistent = persistent
    self._parsedURI = None


def computeHostValue(self, scheme, host, port):
    """
    @see: L{_AgentBase._computeHostValue}
    """
    if b":" in host or not host.isascii():
        return originals[_AgentBase, "_computeHostValue"](self, scheme, host, port)
    if port == 80 and scheme == b"http" or port == 443 and scheme == b"https":
        return host
    return b"%b:%d" % (host, port)


# The connection of a request.


def _idle(pool, key, endpoint):
    """
    Take an idle connection out of a pool.

    @return: The connection, or L{None}.
    """
    connection = takeIdle(pool, key)
    if connection is not None and pool.retryAutomatically:
        return _RetryingHTTP11ClientProtocol(connection, lambda: pool._newConnection(key, endpoint))
    return connection


def getConnection(self, key, endpoint):
    """
    @see: L{HTTPConnectionPool.getConnection}
    """
    connection = _idle(self, key, endpoint)
    return self._newConnection(key, endpoint) if connection is None else succeed(connection)


# Whether a pool gives out connections as Twisted's does.
_pools = Kinds(lambda cls: has(cls, HTTPConnectionPool, "getConnection"))


def _issue(connection, pool, method, uri, headers, bodyProducer, parsedURI):
    """
    Send a request on a connection.
    """
    request = Request._construct(
        method, uri, headers, bodyProducer, persistent=pool.persistent, parsedURI=parsedURI
    )
    return connection.request(request)


def requestWithEndpoint(self, key, endpoint, method, parsedURI, headers, bodyProducer, requestPath):
    """
    @see: L{_AgentBase._requestWithEndpoint}
    """
    pool = self._pool
    if not _pools[pool.__class__] or method.__class__ is not bytes or not is_sound(method, b"/"):
        return originals[_AgentBase, "_requestWithEndpoint"](
            self, key, endpoint, method, parsedURI, headers, bodyProducer, requestPath
        )
    if headers is None or not headers.hasHeader(b"Host"):
        headers = Headers() if headers is None else headers.copy()
        headers.addRawHeader(b"Host", self._computeHostValue(parsedURI.scheme, parsedURI.host, parsedURI.port))
    arguments = pool, method, requestPath, headers, bodyProducer, parsedURI
    connection = _idle(pool, key, endpoint)
    if connection is None:
        return pool._newConnection(key, endpoint).addCallback(_issue, *arguments)
    return maybeDeferred(_issue, connection, *arguments)


# The protocol.


def _cancel(protocol, deferred):
    """
    Give up a request that was sent.
    """
    protocol.transport.abortConnection()
    protocol._disconnectParser(Failure(CancelledError()))


def request(self, request):
    """
    @see: L{HTTP11ClientProtocol.request}
    """
    head = _head(request) if self._state == "QUIESCENT" else None
    if head is None:
        return originals[HTTP11ClientProtocol, "request"](self, request)
    self._state = "TRANSMITTING"
    failure = None
    try:
        self.transport.writeSequence((head,))
    except BaseException:
        failure = Failure()
    self._finishedRequest = finished = Deferred(functools.partial(_cancel, self))
    self._currentRequest = request
    self._transportProxy = TransportProxyProducer(self.transport)
    self._parser = parser = HTTPClientParser.__new__(HTTPClientParser)
    parser.request = request
    parser.finisher = self._finishResponse
    parser._responseDeferred = self._responseDeferred = finished
    parser._everReceivedData = False
    parser.makeConnection(self._transportProxy)
    if failure is None:
        self._state = "WAITING"
    else:
        self._state = "GENERATION_FAILED"
        self.transport.abortConnection()
        finished.errback(Failure(RequestGenerationFailed([failure])))
    return finished


def _head(request):
    """
    The head of a request without a body; L{None} if Twisted is to write it.
    """
    if not _requests[request.__class__] or request.bodyProducer is not None:
        return None
    method, headers = request.method, request.headers
    if headers.__class__ is not Headers and headers.__class__ is not Received:
        return None
    framing = b"Content-Length: 0\r\n" if method in (b"PUT", b"POST") else None
    return request_head(method, request.uri, not request.persistent, framing, headers._rawHeaders)


# The response.


def dataReceived(self, data):
    """
    @see: L{HTTPClientParser.dataReceived}
    """
    self._everReceivedData = True
    if self._buffer or self._busyReceiving or self.paused or data.__class__ is not bytes:
        LineReceiver.dataReceived(self, data)
        return
    self._busyReceiving = True
    try:
        if self.state is STATUS and _parsers[self.__class__]:
            data = _begin(self, data)
        if data and self.state is BODY and not self.paused:
            self.rawDataReceived(data)
            data = b""
    finally:
        self._busyReceiving = False
    if data or self._buffer:
        data, self._buffer = data + self._buffer, b""
        LineReceiver.dataReceived(self, data)


def _begin(self, data):
    """
    Begin a response whose head is plain.

    @return: The data after its head; all the data if the head is not plain.
    """
    head = parse_response(data, self.request.method == b"HEAD", self.MAX_LENGTH)
    if head is None:
        return data
    end, isNew, code, phrase, length, control, fields = head
    self.connHeaders._rawHeaders = control
    self.headers = Received(fields)
    self.response = response = Response._construct(
        _VERSIONS[isNew], code, phrase, self.headers, self.transport, self.request
    )
    self.state = HEADER
    if not length:
        self._buffer = data[end:]
        self.allHeadersReceived()
        return b""
    response.length = length
    self.transport.pauseProducing()
    decoder = _IdentityTransferDecoder(length, response._bodyDataReceived, self._finished)
    self.switchToBodyMode(decoder)
    self._responseDeferred.callback(response)
    del self._responseDeferred
    return data[end:]


def finishResponse(self, rest):
    """
    @see: L{HTTP11ClientProtocol._finishResponse_WAITING}
    """
    parser = self._parser
    if (
        self._state != "WAITING"
        or parser is None
        or not self._currentRequest.persistent
        or b"close" in parser.connHeaders.getRawHeaders(b"Connection", ())
    ):
        originals[HTTP11ClientProtocol, "_finishResponse_WAITING"](self, rest)
        return
    self._state = "QUIESCENT"
    self.transport.resumeProducing()
    try:
        self._quiescentCallback(self)
    except BaseException:
        with _moduleLog.failuresHandled("while invoking quiescent callback:"):
            raise
        self.transport.loseConnection()
    self._disconnectParser(ConnectionDone("synthetic!"))


def bodyLost(self, reason):
    """
    @see: L{_ReadBodyProtocol.connectionLost}
    """
    if reason.__class__ is Failure and reason.type is ResponseDone:
        self.deferred.callback(b"".join(self.dataBuffer))
    else:
        originals[_ReadBodyProtocol, "connectionLost"](self, reason)


_STEPS = [
    (Headers, "setRawHeaders", setRawHeaders),
    (Headers, "addRawHeader", addRawHeader),
    (HTTPConnectionPool, "getConnection", getConnection),
    (_AgentBase, "_requestWithEndpoint", requestWithEndpoint),
    (HTTP11ClientProtocol, "request", request),
    (HTTPClientParser, "dataReceived", dataReceived),
    (HTTP11ClientProtocol, "_finishResponse_WAITING", finishResponse),
    (Request, "__init__", requestInit),
    (_AgentBase, "_computeHostValue", computeHostValue),
    (_ReadBodyProtocol, "connectionLost", bodyLost),
]


def install():
    """
    Replace Twisted's steps. A second call changes nothing.
    """
    if (HTTPClientParser, "dataReceived") in originals:
        return
    for cls, name, step in _STEPS:
        replace(cls, name, step)
    for cls, name, step in [
        (URI, "fromBytes", classmethod(fromBytes)),
        (URI, "originForm", property(originForm)),
        (HostnameEndpoint, "_hostAsBytesAndText", staticmethod(hostAsBytesAndText)),
    ]:
        originals[cls, name] = cls.__dict__[name]
        setattr(cls, name, step)

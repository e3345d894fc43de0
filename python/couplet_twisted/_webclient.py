"""
A faster client of C{twisted.web}: the same classes, whose most frequent steps are Couplet's. L{install} replaces
methods of L{twisted.web.client} and L{twisted.web._newclient}; programs keep their imports.

A response whose head arrives as a whole and is plain is parsed by Couplet; anything else, such as an interim response
or a malformed line, by Twisted. A request without a body is written at once. A protocol or a parser whose class
overrides one of Twisted's steps takes these steps.
"""

import functools

from twisted.internet import endpoints
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import _newclient
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
from twisted.web.http_headers import Headers

from couplet_twisted._couplet import copy_headers, is_token, parse_response, request_head, split_uri
from couplet_twisted._webcommon import Kinds, Received, canonicalNames, has, originals, replace

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
        *"CONNECTION_CONTROL_HEADERS delimiter lineLengthExceeded".split(),
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


def copy(self):
    """
    @see: L{Headers.copy}
    """
    raw = copy_headers(self._rawHeaders, canonicalNames) if self.__class__ is Headers else None
    if raw is None:
        return originals[Headers, "copy"](self)
    made = Headers.__new__(Headers)
    made._rawHeaders = raw
    return made


def istoken(text):
    """
    @see: L{twisted.web._abnf._istoken}
    """
    return is_token(text) if text.__class__ is bytes else originals[_newclient, "_istoken"](text)


# The connection of a request.


def _idle(pool, key, endpoint):
    """
    Take an idle connection out of a pool.

    @return: The connection, or L{None}.
    """
    connections = pool._connections.get(key)
    while connections:
        connection = connections.pop(0)
        pool._timeouts.pop(connection).cancel()
        if connection.state == "QUIESCENT":
            if pool.retryAutomatically:
                return _RetryingHTTP11ClientProtocol(connection, lambda: pool._newConnection(key, endpoint))
            return connection
    return None


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
    if not _pools[pool.__class__] or method.__class__ is not bytes or not is_token(method):
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
    try:
        return _issue(connection, *arguments)
    except BaseException:
        return fail()


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
    self._parser = HTTPClientParser(request, self._finishResponse)
    self._parser.makeConnection(self._transportProxy)
    self._responseDeferred = self._parser._responseDeferred = finished
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
    headers = request.headers
    if request.bodyProducer is not None or not _requests[request.__class__] or headers.__class__ is not Headers:
        return None
    method = request.method
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
        if self.state is BODY:
            self.rawDataReceived(data)
        else:
            self._buffer = data
            if self.state is STATUS and _parsers[self.__class__]:
                _begin(self, data)
    finally:
        self._busyReceiving = False
    if self._buffer:
        LineReceiver.dataReceived(self, b"")


def _begin(self, data):
    """
    Begin a response whose head is plain.
    """
    head = parse_response(data, self.request.method == b"HEAD", self.MAX_LENGTH)
    if head is None:
        return
    length, isNew, code, phrase, control, fields = head
    self._buffer = data[length:]
    self.connHeaders._rawHeaders = control
    self.headers = Received(fields)
    self.response = Response._construct(
        _VERSIONS[isNew], code, phrase, self.headers, self.transport, self.request
    )
    self.state = HEADER
    self.allHeadersReceived()


_STEPS = [
    (Headers, "copy", copy),
    (HTTPConnectionPool, "getConnection", getConnection),
    (_AgentBase, "_requestWithEndpoint", requestWithEndpoint),
    (HTTP11ClientProtocol, "request", request),
    (HTTPClientParser, "dataReceived", dataReceived),
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
        (_newclient, "_istoken", istoken),
    ]:
        originals[cls, name] = cls.__dict__[name]
        setattr(cls, name, step)

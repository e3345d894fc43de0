"""
A faster C{twisted.web}: the same classes, whose most frequent steps are Couplet's. L{install} replaces methods of
L{twisted.web.http} and L{twisted.web.server}; programs keep their imports.

Couplet parses a request whose head is plain and arrives as a whole; Twisted parses all others, such as one with a
malformed line. Rarely used parts of a request, such as its addresses or its arguments, are made on first use. A
channel, a request or a resource whose class overrides one of Twisted's steps takes Twisted's steps.
"""

import functools
import inspect
import sys
from io import BytesIO

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.basic import LineReceiver
from twisted.python.components import globalRegistry
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http import (
    _QUEUED_SENTINEL,
    HTTPChannel,
    HTTPFactory,
    Request,
    _GenericHTTPChannelProtocol,
    _hostHeaderExpression,
    _IdentityTransferDecoder,
    combinedLogFormatter,
    datetimeToString,
    networkString,
    parse_qs,
    unquote,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.resource import Resource, _IEncodingResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Site, version
from twisted.web.server import Request as SiteRequest
from zope.interface import implementedBy
from zope.interface.declarations import ObjectSpecificationDescriptor

from couplet_twisted._couplet import Connection, Learned, Receiver, Steps, combined_line, parse_head
from couplet_twisted._webcommon import Kinds, Received, canonicalNames, has, originals, replace

__all__ = ["giveHeaders", "install", "plainClass", "readers", "steps"]

# Bodies of requests from this size on are written to a file, as by Twisted.
_LARGE_BODY = 100_000


class _Lazy:
    """
    An attribute that is made on first use. From then on, or once it is set, it is the instance's own.
    """

    def __init__(self, name, make, default=None):
        self.name = name
        self.make = make
        self.default = default

    def __get__(self, request, owner):
        if request is None:
            return self.default
        made = self.make(request)
        if made is not None:
            setattr(request, self.name, made)
        return made


def _content(request):
    """
    The body of a request that has none.
    """
    return BytesIO() if request._couplet_isEmpty else None


def _arguments(request):
    """
    The arguments in the target of a request.
    """
    query = request._couplet_query
    if query is None:
        return None
    return parse_qs(query, 1) if query else {}


def _requestHeaders(request):
    """
    The headers that a request was received with.
    """
    fields = request._couplet_fields
    return Headers() if fields is None else Received(fields)


def _receivedCookies(request):
    """
    The cookies of a request.
    """
    request.received_cookies = {}
    if request._couplet_fields is not None:
        request.parseCookies()
    return request.received_cookies


def _responseHeaders(request):
    """
    The headers of the answer to a request that Couplet has begun.
    """
    raw = request._couplet_raw
    if raw is None:
        return None
    headers = Headers()
    headers._rawHeaders = raw.raw()
    return headers


def _notifications(request):
    """
    The Deferreds that wait for the end of a request.
    """
    route = request._couplet_route
    return [] if route is None else route.notifications(request)


def _adapters(request):
    """
    The adapters of a request.
    """
    route = request._couplet_route
    return {} if route is None else route.adapters(request)


_LAZY = [
    _Lazy("notifications", _notifications),
    _Lazy("client", lambda request: request._couplet_channel.getPeer()),
    _Lazy("host", lambda request: request._couplet_channel.getHost()),
    _Lazy("requestHeaders", _requestHeaders),
    _Lazy("responseHeaders", _responseHeaders),
    _Lazy("received_cookies", _receivedCookies),
    _Lazy("cookies", lambda request: []),
    _Lazy("content", _content),
    _Lazy("args", _arguments),
]
_CACHE = _Lazy("_adapterCache", _adapters)

# Attributes that are false until a request has them itself, which is how Couplet reads them.
_STATE = "finished _disconnected startedWriting chunked producer lastModified etag".split()


# Whether a channel writes as Twisted's does, or is a stream of L{couplet_twisted._web2}.
_writes = Kinds(
    lambda cls: has(cls, HTTPChannel, "writeHeaders", "write", "writeSequence") or hasattr(cls, "_couplet_answer")
)

# Whether a channel also reads as Twisted's does.
_reads = Kinds(
    lambda cls: _writes[cls]
    and has(
        cls,
        HTTPChannel,
        *"lineReceived headerReceived allHeadersReceived allContentReceived checkPersistence rawDataReceived".split(),
        *"dataReceived setLineMode setRawMode setTimeout resetTimeout delimiter _maybeChooseTransferDecoder".split(),
        *"paused _busyReceiving _buffer _HTTPChannel__first_line".split(),
    )
)


class _Kind:
    """
    A class of requests.

    @ivar isLazy: Whether its attributes are made on first use.

    @ivar begins: Whether a new request has only Twisted's attributes.

    @ivar starts: Whether the channel may skip the steps that a request without a body and cookies does not need.

    @ivar processes: Whether it is processed as Twisted's are.

    @ivar answers: Whether an answer may leave as one string.

    @ivar finishes: Whether it is cleaned up as Twisted's are.

    @ivar isPlain: Whether it has all of Twisted's steps.
    """

    def __init__(self, cls):
        self.isLazy = has(cls, Request, *(lazy.name for lazy in _LAZY), *_STATE)
        self.begins = has(cls, Request, "__init__") or has(cls, SiteRequest, "__init__")
        self.starts = self.isLazy and has(cls, Request, "parseCookies", "handleContentChunk")
        self.starts = self.starts and (has(cls, Request, "gotLength") or has(cls, SiteRequest, "gotLength"))
        self.processes = self.isLazy and has(cls, SiteRequest, "setHeader", "_encoder", "_inFakeHead")
        self.finishes = self.isLazy and has(cls, Request, "_cleanup")
        self.answers = self.processes and self.finishes and has(cls, SiteRequest, "write", "finish")
        self.isPlain = self.answers and self.starts and self.begins
        self.isPlain = self.isPlain and has(cls, SiteRequest, "requestReceived", "process", "render", *_OBJECT)


# Attributes, apart from the steps, that a plain class of requests does not override.
_OBJECT = ["__new__", "__setattr__", "__getattribute__", "__dict__"]

_kinds = Kinds(_Kind)


# The channel.


def dataReceived(self, data):
    """
    @see: L{HTTPChannel.dataReceived}
    """
    data = steps.receive(self, data)
    if data is not None:
        _receiveOther(self, data)


def _receiveOther(self, data):
    """
    Receive data that Couplet's steps do not receive as a whole.
    """
    while steps.is_ready(self) and _reads[self.__class__]:
        head = parse_head(data, self.maxHeaders, min(self.totalHeadersSize, self.MAX_LENGTH))
        if head is None:
            break
        self._busyReceiving = True
        try:
            data = _begin(self, data, *head)
        finally:
            self._busyReceiving = False
        if self._buffer:
            data, self._buffer = data + self._buffer, b""
        if not data or self.transport and self.transport.disconnecting:
            return
    self.resetTimeout()
    LineReceiver.dataReceived(self, data)


def _learn(self):
    """
    Learn how a channel makes requests.

    @return: The L{Learned} that Couplet's steps use.
    """
    factory = self.requestFactory
    self._couplet_isQueued = isQueued = not INonQueuedRequestFactory.providedBy(factory)
    self._couplet_queued = 0 if isQueued else False
    self._couplet_makesFiles = hasattr(getattr(self, "site", None), "getContentFile")
    cls = plainClass(factory) if _reads[self.__class__] else None
    limits = self.maxHeaders, min(self.totalHeadersSize, self.MAX_LENGTH)
    self._couplet_learned = Learned(factory, cls, self._couplet_makesFiles, *limits)
    if cls is not None:
        _shorten(self)
    return self._couplet_learned


def _shorten(channel):
    """
    Have the wrapper of a channel pass data to Couplet, if the wrapper chose HTTP/1.1 and is Twisted's.
    """
    wrapper = getattr(channel.transport, "protocol", None)
    if (
        wrapper.__class__ is _GenericHTTPChannelProtocol
        and wrapper._channel is channel
        and wrapper._negotiatedProtocol == b"http/1.1"
        and _GenericHTTPChannelProtocol.dataReceived is _dataReceivedOfWrapper
        and channel.__class__.dataReceived is dataReceived
    ):
        wrapper.dataReceived = Receiver(steps, channel)


def plainClass(factory):
    """
    The class of the requests that a factory makes, if it has all of Twisted's steps.
    """
    isPlain = isinstance(factory, type) and _kinds[factory].isPlain and server.datetimeToString is datetimeToString
    return factory if isPlain else None


def _failed(request, error):
    """
    Answer a request whose processing failed.
    """
    try:
        raise error
    except BaseException:
        request.processingFailed(Failure())


class _Body:
    """
    A body of a request that has arrived in part: a decoder, as in Twisted.
    """

    def __init__(self, channel, request, length, data, start):
        self._channel = channel
        self._request = request
        self._missing = length - len(data) + start
        self._parts = [memoryview(data)[start:]]

    def dataReceived(self, data):
        missing = self._missing
        if len(data) < missing:
            self._missing -= len(data)
            self._parts.append(data)
            return
        self._parts.append(data[:missing])
        body = b"".join(self._parts)
        rest = data[missing:]
        if self._request._couplet_raw is None:
            self._request.content = _file(body)
            self._channel._finishRequestBody(rest)
        else:
            self._request.content = BytesIO(body)
            _finishBody(self._channel, self._request, rest)


def _finishBody(channel, request, rest):
    """
    Serve a request that Couplet has begun, once its body is there.

    @see: L{HTTPChannel.allContentReceived}
    """
    channel.length = 0
    channel._HTTPChannel__first_line = 1
    channel._transferDecoder = None
    channel._handlingRequest = True
    channel._couplet_isStarting = bool(channel.timeOut)
    if rest:
        channel._dataBuffer.append(rest)
    steps.serve(channel, request)


def _wait(self, request, length, data, start):
    """
    Wait for the rest of a body whose beginning is in the data.
    """
    self.resetTimeout()
    self._HTTPChannel__first_line = 0
    self.length = length
    self._transferDecoder = _Body(self, request, length, data, start)


def _file(body):
    """
    A body as a file, written to its end.
    """
    content = BytesIO(body)
    content.seek(0, 2)
    return content


def _begin(self, data, end, method, target, version, length, stays, hasCookies, waits, fields):
    """
    Start the request of a head, and process it if its body is there.

    @return: The data after the request.
    """
    factory = self.requestFactory
    request = factory(self, len(self.requests)) if self._couplet_isQueued else factory(self)
    self.requests.append(request)
    kind = giveHeaders(request, fields)
    if hasCookies or not kind.starts:
        request.parseCookies()
    if "checkPersistence" in self.__dict__:
        stays = self.checkPersistence(request, version)
    elif not stays and version == b"HTTP/1.1":
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
    self.persistent = stays
    isOurs = kind.starts and length < _LARGE_BODY and not self._couplet_makesFiles
    if not isOurs:
        request.gotLength(length)
    if waits:
        self._send100Continue()
    self.line_mode = 0
    rest = data[end + length :]
    if length and (not isOurs or len(data) < end + length):
        self._command, self._path, self._version = method, target, version
        _wait(self, request, length, data, end)
        if isOurs:
            return b""
        self._transferDecoder = _IdentityTransferDecoder(length, request.handleContentChunk, self._finishRequestBody)
        return data[end:]
    if length:
        request.content = _file(data[end : end + length])
    elif isOurs:
        request._couplet_isEmpty = True
    self._handlingRequest = True
    if not self.timeOut:
        request.requestReceived(method, target, version)
        return rest
    # The idle timeout is stopped only for a request that is not finished at once.
    self._couplet_isStarting = True
    try:
        request.requestReceived(method, target, version)
    finally:
        if self._couplet_isStarting:
            self._couplet_isStarting = False
            self._savedTimeOut = self.setTimeout(None)
    return rest


def giveHeaders(request, fields):
    """
    Give a request the headers that were received for it.

    @return: The L{_Kind} of its class.
    """
    kind = _kinds[request.__class__]
    if kind.isLazy and (kind.begins or "requestHeaders" not in request.__dict__):
        request.requestHeaders = Received(fields)
    else:
        for name, values in fields.raw().items():
            for value in values:
                request.requestHeaders.addRawHeader(name, value)
    return kind


def requestDone(self, request):
    """
    @see: L{HTTPChannel.requestDone}
    """
    if steps.done(self, request):
        return
    if self._couplet_isStarting:
        self._couplet_isStarting = False
        self._savedTimeOut = self.setTimeout(None)
    originals[HTTPChannel, "requestDone"](self, request)


def isSecure(self):
    """
    @see: L{HTTPChannel.isSecure}
    """
    transport = self.transport
    if _isClear[transport.__class__] and "__provides__" not in transport.__dict__:
        return False
    return originals[HTTPChannel, "isSecure"](self)


def _isClearClass(cls):
    """
    Whether the instances of a class of transports are secure only if they say so themselves, as connections do on
    which TLS was started.
    """
    provided = implementedBy(cls)
    isAdapted = hasattr(cls, "__conform__") or globalRegistry.lookup1(provided, ISSLTransport) is not None
    return issubclass(cls, Connection) and not isAdapted and not provided.isOrExtends(ISSLTransport)


_isClear = Kinds(_isClearClass)

# Whether a class of transports writes and resumes as Couplet's connections do.
_connections = Kinds(lambda cls: has(cls, Connection, "write", "writeSequence", "resumeProducing"))


# The request.


def requestInit(self, channel, queued=_QUEUED_SENTINEL, parsePOSTFormSubmission=True):
    """
    @see: L{Request.__init__}
    """
    if not _writes[channel.__class__] or not _kinds[self.__class__].isLazy:
        originals[Request, "__init__"](self, channel, queued, parsePOSTFormSubmission)
        return
    self.channel = self._couplet_channel = channel
    self.transport = channel.transport
    self.responseHeaders = Headers()
    self.queued = False if queued is _QUEUED_SENTINEL else queued
    self._parsePOSTFormSubmission = parsePOSTFormSubmission


def siteRequestInit(self, channel, *args, parsePOSTFormSubmission=None, **kw):
    """
    @see: L{SiteRequest.__init__}
    """
    if parsePOSTFormSubmission is None:
        parsePOSTFormSubmission = channel.site._parsePOSTFormSubmission
    Request.__init__(self, channel, *args, parsePOSTFormSubmission=parsePOSTFormSubmission, **kw)


def requestReceived(self, command, path, version):
    """
    @see: L{Request.requestReceived}
    """
    if not self._couplet_isEmpty:
        originals[Request, "requestReceived"](self, command, path, version)
        return
    self.method, self.uri, self.clientproto = command, path, version
    self.path, _, self._couplet_query = path.partition(b"?")
    self.process()


def _isOurs(request):
    """
    Whether an answer is sent as Twisted's are.
    """
    return _kinds[request.__class__].isLazy and _writes[getattr(request, "channel", None).__class__]


def write(self, data):
    """
    @see: L{Request.write}
    """
    if self.startedWriting or not (_isOurs(self) and steps.write(self, data)):
        originals[Request, "write"](self, data)


def siteWrite(self, data):
    """
    @see: L{SiteRequest.write}
    """
    if self.startedWriting or not (_isOurs(self) and steps.write_of_site(self, data)):
        originals[SiteRequest, "write"](self, data)


def finish(self):
    """
    @see: L{Request.finish}
    """
    if not (_kinds[self.__class__].finishes and steps.finish(self)):
        originals[Request, "finish"](self)


def getHeader(self, key):
    """
    @see: L{Request.getHeader}
    """
    found = steps.header(self, key)
    return originals[Request, "getHeader"](self, key) if found is NotImplemented else found


def getRequestHostname(self):
    """
    @see: L{Request.getRequestHostname}
    """
    host = self.getHeader(b"Host")
    if host is not None:
        name, colon, port = host.partition(b":")
        if name.replace(b".", b"").replace(b"-", b"").isalnum() and (not colon or port.isdigit()):
            return name
        match = _hostHeaderExpression.match(host)
        if match is not None:
            return match.group("host")
    return networkString(self.getHost().host)


def setHeader(self, name, value):
    """
    @see: L{Request.setHeader}
    """
    if not steps.set_header(self, name, value):
        self.responseHeaders.setRawHeaders(name, [value])


def log(self, request):
    """
    @see: L{HTTPFactory.log}
    """
    logFile = self._logFile
    if logFile is None:
        return
    if self._logFormatter is not combinedLogFormatter or not _kinds[request.__class__].isLazy:
        originals[HTTPFactory, "log"](self, request)
        return
    address = request.getClientAddress()
    logFile.write(
        combined_line(
            address.host if isinstance(address, (IPv4Address, IPv6Address)) else "-",
            str(self._logDateTime),
            request.method,
            request.uri,
            request.clientproto,
            request.code,
            request.sentLength,
            request.getHeader(b"referer"),
            request.getHeader(b"user-agent"),
        )
    )


# The requests and the resources of a site.

# For a class of resources: whether they may encode. Others do so only if they say it themselves.
_encodes = Kinds(
    lambda cls: _IEncodingResource.implementedBy(cls)
    or hasattr(cls, "__getattr__")
    or not isinstance(inspect.getattr_static(cls, "__providedBy__", None), ObjectSpecificationDescriptor)
)

# For a class of resources: a function that reads its content for a request, or returns None.
readers = Kinds(lambda cls: None)


def process(self):
    """
    @see: L{SiteRequest.process}
    """
    path = self.path
    if path == b"*" or not _kinds[self.__class__].processes or server.datetimeToString is not datetimeToString:
        originals[SiteRequest, "process"](self)
        return
    self.site = self.channel.site
    raw = self.responseHeaders._rawHeaders
    raw[b"Server"] = [version]
    raw[b"Date"] = [steps.now()]
    self.prepath, self.sitepath = [], []
    names = path[1:].split(b"/")
    self.postpath = list(map(unquote, names)) if b"%" in path else names
    try:
        self.render(steps.resource(self))
    except BaseException:
        self.processingFailed(Failure())


class _Rendered:
    """
    A resource that was rendered already: the first call of C{render} has that outcome.
    """

    def __init__(self, resource, result):
        self._resource = resource
        self._result = result

    def render(self, request):
        result, self._result = self._result, None
        if result is None:
            return self._resource.render(request)
        return result()

    def __repr__(self):
        return repr(self._resource)


def render(self, resrc):
    """
    @see: L{SiteRequest.render}
    """
    isOurs = _kinds[self.__class__].answers and _writes[self.channel.__class__]
    if isOurs and self.method != b"HEAD":
        steps.render(self, resrc)
    else:
        originals[SiteRequest, "render"](self, resrc)


def _renderOther(self, resrc, body, error=None):
    """
    Answer a request with the result of a resource that Twisted's code is to send.
    """

    def result():
        if error is not None:
            raise error
        return body

    originals[SiteRequest, "render"](self, _Rendered(resrc, result))


def resourceRender(self, request):
    """
    @see: L{Resource.render}
    """
    name = _RENDERERS.get(request.method)
    found = name and getattr(self, name, None)
    return found(request) if found else originals[Resource, "render"](self, request)


_RENDERERS = {method.encode(): f"render_{method}" for method in ("GET", "POST", "HEAD", "PUT", "DELETE")}


def getResourceFor(self, request):
    """
    @see: L{Site.getResourceFor}
    """
    request.site = self
    request.sitepath = request.prepath[:]
    return getChildForRequest(self.resource, request)


def getStateToCopyFor(self, issuer):
    """
    @see: L{SiteRequest.getStateToCopyFor}
    """
    for lazy in [*_LAZY, _CACHE]:
        getattr(self, lazy.name)
    state = originals[SiteRequest, "getStateToCopyFor"](self, issuer)
    return {name: value for name, value in state.items() if not name.startswith("_couplet_")}


_dateOf = functools.lru_cache(4096)(datetimeToString)
_new = object.__new__

_dataReceivedOfWrapper = _GenericHTTPChannelProtocol.dataReceived

steps = Steps(sys.modules[__name__])

_STEPS = [
    (HTTPChannel, "dataReceived", dataReceived),
    (HTTPChannel, "requestDone", requestDone),
    (HTTPChannel, "isSecure", isSecure),
    (Request, "__init__", requestInit),
    (Request, "requestReceived", requestReceived),
    (Request, "write", write),
    (Request, "finish", finish),
    (Request, "getHeader", getHeader),
    (Request, "setHeader", setHeader),
    (Request, "getRequestHostname", getRequestHostname),
    (HTTPFactory, "log", log),
    (SiteRequest, "__init__", siteRequestInit),
    (SiteRequest, "write", siteWrite),
    (SiteRequest, "process", process),
    (SiteRequest, "render", render),
    (SiteRequest, "getStateToCopyFor", getStateToCopyFor),
    (Site, "getResourceFor", getResourceFor),
    (Resource, "render", resourceRender),
]


def install():
    """
    Replace Twisted's steps. A second call changes nothing.
    """
    if (HTTPChannel, "dataReceived") in originals:
        return
    for cls, name, step in _STEPS:
        replace(cls, name, step)
    for lazy in _LAZY:
        lazy.default = Request.__dict__.get(lazy.name)
        setattr(Request, lazy.name, lazy)
    SiteRequest._adapterCache = _CACHE
    # Programs have few content types, and each takes longer to parse than a request.
    http._parseContentType = functools.lru_cache(256)(http._parseContentType)
    Request._couplet_isEmpty = False
    Request._couplet_query = Request._couplet_fields = Request._couplet_raw = None
    # Set by routes of klein.
    Request._couplet_route = None
    HTTPChannel._couplet_isStarting = False
    if http.H2_ENABLED:
        from couplet_twisted._web2 import Connection

        http.H2Connection = Connection

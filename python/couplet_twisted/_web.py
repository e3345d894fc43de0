"""
A faster C{twisted.web}: the same classes, whose most frequent steps are Couplet's. L{install} replaces methods of
L{twisted.web.http} and L{twisted.web.server}; programs keep their imports.

A request whose head arrives as a whole and is plain is parsed by Couplet; anything else, such as a malformed line, by
Twisted. What a program rarely looks at, such as the addresses or the arguments of a request, is made when it does. A
channel, a request or a resource whose class overrides one of Twisted's steps takes these steps.
"""

import functools
import time
from io import BytesIO

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http import (
    _QUEUED_SENTINEL,
    NO_BODY_CODES,
    HTTPChannel,
    HTTPFactory,
    Request,
    _IdentityTransferDecoder,
    combinedLogFormatter,
    datetimeToString,
    parse_qs,
    toChunk,
    unquote,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import INonQueuedRequestFactory
from twisted.web.resource import Resource, _IEncodingResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Site, version
from twisted.web.server import Request as SiteRequest

from couplet_twisted._couplet import answer, combined_line, complete, parse_head, set_header
from couplet_twisted._webcommon import Kinds, Received, canonicalNames, encode, has, originals, replace

__all__ = ["install", "readers"]

# Answers up to this size leave with their headers as one string.
_TOGETHER = 16384

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


_LAZY = [
    _Lazy("notifications", lambda request: []),
    _Lazy("client", lambda request: request._couplet_channel.getPeer()),
    _Lazy("host", lambda request: request._couplet_channel.getHost()),
    _Lazy("requestHeaders", lambda request: Headers()),
    _Lazy("received_cookies", lambda request: {}),
    _Lazy("cookies", lambda request: []),
    _Lazy("content", _content),
    _Lazy("args", _arguments),
]
_CACHE = _Lazy("_adapterCache", lambda request: {})


# Whether a channel writes as Twisted's does.
_writes = Kinds(lambda cls: has(cls, HTTPChannel, "writeHeaders", "write", "writeSequence"))

# Whether it also reads like that.
_reads = Kinds(
    lambda cls: _writes[cls]
    and has(
        cls,
        HTTPChannel,
        *"lineReceived headerReceived allHeadersReceived allContentReceived checkPersistence rawDataReceived".split(),
        *"dataReceived setLineMode setRawMode setTimeout resetTimeout delimiter _maybeChooseTransferDecoder".split(),
    )
)


class _Kind:
    """
    A class of requests.

    @ivar isLazy: Whether its attributes are made on first use.

    @ivar begins: Whether it has no attributes of its own when it begins.

    @ivar starts: Whether the channel may leave out what a request without a body and cookies does not need.

    @ivar processes: Whether it is processed as Twisted's are.

    @ivar answers: Whether an answer may leave as one string.
    """

    def __init__(self, cls):
        self.isLazy = has(cls, Request, *(lazy.name for lazy in _LAZY))
        self.begins = has(cls, Request, "__init__") or has(cls, SiteRequest, "__init__")
        self.starts = self.isLazy and has(cls, Request, "parseCookies", "handleContentChunk")
        self.starts = self.starts and (has(cls, Request, "gotLength") or has(cls, SiteRequest, "gotLength"))
        self.processes = self.isLazy and has(cls, SiteRequest, "setHeader")
        self.answers = self.processes and has(cls, SiteRequest, "write", "finish", "_cleanup")


_kinds = Kinds(_Kind)


# The channel.


def dataReceived(self, data):
    """
    @see: L{HTTPChannel.dataReceived}
    """
    while (
        self._HTTPChannel__first_line == 1
        and self.line_mode
        and self.persistent
        and not (self._busyReceiving or self._buffer or self.paused)
        and _reads[self.__class__]
    ):
        head = parse_head(data, self.maxHeaders, min(self.totalHeadersSize, self.MAX_LENGTH))
        if head is None:
            break
        self._busyReceiving = True
        try:
            data = _begin(self, data, *head)
        finally:
            self._busyReceiving = False
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        if not data or self.transport and self.transport.disconnecting:
            return
    self.resetTimeout()
    LineReceiver.dataReceived(self, data)


class _Body:
    """
    The body of a request, of which a part has arrived: a decoder, as Twisted has them.
    """

    def __init__(self, channel, request, length, data):
        self._channel = channel
        self._request = request
        self._missing = length - len(data)
        self._parts = [data]

    def dataReceived(self, data):
        missing = self._missing
        if len(data) < missing:
            self._missing -= len(data)
            self._parts.append(data)
            return
        self._parts.append(data[:missing])
        self._request.content = _file(b"".join(self._parts))
        self._channel._finishRequestBody(data[missing:])


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
    if self._couplet_factory is not factory:
        self._couplet_factory = factory
        self._couplet_isQueued = not INonQueuedRequestFactory.providedBy(factory)
        self._couplet_makesFiles = hasattr(getattr(self, "site", None), "getContentFile")
    request = factory(self, len(self.requests)) if self._couplet_isQueued else factory(self)
    self.requests.append(request)
    kind = _kinds[request.__class__]
    if kind.isLazy and (kind.begins or "requestHeaders" not in request.__dict__):
        request.requestHeaders = Received(fields)
    else:
        for name, values in fields.raw().items():
            for value in values:
                request.requestHeaders.addRawHeader(name, value)
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
    body, rest = (data[end : end + length], data[end + length :]) if length else (b"", data[end:])
    if length and (not isOurs or len(body) < length):
        self.resetTimeout()
        self._command, self._path, self._version = method, target, version
        self._HTTPChannel__first_line = 0
        self.length = length
        if isOurs:
            self._transferDecoder = _Body(self, request, length, body)
            return b""
        self._transferDecoder = _IdentityTransferDecoder(length, request.handleContentChunk, self._finishRequestBody)
        return data[end:]
    if length:
        request.content = _file(body)
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


def requestDone(self, request):
    """
    @see: L{HTTPChannel.requestDone}
    """
    isStarting, self._couplet_isStarting = self._couplet_isStarting, False
    if not (isStarting and self.persistent):
        if isStarting:
            self._savedTimeOut = self.setTimeout(None)
        originals[HTTPChannel, "requestDone"](self, request)
        return
    if request is not self.requests[0]:
        raise TypeError
    del self.requests[0]
    if not self._waitingForTransport:
        self._networkProducer.resumeProducing()
    self._handlingRequest = False
    self.resetTimeout()
    data = b""
    if self._dataBuffer:
        data = b"".join(self._dataBuffer)
        self._dataBuffer = []
    self.setLineMode(data)


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


def write(self, data):
    """
    @see: L{Request.write}
    """
    if (
        data.__class__ is not bytes
        or self.startedWriting
        or self.finished
        or self._disconnected
        or not _writes[self.channel.__class__]
        or not isinstance(self.responseHeaders, Headers)
        or not _kinds[self.__class__].isLazy
    ):
        originals[Request, "write"](self, data)
        return
    raw = _start(self)
    if self.method == b"HEAD" or self.code in NO_BODY_CODES:
        self.write = lambda data: None
        data = b""
    _send(self, raw, data)


def _start(self):
    """
    Complete the headers of an answer.

    @return: The dict of its headers.
    """
    self.startedWriting = 1
    headers = self.responseHeaders
    raw = headers._rawHeaders
    if (
        self.clientproto == b"HTTP/1.1"
        and not raw.get(b"Content-Length")
        and self.method != b"HEAD"
        and self.code not in NO_BODY_CODES
    ):
        raw[b"Transfer-Encoding"] = [b"chunked"]
        self.chunked = 1
    if self.lastModified is not None:
        if b"Last-Modified" in raw:
            self._log.info("Warning: last-modified specified both in header list and lastModified attribute.")
        else:
            raw[b"Last-Modified"] = [datetimeToString(self.lastModified)]
    if self.etag is not None:
        headers.setRawHeaders(b"ETag", [self.etag])
    cookies = self.__dict__.get("cookies")
    if cookies:
        headers.setRawHeaders(b"Set-Cookie", cookies)
    return raw


def _send(self, raw, data):
    """
    Send the headers of an answer and the beginning of its body.
    """
    size = len(data)
    self.sentLength += size
    transport = self.channel.transport
    if size <= _TOGETHER:
        transport.write(answer(self.clientproto, self.code, self.code_message, raw, data, bool(self.chunked)))
        return
    head = answer(self.clientproto, self.code, self.code_message, raw, b"", False)
    transport.writeSequence((head, *toChunk(data)) if self.chunked else (head, data))


def cleanup(self):
    """
    @see: L{Request._cleanup}
    """
    if self.producer or not self._couplet_isEmpty:
        originals[Request, "_cleanup"](self)
        return
    own = self.__dict__
    self.channel.requestDone(self)
    del own["channel"]
    self._couplet_isEmpty = False
    own.pop("content", None)
    for finished in own.pop("notifications", ()):
        finished.callback(None)


def getHeader(self, key):
    """
    @see: L{Request.getHeader}
    """
    headers = self.requestHeaders
    if headers.__class__ is Received and headers._fields is not None and key.__class__ is bytes:
        return headers._fields.last(canonicalNames.get(key) or encode(key))
    return originals[Request, "getHeader"](self, key)


def setHeader(self, name, value):
    """
    @see: L{Request.setHeader}
    """
    headers = self.responseHeaders
    if headers.__class__ is not Headers or not set_header(headers._rawHeaders, canonicalNames, name, value):
        headers.setRawHeaders(name, [value])


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

# For a class of resources: a function that reads its content for a request, or returns None.
readers = Kinds(lambda cls: None)

_dateOf = functools.lru_cache(4096)(datetimeToString)

_date = (0, b"")


def _now():
    """
    The time, as in a C{Date} header.
    """
    global _date
    second = int(time.time())
    if second != _date[0]:
        _date = (second, datetimeToString(second))
    return _date[1]


def process(self):
    """
    @see: L{SiteRequest.process}
    """
    path = self.path
    if path == b"*" or not _kinds[self.__class__].processes or server.datetimeToString is not datetimeToString:
        originals[SiteRequest, "process"](self)
        return
    self.site = site = self.channel.site
    raw = self.responseHeaders._rawHeaders
    raw[b"Server"] = [version]
    raw[b"Date"] = [_now()]
    self.prepath = []
    names = path[1:].split(b"/")
    self.postpath = list(map(unquote, names)) if b"%" in path else names
    try:
        found = site.getResourceFor(self)
        if _IEncodingResource.providedBy(found):
            encoder = found.getEncoder(self)
            if encoder is not None:
                self._encoder = encoder
        self.render(found)
    except BaseException:
        self.processingFailed(Failure())


class _Rendered:
    """
    A resource that has been asked: it gives the same result to the first request for it.
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
    kind = _kinds[self.__class__]
    if not kind.answers or self.method == b"HEAD":
        originals[SiteRequest, "render"](self, resrc)
        return
    try:
        read = readers[resrc.__class__]
        body = read(resrc, self) if read else None
        if body is None:
            body = resrc.render(self)
    except UnsupportedMethod as error:
        failure = error

        def result():
            raise failure

        originals[SiteRequest, "render"](self, _Rendered(resrc, result))
        return
    if body is NOT_DONE_YET:
        return
    channel = self.channel
    headers = self.responseHeaders
    if (
        body.__class__ is not bytes
        or self.startedWriting
        or self.finished
        or self._disconnected
        or self._encoder
        or headers.__class__ is not Headers
        or not _writes[channel.__class__]
    ):
        originals[SiteRequest, "render"](self, _Rendered(resrc, lambda: body))
        return
    raw = headers._rawHeaders
    when = self.lastModified
    if (
        self.code in NO_BODY_CODES
        or self.etag is not None
        or "cookies" in self.__dict__
        # Its header comes after these.
        or when is not None
        and not (b"Content-Type" in raw and b"Content-Length" in raw and b"Last-Modified" not in raw)
        or not complete(raw, len(body), self.defaultContentType)
    ):
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
    else:
        if when is not None:
            raw[b"Last-Modified"] = [_dateOf(when)]
        self.startedWriting = 1
        _send(self, raw, body)
    self.finish()


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


_STEPS = [
    (HTTPChannel, "dataReceived", dataReceived),
    (HTTPChannel, "requestDone", requestDone),
    (Request, "__init__", requestInit),
    (Request, "requestReceived", requestReceived),
    (Request, "write", write),
    (Request, "_cleanup", cleanup),
    (Request, "getHeader", getHeader),
    (Request, "setHeader", setHeader),
    (HTTPFactory, "log", log),
    (SiteRequest, "__init__", siteRequestInit),
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
    Request._couplet_query = None
    HTTPChannel._couplet_factory = None
    HTTPChannel._couplet_isStarting = False

"""
HTTP/2 for C{twisted.web}'s clients, on demand: agents that use an L{HTTP2ConnectionPool} speak it with servers that
choose it.

Frames, streams and windows are Couplet's, below Python. Requests, responses, body producers and exceptions remain
Twisted's. The pool works with every reactor, and whether or not Couplet's steps of C{twisted.web} are installed.
"""

from collections import deque

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHandshakeListener,
    INegotiated,
    IProtocolNegotiationFactory,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import (
    BadHeaders,
    ExcessWrite,
    LengthEnforcingConsumer,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    Response,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web._responses import RESPONSES
from twisted.web.client import HTTPConnectionPool, _RetryingHTTP11ClientProtocol
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from couplet_twisted._couplet import Http2
from couplet_twisted._webcommon import Received

__all__ = ["HTTP2ConnectionPool", "StreamReset"]

_log = Logger(namespace="couplet")

# Codes of resets: RFC 9113, 7.
_INTERNAL_ERROR, _REFUSED_STREAM, _CANCEL = 2, 7, 8


class StreamReset(ConnectionLost):
    """
    The server, or a malformed response, ended the stream of a request: a reason in C{ResponseFailed} and similar
    exceptions.

    @ivar code: The code of the RST_STREAM: RFC 9113, section 7.
    """

    def __init__(self, code):
        ConnectionLost.__init__(self, f"Stream reset with code {code}")
        self.code = code


@implementer(IPushProducer)
class Stream:
    """
    A request and its response: the consumer of the request's body, and the transport of the response's body.

    @ivar finished: The L{Deferred} of the response.

    @ivar number: The number of the stream, once it is open.

    @ivar received: The number of chunks that the connection had received when the request was sent.

    @ivar isProbe: Whether a PING was unanswered when the request was sent.

    @ivar _consumer: The consumer of the request's body, while the producer writes it.

    @ivar _writing: The L{Deferred} of the producer.

    @ivar _isHeld: Whether the producer is paused.

    @ivar _isSent: Whether the request's body is complete.

    @ivar _unread: The parts of the response's body, and its end, that arrived while the program paused the stream:
        C{bytes}, and then L{None} or a L{Failure}. The stream's window bounds them.

    @ivar isReceived: Whether the response is complete or lost, so that its bytes count in no window.
    """

    # LineReceiver looks at it.
    disconnecting = False
    number = response = _consumer = _writing = None
    isReceived = _isHeld = _isSent = _isDelivering = False
    _isPaused = True

    def __init__(self, connection, request):
        self.request = request
        self.finished = Deferred(self._cancel)
        self._connection = connection
        self._unread = deque()

    def _cancel(self, _):
        consumer, writing = self._consumer, self._writing
        self._connection.cancelled(self)
        if consumer is not None:
            if writing is not None:
                # Its failure is that of the request.
                writing.cancel()
            self._stopWriting()
        elif self.number is not None:
            self.fail(ResponseNeverReceived([Failure(CancelledError())]))

    def fail(self, exception):
        """
        Fail the request, unless it has failed or got its response.
        """
        if not self.finished.called:
            self.finished.errback(Failure(exception))

    # The request's body.

    @property
    def isWriting(self):
        return self._consumer is not None

    def begin(self):
        """
        Have the producer write the request's body.
        """
        producer = self.request.bodyProducer
        if producer is None:
            return
        self._consumer = self
        if producer.length is not UNKNOWN_LENGTH:
            excess = Deferred().addErrback(self._bodyFailed)
            self._consumer = LengthEnforcingConsumer(producer, self, excess)
        try:
            writing = producer.startProducing(self._consumer)
        except BaseException:
            self._bodyFailed(Failure())
            return
        self._writing = writing
        writing.addCallbacks(self._bodyWritten, self._bodyFailed)

    def write(self, data):
        """
        Send a part of the request's body. Pauses its producer when 64 KiB are unsent.
        """
        if self._isSent:
            raise ExcessWrite()
        if self._consumer is None:
            # The stream is closed, and the producer was stopped.
            return
        if self._connection.send(self.number, data):
            self._isHeld = True
            self.request.bodyProducer.pauseProducing()

    def writable(self):
        """
        Resume the producer of the request's body.
        """
        if self._consumer is not None and self._isHeld:
            self._isHeld = False
            with _log.failuresHandled("while resuming the producer of a request's body"):
                self.request.bodyProducer.resumeProducing()

    def _bodyWritten(self, _):
        consumer = self._consumer
        if consumer is None:
            return
        try:
            if consumer is not self:
                consumer._noMoreWritesExpected()
        except BaseException:
            self._bodyFailed(Failure())
            return
        self._consumer = self._writing = None
        self._isSent = True
        self._connection.endRequest(self)

    def _bodyFailed(self, failure):
        if self._consumer is None:
            return
        consumer, self._consumer, self._writing = self._consumer, None, None
        if consumer is not self:
            consumer._allowNoMoreWrites()
        if self.isReceived:
            _log.failure("The body of a request failed after its response", failure)
        self._connection.reset(self, _INTERNAL_ERROR)
        self.fail(RequestGenerationFailed([failure]))
        self._end(failure)

    def _stopWriting(self):
        if self._consumer is None:
            return
        self._consumer = self._writing = None
        with _log.failuresHandled("while stopping the producer of a request's body"):
            self.request.bodyProducer.stopProducing()

    # The response.

    def responseReceived(self, code, fields, length, isComplete):
        """
        Begin the response.
        """
        if self.request.method == b"HEAD":
            fields = fields.of_head()
        version = (b"HTTP", 2, 0)
        phrase = RESPONSES.get(code, b"")
        self.response = response = Response._construct(version, code, phrase, Received(fields), self, self.request)
        if length is not None:
            response.length = length
        if isComplete:
            self.ended()
        self.finished.callback(response)

    def dataReceived(self, data):
        self._unread.append(data)
        self._deliver()

    def ended(self):
        """
        The response is complete.
        """
        self._receive(None)

    def lost(self, reason, kind):
        """
        End the stream, because the server reset it, or the connection was lost.

        @param kind: The class of the exception if there was no response, and the whole request was sent.
        """
        if self._consumer is not None:
            kind = RequestTransmissionFailed
            self._stopWriting()
        self.fail(kind([reason]))
        self._end(reason)

    def _end(self, reason):
        """
        End the response for a reason.
        """
        if self.response is not None and not self.isReceived:
            self._receive(Failure(ResponseFailed([reason], self.response)))

    def _receive(self, end):
        self.isReceived = True
        # They are as bounded as those of a response that is complete.
        self._connection.release(self.number, sum(map(len, self._unread)))
        self._unread.append(end)
        self._deliver()

    def _deliver(self):
        """
        Deliver the body as far as it was received, until the program pauses it.
        """
        if self._isDelivering:
            return
        self._isDelivering = True
        unread, response = self._unread, self.response
        try:
            while unread and not self._isPaused:
                part = unread.popleft()
                if part.__class__ is not bytes:
                    with _log.failuresHandled("while ending the body of a response"):
                        try:
                            response._bodyDataFinished(part)
                        except AlreadyCalledError:
                            # The Deferred of C{readBody} was cancelled.
                            pass
                    return
                if not self.isReceived:
                    self._connection.release(self.number, len(part))
                try:
                    response._bodyDataReceived(part)
                except BaseException:
                    self._abort(Failure())
        finally:
            self._isDelivering = False

    def _abort(self, reason):
        """
        Reset the stream for the program, which gets the end of the body and none of its unread parts.
        """
        unread = self._unread
        if self.isReceived and not unread:
            return
        if not self.isReceived:
            self._connection.release(self.number, sum(map(len, unread)))
        self.isReceived = True
        self._stopWriting()
        self._connection.reset(self, _CANCEL)
        unread.clear()
        unread.append(Failure(ResponseFailed([reason], self.response)))
        self._isPaused = False

    # The transport of the response's body.

    def pauseProducing(self):
        self._isPaused = True

    def resumeProducing(self):
        self._isPaused = False
        self._deliver()
        self._connection.flush()

    def stopProducing(self):
        self.loseConnection()

    def loseConnection(self):
        """
        Give up the response: its stream is reset.
        """
        self._abort(Failure(ConnectionDone()))
        # As with a connection: not before the caller returns.
        self._connection.later(self._deliver)

    def abortConnection(self):
        """
        The same as C{loseConnection}, for another reason.
        """
        self._abort(Failure(ConnectionAborted()))
        self._connection.later(self._deliver)

    def getPeer(self):
        return self._connection.transport.getPeer()

    def getHost(self):
        return self._connection.transport.getHost()


@implementer(IPushProducer)
class Connection(Protocol):
    """
    A connection to a server that chose HTTP/2, for many requests at a time. A pool uses it as it does Twisted's
    C{HTTP11ClientProtocol}.

    @ivar conn: Its state machine.

    @ivar received: The number of chunks received.

    @ivar _pinged: The number of chunks received when the last PING was sent.

    @ivar _streams: The open streams, by their numbers.

    @ivar _waiting: The requests that wait until fewer streams are open, as the keys of a C{dict}. The program bounds
        them.

    @ivar _isRetired: Whether it takes no more requests.

    @ivar _isIdle: Whether it has no requests. Then the transport has no producer, so that the pool can close it.

    @ivar _isBusy: Whether events are delivered, or output is written: more output leaves after that.

    @ivar _isBlocked: Whether the transport is full.

    @ivar _isFull: Whether nothing is read, because the server reads nothing.
    """

    received = 0
    _pinged = None
    _isRetired = _isBusy = _isBlocked = _isFull = _isLost = False
    _isIdle = True

    def __init__(self, pool, key):
        self._pool, self._key = pool, key
        self.conn = Http2.client(pool.maxConcurrentStreams, pool.streamWindow)
        self._streams, self._waiting = {}, {}
        self._aborting = []

    def connectionMade(self):
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.flush()

    @property
    def state(self):
        """
        C{"QUIESCENT"} if a pool may keep the connection.
        """
        return "RETIRED" if self._isRetired else "QUIESCENT" if self._isIdle else "WAITING"

    def request(self, request):
        """
        Send a request, or queue it while as many streams are open as the server or the pool allow.

        @return: A L{Deferred} that fires with the response. It fails with the exceptions of
            C{HTTP11ClientProtocol.request}, and resets the stream when it is cancelled.
        """
        if self._isRetired:
            return fail(RequestNotSent())
        stream = Stream(self, request)
        self._waiting[stream] = None
        if self._isIdle:
            self._isIdle = False
            self._pool._share(self._key, self)
            self.transport.registerProducer(self, True)
        self._settle()
        return stream.finished

    def abort(self):
        """
        Close the connection; its requests fail.

        @return: A L{Deferred} that fires with L{None} once it is closed.
        """
        if self._isLost:
            return succeed(None)
        lost = Deferred()
        self._aborting.append(lost)
        self.close()
        return lost

    def close(self):
        """
        Close the connection, with a GOAWAY.
        """
        self._retire()
        self.conn.close_connection()
        self.flush()
        self._leave()

    def _leave(self):
        # TLS waits for its producer before it closes.
        self._release()
        self.transport.loseConnection()

    def _release(self):
        if not self._isIdle:
            self._isIdle = True
            self._isBlocked = False
            self.transport.unregisterProducer()

    def _retire(self):
        """
        Take no more requests. Those that wait fail, and may be sent on another connection.
        """
        self._isRetired = True
        self._pool._unshare(self._key, self)
        waiting, self._waiting = self._waiting, {}
        for stream in waiting:
            stream.fail(RequestNotSent())

    def later(self, call):
        self._pool._reactor.callLater(0, call)

    # Requests.

    def _settle(self):
        """
        Send the requests that the server allows, and the output. Then, a connection without requests is idle.
        """
        if not self._isRetired and not self.conn.takes_requests():
            self._retire()
        while self._waiting and self._open(next(iter(self._waiting))):
            pass
        if self._isBusy:
            return
        self.flush()
        if self._streams or self._waiting or self._isIdle or self._isLost:
            return
        if self._isRetired or not self._pool.persistent:
            self.close()
            return
        self._release()
        self._pool._unshare(self._key, self)
        with _log.failuresHandled("while returning a connection to its pool") as put:
            self._pool._putConnection(self._key, self)
        if put.failed:
            self.close()

    def _open(self, stream):
        """
        Send the head of a request.

        @return: Whether it has left the queue.
        """
        request = stream.request
        producer, headers = request.bodyProducer, request.headers
        length = 0 if request.method in (b"PUT", b"POST") else None
        if producer is not None:
            length = None if producer.length is UNKNOWN_LENGTH else producer.length
        try:
            hosts = headers.getRawHeaders(b"Host", ())
            if len(hosts) != 1:
                raise BadHeaders("Exactly one Host header required")
            fields = list(headers.getAllRawHeaders())
            number = self.conn.request(request.method, hosts[0], request.uri, fields, length, producer is None)
        except BrokenPipeError:
            self._retire()
            return False
        except Exception:
            del self._waiting[stream]
            stream.fail(RequestGenerationFailed([Failure()]))
            return True
        if number is None:
            return False
        del self._waiting[stream]
        self._streams[number] = stream
        stream.number, stream.received = number, self.received
        stream.isProbe = self._pinged == self.received
        stream.begin()
        return True

    def send(self, number, data):
        """
        Send a part of a request's body.

        @return: Whether its producer must pause.
        """
        self.conn.send_data(number, data)
        self.flush()
        return self.conn.local_flow_control_window(number) == 0

    def endRequest(self, stream):
        """
        The request's body is complete.
        """
        self.conn.end_stream(stream.number)
        self._completed(stream)

    def _completed(self, stream):
        """
        Forget a stream if both sides have ended.
        """
        if stream.isReceived and not stream.isWriting:
            self._streams.pop(stream.number, None)
        self._settle()

    def release(self, number, length):
        """
        Return read bytes of a response's body to the server.
        """
        if length:
            self.conn.acknowledge_received_data(length, number)

    def reset(self, stream, code):
        """
        Reset a stream, if it is open.
        """
        if self._streams.pop(stream.number, None) is not None:
            self.conn.reset_stream(stream.number, code)
            self._settle()

    def cancelled(self, stream):
        """
        Forget a request that the program cancelled. If the server has sent nothing since the request, a PING follows.
        If it has not answered the PING when the next request is cancelled, the connection takes no more requests.
        """
        self._waiting.pop(stream, None)
        isSilent = stream.number is not None and stream.received == self.received
        if isSilent and stream.isProbe:
            self._retire()
        elif isSilent and self._pinged != self.received:
            self._pinged = self.received
            self.conn.ping(bytes(8))
        self.reset(stream, _CANCEL)
        self._settle()
        if isSilent and stream.isProbe and not self._streams:
            self.transport.abortConnection()

    # Events.

    def dataReceived(self, data):
        if self._isLost:
            return
        self.received += 1
        self._isBusy = True
        try:
            for kind, number, more in self.conn.receive_data(data):
                _HANDLERS[kind](self, number, more)
        finally:
            self._isBusy = False
        self._settle()

    def _responseReceived(self, number, head):
        stream = self._streams.get(number)
        if stream is not None:
            stream.responseReceived(*head)
            if head[-1]:
                self._completed(stream)

    def _bodyReceived(self, number, data):
        stream = self._streams.get(number)
        if stream is None:
            self.release(number, len(data))
        else:
            stream.dataReceived(data)

    def _responseEnded(self, number, _):
        stream = self._streams.get(number)
        if stream is not None:
            stream.ended()
            self._completed(stream)

    def _streamReset(self, number, code):
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        kind = ResponseFailed
        if code == _REFUSED_STREAM and stream.response is None:
            # It can be sent again on another connection.
            kind = ResponseNeverReceived
            self._retire()
        stream.lost(Failure(StreamReset(code)), kind)

    def _writable(self, number, _=None):
        stream = self._streams.get(number)
        if stream is not None:
            stream.writable()

    def _failed(self, _, text):
        # The output ends with a GOAWAY.
        self._lose(Failure(ConnectionLost(text)), ResponseFailed)

    def connectionLost(self, reason):
        self._isLost = True
        self._lose(reason, ResponseNeverReceived)
        aborting, self._aborting = self._aborting, []
        for lost in aborting:
            lost.callback(None)

    def _lose(self, reason, kind):
        self._retire()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.lost(reason, kind)

    # Output. The connection is its transport's producer while it has requests.

    def flush(self):
        """
        Send the output, unless the transport is full. Close the connection once it is drained.
        """
        if self._isBusy or self._isLost:
            return
        self._isBusy = True
        try:
            while not self._isBlocked:
                data = self.conn.data_to_send()
                if not data:
                    break
                self.transport.write(data)
                for number in self.conn.writable():
                    self._writable(number)
        finally:
            self._isBusy = False
        if self.conn.is_drained():
            self._leave()
        elif self._isFull != self.conn.is_full():
            self._isFull = not self._isFull
            (self.transport.pauseProducing if self._isFull else self.transport.resumeProducing)()

    def pauseProducing(self):
        self._isBlocked = True

    def resumeProducing(self):
        self._isBlocked = False
        self.flush()

    def stopProducing(self):
        """
        Do nothing: C{connectionLost} follows.
        """


_HANDLERS = {
    "response": Connection._responseReceived,
    "data": Connection._bodyReceived,
    "end": Connection._responseEnded,
    "reset": Connection._streamReset,
    "writable": Connection._writable,
    "error": Connection._failed,
}


@implementer(IHandshakeListener)
class _Negotiation(Protocol):
    """
    Waits until TLS has chosen a protocol, and passes everything on to it.

    @ivar chosen: A L{Deferred} that fires with the protocol.
    """

    def __init__(self, build):
        self._build = build
        self.chosen = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self):
        if not INegotiated.providedBy(self.transport):
            self._choose(None)

    def handshakeCompleted(self):
        self._choose(self.transport.negotiatedProtocol)

    def _choose(self, name):
        protocol = self._build(name)
        self.dataReceived, self.connectionLost = protocol.dataReceived, protocol.connectionLost
        protocol.makeConnection(self.transport)
        self.chosen.callback(protocol)

    def connectionLost(self, reason):
        # As if a request had been sent before the handshake, as Twisted does.
        if not self.chosen.called:
            self.chosen.errback(Failure(ResponseNeverReceived([reason])))


@implementer(IProtocolNegotiationFactory)
class _NegotiationFactory(Factory):
    """
    Offers HTTP/2 and HTTP/1.1.
    """

    noisy = False

    def __init__(self, pool, key, metadata):
        self._pool, self._key, self._metadata = pool, key, metadata

    def __repr__(self):
        return f"{self.__class__.__name__}({self._key}, {self._metadata})"

    def acceptableProtocols(self):
        return [b"h2", b"http/1.1"]

    def buildProtocol(self, address):
        pool, key = self._pool, self._key

        def build(name):
            if name == b"h2":
                return Connection(pool, key)
            put = lambda protocol: pool._putConnection(key, protocol)  # noqa: E731
            return pool._factory(put, self._metadata).buildProtocol(address)

        return _Negotiation(build)


class _Attempt:
    """
    An attempt to connect, and the requests that wait for it.
    """

    def __init__(self, pool, key, endpoint):
        self._pool, self._key, self._endpoint = pool, key, endpoint
        # With the Deferreds of their own connections, if they need these.
        self._waiting = {}

    def wait(self):
        """
        @return: A L{Deferred} that fires with a connection. The last one that is cancelled ends the attempt.
        """
        waiter = Deferred(self._cancel)
        self._waiting[waiter] = None
        return waiter

    def start(self):
        factory = _NegotiationFactory(self._pool, self._key, repr(self._endpoint))
        self._connecting = connecting = self._endpoint.connect(factory)
        connecting.addCallback(self._negotiate).addCallbacks(self._connected, self._failed)

    def _negotiate(self, protocol):
        # An endpoint may have made a protocol of its own.
        return protocol.chosen if isinstance(protocol, _Negotiation) else protocol

    def _cancel(self, waiter):
        own = self._waiting.pop(waiter, None)
        if own is not None:
            own.cancel()
        elif not self._waiting:
            self._pool._forget(self._key, self)
            self._connecting.cancel()

    def _failed(self, failure):
        self._pool._forget(self._key, self)
        waiting, self._waiting = self._waiting, {}
        for waiter in waiting:
            self._pass(failure, waiter)

    def _connected(self, protocol):
        self._pool._forget(self._key, self)
        if isinstance(protocol, Connection):
            self._pool._chose(self._key, True)
            waiting, self._waiting = self._waiting, {}
            for waiter in waiting:
                self._pass(protocol, waiter)
            return
        self._pool._chose(self._key, False)
        first, *rest = self._waiting
        for waiter in rest:
            own = self._waiting[waiter] = self._pool._newConnection(self._key, self._endpoint)
            own.addBoth(self._pass, waiter)
        self._pass(protocol, first)

    def _pass(self, outcome, waiter):
        self._waiting.pop(waiter, None)
        # The callbacks of another one may have cancelled it.
        if not waiter.called:
            waiter.callback(outcome)


class _Retrying(_RetryingHTTP11ClientProtocol):
    """
    Sends a request again, on another connection, also if the server certainly did not process the first one.
    """

    def _shouldRetry(self, method, exception, bodyProducer):
        if isinstance(exception, RequestNotSent):
            return True
        if isinstance(exception, ResponseNeverReceived) and bodyProducer is None:
            reason = exception.reasons[0].value
            if isinstance(reason, StreamReset) and reason.code == _REFUSED_STREAM:
                return True
        return super()._shouldRetry(method, exception, bodyProducer)


class HTTP2ConnectionPool(HTTPConnectionPool):
    """
    A pool whose connections speak HTTP/2 with C{https} servers that choose it, and HTTP/1.1 with others::

        agent = Agent(reactor, pool=couplet_twisted.HTTP2ConnectionPool(reactor))

    All requests for a key share a connection that speaks HTTP/2. Requests for a new key wait for the first connection,
    to learn the protocol. Without open requests, a connection stays in the pool for C{cachedConnectionTimeout}
    seconds.

    @ivar maxConcurrentStreams: The maximum number of open requests of a connection; the server may allow fewer. Others
        wait.

    @ivar streamWindow: How many bytes of a response's body are received before the program reads them. A connection
        holds at most this number for each open request.

    @ivar maxRememberedKeys: The maximum number of keys that are remembered because their servers chose HTTP/1.1, so that
        later connections need not wait for one another.
    """

    maxConcurrentStreams = 100
    streamWindow = 256 * 1024
    maxRememberedKeys = 1000

    def __init__(self, reactor, persistent=True):
        HTTPConnectionPool.__init__(self, reactor, persistent)
        # Connections with open requests, and attempts to connect.
        self._shared, self._attempts = {}, {}
        # The keys of servers that chose HTTP/1.1, the oldest first.
        self._older = {}

    def getConnection(self, key, endpoint):
        """
        @see: L{HTTPConnectionPool.getConnection}
        """
        if not self._offers(key):
            return HTTPConnectionPool.getConnection(self, key, endpoint)
        connection = self._shared.get(key) or self._takeIdle(key)
        if connection is None:
            return self._newConnection(key, endpoint).addCallback(self._retrying, key, endpoint, False)
        return succeed(self._retrying(connection, key, endpoint, True))

    def _offers(self, key):
        """
        Whether connections for a key offer HTTP/2. An agent's key begins with the scheme.
        """
        return isinstance(key, tuple) and key[0] == b"https"

    def _takeIdle(self, key):
        connections = self._connections.get(key)
        while connections:
            connection = connections.pop(0)
            self._timeouts.pop(connection).cancel()
            if connection.state == "QUIESCENT":
                return connection
        return None

    def _retrying(self, connection, key, endpoint, isUsed):
        if self.retryAutomatically and (isUsed or isinstance(connection, Connection)):
            return _Retrying(connection, lambda: self._newConnection(key, endpoint))
        return connection

    def _newConnection(self, key, endpoint):
        if not self._offers(key):
            return HTTPConnectionPool._newConnection(self, key, endpoint)
        shared = self._shared.get(key)
        if shared is not None:
            return succeed(shared)
        attempt = self._attempts.get(key)
        if attempt is not None:
            return attempt.wait()
        attempt = _Attempt(self, key, endpoint)
        waiter = attempt.wait()
        if self.persistent and key not in self._older:
            self._attempts[key] = attempt
        attempt.start()
        return waiter

    def _forget(self, key, attempt):
        if self._attempts.get(key) is attempt:
            del self._attempts[key]

    def _chose(self, key, isHTTP2):
        """
        Remember the choice of a server.
        """
        self._older.pop(key, None)
        if not isHTTP2:
            self._older[key] = None
            while len(self._older) > self.maxRememberedKeys:
                del self._older[next(iter(self._older))]

    def _share(self, key, connection):
        if self.persistent:
            self._shared[key] = connection

    def _unshare(self, key, connection):
        if self._shared.get(key) is connection:
            del self._shared[key]

    def _removeConnection(self, key, connection):
        if isinstance(connection, Connection):
            connection.close()
        HTTPConnectionPool._removeConnection(self, key, connection)

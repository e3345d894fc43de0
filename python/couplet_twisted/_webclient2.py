"""
HTTP/2 for C{twisted.web}'s clients: the connections of a L{couplet_twisted._webpool2.HTTP2ConnectionPool}.

Frames, streams and windows are Couplet's, below Python. Requests, responses, body producers and exceptions remain
Twisted's.
"""

from collections import OrderedDict

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import (
    BadHeaders,
    RequestGenerationFailed,
    RequestNotSent,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from couplet_twisted._couplet import Http2
from couplet_twisted._webstream2 import CANCEL, HTTP_1_1_REQUIRED, REFUSED_STREAM, Stream, StreamReset

__all__ = ["Connection"]

_log = Logger(namespace="couplet")


@implementer(IPushProducer)
class Connection(Protocol):
    """
    A connection to a server that chose HTTP/2, for many requests at a time. A pool uses it as it does Twisted's
    C{HTTP11ClientProtocol}.

    @ivar conn: The state machine of HTTP/2.

    @ivar received: The number of chunks received.

    @ivar _pinged: The number of chunks received when the last PING was sent.

    @ivar _streams: The open streams, by their numbers.

    @ivar _waiting: The requests that wait until fewer streams are open, in order, as keys. The program bounds them.

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
        self._streams, self._waiting = {}, OrderedDict()
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

        @return: A L{Deferred} that fires with the response, or fails with the exceptions of
            C{HTTP11ClientProtocol.request}. Cancelling it resets the stream.
        """
        if self._isRetired:
            return fail(RequestNotSent())
        stream = Stream(self, request)
        self._waiting[stream] = None
        if self._isIdle:
            self._isIdle = False
            self._pool._share(self._key, self)
            self.transport.registerProducer(self, True)
        self.flush()
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
        self._write()
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
        waiting, self._waiting = self._waiting, OrderedDict()
        for stream in waiting:
            stream.fail(RequestNotSent())

    def later(self, call):
        self._pool._reactor.callLater(0, call)

    # Requests.

    def flush(self):
        """
        Send the requests that the server allows, and the output. Then, a connection without requests is idle.
        """
        if not self._isRetired and not self.conn.takes_requests():
            self._retire()
        while self._waiting and self._open(next(iter(self._waiting))):
            pass
        if self._isBusy:
            return
        self._write()
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
        self.flush()

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
            self.flush()

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
        self.reset(stream, CANCEL)
        self.flush()
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
        self.flush()

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
        if code in (REFUSED_STREAM, HTTP_1_1_REQUIRED) and stream.response is None:
            # The request can be sent again on another connection.
            kind = ResponseNeverReceived
            if code == HTTP_1_1_REQUIRED:
                self._pool._require(self._key)
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

    def _write(self):
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

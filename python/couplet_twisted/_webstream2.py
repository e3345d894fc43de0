"""
A request of C{twisted.web}'s clients over HTTP/2, and its response.
"""

from collections import deque

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web._newclient import (
    ExcessWrite,
    LengthEnforcingConsumer,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    Response,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web._responses import RESPONSES
from twisted.web.iweb import UNKNOWN_LENGTH
from zope.interface import implementer

from couplet_twisted._webcommon import Received

__all__ = ["CANCEL", "HTTP_1_1_REQUIRED", "INTERNAL_ERROR", "REFUSED_STREAM", "Stream", "StreamReset"]

_log = Logger(namespace="couplet")

# Codes of resets: RFC 9113, 7.
INTERNAL_ERROR, REFUSED_STREAM, CANCEL, HTTP_1_1_REQUIRED = 2, 7, 8, 13


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

    # LineReceiver reads this attribute.
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
                # The request fails with its failure.
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
        self._connection.reset(self, INTERNAL_ERROR)
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
        # The unread parts are bounded as for a complete response.
        self._connection.release(self.number, sum(map(len, self._unread)))
        self._unread.append(end)
        self._deliver()

    def _deliver(self):
        """
        Deliver the received parts of the body, until the program pauses it.
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
        self._connection.reset(self, CANCEL)
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

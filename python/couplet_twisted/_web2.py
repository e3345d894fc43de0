"""
HTTP/2 for C{twisted.web}'s servers, below Python. L{couplet_twisted._web.install} has Twisted make a L{Connection} once
TLS has chosen C{h2}; programs keep their imports.

Frames, streams and windows are Couplet's. A batch of requests takes one call, and the answers of a turn leave as one
string. Requests take the steps of L{couplet_twisted._web}.
"""

from collections import deque

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web._http2 import H2Connection, H2Stream
from twisted.web.http import _NoPushProducer

from couplet_twisted._couplet import Http2
from couplet_twisted._web import giveHeaders, plainClass, steps

__all__ = ["Connection"]


class Stream(H2Stream):
    """
    A stream: the channel of its request.

    @ivar _request: The request, until it is finished or lost.

    @ivar _inboundDataBuffer: The parts of the body, and its end, that arrived while the program paused the stream. A
        window bounds them.
    """

    command = path = producer = _request = None
    producing = True
    _couplet_isStarting = _couplet_queued = False
    _producerProducing = False
    _inboundDataBuffer = ()

    def __init__(self, streamID, connection):
        self.streamID = streamID
        self.site = connection.site
        self.factory = connection.factory
        self._conn = connection

    def pauseProducing(self):
        H2Stream.pauseProducing(self)
        self._inboundDataBuffer = self._inboundDataBuffer or deque()

    def _couplet_answer(self, code, raw, data):
        """
        Send the headers of an answer and the beginning of its body.
        """
        self._conn.conn.answer(self.streamID, code, raw, data)
        self._conn._wrote(self)

    def requestDone(self, request):
        self._forget()
        self._conn.endRequest(self.streamID)

    def loseConnection(self):
        """
        End the stream after everything written. Unlike with Twisted's streams, its request is lost, as in HTTP/1.1.
        """
        H2Stream.loseConnection(self)
        self.connectionLost(Failure(ConnectionDone()))

    def abortConnection(self):
        """
        Reset the stream. Unlike with Twisted's streams, its request is lost, as in HTTP/1.1.
        """
        H2Stream.abortConnection(self)
        self.connectionLost(Failure(ConnectionAborted()))

    def connectionLost(self, reason):
        request, producer, self.producer = self._forget(), self.producer, None
        if producer is not None:
            # A lost transport does the same.
            producer.stopProducing()
        if request is not None:
            request.connectionLost(reason)

    def _forget(self):
        """
        Drop the request and the unread part of its body.

        @return: The request; L{None} if it was finished or lost before.
        """
        request, self._request = self._request, None
        unread, self._inboundDataBuffer = self._inboundDataBuffer, ()
        if unread:
            self._conn.conn.acknowledge_received_data(sum(length or 0 for _, length in unread), self.streamID)
        return request


class Connection(H2Connection):
    """
    A connection of a client.

    @ivar conn: The state machine of HTTP/2.

    @ivar streams: The streams whose requests are neither finished nor lost. The state machine sends the rest of a
        finished answer.

    @ivar _networkProducer: The transport, as a producer of requests, until the connection closes.

    @ivar _isFull: Whether the transport is paused, because the client reads nothing.

    @ivar _isBusy: Whether events are delivered, or output is written: more output leaves after that.
    """

    _isFull = _isBusy = False
    _stillProducing = True

    def __init__(self, reactor=None):
        self.conn = Http2()
        self.streams = {}
        self._consumerBlocked = None

    def connectionMade(self):
        self._class = plainClass(self.requestFactory)
        self._networkProducer = IPushProducer(self.transport, _NoPushProducer())
        H2Connection.connectionMade(self)

    def dataReceived(self, data):
        if not self._stillProducing:
            return
        self.resetTimeout()
        self._isBusy = True
        try:
            for kind, streamID, more in self.conn.receive_data(data):
                _HANDLERS[kind](self, streamID, more)
        finally:
            self._isBusy = False
        self._tryToWriteControlData()

    def connectionLost(self, reason, _cancelTimeouts=True):
        # Programs may finish other requests during this loop.
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.connectionLost(reason)
        H2Connection.connectionLost(self, reason, _cancelTimeouts)

    def timeoutConnection(self):
        self._letGo()
        H2Connection.timeoutConnection(self)

    def _letGo(self):
        """
        Unregister from the transport: TLS waits for its producer before it closes.
        """
        producer, self._networkProducer = self._networkProducer, _NoPushProducer()
        producer.unregisterProducer()

    def drain(self):
        """
        Ask the client for no more requests, and close the connection once the others are answered.
        """
        self.conn.drain()
        self._tryToWriteControlData()

    # Events.

    def _requestReceived(self, streamID, head):
        command, path, fields, length, isComplete, hasCookies, waits = head
        stream = self.streams[streamID] = Stream(streamID, self)
        stream.command, stream.path = command, path
        if length is None and command in (b"GET", b"HEAD"):
            length = 0
        if length == 0 and isComplete and not waits:
            request = self._class and steps.begin_on(stream, self._class, command, path, fields, True)
            if request is not None:
                stream._request = request
                steps.serve(stream, request)
                return
        request = stream._request = self.requestFactory(stream, queued=False)
        kind = giveHeaders(request, fields)
        if length == 0 and isComplete and kind.starts and not hasattr(self.site, "getContentFile"):
            request._couplet_isEmpty = True
        else:
            request.gotLength(length)
        if hasCookies or not kind.starts:
            request.parseCookies()
        if streamID not in self.streams:
            # The program answered or lost the request when it learned the length.
            return
        if waits:
            stream._send100Continue()
        if isComplete:
            stream.requestComplete()

    def _requestDataReceived(self, streamID, data):
        stream = self.streams.get(streamID)
        if stream is None:
            self.conn.acknowledge_received_data(len(data), streamID)
        else:
            stream.receiveDataChunk(data, len(data))

    def _requestEnded(self, streamID, _):
        stream = self.streams.get(streamID)
        if stream is not None:
            stream.requestComplete()

    def _requestAborted(self, streamID, code):
        stream = self._requestDone(streamID)
        if stream is not None:
            stream.connectionLost(Failure(ConnectionLost(f"Stream reset with code {code}")))

    def _failed(self, _, text):
        # The output ends with a GOAWAY. Timeouts stay, for a client that doesn't read it.
        self.connectionLost(Failure(ConnectionLost(text)), _cancelTimeouts=False)

    def _resume(self, streamID, _=None):
        stream = self.streams.get(streamID)
        if stream is not None:
            stream.windowUpdated()

    # Answers.

    def writeDataToStream(self, streamID, data):
        stream = self.streams.get(streamID)
        if stream is not None:
            self.conn.send_data(streamID, data)
            self._wrote(stream)

    def _wrote(self, stream):
        """
        Send the output, and pause the producer of a stream whose client reads slowly.
        """
        self._tryToWriteControlData()
        if stream.producer is not None and self.remainingOutboundWindow(stream.streamID) == 0:
            stream.flowControlBlocked()

    def remainingOutboundWindow(self, streamID):
        """
        How many bytes to take from the producer of a stream before it pauses.
        """
        return self.conn.local_flow_control_window(streamID)

    def endRequest(self, streamID):
        if self._requestDone(streamID) is not None:
            self.conn.end_stream(streamID)
            self._tryToWriteControlData()

    def _requestDone(self, streamID):
        return self.streams.pop(streamID, None)

    def _tryToWriteControlData(self, *_):
        """
        Send the output, unless the transport is full. Close the connection once it is drained.
        """
        if self._isBusy:
            return True
        self._isBusy = True
        try:
            while self._consumerBlocked is None:
                data = self.conn.data_to_send()
                if not data:
                    break
                self.resetTimeout()
                self.transport.write(data)
                for streamID in self.conn.writable():
                    self._resume(streamID)
        finally:
            self._isBusy = False
        if self.conn.is_drained():
            self._letGo()
            self.transport.loseConnection()
        elif self._isFull != self.conn.is_full():
            self._isFull = not self._isFull
            producer = self._networkProducer
            (producer.pauseProducing if self._isFull else producer.resumeProducing)()
        return True

    _flushBufferedControlData = _tryToWriteControlData


_HANDLERS = {
    "request": Connection._requestReceived,
    "data": Connection._requestDataReceived,
    "end": Connection._requestEnded,
    "reset": Connection._requestAborted,
    "writable": Connection._resume,
    "error": Connection._failed,
}

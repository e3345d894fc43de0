"""
HTTP/2 for C{twisted.web}'s clients, on demand: agents that use an L{HTTP2ConnectionPool} speak it with servers that
choose it.

The pool works with every reactor, and whether or not Couplet's steps of C{twisted.web} are installed.
"""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHandshakeListener, INegotiated, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent, ResponseNeverReceived
from twisted.web.client import HTTPConnectionPool, _RetryingHTTP11ClientProtocol
from zope.interface import implementer

from couplet_twisted._webclient2 import Connection
from couplet_twisted._webcommon import takeIdle
from couplet_twisted._webstream2 import REFUSED_STREAM, StreamReset

__all__ = ["HTTP2ConnectionPool"]


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
        # As in Twisted, which has sent the request by then.
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
        return [b"http/1.1"] if self._pool._older.get(self._key) else [b"h2", b"http/1.1"]

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
        # Each with the Deferred of a separate connection, if it needs one.
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
        # An endpoint may have made another protocol.
        return protocol.chosen if isinstance(protocol, _Negotiation) else protocol

    def _cancel(self, waiter):
        own = self._waiting.pop(waiter, None)
        if own is not None:
            own.cancel()
        elif not self._waiting:
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
        # The callbacks of another waiter may have cancelled this one.
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
            if isinstance(reason, StreamReset) and reason.code == REFUSED_STREAM:
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

    @ivar maxRememberedKeys: The maximum number of keys that are remembered because their servers chose HTTP/1.1.
        Later connections to these need not wait for one another.
    """

    maxConcurrentStreams = 100
    streamWindow = 256 * 1024
    maxRememberedKeys = 1000

    def __init__(self, reactor, persistent=True):
        HTTPConnectionPool.__init__(self, reactor, persistent)
        # Connections with open requests, and attempts to connect.
        self._shared, self._attempts = {}, {}
        # The keys of servers that chose HTTP/1.1, the oldest first, and whether they refused to speak HTTP/2.
        self._older = {}

    def getConnection(self, key, endpoint):
        """
        @see: L{HTTPConnectionPool.getConnection}
        """
        if not self._offers(key):
            return HTTPConnectionPool.getConnection(self, key, endpoint)
        connection = self._shared.get(key) or takeIdle(self, key)
        if connection is None:
            return self._newConnection(key, endpoint).addCallback(self._retrying, key, endpoint, False)
        return succeed(self._retrying(connection, key, endpoint, True))

    def _offers(self, key):
        """
        Whether connections for a key offer HTTP/2. An agent's key begins with the scheme.
        """
        return isinstance(key, tuple) and key[0] == b"https"

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
        isRequired = self._older.pop(key, False)
        if not isHTTP2:
            self._remember(key, isRequired)

    def _require(self, key):
        """
        Speak HTTP/1.1 from now on with a server that reset a request because it requires HTTP/1.1.
        """
        self._older.pop(key, None)
        self._remember(key, True)

    def _remember(self, key, isRequired):
        self._older[key] = isRequired
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

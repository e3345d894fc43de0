"""
TCP: Twisted's code makes, binds and connects the sockets in Python, and Couplet then takes them over.
"""

import errno
import os
import socket

from twisted.internet import error, main, tcp
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python import log
from twisted.python.failure import Failure

from couplet_twisted import _couplet
from couplet_twisted.lent import LentSocket

# As Twisted's reactors report them: without the text that L{main.CONNECTION_DONE} adds to the message.
_REASONS = {
    "done": Failure(error.ConnectionDone()),
    "lost": Failure(error.ConnectionLost()),
    "aborted": Failure(error.ConnectionAborted()),
}

# Results of a connect.
_PENDING = {errno.EINPROGRESS, errno.EALREADY}
_CONNECTED = {0, errno.EISCONN}

# Seconds between attempts to connect to a UNIX port with a full queue.
_RETRY = 0.01


class Transport(_couplet.Connection):
    """
    The Python half of a connection, over a socket or a pipe: the parts that programs rarely use.
    """

    def _post(self, name, *args):
        """
        Have the reactor's thread make a call that another thread requested.
        """
        self.reactor._post(getattr(self, name), *args)

    def _keepNames(self):
        """
        Compute the names for the log before the connection is lost or its protocol is replaced, so that they stay
        the same.
        """

    def _forgetSocket(self):
        self.reactor._streams.discard(self)

    @property
    def _isWriting(self):
        return self._buffered > 0

    # The unsent output, whose length programs compute from these.
    dataBuffer = b""
    _tempDataBuffer = ()

    @property
    def _tempDataLen(self):
        return self._buffered

    @_tempDataLen.setter
    def _tempDataLen(self, length):
        """
        Twisted's code sets it when it makes a client.
        """

    def _lost(self, why):
        self.connectionLost(_REASONS[why])

    def _raised(self, exception):
        self.connectionLost(Failure(exception))


class _Stream(Transport):
    """
    The Python half of a connection over a socket.

    @ivar TLS: Whether TLS was started on the connection.

    @ivar _host: The local address, once the program has asked the connection for it.
    """

    TLS = False
    _host = None
    _socket = None

    def _attach(self):
        """
        Pass the socket to the loop.
        """
        self.__dict__.pop("fileno", None)
        self.reactor._loop.adopt(self, self.__dict__.pop("_socket").detach())
        self.reactor._streams.add(self)

    # The socket, for programs that use it.

    @property
    def socket(self):
        """
        The Python socket of a client that connects, and then a L{LentSocket}, made on first use.
        """
        if self._socket is None:
            if self.fileno() == -1:
                raise AttributeError("the connection has no socket")
            self._socket = LentSocket(self.fileno)
        return self._socket

    @socket.setter
    def socket(self, skt):
        self._socket = skt

    @socket.deleter
    def socket(self):
        self._forgetSocket()

    def _forgetSocket(self):
        skt = self.__dict__.pop("_socket", None)
        if skt is not None:
            skt.close()
        super()._forgetSocket()

    def getHost(self):
        """
        @see: L{twisted.internet.interfaces.ITransport.getHost}
        """
        if self._host is None:
            name = self._sockname()
            if name is None:
                # Not connected yet.
                return self._addressType("TCP", *tcp._getrealname(self.socket.getsockname()))
            self._host = self._addressType("TCP", *tcp._getrealname(name))
        return self._host

    def setTcpNoDelay(self, enabled):
        """
        @see: L{twisted.internet.interfaces.ITCPTransport.setTcpNoDelay}
        """
        if self._isElsewhere:
            self._post("setTcpNoDelay", enabled)
        else:
            super().setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled):
        """
        @see: L{twisted.internet.interfaces.ITCPTransport.setTcpKeepAlive}
        """
        if self._isElsewhere:
            self._post("setTcpKeepAlive", enabled)
        else:
            super().setTcpKeepAlive(enabled)

    # The end.

    def _readClosed(self):
        self.readConnectionLost(_REASONS["done"])

    def _closeWriteConnection(self):
        self._writeDisconnected = True
        protocol = IHalfCloseableProtocol(self.protocol, None)
        if protocol:
            try:
                protocol.writeConnectionLost()
            except BaseException:
                failure = Failure()
                log.err(failure)
                self.connectionLost(failure)

    # TLS.

    def startTLS(self, ctx, normal=True):
        """
        @see: L{twisted.internet.interfaces.ITLSTransport.startTLS}
        """
        if self._isElsewhere:
            self._post("startTLS", ctx, normal)
            return
        # Only programs that use TLS need pyOpenSSL.
        from twisted.internet import _newtls

        self.__class__ = _withTLS(self.__class__)
        _newtls.startTLS(self, ctx, normal, _couplet.Connection)


class _OverTLS:
    """
    A connection that starts TLS. From then on its output passes through Twisted's TLS protocol.

    @ivar tls_engine: The engine, C{"rustls"} or C{"pyOpenSSL"}; L{None} before TLS starts and after the end.
    """

    @property
    def tls_engine(self):
        return getattr(self.protocol, "tls_engine", "pyOpenSSL") if self.TLS and self.protocol else None

    def write(self, data):
        if not self.TLS:
            _couplet.Connection.write(self, data)
        elif self._isElsewhere:
            self._post("write", bytes(data))
        elif self.connected:
            self.protocol.write(data)

    def writeSequence(self, iovec):
        if not self.TLS:
            _couplet.Connection.writeSequence(self, iovec)
        elif self._isElsewhere:
            self._post("write", b"".join(iovec))
        elif self.connected:
            self.protocol.writeSequence(iovec)

    def loseConnection(self, *args, **kwargs):
        if not self.TLS:
            _couplet.Connection.loseConnection(self)
        elif self._isElsewhere:
            self._post("loseConnection")
        elif self.connected and not self.disconnecting:
            self.protocol.loseConnection()

    def stopProducing(self):
        self.loseConnection()

    def registerProducer(self, producer, streaming):
        if self._isElsewhere:
            self._post("registerProducer", producer, streaming)
        elif self.TLS:
            self.protocol.registerProducer(producer, streaming)
        else:
            _couplet.Connection.registerProducer(self, producer, streaming)

    def unregisterProducer(self):
        if self._isElsewhere:
            self._post("unregisterProducer")
        elif self.TLS:
            self.protocol.unregisterProducer()
        else:
            _couplet.Connection.unregisterProducer(self)


_TLS_CLASSES = {}


def _withTLS(cls):
    """
    The class for a connection of class C{cls} once it starts TLS.
    """
    if issubclass(cls, _OverTLS):
        return cls
    if cls not in _TLS_CLASSES:
        _TLS_CLASSES[cls] = type(cls.__name__, (_OverTLS, cls), {"__module__": cls.__module__})
    return _TLS_CLASSES[cls]


class _Made:
    """
    An attribute that is computed on first use: the names of most connections are never needed.
    """

    def __init__(self, make):
        self.make = make

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, connection, owner):
        if connection is None:
            return self
        made = connection.__dict__[self.name] = self.make(connection)
        return made


def _scoped(name):
    """
    The address of a socket; an IPv6 host includes its scope.
    """
    if len(name) != 4:
        return name
    host, _ = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return (host,) + name[1:]


class Server(_Stream, tcp.Server):
    """
    A connection that was accepted or adopted.
    """

    _base = _couplet.Connection

    client = _Made(lambda self: _scoped(self._peername()))
    hostname = _Made(lambda self: self.client[0])
    _names = _Made(
        lambda self: (self._getLogPrefix(self.protocol), self.protocol.__class__.__name__)
    )
    logstr = _Made(lambda self: f"{self._names[0]},{self.sessionno},{self.hostname}")
    repstr = _Made(
        lambda self: f"<{self._names[1]} #{self.sessionno} on {self.server._realPortNumber}>"
    )

    def __init__(self, sock, protocol, client, server, sessionno, reactor):
        self.reactor = reactor
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = tcp.address.IPv6Address
        self.server = server
        self.sessionno = sessionno
        self.connected = 1
        if isinstance(sock, socket.socket):
            self.client = client
            sock.setblocking(False)
            self._socket = sock
            self._attach()
        else:
            self._take(sock)
            reactor._streams.add(self)

    def _keepNames(self):
        self.client
        self._names


class _Common:
    """
    The methods that L{twisted.internet.tcp._BaseBaseClient} calls.
    """

    __init__ = tcp.Connection.__init__
    connectionLost = _couplet.Connection.connectionLost


class _Retry:
    """
    The time until the next attempt to connect.
    """

    def __init__(self, call):
        self._call = call

    def stop(self):
        if self._call.active():
            self._call.cancel()


class Dialling(_Stream):
    """
    Base of client connections over TCP and over UNIX sockets.

    @ivar _dial: The wait of a socket that connects: a watch of the loop, or a L{_Retry}.
    """

    _base = _couplet.Connection
    _commonConnection = _Common
    _dial = None

    def createInternetSocket(self):
        """
        @see: L{twisted.internet.tcp.BaseClient.createInternetSocket}
        """
        return socket.socket(self.addressFamily, self.socketType | socket.SOCK_NONBLOCK)

    def doConnect(self):
        """
        Begin to connect, or continue after a wait.

        @see: L{twisted.internet.tcp.BaseClient.doConnect}
        """
        if not hasattr(self, "connector"):
            # The attempt was stopped.
            return
        try:
            result = self.socket.connect_ex(self.realAddress)
        except OSError as e:
            # Not an address.
            result = e.args[0]
        if result in _PENDING:
            if self._dial is None:
                self._dial = self.reactor._loop.watch(self.fileno(), "w", self._dialled)
                self.reactor._streams.add(self)
        elif result == errno.EAGAIN:
            # No event reports room in the queue.
            self._dial = _Retry(self.reactor.callLater(_RETRY, self._dialled))
            self.reactor._streams.add(self)
        elif result in _CONNECTED:
            self._stopReadingAndWriting()
            self._connectDone()
        else:
            self.failIfNotConnected(error.getConnectError((result, os.strerror(result))))

    def _dialled(self, ready=None):
        """
        The attempt has ended, with an error or without.
        """
        if self._dial is not None:
            self.reactor._loop.call_for(self, self._redial)

    def _redial(self):
        try:
            # The second call reports the result of the first one.
            self.doConnect()
        except BaseException:
            failure = Failure()
            log.err(failure)
            self.connectionLost(failure)

    def _connectDone(self):
        """
        @see: L{twisted.internet.tcp.BaseClient._connectDone}
        """
        # Called while the socket is Python's: if it raises, Twisted closes the socket and reports a failed connect.
        built = self.connector.buildProtocol(self.getPeer())
        self.protocol = Protocol() if built is None else built
        self._attach()
        self.connected = 1
        self.logstr = self._getLogPrefix(built) + ",client"
        if built is None:
            self.loseConnection()
        else:
            self.startReading()
            built.makeConnection(self)

    def connectionLost(self, reason):
        """
        @see: L{twisted.internet.tcp._BaseBaseClient.connectionLost}
        """
        if not self.disconnected:
            tcp._BaseBaseClient.connectionLost(self, reason)

    def _stopReadingAndWriting(self):
        dial, self._dial = self._dial, None
        if dial is not None:
            dial.stop()
            self.reactor._streams.discard(self)

    @property
    def _isWriting(self):
        return self._dial is not None or self._buffered > 0


class Client(Dialling, tcp.Client):
    """
    A client connection.
    """

    def resolveAddress(self):
        """
        @see: L{twisted.internet.tcp._BaseBaseClient.resolveAddress}
        """
        if self._requiresResolution:
            super().resolveAddress()
            return
        try:
            self._setRealAddress(self.addr)
        except BaseException:
            self.failIfNotConnected(Failure())


class Connector(tcp.Connector):
    """
    Makes client connections of L{Client}.
    """

    def _makeTransport(self):
        return Client(self.host, self.port, self.bindAddress, self, self.reactor)


class Accepting:
    """
    Base of ports that Couplet accepts from, over TCP and over UNIX sockets.

    @cvar sharing: The L{couplet_twisted.worker.Worker} of this process, if it is one.

    @ivar _sharedAddress: The address by which the workers know the port, if they share its socket.

    @ivar _isKept: Whether the workers' parent keeps the socket.
    """

    sharing = None
    _sharedAddress = None
    _isKept = False
    _native = None
    _isReading = False
    _isWriting = False

    def startListening(self):
        """
        @see: L{twisted.internet.interfaces.IListeningPort.startListening}
        """
        if self.sharing is None:
            super().startListening()
        else:
            self.sharing.listen(self, super().startListening)

    def startReading(self):
        """
        Accept connections.
        """
        self._isReading = True
        if self._native is None:
            self._native = self.reactor._loop.listen(self.fileno(), self._accepted)
            self.reactor._streams.add(self)
        else:
            self._native.resume()

    def stopReading(self):
        """
        Accept no connections until L{startReading}.
        """
        self._isReading = False
        if self._native is not None:
            self._native.pause()

    def _accepted(self, accepted, addr):
        """
        Build the protocol and the transport of an accepted connection.

        @return: The transport; L{None} if the factory refuses the connection.
        """
        addr = _scoped(addr)
        protocol = self.factory.buildProtocol(self._buildAddr(addr))
        if protocol is None:
            return None
        s = self.sessionno
        self.sessionno = s + 1
        transport = self.transport(accepted, protocol, addr, self, s, self.reactor)
        try:
            protocol.makeConnection(transport)
        except BaseException:
            log.deferr()
        return transport

    def loseConnection(self, connDone=Failure(main.CONNECTION_DONE)):
        """
        @see: L{twisted.internet.interfaces.IListeningPort.stopListening}
        """
        d = super().loseConnection(connDone)
        self._close()
        return d

    stopListening = loseConnection

    def _close(self):
        if self._native is not None:
            native, self._native = self._native, None
            native.close()
            self.reactor._streams.discard(self)

    def connectionLost(self, reason):
        """
        @see: L{twisted.internet.tcp.Port.connectionLost}
        """
        self._close()
        if self._sharedAddress is None:
            super().connectionLost(reason)
        else:
            self.sharing.release(self)
            # A UNIX port's own method would remove the file that the other workers listen on.
            tcp.Port.connectionLost(self, reason)


class Port(Accepting, tcp.Port):
    """
    A port that Couplet accepts from.
    """

    transport = Server

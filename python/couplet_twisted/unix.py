"""
UNIX sockets: connections, as over TCP, which also pass descriptors; and datagrams, as over UDP.
"""

import os
import socket

from twisted.internet import error, unix
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.python import log
from twisted.python.failure import Failure

from couplet_twisted import _couplet, tcp, udp


class _Passing:
    """
    Passes descriptors over a UNIX socket.

    @ivar _passed: The number of descriptors sent since the output was last empty.

    @ivar _bytesDue: The number of bytes that descriptors still need to go with them.
    """

    _passed = 0
    _bytesDue = 0

    def sendFileDescriptor(self, fileno):
        """
        Pass a descriptor to the peer, with the next byte that is written.

        @see: L{twisted.internet.interfaces.IUNIXTransport.sendFileDescriptor}
        """
        if self._isElsewhere:
            # A duplicate: the program may close its own before the send.
            self._post("_sendDuplicate", os.dup(fileno))
            return
        if self.disconnected:
            # As in Twisted, whose reactor would watch the closed descriptor.
            raise ValueError("file descriptor cannot be a negative integer (-1)")
        self._passed = self._passed + 1 if self._buffered else 1
        if not self._bytesDue:
            self.reactor._loop.call_soon(_Passing._requireBytes, self)
        self._bytesDue += 1
        if not self._sendDescriptor(fileno):
            self.connectionLost(Failure(error.FileDescriptorOverrun()))
        elif self._isFull or self._passed > self._fileDescriptorBufferSize // 2:
            self._pauseProducer()

    def _sendDuplicate(self, fileno):
        try:
            self.sendFileDescriptor(fileno)
        finally:
            os.close(fileno)

    def _requireBytes(self):
        if self._bytesDue and not self.disconnected:
            self.connectionLost(Failure(error.FileDescriptorOverrun()))

    def write(self, data):
        if self._bytesDue:
            self._bytesDue = max(0, self._bytesDue - len(data))
        _couplet.Connection.write(self, data)

    def writeSequence(self, iovec):
        pieces = list(iovec)
        if self._bytesDue:
            self._bytesDue = max(0, self._bytesDue - sum(map(len, pieces)))
        _couplet.Connection.writeSequence(self, pieces)

    def loseConnection(self, _connDone=None):
        if not self._isElsewhere:
            self._requireBytes()
        _couplet.Connection.loseConnection(self)

    def _descriptorReceived(self, fileno):
        if IFileDescriptorReceiver.providedBy(self.protocol):
            self.protocol.fileDescriptorReceived(fileno)
            return
        os.close(fileno)
        log.msg(
            format=(
                "%(protocolName)s (on %(hostAddress)r) does not "
                "provide IFileDescriptorReceiver; closing file "
                "descriptor received (from %(peerAddress)r)."
            ),
            hostAddress=self.getHost(),
            peerAddress=self.getPeer(),
            protocolName=self._getLogPrefix(self.protocol),
        )


class Server(_Passing, tcp.Server, unix.Server):
    """
    A connection that was accepted or adopted.
    """

    def __init__(self, sock, protocol, client, server, sessionno, reactor):
        self.client = (client, None)
        tcp.Server.__init__(self, sock, protocol, self.client, server, sessionno, reactor)

    @classmethod
    def _fromConnectedSocket(cls, fileDescriptor, factory, reactor):
        """
        A connection on a duplicate of a connected socket.
        """
        skt = socket.fromfd(fileDescriptor, socket.AF_UNIX, socket.SOCK_STREAM)
        name, peer = skt.getsockname(), skt.getpeername()
        protocol = factory.buildProtocol(UNIXAddress(name))
        if protocol is None:
            skt.close()
            return None
        self = cls(skt, protocol, peer, None, 0, reactor)
        protocolName = protocol.__class__.__name__
        self.repstr = f"<{protocolName} #{self.sessionno} on {name}>"
        self.logstr = f"{protocolName},{self.sessionno},{name}"
        protocol.makeConnection(self)
        return self

    def getHost(self):
        """
        @see: L{twisted.internet.interfaces.ITransport.getHost}
        """
        name = self._sockname()
        return UNIXAddress(self.socket.getsockname() if name is None else name)

    getPeer = unix.Server.getPeer
    getTcpNoDelay = unix.Server.getTcpNoDelay
    setTcpNoDelay = unix.Server.setTcpNoDelay


class Client(_Passing, tcp.Dialling, unix.Client):
    """
    A client connection.
    """

    getHost = unix.Client.getHost


class Connector(unix.Connector):
    """
    Makes client connections of L{Client}.
    """

    def _makeTransport(self):
        return Client(self.address, self, self.reactor, self.checkPID)


class Port(tcp.Accepting, unix.Port):
    """
    A port that Couplet accepts from.
    """

    transport = Server


class DatagramPort(udp.Receiving, unix.DatagramPort):
    """
    A port for datagrams.
    """

    _write = unix.DatagramPort.write


class ConnectedDatagramPort(udp.Receiving, unix.ConnectedDatagramPort):
    """
    A port for the datagrams of one peer.
    """

    _write = unix.ConnectedDatagramPort.write

    def _bindSocket(self):
        super()._bindSocket()
        self._connected()

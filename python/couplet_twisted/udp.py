"""
Datagrams: Twisted's code makes, binds and connects the sockets in Python, and Couplet receives and sends.
"""

import socket

from twisted.internet import udp
from twisted.python import log
from twisted.python.failure import Failure

from couplet_twisted import _couplet


class Receiving(_couplet.Datagrams):
    """
    Base of ports that receive their datagrams in batches, over UDP and over UNIX sockets. After C{stopListening}, a
    protocol receives no more datagrams, even if they arrived before.

    @cvar _write: Twisted's C{write}.

    @ivar _socket: The bound socket.
    """

    _isWriting = False

    @property
    def socket(self):
        """
        The socket. Answers that the port holds back are sent first: the user may change its options, or send.
        """
        self._flush()
        try:
            return self.__dict__["_socket"]
        except KeyError:
            raise AttributeError("the port has no socket") from None

    @socket.setter
    def socket(self, skt):
        self._socket = skt

    @socket.deleter
    def socket(self):
        del self._socket

    def _bindSocket(self):
        super()._bindSocket()
        self.reactor._loop.adopt_datagrams(self, self.fileno(), self.addressFamily == socket.AF_UNIX)
        self.reactor._streams.add(self)

    def _loseConnection(self):
        self._stop()
        super()._loseConnection()

    def _failed(self, exception):
        """
        End the port after an error of the system.
        """
        failure = Failure(exception)
        log.err(failure)
        self.stopReading()
        self.connectionLost(failure)

    def connectionLost(self, reason=None):
        """
        @see: L{twisted.internet.udp.Port.connectionLost}
        """
        self._close()
        self.reactor._streams.discard(self)
        super().connectionLost(reason)


class Port(Receiving, udp.Port):
    """
    A port over UDP, which sends the answers to a batch together.
    """

    _write = udp.Port.write

    def connect(self, host, port):
        """
        @see: L{twisted.internet.interfaces.IUDPTransport.connect}
        """
        super().connect(host, port)
        self._connected()


class MulticastPort(Port, udp.MulticastPort):
    """
    A port that joins groups.
    """

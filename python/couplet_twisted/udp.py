"""
UDP: Twisted's code makes, binds and closes the sockets, and sends; Couplet receives.
"""

import socket

from twisted.internet import udp
from twisted.python import log

# Most peers whose addresses are known to be valid.
_PEERS = 4096


class _Receiving:
    """
    Base of ports that Couplet receives for. A connected port is read by Twisted, which reports refused datagrams.

    @ivar _peers: Addresses that Twisted has found valid.
    """

    _native = None
    _isReading = False
    _isWriting = False

    def startReading(self):
        """
        Receive datagrams.
        """
        if self._connectedAddr:
            super().startReading()
            return
        self._isReading = True
        if self._native is None:
            self._peers = set()
            self._native = self.reactor._loop.receive(self.fileno(), self.maxPacketSize, self._received)
            self.reactor._streams.add(self)
        else:
            self._native.resume()

    def stopReading(self):
        """
        Receive no datagrams until L{startReading}.
        """
        if self._native is None:
            super().stopReading()
            return
        self._isReading = False
        self._native.pause()

    def connect(self, host, port):
        """
        @see: L{twisted.internet.interfaces.IUDPTransport.connect}
        """
        super().connect(host, port)
        if self._native is not None:
            isReading = self._isReading
            self._close()
            if isReading:
                self.startReading()

    def _received(self, data, addr):
        if not self._isReading:
            return
        if self.addressFamily == socket.AF_INET6:
            addr = addr[:2]
        try:
            log.callWithLogger(self, self.protocol.datagramReceived, data, addr)
        except BaseException:
            log.err()

    def write(self, datagram, addr=None):
        """
        @see: L{twisted.internet.interfaces.IUDPTransport.write}
        """
        if self._native is None:
            return super().write(datagram, addr)
        if addr in self._peers:
            try:
                return self.socket.sendto(datagram, addr)
            except OSError:
                # Twisted knows what each error means, and sends again.
                return super().write(datagram, addr)
        sent = super().write(datagram, addr)
        if len(self._peers) == _PEERS:
            self._peers.clear()
        self._peers.add(addr)
        return sent

    def _close(self):
        native, self._native = self._native, None
        self._isReading = False
        if native is not None:
            native.close()
            self.reactor._streams.discard(self)

    def connectionLost(self, reason=None):
        """
        @see: L{twisted.internet.udp.Port.connectionLost}
        """
        self._close()
        super().connectionLost(reason)


class Port(_Receiving, udp.Port):
    """
    A UDP port.
    """


class MulticastPort(_Receiving, udp.MulticastPort):
    """
    A UDP port that joins multicast groups.
    """

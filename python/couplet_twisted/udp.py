"""
UDP: Twisted's ports, with a shorter way for the datagrams that they send.
"""

from twisted.internet import udp

# Hosts that are remembered by each port.
_MOST_HOSTS = 1000


class Port(udp.Port):
    """
    A port that checks the address of a host once.

    @ivar _hosts: Hosts to which Twisted's code has sent a datagram.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._hosts = set()

    def write(self, datagram, addr=None):
        """
        @see: L{twisted.internet.interfaces.IUDPTransport.write}
        """
        if addr is not None and self._connectedAddr is None and addr[0] in self._hosts:
            try:
                return self.socket.sendto(datagram, addr)
            except OSError:
                # Twisted's code tries again, and handles the error.
                pass
        sent = super().write(datagram, addr)
        if self._connectedAddr is None and len(self._hosts) < _MOST_HOSTS:
            self._hosts.add(addr[0])
        return sent

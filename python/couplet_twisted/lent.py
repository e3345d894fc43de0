"""
The sockets of the loop's connections, for programs that use them. A duplicate of the descriptor would halve the number
of connections that a process can have, and the loop closes its descriptor without asking Python: so each call borrows
the descriptor, if it is still open.
"""

import errno
import functools
import os
import socket


class LentSocket(socket.socket):
    """
    The socket of a connection. The loop owns the descriptor, and needs it to be non-blocking: L{close} and L{detach}
    only end the loan, and L{settimeout} does nothing.

    @ivar _number: Returns the number of the loop's descriptor; -1 once that is closed.
    """

    __slots__ = ("_number",)

    def __new__(cls, number):
        return super().__new__(cls)

    def __init__(self, number):
        # Without a descriptor: the base class would close it.
        self._number = number
        self._io_refs = 0
        self._closed = False

    def fileno(self):
        """
        The number of the loop's descriptor; -1 once that is closed.
        """
        return -1 if self._closed else self._number()

    def _borrow(self, function, *args, **kwargs):
        """
        Call a function with a socket on the loop's descriptor.
        """
        number = self.fileno()
        if number == -1:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        skt = socket.socket(fileno=number)
        try:
            # Not the default timeout: the method must not wait, and a duplicate must not become blocking.
            skt.settimeout(0)
            return function(skt, *args, **kwargs)
        finally:
            skt.detach()

    def close(self):
        self._closed = True
        # Breaks a cycle with the connection.
        self._number = None

    def detach(self):
        number = self.fileno()
        self.close()
        return number

    def dup(self):
        return self._borrow(socket.socket.dup)

    def gettimeout(self):
        return 0.0

    def getblocking(self):
        return False

    def settimeout(self, value):
        """
        Do nothing.
        """

    setblocking = settimeout
    timeout = property(gettimeout)
    family = property(lambda self: self._borrow(lambda skt: skt.family))
    type = property(lambda self: self._borrow(lambda skt: skt.type))
    proto = property(lambda self: self._borrow(lambda skt: skt.proto))


def _lending(method):
    @functools.wraps(method)
    def borrow(self, *args, **kwargs):
        return self._borrow(method, *args, **kwargs)

    return borrow


# The other methods that use the descriptor.
for _name in dir(socket.SocketType):
    if not _name.startswith("_") and _name not in vars(LentSocket) and callable(getattr(socket.socket, _name)):
        setattr(LentSocket, _name, _lending(getattr(socket.socket, _name)))
LentSocket.accept = _lending(socket.socket.accept)


__all__ = ["LentSocket"]

"""
Pipes and terminals of child processes, and standard input and output: Couplet reads, writes and closes them. Programs
see the classes of L{twisted.internet.process}.
"""

import contextlib
import functools
import os

from twisted.internet import _posixstdio, error, process
from twisted.python.failure import Failure

from couplet_twisted import _couplet
from couplet_twisted.tcp import Transport

# As Twisted's reactors report them.
_DONE = Failure(error.ConnectionDone())
_LOST = Failure(error.ConnectionLost())


class _Events:
    """
    The protocol of a pipe: passes its events to the owner, a process or standard input and output.
    """

    def __init__(self, owner, name):
        self.dataReceived = functools.partial(owner.childDataReceived, name)
        self.connectionLost = functools.partial(owner.childConnectionLost, name)
        # The inspector shows the class of the program's protocol.
        self.wrappedProtocol = getattr(owner, "proto", None) or getattr(owner, "protocol", None)


class Pipe(Transport):
    """
    One end of a pipe, or another descriptor.

    @cvar _direction: What Couplet does with the descriptor: C{r}, C{w} or C{rw}.

    @cvar _end: The reason of an end that the peer caused.

    @ivar _isShared: Whether the descriptor stays open, and becomes blocking again.
    """

    _isShared = False

    def _adopt(self, owner, name, fileno):
        """
        Pass the descriptor to the loop.
        """
        os.set_blocking(fileno, False)
        self.protocol = _Events(owner, name)
        label = f"stdio:{name}" if self._isShared else f"process:{owner.pid} (descriptor {name})"
        self.reactor._loop.adopt_pipe(self, fileno, self._direction, self._isShared, label)
        self.reactor._streams.add(self)

    def fileno(self):
        """
        The number of the descriptor; -1 once the connection is lost.
        """
        return -1 if self.disconnected else self.fd

    def _readClosed(self):
        self.connectionLost(self._end)


class _End(Pipe):
    """
    A pipe for one direction.

    @ivar _isBlocking: Whether the descriptor is to be blocking at the end.

    @ivar _wantsToWrite: The program's last request to start or stop writing; L{None} once a turn has followed.
    """

    _wantsToWrite = None

    def __init__(self, reactor, proc, name, fileno, forceReadHack=False):
        self.reactor = reactor
        self.proc = proc
        self.name = name
        self.fd = fileno
        self.connected = 1
        self._isShared = isinstance(proc, _posixstdio.StandardIO)
        self._isBlocking = self._isShared and os.get_blocking(fileno)
        self._adopt(proc, name, fileno)

    def connectionLost(self, reason):
        """
        @see: L{twisted.internet.process.ProcessReader.connectionLost}
        """
        if self._isBlocking and not self.disconnected:
            self._unblock()
        super().connectionLost(reason)

    def _unblock(self):
        """
        Make the descriptor blocking again, for other processes that have it and for the rest of this one.
        """
        # The program may have closed it.
        with contextlib.suppress(OSError):
            os.set_blocking(self.fd, True)
        # The other direction may be the same terminal.
        for other in (self.proc._reader, self.proc._writer):
            if isinstance(other, _End) and other is not self and not other.disconnected:
                with contextlib.suppress(OSError):
                    if os.get_blocking(other.fd):
                        os.set_blocking(other.fd, False)
                        other._isBlocking = True

    # Output is sent automatically: only the reactor's list of writers depends on these.

    @property
    def _isWriting(self):
        return self._buffered > 0 if self._wantsToWrite is None else self._wantsToWrite

    def startWriting(self):
        """
        @see: L{twisted.internet.abstract.FileDescriptor.startWriting}
        """
        if self._wantsToWrite is None:
            self.reactor._loop.call_soon(_End._forgetWriting, self)
        self._wantsToWrite = True

    def stopWriting(self):
        """
        @see: L{twisted.internet.abstract.FileDescriptor.stopWriting}
        """
        self.startWriting()
        self._wantsToWrite = False

    def _forgetWriting(self):
        self._wantsToWrite = None


class Reader(_End, process.ProcessReader):
    """
    A pipe from a child process, or standard input.
    """

    _direction = "r"
    _end = _DONE


class Writer(_End, process.ProcessWriter):
    """
    A pipe to a child process, or standard output.
    """

    _direction = "w"
    _end = _LOST


class Terminal(Pipe, process.PTYProcess):
    """
    A child process on a terminal.
    """

    _direction = "rw"
    _end = _LOST
    fd = None

    def startReading(self):
        """
        @see: L{twisted.internet.abstract.FileDescriptor.startReading}
        """
        if self.protocol is None and not self.disconnected:
            self._adopt(self, 1, self.fd)
        super().startReading()

    def childDataReceived(self, name, data):
        """
        @see: L{twisted.internet.process.Process.childDataReceived}
        """
        self.proto.childDataReceived(name, data)

    def childConnectionLost(self, name, reason):
        """
        @see: L{twisted.internet.process.PTYProcess.connectionLost}
        """
        self.lostProcess += 1
        self.maybeCallProcessEnded()


def _making(base, ours, owners):
    """
    Have a class of Twisted's make objects of a subclass, if the reactor is Couplet's. Subclasses of programs are
    unchanged.

    @param owners: The classes of the owners that leave the descriptor to Couplet.
    """

    def __new__(cls, reactor=None, proc=None, *args, **kwargs):
        if cls is base and isinstance(proc, owners) and isinstance(getattr(reactor, "_loop", None), _couplet.Loop):
            return ours.__new__(ours)
        return object.__new__(cls)

    base.__new__ = __new__


def install(*owners):
    """
    Have Twisted's code make pipes and terminals of Couplet's.

    @param owners: The classes of processes that leave their descriptors to Couplet.
    """
    owners = (*owners, _posixstdio.StandardIO)
    _making(process.ProcessReader, Reader, owners)
    _making(process.ProcessWriter, Writer, owners)
    # A terminal owns itself.
    _making(process.PTYProcess, Terminal, object)


__all__ = ["Pipe", "Reader", "Terminal", "Writer", "install"]

"""
The reactor: Twisted's own triggers, threads, signals, processes and datagrams, on Couplet's loop.
"""

import errno
import socket
from asyncio import set_event_loop
from time import monotonic

from zope.interface import implementer

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import _topHandler
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.interfaces import IReactorFDSet, IReactorTime
from twisted.internet.main import installReactor
from twisted.internet.posixbase import (
    PosixReactorBase,
    _ContinuousPolling,
    _PollLikeMixin,
)
from twisted.logger import Logger, LogLevel
from twisted.python import context, log
from twisted.python.failure import Failure

from couplet_twisted import _couplet, tcp, unix
from couplet_twisted.eventloop import EventLoop


def _logged(exception, isTimed=False):
    """
    Log what user code raised where the loop called it.
    """
    failure = Failure(exception, type(exception), exception.__traceback__)
    if isTimed:
        _baseLog.failure("while handling timed call", failure)
    else:
        log.err(failure)


_log = Logger(namespace="couplet")
_baseLog = Logger(namespace="twisted.internet.base")


def _told(level, text):
    """
    Log what Couplet has to say.
    """
    _log.emit(LogLevel.levelWithName(level), "{text}", text=text)


_couplet.log_to(_told)


class _Context:
    """
    The context in which the loop calls protocols: the log names their connections, as Twisted's
    L{twisted.python.log.callWithLogger} has it, without a dictionary for each call.
    """

    def __init__(self, loop):
        self._loop = loop
        self._below = context.get(log.ILogContext, {})

    def __getitem__(self, key):
        connection = self._loop.current
        if connection is None or key is not log.ILogContext:
            raise KeyError(key)
        try:
            prefix = connection.logPrefix()
        except Exception:
            prefix = "(buggy logPrefix method)"
        return dict(self._below, system=prefix)


@implementer(IReactorFDSet, IReactorTime)
class CoupletReactor(_PollLikeMixin, AsyncioSelectorReactor):
    """
    A reactor whose connections, timers and main loop are Couplet's, and which asyncio's event loop runs beside.
    It passes for Twisted's asyncio reactor, and has nothing of its code.

    @ivar _loop: Couplet's loop.

    @ivar _watches: What the loop watches for readers and writers, by the number of the descriptor.

    @ivar _busy: The descriptor whose reader or writer is called.

    @ivar _streams: The connections and the ports that are Couplet's.

    @ivar _clock: What stands for C{seconds}.

    @ivar _iteration: For how long the one turn may wait that L{doIteration} asks for; empty: none is asked for.
    """

    _clock = staticmethod(PosixReactorBase.seconds)
    _iteration = ()

    _POLL_DISCONNECTED = 1
    _POLL_IN = 2
    _POLL_OUT = 4

    def __init__(self):
        self._loop = _couplet.Loop(_logged)
        self.callLater = self._loop.call_later
        self.getDelayedCalls = self._loop.delayed_calls
        self._reads = set()
        self._writes = set()
        self._selectables = {}
        self._watches = {}
        self._busy = None
        self._streams = set()
        self._continuousPolling = _ContinuousPolling(self)
        self._asyncioEventloop = EventLoop(self)
        PosixReactorBase.__init__(self)

    @property
    def seconds(self):
        """
        @see: L{twisted.internet.interfaces.IReactorTime.seconds}
        """
        return self._clock

    @seconds.setter
    def seconds(self, clock):
        self._clock = clock
        self._loop.set_clock(None if clock is PosixReactorBase.seconds else clock)

    @seconds.deleter
    def seconds(self):
        self.seconds = PosixReactorBase.seconds

    # The main loop.

    run = PosixReactorBase.run
    iterate = PosixReactorBase.iterate
    callFromThread = PosixReactorBase.callFromThread

    def mainLoop(self):
        """
        Run the event loop of asyncio, which waits in L{_turnUntil}.
        """
        if self._started:
            self._asyncioEventloop.run_forever()
        _baseLog.info("Main loop terminated.")
        self._loop.turn(0)

    def _turnUntil(self, timeout):
        """
        Turn the loop until asyncio has something to do, or so many seconds have passed.

        @param timeout: L{None}: no limit.
        """
        if self._iteration:
            # One turn was asked for: this one.
            limits = [*self._iteration, timeout]
            self._iteration = ()
            self._asyncioEventloop.stop()
            self._loop.turn(min([each for each in limits if each is not None], default=None))
            return
        selector = self._asyncioEventloop._selector
        queue = self._asyncioEventloop._ready
        contexts = context.theContextTracker.currentContext().contexts
        ours = _Context(self._loop)
        until = timeout and monotonic() + timeout
        isAwaited = True
        while isAwaited:
            with _topHandler:
                self.runUntilCurrent()
                left = 0 if selector.isAsked else until and max(0, until - monotonic())
                contexts.append(ours)
                try:
                    isAwaited = self._loop.run(left, queue) and not (queue or selector.isAsked)
                finally:
                    contexts.pop()

    def doIteration(self, delay):
        """
        Make one turn, and one of asyncio's.
        """
        asyncio = self._asyncioEventloop
        if asyncio.is_running():
            self._loop.turn(delay)
            return
        self._iteration = (delay,)
        asyncio.run_forever()

    def wakeUp(self):
        """
        Have the loop return to L{mainLoop}.
        """
        self._loop.interrupt()

    def stop(self):
        """
        @see: L{twisted.internet.interfaces.IReactorCore.stop}
        """
        PosixReactorBase.stop(self)
        self._loop.interrupt()

    def crash(self):
        """
        @see: L{twisted.internet.interfaces.IReactorCore.crash}
        """
        PosixReactorBase.crash(self)
        self._asyncioEventloop.stop()

    # Readers and writers.

    def _watch(self, fd):
        """
        Have the loop watch a descriptor for what is asked of it now.
        """
        readable, writable = fd in self._reads, fd in self._writes
        watch = self._watches.get(fd)
        if not (readable or writable):
            self._selectables.pop(fd, None)
            if watch is not None and fd != self._busy:
                del self._watches[fd]
                watch.stop()
        elif watch is None:
            ready = lambda readable, writable: self._ready(fd, readable, writable)
            self._watches[fd] = self._loop.watch(fd, readable, writable, ready)
        else:
            watch.set(readable, writable)

    def _ready(self, fd, readable, writable):
        selectable = self._selectables.get(fd)
        if selectable is None:
            return
        event = 0
        if readable and fd in self._reads:
            event |= self._POLL_IN
        if writable and fd in self._writes:
            event |= self._POLL_OUT
        if not event:
            return
        self._busy = fd
        log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
        self._busy = None
        # It was removed, or closed, and its number may be another's by now. The watch ends when this
        # call has returned.
        if self._selectables.get(fd) is not selectable:
            self._watches.pop(fd).stop()
            if fd in self._selectables:
                self._loop.call_soon(self._watchAgain, fd)

    def _watchAgain(self, fd):
        if fd in self._selectables and fd not in self._watches:
            self._watch(fd)

    def _add(self, xer, primary):
        fd = xer.fileno()
        if fd in primary:
            return False
        primary.add(fd)
        try:
            self._watch(fd)
        except OSError as e:
            primary.discard(fd)
            # Files are always ready, and can't be watched.
            if e.errno == errno.EPERM:
                return True
            raise
        self._selectables[fd] = xer
        return False

    def _remove(self, xer, primary):
        fd = xer.fileno()
        if fd == -1:
            for fd, selectable in self._selectables.items():
                if selectable is xer:
                    break
            else:
                return
        if fd in primary:
            primary.remove(fd)
            self._watch(fd)

    def addReader(self, reader):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.addReader}
        """
        if reader in self._streams:
            reader.startReading()
        elif self._add(reader, self._reads):
            self._continuousPolling.addReader(reader)

    def addWriter(self, writer):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.addWriter}
        """
        if writer in self._streams:
            writer.startWriting()
        elif self._add(writer, self._writes):
            self._continuousPolling.addWriter(writer)

    def removeReader(self, reader):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.removeReader}
        """
        if reader in self._streams:
            reader.stopReading()
        elif self._continuousPolling.isReading(reader):
            self._continuousPolling.removeReader(reader)
        else:
            self._remove(reader, self._reads)

    def removeWriter(self, writer):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.removeWriter}
        """
        if writer in self._streams:
            writer.stopWriting()
        elif self._continuousPolling.isWriting(writer):
            self._continuousPolling.removeWriter(writer)
        else:
            self._remove(writer, self._writes)

    def removeAll(self):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.removeAll}
        """
        streams = [s for s in self._streams if s._isReading or s._isWriting]
        self._streams.difference_update(streams)
        return (
            self._removeAll(
                [self._selectables[fd] for fd in self._reads],
                [self._selectables[fd] for fd in self._writes],
            )
            + self._continuousPolling.removeAll()
            + streams
        )

    def getReaders(self):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.getReaders}
        """
        readers = [self._selectables[fd] for fd in self._reads]
        streams = [stream for stream in self._streams if stream._isReading]
        return readers + self._continuousPolling.getReaders() + streams

    def getWriters(self):
        """
        @see: L{twisted.internet.interfaces.IReactorFDSet.getWriters}
        """
        writers = [self._selectables[fd] for fd in self._writes]
        streams = [stream for stream in self._streams if stream._isWriting]
        return writers + self._continuousPolling.getWriters() + streams

    # Connections.

    def listenTCP(self, port, factory, backlog=50, interface=""):
        """
        @see: L{twisted.internet.interfaces.IReactorTCP.listenTCP}
        """
        p = tcp.Port(port, factory, backlog, interface, self)
        p.startListening()
        return p

    def connectTCP(self, host, port, factory, timeout=30, bindAddress=None):
        """
        @see: L{twisted.internet.interfaces.IReactorTCP.connectTCP}
        """
        c = tcp.Connector(host, port, factory, timeout, bindAddress, self)
        c.connect()
        return c

    def listenUNIX(self, address, factory, backlog=50, mode=0o666, wantPID=0):
        """
        @see: L{twisted.internet.interfaces.IReactorUNIX.listenUNIX}
        """
        p = unix.Port(address, factory, backlog, mode, self, wantPID)
        p.startListening()
        return p

    def connectUNIX(self, address, factory, timeout=30, checkPID=0):
        """
        @see: L{twisted.internet.interfaces.IReactorUNIX.connectUNIX}
        """
        c = unix.Connector(address, factory, timeout, self, checkPID)
        c.connect()
        return c

    def adoptStreamPort(self, fileDescriptor, addressFamily, factory):
        """
        @see: L{twisted.internet.interfaces.IReactorSocket.adoptStreamPort}
        """
        if addressFamily == socket.AF_UNIX:
            p = unix.Port._fromListeningDescriptor(self, fileDescriptor, factory)
        elif addressFamily in self._supportedAddressFamilies:
            p = tcp.Port._fromListeningDescriptor(
                self, fileDescriptor, addressFamily, factory
            )
        else:
            raise UnsupportedAddressFamily(addressFamily)
        p.startListening()
        return p

    def adoptStreamConnection(self, fileDescriptor, addressFamily, factory):
        """
        @see: L{twisted.internet.interfaces.IReactorSocket.adoptStreamConnection}
        """
        if addressFamily == socket.AF_UNIX:
            return unix.Server._fromConnectedSocket(fileDescriptor, factory, self)
        if addressFamily in self._supportedAddressFamilies:
            return tcp.Server._fromConnectedSocket(
                fileDescriptor, addressFamily, factory, self
            )
        raise UnsupportedAddressFamily(addressFamily)


def install():
    """
    Make this the reactor of the process.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: if there is one already.
    """
    reactor = CoupletReactor()
    installReactor(reactor)
    set_event_loop(reactor._asyncioEventloop)
    return reactor


__all__ = ["CoupletReactor", "install"]

"""
The reactor: Twisted's own triggers, threads, signals and processes on Couplet's loop.

Contract: 106a.
"""

import errno
import os
import select
import socket
import sys
import traceback
import weakref
from asyncio import set_event_loop
from time import monotonic, sleep

from zope.interface import classImplements, implementer

from twisted.internet._signals import _FDWaker, _SIGCHLDWaker
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import _threadCallHandler, _topHandler
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.internet.main import installReactor
from twisted.internet.posixbase import (
    PosixReactorBase,
    _ContinuousPolling,
    _PollLikeMixin,
)
from twisted.logger import Logger, LogLevel
from twisted.python import context, log
from twisted.python.failure import Failure

from couplet_twisted import _couplet, tcp, udp, unix
from couplet_twisted.eventloop import EventLoop
from couplet_twisted.processes import Process


classImplements(_couplet.DelayedCall, IDelayedCall)


def _logged(exception, call=None):
    """
    Log an exception of user code that the loop called.

    @param call: The timed call that raised it, if any.
    """
    failure = Failure(exception, type(exception), exception.__traceback__)
    if call is None:
        log.err(failure)
    elif call.creator is None:
        _baseLog.failure("while handling timed call", failure)
    else:
        lines = "".join(call.creator).rstrip().replace("\n", "\n C:")
        made = f"\n C: from a DelayedCall created here:\n C:{lines}\n"
        _baseLog.failure("while handling timed call {made}", failure, made=made)


# The most bytes of one C{dataReceived}, as in Twisted.
_CHUNK = 64 * 1024

# The most seconds that one turn spends on calls from threads.
_SLICE = 0.005

# The number of pending calls above which a thread that posts one yields to other threads.
_BACKLOG = 1000

_log = Logger(namespace="couplet")
_baseLog = Logger(namespace="twisted.internet.base")


def _told(level, text):
    """
    Log an event of Couplet's.
    """
    _log.emit(LogLevel.levelWithName(level), "{text}", text=text)


_couplet.log_to(_told)


class _Context:
    """
    The context in which the loop calls protocols. The log names their connections, as with Twisted's
    L{twisted.python.log.callWithLogger}, but without a dictionary for each call.
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
    A reactor with Couplet's connections, timers and main loop, which also runs asyncio's event loop. The class extends
    Twisted's asyncio reactor, so that programs take it for one, but uses none of its code.

    @ivar _loop: Couplet's loop.

    @ivar _watches: The loop's watches for readers and writers, by descriptor number.

    @ivar _streams: Couplet's connections and ports.

    @ivar _clock: The function behind C{seconds}.

    @ivar _iteration: The longest wait of the one turn that L{doIteration} requests; empty if none is requested.

    @ivar _isWarned: Whether the first use in another thread was logged.

    @ivar _inspection: The inspector; L{None} without one.
    """

    _clock = staticmethod(PosixReactorBase.seconds)
    _iteration = ()
    _isWarned = False
    _inspection = None

    _POLL_DISCONNECTED = 1
    _POLL_IN = 2
    _POLL_OUT = 4

    def __init__(self, asyncio=False):
        self._loop = _couplet.Loop(_logged, weakref.WeakMethod(self._post), _CHUNK)
        _reactors[self] = self._loop
        self.callLater = self._loop.call_later
        self.getDelayedCalls = self._loop.delayed_calls
        self._reads = set()
        self._writes = set()
        self._selectables = {}
        self._watches = {}
        self._streams = set()
        self._continuousPolling = _ContinuousPolling(self)
        self._asyncioEventloop = EventLoop(self, asyncio)
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
    callFromThread = PosixReactorBase.callFromThread

    def startRunning(self, installSignalHandlers=True):
        """
        Start in this thread. The first thread that runs the reactor owns it.

        @raise RuntimeError: if another thread owns the reactor.
        """
        if not (self._started or self._startedBefore):
            self._loop.take()
        if self._inspection is not None:
            self._inspection.announce()
        # This thread may have got another event loop since the reactor was made.
        set_event_loop(self._asyncioEventloop)
        PosixReactorBase.startRunning(self, installSignalHandlers)

    def iterate(self, delay=0):
        """
        @see: L{twisted.internet.interfaces.IReactorCore.iterate}
        """
        self._loop.take()
        PosixReactorBase.iterate(self, delay)

    def runUntilCurrent(self):
        """
        Make calls from threads, for a limited time, and the due timed calls. A flood of calls from threads delays
        neither connections nor timers.
        """
        queue = self.threadCallQueue
        if queue:
            total, count, until = len(queue), 0, monotonic() + _SLICE
            for f, args, kw in queue:
                with _threadCallHandler:
                    f(*args, **kw)
                count += 1
                if count == total or (count % 16 == 0 and monotonic() > until):
                    break
            del queue[:count]
            if queue:
                self.wakeUp()
        self._loop.make_due_calls()
        if self._justStopped:
            self._justStopped = False
            self.fireSystemEvent("shutdown")

    def _post(self, function, *args):
        """
        Have the reactor's thread call a function on behalf of another thread.
        """
        if not self._isWarned:
            self._isWarned = True
            _log.warn(
                "the reactor is used in another thread: its own thread makes such calls, in order; "
                "use reactor.callFromThread. The first one was made here:\n{stack}",
                stack="".join(traceback.format_stack()[:-1]),
            )
        self.callFromThread(function, *args)

    def mainLoop(self):
        """
        Run asyncio's event loop, which makes its iterations by L{_turn}.
        """
        if self._started:
            self._asyncioEventloop.run_forever()
        _baseLog.info("Main loop terminated.")
        self._loop.flush()

    def _turn(self, ready):
        """
        Turn the loop until it is interrupted.

        @param ready: The callbacks of asyncio's event loop.
        """
        asyncio, limits = self._asyncioEventloop, self._iteration
        contexts = context.theContextTracker.currentContext().contexts
        with _topHandler:
            if not limits:
                wasStarted = self._started
                self.runUntilCurrent()
                if wasStarted and not self._started:
                    # Stopped: no more timed calls are made.
                    return
            if asyncio._selector.isWrapped:
                asyncio._wait(*limits or [None])
                limits = [0]
            contexts.append(_Context(self._loop))
            try:
                if limits:
                    self._loop.iterate(ready, *limits)
                else:
                    self._loop.run(ready)
            finally:
                contexts.pop()

    def doIteration(self, delay):
        """
        Make one turn of Couplet's loop and one iteration of asyncio's.
        """
        asyncio = self._asyncioEventloop
        if asyncio.is_running():
            self._loop.turn(delay)
            return
        # The event loop stops after this iteration, which may wait.
        self._iteration = (delay,)
        asyncio._stopping = True
        try:
            asyncio.run_forever()
        finally:
            self._iteration = ()

    def wakeUp(self):
        """
        Make the loop return to L{mainLoop}.
        """
        self._loop.interrupt()
        if len(self.threadCallQueue) > _BACKLOG and not self._loop.is_here:
            # An unbounded backlog would delay everything else.
            sleep(0)

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
        # Before this run reaches its main loop, a stop would affect the next run.
        if self._asyncioEventloop.is_running():
            self._asyncioEventloop.stop()

    def _forked(self, isChild):
        """
        Called after a fork: a child gets its own descriptors to wait on.
        """
        self._loop.forked(isChild)
        if isChild:
            for port in self._streams:
                if isinstance(port, udp.Receiving):
                    port._forget()
            for waker in [each for each in self._internalReaders if isinstance(each, _FDWaker)]:
                # The child's epoll has the pipe that it shares with the parent: the new one is registered anew.
                self.removeReader(waker)
                _renewPipe(waker)
                self.addReader(waker)
                if isinstance(waker, _SIGCHLDWaker):
                    # In the child, asyncio of Python 3.12 resets the signal wakeup descriptor, and the event loop.
                    waker.install()
            self._asyncioEventloop.forked()
            if sys.modules.get("twisted.internet.reactor") is self and self._loop.is_here:
                set_event_loop(self._asyncioEventloop)

    # Readers and writers.

    def _watch(self, fd):
        """
        Match the loop's watch of a descriptor to the current readers and writers.
        """
        interest = "r" * (fd in self._reads) + "w" * (fd in self._writes)
        watch = self._watches.get(fd)
        if not interest:
            self._selectables.pop(fd, None)
            if watch is not None:
                del self._watches[fd]
                watch.stop()
        elif watch is None:
            if not self._loop.is_here:
                # The loop's thread starts the watch later, but an error must be raised here.
                with select.epoll() as probe:
                    probe.register(fd, 0)
            self._watches[fd] = self._loop.watch(fd, interest, lambda ready: self._ready(fd, ready))
        else:
            watch.set(interest)

    def _ready(self, fd, ready):
        selectable = self._selectables.get(fd)
        if selectable is None:
            return
        event = 0
        if "r" in ready and fd in self._reads:
            event |= self._POLL_IN
        if "w" in ready and fd in self._writes:
            event |= self._POLL_OUT
        if not event:
            return
        self._loop.call_for(selectable, self._doReadOrWrite, selectable, fd, event)

    def _add(self, xer, primary):
        fd = xer.fileno()
        if fd in primary:
            return False
        primary.add(fd)
        try:
            self._watch(fd)
        except OSError as e:
            primary.discard(fd)
            # A regular file is always ready and can't be watched.
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

    # Processes and connections.

    def spawnProcess(
        self, processProtocol, executable, args=(), env={}, path=None, uid=None, gid=None, usePTY=0, childFDs=None
    ):
        """
        @see: L{twisted.internet.interfaces.IReactorProcess.spawnProcess}
        """
        if usePTY:
            return super().spawnProcess(processProtocol, executable, args, env, path, uid, gid, usePTY, childFDs)
        return Process(self, executable, args, env, path, processProtocol, uid, gid, childFDs)

    def listenTCP(self, port, factory, backlog=50, interface=""):
        """
        @see: L{twisted.internet.interfaces.IReactorTCP.listenTCP}
        """
        p = tcp.Port(port, factory, backlog, interface, self)
        p.startListening()
        return p

    def listenUDP(self, port, protocol, interface="", maxPacketSize=8192):
        """
        @see: L{twisted.internet.interfaces.IReactorUDP.listenUDP}
        """
        p = udp.Port(port, protocol, interface, maxPacketSize, self)
        p.startListening()
        return p

    def listenMulticast(self, port, protocol, interface="", maxPacketSize=8192, listenMultiple=False):
        """
        @see: L{twisted.internet.interfaces.IReactorMulticast.listenMulticast}
        """
        p = udp.MulticastPort(port, protocol, interface, maxPacketSize, self, listenMultiple)
        p.startListening()
        return p

    def adoptDatagramPort(self, fileDescriptor, addressFamily, protocol, maxPacketSize=8192):
        """
        @see: L{twisted.internet.interfaces.IReactorSocket.adoptDatagramPort}
        """
        if addressFamily not in self._supportedAddressFamilies:
            raise UnsupportedAddressFamily(addressFamily)
        p = udp.Port._fromListeningDescriptor(self, fileDescriptor, addressFamily, protocol, maxPacketSize)
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

    def listenUNIXDatagram(self, address, protocol, maxPacketSize=8192, mode=0o666):
        """
        @see: L{twisted.internet.interfaces.IReactorUNIXDatagram.listenUNIXDatagram}
        """
        p = unix.DatagramPort(address, protocol, maxPacketSize, mode, self)
        p.startListening()
        return p

    def connectUNIXDatagram(self, address, protocol, maxPacketSize=8192, mode=0o666, bindAddress=None):
        """
        @see: L{twisted.internet.interfaces.IReactorUNIXDatagram.connectUNIXDatagram}
        """
        p = unix.ConnectedDatagramPort(address, protocol, maxPacketSize, mode, bindAddress, self)
        p.startListening()
        return p

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


def _renewPipe(waker):
    """
    Replace the pipe of a waker: a pipe shared with the parent would wake either process.
    """
    for end, number in zip(os.pipe(), (waker.i, waker.o)):
        os.set_blocking(end, False)
        os.dup2(end, number, inheritable=False)
        os.close(end)


def _forked(isChild):
    for reactor, loop in list(_reactors.items()):
        try:
            if isinstance(reactor, CoupletReactor):
                reactor._forked(isChild)
            else:
                # Twisted's tests of another reactor change the class and the attributes of the installed one.
                loop.forked(isChild)
        except BaseException:
            _log.failure("the reactor does not run in this process, which another one forked")


# Their loops.
_reactors = weakref.WeakKeyDictionary()
os.register_at_fork(after_in_parent=lambda: _forked(False), after_in_child=lambda: _forked(True))


def install(asyncio=False):
    """
    Make this the reactor of the process.

    @param asyncio: Whether asyncio's event loop counts as running in every callback of the reactor.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: if a reactor is already installed.
    """
    reactor = CoupletReactor(asyncio)
    installReactor(reactor)
    set_event_loop(reactor._asyncioEventloop)
    return reactor


__all__ = ["CoupletReactor", "install"]

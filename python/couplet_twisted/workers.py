"""
A service in several processes, which share its ports: C{twistd --workers 4 ...}, or in a program::

    from couplet_twisted import workers

    async def start(reactor, number):
        await endpoints.serverFromString(reactor, "tcp:8080").listen(factory)

    if __name__ == "__main__":
        workers.run(4, start)

The parent forks the workers, replaces those that end, and serves no connection. Each worker makes its own reactor
and builds the service, so a reload also loads changed code, except for modules that the parent has imported.

The parent keeps the listening sockets. The first worker that listens at an address makes the socket as usual, with
the program's own options, user and working directory, and passes a duplicate to the parent. The parent passes it to
every other worker that listens there, so a program does not declare its ports. All workers accept from one queue,
which outlives each of them. With SO_REUSEPORT each worker would have its own queue, and its end would reset the
connections that wait there.

Signals to the parent:

  - SIGTERM, SIGINT: the workers accept no more connections, finish the open ones, and end. A second one ends them
    immediately.
  - SIGHUP: a new worker replaces each worker, one after another. The old one stops accepting when the new one is
    ready.
  - SIGUSR1: the log file is reopened, as by twistd, and every worker calls its own handler of the signal.
  - SIGTTIN, SIGTTOU: one worker more or less.

SIGTERM to a worker replaces it, after it has finished its connections.
"""

import collections
import contextlib
import os
import random
import selectors
import signal
import socket
import sys
from time import monotonic

from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger

from couplet_twisted import worker
from couplet_twisted.sockets import Sockets
from couplet_twisted.worker import receive, send

_HANDLED = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGTTIN", "SIGTTOU", "SIGCHLD")
]

# Seconds.
_TICK = 1
# A worker that lives at least this long is restarted immediately; others after a delay that doubles each time.
_SETTLED = 10
_LEAST_DELAY, _MOST_DELAY = 0.5, 30
# Until a worker that does not end is killed: after its drain, and after an order to stop.
_GRACE_DRAINED, _GRACE_STOPPED = 5, 2
# If no worker is ready, the parent gives up after as many failed starts in a row.
_MOST_FAILURES = 5


class _Child:
    """
    A worker process.

    @ivar state: C{"starting"}, C{"ready"} or C{"draining"}.

    @ivar replaces: The worker that drains once this one is ready, if any.

    @ivar deadline: When the process is killed.

    @ivar isPaused: Whether it has stopped accepting connections.

    @ivar error: Why it could not start.
    """

    state = "starting"
    deadline = None
    isPaused = False
    error = None

    def __init__(self, number, pid, channel, replaces):
        self.number, self.pid, self.channel, self.replaces = number, pid, channel, replaces
        self.born = monotonic()

    def __str__(self):
        return f"worker {self.number} (process {self.pid})"

    def tell(self, *message, descriptor=None):
        # A worker that died, or hangs and reads nothing, is replaced or killed later.
        with contextlib.suppress(OSError):
            send(self.channel, *message, descriptor=descriptor)


class Parent:
    """
    The process that forks the workers, waits for signals and for messages of the workers, and then makes the due
    changes in L{_advance}.

    @param serve: Called with a L{couplet_twisted.worker.Worker} in each worker; attaches a reactor and runs it.

    @param log: The parent's L{Logger}.

    @ivar onReady: Called once all workers are ready for the first time.

    @ivar logFile: The L{twisted.python.logfile.LogFile} of parent and workers, if any.
    """

    logFile = None

    def __init__(self, count, serve, drain=10, mostConnections=None, mostMemory=None, log=None):
        if count < 1:
            raise ValueError(f"at least one worker is needed, not {count}")
        self._count, self._serve, self._drain = count, serve, drain
        self._limits = (mostConnections, mostMemory)
        self._log = log or Logger(namespace="couplet.workers")
        self.onReady = lambda: None
        self._children = []
        # Workers to be replaced.
        self._outdated = collections.deque()
        # By number of the worker: the failures in a row, and the time of the next start.
        self._failures = collections.Counter()
        self._due = {}
        self._failedStarts = 0
        self._wasReady = self._isAnnounced = self._isReloading = self._isStopping = False
        self._fatal = None
        self._sockets = Sockets(self._log)

    def run(self):
        """
        Supervise the workers until a signal ends the service.

        @raise SystemExit: if no worker can start.
        """
        with self._signals():
            while self._children or not self._isStopping:
                self._advance()
                self._wait()
        self._sockets.close()
        if self._fatal:
            self._log.critical("{text}", text=self._fatal)
            raise SystemExit(self._fatal)
        self._log.info("all workers have ended")

    @contextlib.contextmanager
    def _signals(self):
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = socket.socketpair()
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        before = [(number, signal.signal(number, lambda *_: None)) for number in _HANDLED]
        wakeup = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._selector.close()
            self._woken.close()
            self._wakes.close()

    def _wait(self):
        """
        Wait for signals and messages, and handle them.
        """
        times = [child.deadline for child in self._children if child.deadline] + list(self._due.values())
        left = min([_TICK, *(each - monotonic() for each in times)])
        ready = self._selector.select(max(0, left))
        # Signals first: one to parent and workers together ends the service, and replaces no worker.
        with contextlib.suppress(BlockingIOError):
            for number in self._woken.recv(4096):
                self._signalled(number)
        for key, _ in ready:
            if key.data is not None:
                self._read(key.data)
        for child in list(self._children):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._read(child)
                self._ended(child, os.waitstatus_to_exitcode(status))
        self._rotateFullLog()

    # Starts and ends of workers.

    def _advance(self):
        """
        Start and kill the workers whose time has come.
        """
        now = monotonic()
        for child in self._children:
            if child.deadline and child.deadline < now:
                self._log.error("{child} did not end in time, and is killed", child=child)
                os.kill(child.pid, signal.SIGKILL)
                child.deadline = None
        if self._isStopping:
            if all(child.isPaused for child in self._children):
                self._sockets.close()
            return
        self._due = {number: due for number, due in self._due.items() if due > now and number <= self._count}
        here = {child.number for child in self._children if child.state != "draining"}
        missing = [number for number in range(1, self._count + 1) if number not in here]
        isStarting = any(child.state == "starting" for child in self._children)
        for number in missing:
            # The first worker starts before the others: its errors are reported once, and it makes the sockets.
            if number not in self._due and (self._wasReady or not isStarting):
                self._start(number)
                isStarting = True
        if missing or isStarting:
            return
        if not self._isAnnounced:
            self._isAnnounced = True
            self.onReady()
        for child in self._children:
            if child.number > self._count and child.state == "ready":
                self._drainOne(child)
        while self._outdated:
            child = self._outdated.popleft()
            if child.state == "ready" and child in self._children:
                self._start(child.number, child)
                return
        if self._isReloading and all(child.isPaused for child in self._children if child.state == "draining"):
            self._isReloading = False
            self._log.info("reloaded: all workers are new")
        self._sockets.closeUnclaimed()

    def _start(self, number, replaces=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        # A signal to the child must not run the parent's handlers there, which share its wakeup descriptor.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become(number, theirs, mask)
        except OSError as e:
            ours.close()
            self._failed(number, replaces, f"cannot fork: {e}")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        ours.setblocking(False)
        child = _Child(number, pid, ours, replaces)
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)
        self._log.info("{child} starts", child=child)

    def _become(self, number, channel, mask):
        """
        In a forked process: become a worker. Does not return.
        """
        try:
            signal.set_wakeup_fd(-1)
            for each in _HANDLED:
                signal.signal(each, signal.SIG_DFL)
            # A terminal sends these to the workers too, and it is the parent that decides.
            for each in (signal.SIGINT, signal.SIGHUP):
                signal.signal(each, signal.SIG_IGN)
            # While a worker held the parent's end of a channel, the other one would not notice the parent's death.
            for each in [self._selector, self._woken, self._wakes, *(child.channel for child in self._children)]:
                each.close()
            self._sockets.forget()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            worker.run(worker.Worker(number, channel, self._drain, *self._limits), self._serve)
        finally:
            os._exit(1)

    def _ended(self, child, status):
        """
        Handle the end of a worker.
        """
        self._children.remove(child)
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.channel)
        child.channel.close()
        self._sockets.ended(child)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if child.state == "draining" or self._isStopping:
            self._log.info("{child} {how}", child=child, how=how)
        elif child.state == "starting":
            self._failed(child.number, child.replaces, child.error or f"it {how}")
        else:
            self._log.error("{child} {how}: it is restarted", child=child, how=how)
            if monotonic() - child.born < _SETTLED:
                self._delay(child.number)
            else:
                self._failures[child.number] = 0

    def _failed(self, number, replaces, why):
        """
        Handle a failed start.
        """
        self._failedStarts += 1
        text = f"worker {number} failed to start: {why}"
        if not self._wasReady:
            self._giveUp(text)
        elif replaces:
            self._log.error("{text}; the old workers stay", text=text)
            self._outdated.clear()
            self._isReloading = False
        elif self._failedStarts >= _MOST_FAILURES and not any(each.state == "ready" for each in self._children):
            self._giveUp(f"{text} ({self._failedStarts} starts failed in a row)")
        else:
            self._log.error("{text}; it is tried again", text=text)
            self._delay(number)

    def _delay(self, number):
        self._failures[number] += 1
        most = min(_MOST_DELAY, _LEAST_DELAY * 2 ** min(10, self._failures[number] - 1))
        self._due[number] = monotonic() + random.uniform(most / 2, most)

    def _giveUp(self, text):
        self._fatal = text
        self._stop()

    def _drainOne(self, child):
        child.state = "draining"
        child.deadline = monotonic() + self._drain + _GRACE_DRAINED
        child.tell("drain")

    def _stop(self):
        """
        End the service: at first gracefully, the second time immediately.
        """
        if not self._isStopping and not self._fatal:
            self._log.info("stopping: connections have {seconds} s to finish", seconds=self._drain)
        for child in self._children:
            if self._isStopping:
                child.deadline = monotonic() + _GRACE_STOPPED
                child.tell("stop")
            elif child.state == "starting":
                child.deadline = monotonic() + _GRACE_STOPPED
                os.kill(child.pid, signal.SIGTERM)
            elif child.state == "ready":
                self._drainOne(child)
        self._isStopping = True
        self._due.clear()

    # Signals.

    def _signalled(self, number):
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop()
        elif number == signal.SIGUSR1:
            if self.logFile is not None:
                self._rotate()
            for child in self._children:
                child.tell("reopen")
        elif self._isStopping:
            return
        elif number == signal.SIGHUP:
            self._log.info("reloading: each worker is replaced")
            self._isReloading = True
            self._due.clear()
            self._outdated = collections.deque(child for child in self._children if child.state != "draining")
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._count = max(1, self._count + (1 if number == signal.SIGTTIN else -1))
            self._log.info("workers wanted: {count}", count=self._count)

    # The log.

    def _rotateFullLog(self):
        if self.logFile is not None:
            # The workers write to it too.
            self.logFile.size = os.fstat(self.logFile._file.fileno()).st_size
            if self.logFile.shouldRotate():
                self._rotate()

    def _rotate(self):
        self.logFile.rotate()
        for child in self._children:
            child.tell("log", descriptor=self.logFile._file.fileno())

    # Messages.

    def _read(self, child):
        while True:
            try:
                message, descriptor = receive(child.channel)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # The worker ended and left messages unread. Messages from it may follow.
                continue
            if message is None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(child.channel)
                return
            self._obey(child, *message, descriptor=descriptor)

    def _obey(self, child, event, *rest, descriptor):
        if event == "ready":
            self._ready(child)
        elif event == "failed":
            child.error = rest[0]
        elif event == "draining":
            child.isPaused = True
            if child.state != "draining":
                # A signal to the worker itself.
                self._log.info("{child} was asked to end: it is replaced", child=child)
                child.state = "draining"
                child.deadline = monotonic() + self._drain + _GRACE_DRAINED
        elif event == "retire":
            if child not in self._outdated and not any(each.replaces is child for each in self._children):
                self._log.info("{child} is replaced: {reason}", child=child, reason=rest[0])
                self._outdated.append(child)
        elif event == "made":
            self._sockets.made(child, *rest, descriptor)
        elif event in ("ask", "unmade", "release"):
            getattr(self._sockets, event)(child, *rest)

    def _ready(self, child):
        if self._isStopping:
            self._drainOne(child)
            return
        child.state = "ready"
        self._wasReady = True
        self._failedStarts = 0
        self._log.info("{child} is ready", child=child)
        old, child.replaces = child.replaces, None
        if old is not None and old.state == "ready":
            self._drainOne(old)


def run(count, start, *, drain=10, mostConnections=None, mostMemory=None):
    """
    Run a service in several processes, until a signal ends it.

    Call it in the main thread of a program, before the program starts other threads.

    @param count: The number of workers.

    @param start: Called in each worker, with the reactor and the number of the worker, from 1, once the reactor
        runs; sets up the service. The worker is ready when it returns, or when the Deferred or the coroutine that
        it returns has fired.

    @param drain: How many seconds a worker has to finish its connections before it ends.

    @param mostConnections: A worker is replaced after about this number of accepted connections.

    @param mostMemory: A worker is replaced when it uses about this many bytes of memory.

    @raise SystemExit: with the reason, if no worker can start.
    """
    Parent(count, lambda this: _serve(this, start), drain, mostConnections, mostMemory).run()


def _serve(this, start):
    """
    In a worker: run the reactor, and call C{start} in it.
    """
    if "twisted.internet.reactor" not in sys.modules:
        import couplet_twisted

        couplet_twisted.install()
    from twisted.internet import reactor

    def failed(failure):
        failure.printTraceback()
        this.fail(f"{failure.type.__name__}: {failure.getErrorMessage()}")

    def started():
        maybeDeferred(start, reactor, this.number).addCallback(lambda _: this.ready()).addErrback(failed)

    this.attach(reactor)
    reactor.callWhenRunning(started)
    reactor.run()


__all__ = ["Parent", "run"]

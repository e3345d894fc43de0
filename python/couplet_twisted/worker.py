"""
A worker process of L{couplet_twisted.workers}: shares its ports with the others, and drains before it ends.

A worker and its parent send each other lists in JSON over a pair of sockets, and descriptors with them. A worker
that listens asks for the port's socket first: the parent passes it, or grants the right to make it.
"""

import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import traceback

from twisted.internet import error, main
from twisted.logger import Logger
from twisted.python.failure import Failure

from couplet_twisted import sockets, tcp

# The size of the longest message.
_SIZE = 65536

# A descriptor in a message.
_INT = struct.Struct("i")

# How often a worker compares its memory and its connections with the limits, and looks for the end of a drain.
_LOOK = 1
_LOOK_DRAINING = 0.05

# After this time without a replacement, a worker that reached a limit asks for one again.
_ASK_AGAIN = 30

_log = Logger(namespace="couplet.workers")


def send(channel, *message, descriptor=None):
    """
    Send a message, and a descriptor with it.
    """
    socket.send_fds(channel, [json.dumps(message).encode()], [] if descriptor is None else [descriptor])


def receive(channel, flags=0):
    """
    The next message and the descriptor that came with it, or L{None} instead; L{None} for both at the end.
    """
    # Not Python's recv_fds, which ignores its flags.
    text, passed, _, _ = channel.recvmsg(_SIZE, socket.CMSG_SPACE(_INT.size), flags | socket.MSG_CMSG_CLOEXEC)
    return (json.loads(text) if text else None), (_INT.unpack(passed[0][2])[0] if passed else None)


def _address(port):
    """
    The address by which all workers know a port. L{None} for port 0, which each worker opens for itself.
    """
    path = getattr(port, "_bindPath", None)
    if path is None:
        return f"tcp:{port.interface}:{port.port}" if port.port else None
    path = os.fsdecode(path)
    return "unix:" + (path if path.startswith("\0") else os.path.abspath(path))


def _endAfterResponse(protocol):
    """
    Close a connection of C{twisted.web} after its next response, with the header that announces it to the client; a
    connection of HTTP/2 after the responses to all requests that the client sends before it learns of the end.
    """
    http, web2 = map(sys.modules.get, ("twisted.web.http", "couplet_twisted._web2"))
    while hasattr(protocol, "wrappedProtocol"):
        protocol = protocol.wrappedProtocol
    channel = getattr(protocol, "_channel", protocol)
    if web2 is not None and isinstance(channel, web2.Connection):
        channel.drain()
        return
    if http is None or not isinstance(channel, http.HTTPChannel):
        return

    def persists(request, version):
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    channel.checkPersistence = persists
    # The client may rely on the headers of a response that has begun.
    if channel.requests and channel.persistent and not channel.requests[0].startedWriting:
        channel.persistent = persists(channel.requests[0], None)


class Worker:
    """
    The worker that runs in this process. The reactor reads its channel.

    @ivar number: From 1. A worker that replaces another one gets its number.

    @ivar log: A file for the log, if the parent opened one and replaces it when the log is rotated.

    @ivar _ports: The shared ports that listen, by address.
    """

    log = None
    _reactor = None
    _isReady = _isDraining = _isSettled = False
    _accepted = 0
    _asked = 0

    def __init__(self, number, channel, drain, mostConnections, mostMemory):
        self.number = number
        self._channel = channel
        self._drain = drain
        # Each worker stops a bit below the limits, so that they don't restart together.
        self._limits = [limit and limit * random.uniform(0.9, 1) for limit in (mostConnections, mostMemory)]
        self._ports = {}
        self._shared = set()

    # The life of the process.

    def attach(self, reactor):
        """
        Share the ports of this process from now on.

        @raise RuntimeError: if the program installed another reactor than Couplet's.
        """
        from couplet_twisted.reactor import CoupletReactor

        if not isinstance(reactor, CoupletReactor):
            kind = type(reactor)
            raise RuntimeError(f"workers need Couplet's reactor; the program installed {kind.__module__}'s")
        self._reactor = reactor
        tcp.Accepting.sharing = self
        reactor.addReader(self)

    def ready(self):
        """
        Report that the service has started. The reactor runs.
        """
        # Replaces the reactor's own handler, which would close the connections.
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self.drain))
        self._isReady = True
        send(self._channel, "ready")
        self._look()

    def fail(self, text):
        """
        Report why the service cannot start, and end the process.
        """
        self._tell("failed", text[:2000])
        _exit(1)

    def drain(self):
        """
        Accept no more connections, and stop the reactor once the accepted ones are closed.

        The reactor fires the event C{drain}, for programs that have other work to finish: see
        C{reactor.addSystemEventTrigger("before", "drain", ...)}.
        """
        if self._isDraining:
            return
        self._isDraining = True
        for port in self._ports.values():
            port.stopReading()
            port._close()
        self._reactor.addSystemEventTrigger("during", "shutdown", self._losePorts)
        self._reactor.addSystemEventTrigger("after", "drain", setattr, self, "_isSettled", True)
        self._reactor.fireSystemEvent("drain")
        for connection in self._connections():
            _endAfterResponse(connection.protocol)
        # By then the loop has stopped watching the sockets, and the parent may shut them down.
        self._reactor.callLater(0, self._tell, "draining")
        self._reactor.callLater(0, self._finish, self._reactor.seconds() + self._drain)

    def _finish(self, until):
        if (self._isSettled and not self._connections()) or self._reactor.seconds() > until:
            self._stop()
        else:
            self._reactor.callLater(_LOOK_DRAINING, self._finish, until)

    def _losePorts(self):
        # The reactor would, had they not stopped reading.
        for port in list(self._ports.values()):
            port.connectionLost(Failure(main.CONNECTION_LOST))

    def _stop(self):
        if self._reactor.running and not self._reactor._stopped:
            self._reactor.stop()

    def _connections(self):
        """
        The open connections that shared ports accepted.
        """
        return [each for each in self._reactor._streams if getattr(each, "server", None) in self._shared]

    def _look(self):
        """
        Ask for a replacement if this worker reached a limit.
        """
        connections = self._accepted + sum(port.sessionno for port in self._ports.values())
        memory = _memory()
        mostConnections, mostMemory = self._limits
        reason = None
        if mostConnections and connections >= mostConnections:
            reason = f"it accepted {connections} connections"
        elif mostMemory and memory >= mostMemory:
            reason = f"it uses {memory >> 20} MiB of memory"
        if reason and not self._isDraining and self._reactor.seconds() > self._asked + _ASK_AGAIN:
            self._asked = self._reactor.seconds()
            self._tell("retire", reason)
        self._reactor.callLater(_LOOK, self._look)

    # Messages of the parent, as a reader of the reactor.

    def fileno(self):
        return self._channel.fileno()

    def logPrefix(self):
        return "worker"

    def connectionLost(self, reason):
        pass

    def doRead(self):
        try:
            message, descriptor = receive(self._channel, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            # The parent died and left messages unread.
            message = None
        if message is None:
            self._reactor.removeReader(self)
            self._orphaned()
            return
        self._obey(message, descriptor)
        self.doRead()

    def _obey(self, message, descriptor):
        order = message[0]
        if order == "drain":
            self.drain()
        elif order == "stop":
            self._stop()
        elif order == "reopen":
            # The program's own handler, such as the one that twistd installs; without one the signal would kill.
            handler = signal.getsignal(signal.SIGUSR1)
            if callable(handler):
                handler(signal.SIGUSR1, None)
        elif order == "log":
            log = self.log.fileno()
            os.dup2(descriptor, log, os.get_inheritable(log))
            os.close(descriptor)

    def _orphaned(self):
        """
        The parent died: close the sockets in all workers, so that its successor can listen.
        """
        _log.critical("the parent of the workers died: this worker ends")
        kept = [port.socket for port in self._ports.values() if port._isKept]
        self.drain()

        def shut():
            for skt in kept:
                try:
                    skt.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # Another worker did.
                    pass

        self._reactor.callLater(0, shut)

    def _tell(self, *message):
        try:
            send(self._channel, *message)
        except OSError:
            # The parent died, and this worker is about to notice it.
            pass

    # Ports.

    def listen(self, port, listen):
        """
        Start a port, on the socket that all workers share.

        @param listen: Starts it as without workers, on a new socket or on the one that it adopted.
        """
        address = _address(port)
        if port._preexistingSocket is not None:
            # The program adopted the socket, perhaps from systemd, so all workers have it.
            listen()
            self._share(port, f"adopted:{port.fileno()}")
        elif address is None or address in self._ports:
            listen()
        else:
            descriptor = self._ask(port, address)
            if descriptor is None:
                self._make(port, address, listen)
            else:
                port._preexistingSocket = socket.socket(fileno=descriptor)
                # The lock of a UNIX socket is the parent's.
                port.wantPID = False
                listen()
            port._isKept = True
            self._share(port, address)

    def _ask(self, port, address):
        """
        Ask for the socket of an address.

        @return: The socket's descriptor; L{None} if this worker must make the socket.
        """
        try:
            send(self._channel, "ask", address)
            while True:
                message, descriptor = receive(self._channel)
                if message is None:
                    raise ConnectionError("the parent of the workers died")
                if message[0] == "grant":
                    return descriptor
                self._reactor.callLater(0, self._obey, message, descriptor)
        except OSError as e:
            raise error.CannotListenError(port.interface, port.port, e)

    def _make(self, port, address, listen):
        try:
            listen()
        except BaseException:
            send(self._channel, "unmade", address)
            raise
        path = made = None
        if address.startswith("unix:/"):
            path = address.removeprefix("unix:")
            made = sockets.identity(path)
            if port.lockFile is not None:
                _giveLock(port.lockFile.name)
        send(self._channel, "made", address, path, made, descriptor=port.fileno())

    def _share(self, port, address):
        # Closing the port must neither shut down the socket nor remove its file.
        port._shouldShutdown = False
        port._sharedAddress = address
        self._ports[address] = port
        self._shared.add(port)

    def release(self, port):
        """
        Called when a shared port is closed. If the program closed it, the parent closes the socket after the last
        worker.
        """
        self._ports.pop(port._sharedAddress, None)
        self._accepted += port.sessionno
        if port._isKept and not self._isDraining and not self._reactor._stopped:
            self._tell("release", port._sharedAddress)


def _giveLock(name):
    """
    Make the parent the owner of a UNIX socket's lock, because it outlives the worker.
    """
    fresh = os.fsencode(name) + b".parent"
    os.symlink(str(os.getppid()), fresh)
    os.rename(fresh, name)


def _memory():
    """
    The bytes of memory that this process uses.
    """
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _exit(status):
    """
    End the process, without the `finally` blocks and exit handlers of the parent's code.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(status)


def run(worker, serve):
    """
    Run a worker in this process, and end the process.

    @param serve: Called with the worker; attaches a reactor and runs it.
    """
    status = 1
    try:
        if os.environ.get("LISTEN_PID") == str(os.getppid()):
            # systemd's sockets are for the workers too.
            os.environ["LISTEN_PID"] = str(os.getpid())
        serve(worker)
        status = 0
    except SystemExit as e:
        if isinstance(e.code, str):
            worker.fail(e.code.strip())
        status = 0 if e.code is None else e.code
    except BaseException as e:
        traceback.print_exc()
        worker.fail("".join(traceback.format_exception_only(e)).strip())
    finally:
        _exit(status)


__all__ = ["Worker", "receive", "run", "send"]

"""
An event loop for asyncio that runs on Couplet's loop, without a reactor.
"""

import asyncio
import atexit
import contextvars
import functools
import logging
import os
import sys
import threading
import weakref
from asyncio import base_events, events, format_helpers, futures, sslproto, tasks

from couplet_twisted import _couplet, transports


# The most bytes of one C{data_received}, as in asyncio.
_CHUNK = 256 * 1024

# The most seconds that the interpreter waits at its end for the callback of another thread, before it raises
# C{SystemExit} there, and afterwards.
_LAST = 0.5, 1.5


def _told(level, text):
    """
    Log an event of Couplet's.
    """
    logging.getLogger("couplet").log(getattr(logging, level.upper()), "%s", text)


# Methods that have a faster replacement; the methods of C{_ready} come first.
_READY = ("call_soon", "call_later", "call_at", "create_future")
_FAST = (*_READY, "get_debug", "create_task")

# A reactor logs Couplet's events to Twisted's log.
if "couplet_twisted.reactor" not in sys.modules:
    _couplet.log_to(_told)


def _weakly(loop, name):
    """
    A method of an event loop, as a function that does not keep the event loop alive.
    """
    weak = weakref.ref(loop)

    def call(*args):
        loop = weak()
        if loop is not None:
            getattr(loop, name)(*args)

    return call


# The event loops of this process.
_eventLoops = weakref.WeakSet()


def _end():
    """
    Before the interpreter ends, have other threads leave their callbacks for good: a C{SystemExit} ends one that takes
    longer. The interpreter would crash if it ended the threads in a callback.
    """
    if _couplet.park_threads(_LAST[0]):
        return
    import ctypes

    for each in list(_eventLoops):
        if each._thread_id not in (None, threading.get_ident()):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(each._thread_id), ctypes.py_object(SystemExit))
    _couplet.park_threads(_LAST[1])


atexit.register(_end)
os.register_at_fork(after_in_child=_couplet.forget_threads)


class EventLoop(asyncio.SelectorEventLoop):
    """
    An event loop for asyncio, with waits, callbacks and timers of Couplet's. asyncio's own code does the rest, above
    its selector, for which Couplet's loop waits.

    C{asyncio.Runner(loop_factory=couplet_twisted.EventLoop)} runs it.

    @ivar _native: Couplet's loop; L{None} once the event loop is closed.

    @ivar _ready: The callbacks that are ready, and the timed ones.

    @ivar _watch: The watch of asyncio's selector.

    @ivar _ports: Couplet's ports of servers, by the descriptors of their sockets.

    @ivar _connections: How many of Couplet's connections are open.
    """

    _native = None
    _connections = 0

    def __init__(self, selector=None, around=None):
        super().__init__(selector)
        _eventLoops.add(self)
        self._ports = {}
        self._ready = _couplet.Ready(_weakly(self, "_failed"), around)
        self._open()
        self._use_fast()

    def _open(self):
        """
        Make Couplet's loop.
        """
        post = weakref.WeakMethod(self.call_soon_threadsafe)
        self._native = _couplet.Loop(_weakly(self, "_report"), post, _CHUNK)
        self._watch = self._native.watch(self._selector.fileno(), "r", _weakly(self, "_selected"))

    def _use_fast(self):
        """
        Put functions in C or Rust before the methods that check their arguments in debug mode, unless a subclass has
        its own. In debug mode, measure callbacks.
        """
        self._ready.set_debug(*(_weakly(self, name) for name in ("_timed", "_took") if self._debug))
        fast = {} if self._native is None or self._debug else self._fast()
        for name in _FAST:
            own = getattr(type(self), name) is getattr(EventLoop, name) and type(self).time is EventLoop.time
            if own and name in fast:
                self.__dict__[name] = fast[name]
            else:
                self.__dict__.pop(name, None)

    def _fast(self):
        """
        The functions that replace methods outside of debug mode.
        """
        self._ready.set_futures(futures.Future, {"loop": self})
        fast = {name: getattr(self._ready, name) for name in _READY}
        # Called for each future.
        fast["get_debug"] = bool
        if self._task_factory is None:
            fast["create_task"] = functools.partial(tasks.Task, loop=self)
        return fast

    def set_task_factory(self, factory):
        """
        @see: C{asyncio.loop.set_task_factory}
        """
        super().set_task_factory(factory)
        self._use_fast()

    def set_debug(self, enabled):
        """
        @see: C{asyncio.loop.set_debug}
        """
        super().set_debug(enabled)
        if self._native is not None:
            self._use_fast()

    def run_forever(self):
        """
        @see: C{asyncio.loop.run_forever}
        """
        if self._native is None or self.is_running():
            return super().run_forever()
        self._take()
        try:
            super().run_forever()
        finally:
            self._leave()

    def _take(self):
        """
        Make this thread the loop's.
        """
        try:
            self._native.take()
        except RuntimeError:
            # Another thread ran it before.
            if self._ports or self._connections:
                text = "cannot run the event loop in another thread: it has open connections or servers"
                raise RuntimeError(text) from None
            self._open()

    def _leave(self):
        """
        Close Couplet's loop if this thread may end, because no other thread can close it.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not (is_main or self._ports or self._connections):
            self._watch.stop()
            self._open()

    def _run_once(self):
        self._native.run(self._ready)
        if self._stopping:
            # Sends the output of the last callbacks, and closes their connections.
            self._native.flush()
        self._ready.end()

    def stop(self):
        """
        @see: C{asyncio.loop.stop}
        """
        super().stop()
        self._ready.stop()

    def close(self):
        """
        @see: C{asyncio.loop.close}
        """
        if self._native is not None and not self.is_running():
            # In another thread, the loop ends with its watch.
            if self._native.is_here:
                self._watch.stop()
            self._native = self._watch = None
            self._use_fast()
        super().close()

    # Callbacks.

    def call_at(self, when, callback, *args, context=None):
        """
        @see: C{asyncio.loop.call_at}
        """
        if when is None:
            raise TypeError("when cannot be None")
        self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        timer = events.TimerHandle(when, callback, args, self, context)
        if timer._source_traceback:
            del timer._source_traceback[-1]
        self._ready.schedule(when, timer)
        timer._scheduled = True
        return timer

    def _timer_handle_cancelled(self, handle):
        self._ready.timer_cancelled()

    def _write_to_self(self):
        native = self._native
        if native is not None:
            native.interrupt()

    def _timed(self, handle):
        """
        Call a handle in debug mode.
        """
        if handle._cancelled:
            return
        self._current_handle = handle
        started = self.time()
        try:
            handle._run()
            taken = self.time() - started
            if taken >= self.slow_callback_duration:
                formatted = base_events._format_handle(handle)
                base_events.logger.warning("Executing %s took %.3f seconds", formatted, taken)
        finally:
            self._current_handle = None

    def _took(self, transport, seconds):
        """
        A transport has handled an event in debug mode.
        """
        if seconds >= self.slow_callback_duration:
            base_events.logger.warning("Executing an event of %r took %.3f seconds", transport, seconds)

    def _selected(self, _):
        """
        Call the handles of asyncio's selector.
        """
        before = len(self._ready)
        self._process_events(self._selector.select(0))
        self._ready.run_last(len(self._ready) - before)

    # Connections and servers.

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        if transports.takes(sock):
            return transports.adopted(self, sock, protocol, waiter, extra, server)
        return super()._make_socket_transport(sock, protocol, waiter, extra=extra, server=server)

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *, extra=None, server=None, **options):
        if not transports.takes(rawsock):
            return super()._make_ssl_transport(
                rawsock, protocol, sslcontext, waiter, extra=extra, server=server, **options
            )
        side, name = options.pop("server_side", False), options.pop("server_hostname", None)
        below = sslproto.SSLProtocol(self, protocol, sslcontext, waiter, side, name, **options)
        transports.adopted(self, rawsock, below, None, extra, server)
        return below._app_transport

    def _start_serving(self, protocol_factory, sock, sslcontext=None, server=None, *rest, **options):
        if sslcontext is not None or not transports.takes(sock):
            # asyncio logs a connection whose handshake fails.
            return super()._start_serving(protocol_factory, sock, sslcontext, server, *rest, **options)
        context = contextvars.copy_context()

        def accepted(stream):
            context.copy().run(self._accepted, stream, protocol_factory, server)

        self._ports[sock.fileno()] = self._native.listen_streams(sock.fileno(), accepted)

    def _accepted(self, stream, factory, server):
        """
        Make the protocol and the transport of an accepted connection.
        """
        try:
            transports.SocketTransport(self, factory(), stream, server=server)
        except (SystemExit, KeyboardInterrupt):
            stream.close()
            raise
        except BaseException as error:
            stream.close()
            if self._debug:
                message = "Error on transport creation for incoming connection"
                self.call_exception_handler({"message": message, "exception": error})

    def _stop_serving(self, sock):
        port = self._ports.pop(sock.fileno(), None)
        if port is not None:
            port.close()
        super()._stop_serving(sock)
        if port is not None:
            # From now on the system refuses connections.
            self._native.flush()

    # Errors.

    def _failed(self, exception, handle, call):
        """
        A callback raised an exception.
        """
        source = format_helpers._format_callback_source(call[0], call[1:])
        message = f"Exception in callback {source}"
        context = {"message": message, "exception": exception}
        self.call_exception_handler(context if handle is None else context | {"handle": handle})

    def _report(self, exception, call=None):
        """
        Code that the loop called raised an exception.
        """
        if isinstance(exception, SystemExit):
            raise exception
        self.call_exception_handler({"message": "Exception in the event loop", "exception": exception})


__all__ = ["EventLoop"]

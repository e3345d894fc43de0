"""
The transport of streams for L{couplet_twisted.EventLoop}: Couplet reads, writes and closes; it has asyncio's interface
and asyncio's order of events.
"""

import contextvars
import functools
import socket
import sys
import warnings
from asyncio import base_events, constants, futures, protocols, transports, trsock
from asyncio.log import logger

from couplet_twisted import _couplet
from couplet_twisted.lent import LentSocket

# Since Python 3.13, a server knows its transports.
_NAMES_ITSELF = sys.version_info >= (3, 13)


class SocketTransport(transports._FlowControlMixin, transports.Transport):
    """
    A connection over TCP or a UNIX socket.

    @ivar write: While the transport accepts data, the stream's own method.

    @ivar is_closing: Until the transport closes, a function in C that returns false.

    @ivar _stream: Couplet's connection.

    @ivar _sock: The socket that the program passed, or a L{LentSocket}, made on first use.

    @ivar _waits: Whether the stream reads nothing until L{_start}.

    @ivar _conn_lost: Whether C{connection_lost} was scheduled; then, how many writes followed.

    @ivar _empty_waiter: A future of C{loop.sendfile}, which fires once everything written is sent.
    """

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    # Defaults of the base class: instance attributes cost time.
    _protocol_paused = False
    _low_water = 16 * 1024
    _high_water = 64 * 1024

    _closing = False
    _conn_lost = 0
    _paused = False
    _eof = False
    _empty_waiter = None
    _context = None
    _loop = None
    _server = None
    _own_sock = None
    _waiter = None
    _waits = False

    def __init__(self, loop, protocol, stream, sock=None, waiter=None, extra=None, server=None):
        self._extra = {} if extra is None else extra
        self._loop = loop
        self._protocol = protocol
        self._stream = stream
        stream.own(self)
        self.write = stream.write
        # Called before each wait for a drain.
        self.is_closing = bool
        loop._connections += 1
        if server is not None:
            self._server = server
            server._attach(*(self,) * _NAMES_ITSELF)
        if sock is None:
            self._accepted()
        else:
            self._own_sock = sock
            self._waiter = waiter
            self._waits = True
            loop._transports[sock.fileno()] = self
            loop._native.adopt_stream(stream, sock.fileno())

    # Events of the stream.

    def _accepted(self):
        """
        Start immediately: data may follow in the same turn.
        """
        made = self._protocol.connection_made
        try:
            contextvars.copy_context().run(made, self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._loop._failed(error, None, (made, self))
        if not self._closing:
            self._context = contextvars.copy_context()
            self._receive()

    def _connected(self):
        """
        The loop has the socket, and does not read yet.
        """
        if not self._closing:
            self._loop.call_soon(self._protocol.connection_made, self)
            self._loop.call_soon(self._start)

    def _start(self):
        """
        Receive data, after C{connection_made}.
        """
        self._context = contextvars.copy_context()
        if not self._closing:
            self._receive()
            if self._waits and not self._paused:
                self._stream.resume()
        self._waits = False
        if self._waiter is not None:
            futures._set_result_unless_cancelled(self._waiter, None)
            self._waiter = None

    def _receive(self):
        """
        Have the stream call the protocol.
        """
        if isinstance(self._protocol, protocols.BufferedProtocol):
            received = functools.partial(protocols._feed_data_to_buffered_proto, self._protocol)
        else:
            received = self._protocol.data_received
        self._stream.set_receiver(self._context.run, received)

    def _failed(self, exception):
        name = "data_received"
        if isinstance(self._protocol, protocols.BufferedProtocol):
            name = "get_buffer() or protocol.buffer_updated"
        self._fatal_error(exception, f"Fatal error: protocol.{name}() call failed.")

    def _eof_received(self):
        if self._closing:
            return
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            is_kept = self._context.run(self._protocol.eof_received)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not is_kept:
            self.close()

    def _lost(self, error):
        if error is not None:
            self._fatal_error(error, "Fatal error on socket transport")
        elif not self._conn_lost:
            # After the end of the data.
            self._loop.call_soon(self._end_unless_ended)

    def _end_unless_ended(self):
        if not self._conn_lost:
            self._end(None)

    def _drained(self):
        self._maybe_resume_protocol()
        if self._protocol_paused and not self._conn_lost:
            self._stream.await_drain()

    def _flushed(self):
        if self._conn_lost:
            return
        self._maybe_resume_protocol()
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        if self._closing:
            self._end_if_sent()

    # Reading.

    def set_protocol(self, protocol):
        """
        @see: C{asyncio.BaseTransport.set_protocol}
        """
        self._protocol = protocol
        if not self._closing and self._context is not None:
            self._receive()

    def get_protocol(self):
        """
        @see: C{asyncio.BaseTransport.get_protocol}
        """
        return self._protocol

    def is_reading(self):
        """
        @see: C{asyncio.ReadTransport.is_reading}
        """
        return not self._closing and not self._paused

    def pause_reading(self):
        """
        @see: C{asyncio.ReadTransport.pause_reading}
        """
        if self.is_reading():
            self._paused = True
            self._stream.pause()

    def resume_reading(self):
        """
        @see: C{asyncio.ReadTransport.resume_reading}
        """
        if self._paused and not self._closing:
            self._paused = False
            if not self._waits:
                self._stream.resume()

    # Writing.

    def write(self, data):
        """
        @see: C{asyncio.WriteTransport.write}
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if data and self._conn_lost:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1

    def _write_other(self, data):
        """
        Write an object that is no sequence of bytes, but perhaps a memoryview of other items.
        """
        SocketTransport.write(self, data)
        self._stream.write(bytes(data))

    def writelines(self, list_of_data):
        """
        @see: C{asyncio.WriteTransport.writelines}
        """
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self):
        """
        @see: C{asyncio.WriteTransport.get_write_buffer_size}
        """
        return self._stream.buffered()

    def set_write_buffer_limits(self, high=None, low=None):
        """
        @see: C{asyncio.WriteTransport.set_write_buffer_limits}
        """
        self._set_write_buffer_limits(high=high, low=low)
        self._stream.set_limits(self._low_water, self._high_water)
        if self._stream.buffered() > self._high_water:
            self._full()

    def can_write_eof(self):
        """
        @see: C{asyncio.WriteTransport.can_write_eof}
        """
        return True

    def write_eof(self):
        """
        @see: C{asyncio.WriteTransport.write_eof}
        """
        if not self._closing and not self._eof:
            self._eof = True
            self._refuse_data()
            self._stream.lose_write()

    def _full(self):
        """
        Much output is unsent.
        """
        if not self._protocol_paused:
            self._loop._native.flush()
            if self._stream.buffered() > self._high_water:
                self._stream.await_drain()
                self._maybe_pause_protocol()

    def _refused(self):
        """
        The connection is lost, which L{_lost} reports next.
        """
        self._begin_close()
        self._refuse_data()

    def _refuse_data(self):
        self.__dict__.pop("write", None)

    def _make_empty_waiter(self):
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        self._refuse_data()
        if self._stream.buffered():
            self._stream.await_flush()
        else:
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self):
        self._empty_waiter = None
        if not self._closing and not self._eof:
            self.write = self._stream.write

    # The end.

    def is_closing(self):
        """
        @see: C{asyncio.BaseTransport.is_closing}
        """
        return self._closing

    def close(self):
        """
        @see: C{asyncio.BaseTransport.close}
        """
        if self._closing:
            return
        self._begin_close()
        self._stream.stop_receiving()
        self._end_if_sent()

    def _begin_close(self):
        self._closing = True
        self.__dict__.pop("is_closing", None)

    def _end_if_sent(self):
        # Until then the protocol may write more; a paused one is resumed first.
        if not self._protocol_paused and self._is_sent():
            self._end(None)
        else:
            self._stream.await_flush()

    def _is_sent(self):
        """
        Whether everything written is sent, or can be sent now.
        """
        if self._stream.buffered():
            self._loop._native.flush()
        return not self._stream.buffered()

    def abort(self):
        """
        @see: C{asyncio.WriteTransport.abort}
        """
        self._force_close(None)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        else:
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc):
        if self._conn_lost:
            return
        self._stream.stop_receiving()
        self._is_sent()
        self._end(exc)

    def _end(self, exc):
        self._begin_close()
        self._conn_lost += 1
        self._refuse_data()
        self._stream.close()
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc):
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._loop._connections -= 1
            self._stream.forget()
            if self._own_sock is not None:
                self._own_sock.close()
            self._own_sock = self._protocol = self._loop = None
            server, self._server = self._server, None
            if server is not None:
                server._detach(*(self,) * _NAMES_ITSELF)
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def __del__(self):
        if self._loop is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            if self._own_sock is not None:
                self._own_sock.close()

    # The socket.

    @property
    def _sock(self):
        if self._own_sock is None and self._loop is not None:
            fd = self._stream.fileno()
            if fd != -1:
                self._own_sock = LentSocket(self._stream.fileno)
                self._loop._transports[fd] = self
        return self._own_sock

    @property
    def _sock_fd(self):
        return -1 if self._sock is None else self._sock.fileno()

    def get_extra_info(self, name, default=None):
        """
        @see: C{asyncio.BaseTransport.get_extra_info}
        """
        if name not in self._extra:
            if name == "socket" and self._sock is not None:
                self._extra[name] = trsock.TransportSocket(self._sock)
            elif name in ("sockname", "peername"):
                self._extra[name] = getattr(self._stream, name)()
        return self._extra.get(name, default)

    def __repr__(self):
        info = [type(self).__name__]
        if self._loop is None:
            info.append("closed")
        else:
            if self._closing:
                info.append("closing")
            info.append(f"fd={self._stream.fileno() if self._own_sock is None else self._sock_fd}")
            info.append("read=polling" if self.is_reading() else "read=idle")
            size = self._stream.buffered()
            info.append(f"write=<{'polling' if size else 'idle'}, bufsize={size}>")
        return f"<{' '.join(info)}>"


def takes(sock):
    """
    Whether Couplet serves a socket. asyncio's own code serves others.
    """
    return type(sock) is socket.socket and sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def adopted(loop, sock, protocol, waiter=None, extra=None, server=None):
    """
    The transport of a connected socket.
    """
    base_events._set_nodelay(sock)
    return SocketTransport(loop, protocol, _couplet.Stream(), sock, waiter, extra, server)


__all__ = ["SocketTransport", "adopted", "takes"]

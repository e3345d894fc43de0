"""A client's end of an HTTP/2 connection, with control over every byte.

Valid frames come from hyperframe and valid fields from hpack; invalid ones are made byte by byte.
"""

import socket
import struct

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# RFC 9113, 6.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags: RFC 9113, 6.
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

# RFC 9113, 7.
CODES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

# Seconds to wait for any event; successful waits take a fraction.
PATIENCE = 15

ALIVE = b"alive???"


def frame(kind, flags, stream, payload=b""):
    """Any bytes as a frame: RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def setting(identifier, value):
    return struct.pack(">HI", identifier, value)


def literal(name, value, first=0x00):
    """A literal field without Huffman codes, shorter than 127 bytes: RFC 7541, 6.2."""
    return bytes([first, len(name)]) + name + bytes([len(value)]) + value


def request(method="GET", path="/a", *more, scheme="http", authority="couplet.test"):
    pseudo = {":method": method, ":scheme": scheme, ":authority": authority, ":path": path}
    return [(name, value) for name, value in pseudo.items() if value is not None] + list(more)


def plain(path):
    """The fields of a GET, by HPACK's static table and literals, without dynamic entries."""
    return b"\x82\x86\x04" + bytes([len(path)]) + path.encode() + b"\x01\x0ccouplet.test"


class Stream:
    """The received part of an answer."""

    def __init__(self):
        self.status = None
        self.fields = []
        self.trailers = []
        self.body = b""
        self.code = None
        self.is_over = False

    def __str__(self):
        return f"{self.status} {self.body.decode(errors='replace')[:200]}".strip()


class Wire:
    def __init__(self, port, first=None):
        """Connects, and sends `first`: by default the preface and empty settings."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.buffer = b""
        self.streams = {}
        self.farewells = []
        self.pongs = []
        self.acknowledged = 0
        self.acknowledges = True
        self.settings = {}
        # Increments that the server granted to the windows.
        self.windows = {}
        self.longest = 0
        self.is_closed = False
        self.next_stream = 1
        # The fields of the last answer, in HPACK.
        self.block = b""
        self.write(PREFACE + frame(SETTINGS, 0, 0) if first is None else first)

    def close(self):
        self.socket.close()

    def write(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            # Earlier frames of the server are still readable, unless the reset destroyed them.
            pass

    def frame(self, kind, flags, stream, payload=b""):
        self.write(frame(kind, flags, stream, payload))

    def send(self, *frames):
        self.write(b"".join(made.serialize() for made in frames))

    def fields(self, fields):
        return self.encoder.encode(fields)

    def raw(self, block, stream=1, flags=END_HEADERS | END_STREAM):
        """Headers whose block need not be valid HPACK."""
        self.next_stream = max(self.next_stream, stream + 2)
        self.frame(HEADERS, flags, stream, block)

    def head(self, fields, stream=1, flags=END_HEADERS | END_STREAM):
        self.raw(self.fields(fields), stream, flags)

    def get(self, path="/a", stream=1):
        self.head(request("GET", path), stream)

    def post(self, path="/a", *more, stream=1):
        """The head of a request with a body."""
        self.head(request("POST", path, *more), stream, END_HEADERS)

    def data(self, data, stream=1, end=True, padding=None):
        made = DataFrame(stream, data, flags=["END_STREAM"] if end else [])
        if padding is not None:
            made.flags.add("PADDED")
            made.pad_length = padding
        self.send(made)

    # Frames of the server.

    def stream(self, stream):
        return self.streams.setdefault(stream, Stream())

    def read_frame(self):
        """The next frame; None when the server has closed."""
        while True:
            if len(self.buffer) >= 9:
                made, length = Frame.parse_frame_header(memoryview(self.buffer[:9]))
                if len(self.buffer) >= 9 + length:
                    made.parse_body(memoryview(self.buffer[9 : 9 + length]))
                    self.buffer = self.buffer[9 + length :]
                    self.longest = max(self.longest, length)
                    self.note(made)
                    return made
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                self.is_closed = True
                return None
            self.buffer += more

    def note(self, made):
        if isinstance(made, SettingsFrame):
            if "ACK" in made.flags:
                self.acknowledged += 1
            else:
                self.settings.update(made.settings)
                if self.acknowledges:
                    self.frame(SETTINGS, ACK, 0)
        elif isinstance(made, PingFrame):
            if "ACK" in made.flags:
                self.pongs.append(made.opaque_data)
            else:
                self.frame(PING, ACK, 0, made.opaque_data)
        elif isinstance(made, GoAwayFrame):
            self.farewells.append(made)
        elif isinstance(made, WindowUpdateFrame):
            windows = self.windows
            windows[made.stream_id] = windows.get(made.stream_id, 0) + made.window_increment
        elif isinstance(made, RstStreamFrame):
            stream = self.stream(made.stream_id)
            # After the end of an answer, a reset only declines the rest of the request.
            if not stream.is_over:
                stream.code, stream.is_over = made.error_code, True
        elif isinstance(made, HeadersFrame):
            assert "END_HEADERS" in made.flags, "answers are short"
            stream = self.stream(made.stream_id)
            self.block = made.data
            fields = self.decoder.decode(made.data)
            if stream.status is None:
                stream.status, stream.fields = dict(fields)[":status"], fields
                if stream.status.startswith("1"):
                    stream.status = None
            else:
                stream.trailers = fields
            stream.is_over |= "END_STREAM" in made.flags
        elif isinstance(made, DataFrame):
            stream = self.stream(made.stream_id)
            stream.body += made.data
            stream.is_over |= "END_STREAM" in made.flags

    def until(self, done):
        """Reads until `done()` holds; false if the server closes first."""
        try:
            while not done():
                if self.read_frame() is None:
                    return False
        except TimeoutError:
            return False
        return True

    def answer(self, stream=1):
        """The answer or the error of the stream, or else the error of the connection, as text."""
        if not self.until(lambda: self.stream(stream).is_over):
            return self.end()
        told = self.stream(stream)
        return str(told) if told.code is None else f"stream {stream} {code(told.code)}"

    def end(self):
        """How the server ends the connection."""
        if not self.until(lambda: False) and not self.is_closed:
            return "nothing"
        errors = [told for told in self.farewells if told.error_code != 0]
        if errors:
            return f"connection {code(errors[-1].error_code)}"
        return "closed"

    def ended(self):
        """The first stream error, or else how the connection ends."""
        broken = lambda: [stream for stream, told in self.streams.items() if told.code is not None]
        if self.until(broken):
            stream = broken()[0]
            return f"stream {stream} {code(self.stream(stream).code)}"
        return self.end()

    def alive(self):
        """None if the connection still works, else how it ended."""
        stream, pongs = self.next_stream, self.pongs.count(ALIVE)
        self.frame(PING, 0, 0, ALIVE)
        self.get("/alive", stream)
        has_answered = lambda: self.stream(stream).is_over and self.pongs.count(ALIVE) > pongs
        if not self.until(has_answered):
            return self.end()
        return None if str(self.stream(stream)) == "200 GET /alive 0" else self.answer(stream)


def code(number):
    return CODES[number] if number < len(CODES) else str(number)

"""The rules of RFC 9113 and RFC 7541 (HPACK) for a client's frames: cases.py PORT.

Prints a line for each case, separated by tabs: its section, its name, the expected outcome, the actual outcome,
and, for known deviations, the accepted outcome and its reason. An outcome is an error of the connection or of a
stream, or the answer, which repeats the request's method, path, length of body and trailers. After each case,
another request checks its connection, if it is open, and a request by the package h2 checks an older one.
"""

import sys

from hyperframe.frame import (
    ContinuationFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from client import Client
from wire import *

CASES = []


def case(section, name, wanted, act=None, first=None):
    """Adds a case: its actions on a connection and the expected outcome. A case that reads the outcome itself
    returns it."""

    def add(act):
        CASES.append((section, name, wanted, act, first))
        return act

    return add if act is None else add(act)


def connection(code):
    return f"connection {code}"


def stream(code, number=1):
    return f"stream {number} {code}"


ANSWER = "200 GET /a 0"
POSTED = "200 POST /a 5"
CALM = "ENHANCE_YOUR_CALM"
PROTOCOL, FLOW, CLOSED, SIZE, HPACK = (
    "PROTOCOL_ERROR",
    "FLOW_CONTROL_ERROR",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "COMPRESSION_ERROR",
)

GET = plain("/a")
EMPTY = frame(SETTINGS, 0, 0)


# --- 3.4: the preface.

@case("3.4", "a preface byte by byte", ANSWER, first=b"")
def _(w):
    for byte in PREFACE + EMPTY:
        w.write(bytes([byte]))
    w.get()

@case("3.4", "a request in one piece with the preface", ANSWER, first=PREFACE + EMPTY + frame(HEADERS, 5, 1, GET))
def _(w):
    w.next_stream = 3

@case("3.4", "a preface that goes wrong at its end", "closed", first=PREFACE[:-4] + b"\n\n\r\n" + EMPTY)
def _(w):
    said = b""
    while more := w.socket.recv(4096):
        said += more
    w.is_closed = True
    return "closed" if not said or b" 400 " in said.split(b"\r\n")[0] else repr(said)

case("3.4", "a preface without settings", connection(PROTOCOL), lambda w: w.get(), first=PREFACE)
case("3.4", "settings that say something", ANSWER, lambda w: w.get(),
     first=PREFACE + frame(SETTINGS, 0, 0, setting(3, 100) + setting(4, 65_535)))

@case("3.4", "the server begins with settings", "SETTINGS 0")
def _(w):
    first = w.read_frame()
    return f"{type(first).__name__.removesuffix('Frame').upper()} {first.stream_id}"


# --- 4.1, 5.5: unknown frames, flags and settings.

@case("4.1", "a frame of an unknown type on the connection", ANSWER)
def _(w):
    w.frame(0xBB, 0, 0, b"what is it?")
    w.get()

@case("4.1", "a frame of an unknown type with all flags on a stream", POSTED)
def _(w):
    w.post()
    w.frame(0xBB, 0xFF, 1, b"what is it?")
    w.data(b"hello")

case("4.1", "a frame of an unknown type on an idle stream", ANSWER,
     lambda w: (w.frame(0xBB, 0, 7, b"x"), w.get()))
case("4.1", "an empty frame of an unknown type", ANSWER, lambda w: (w.frame(0xFE, 0, 0), w.get()))
case("4.1", "a reserved bit before the number of a stream", ANSWER,
     lambda w: (w.frame(HEADERS, 5, 0x8000_0001, GET), setattr(w, "next_stream", 3)))
case("4.1", "unknown flags of a request", ANSWER, lambda w: w.raw(GET, flags=0x5 | 0x40 | 0x80 | 0x10))

@case("4.1", "unknown flags of settings and pings", ANSWER)
def _(w):
    w.frame(SETTINGS, 0xFE, 0)
    w.frame(PING, 0xFE, 0, b"12345678")
    w.get()

case("5.5", "a frame of an unknown type within a field block", connection(PROTOCOL),
     lambda w: (w.raw(GET[:3], flags=END_STREAM), w.frame(0xBB, 0, 1, b"x")))
case("5.5", "an unknown setting", ANSWER,
     lambda w: (w.frame(SETTINGS, 0, 0, setting(0xABCD, 7) + setting(0, 1)), w.get()))
case("5.5", "a setting of another document", ANSWER,
     lambda w: (w.frame(SETTINGS, 0, 0, setting(9, 1)), w.get()))  # RFC 9218
case("5.5", "a frame of another document", ANSWER,
     lambda w: (w.frame(0x10, 0, 0, b"\0\0\0\1u=0"), w.get()))  # RFC 9218, 7.1


# --- 4.2: the sizes of frames.

case("4.2", "data as long as a frame may be", "200 POST /a 16384", lambda w: (w.post(), w.data(b"x" * 16_384)))
case("4.2", "data longer than a frame may be", connection(SIZE), lambda w: (w.post(), w.frame(DATA, 1, 1, bytes(16_385))))
case("4.2", "headers longer than a frame may be", connection(SIZE), lambda w: w.raw(bytes(16_385)))
case("4.2", "settings longer than a frame may be", connection(SIZE), lambda w: w.frame(SETTINGS, 0, 0, setting(0xAAAA, 1) * 2731))
case("4.2", "an unknown frame longer than a frame may be", connection(SIZE), lambda w: w.frame(0xBB, 0, 0, bytes(16_385)))
case("4.2", "a frame that says it is 16 MiB long", connection(SIZE), lambda w: w.write(b"\xff\xff\xff\0\0\0\0\0\1"))

@case("4.2", "an answer in frames no longer than the client takes", "200 16384")
def _(w):
    w.send(WindowUpdateFrame(0, window_increment=1 << 20))
    w.frame(SETTINGS, 0, 0, setting(4, 1 << 20))
    w.get("/large/100000")
    w.answer()
    assert len(w.stream(1).body) == 100_000
    return f"{w.stream(1).status} {w.longest}"


# --- 4.3 and RFC 7541: HPACK.

def block(section, name, wanted, *pieces):
    case(section, name, wanted, lambda w: w.raw(b"".join(pieces)))

def two_blocks(section, name, wanted, first, second):
    """Sends two requests on one connection."""
    def act(w):
        w.raw(first, 1)
        assert w.answer(1).startswith("200"), w.answer(1)
        w.raw(second, 3)
        return w.answer(3)
    case(section, name, wanted, act)

BAD = connection(HPACK)
block("7541 2.3.3", "an index beyond the tables", BAD, GET, b"\xbe")
block("7541 2.3.3", "an index far beyond the tables", BAD, GET, b"\xff\x80\x01")
block("7541 2.3.3", "a name beyond the tables", BAD, GET, b"\x7e\x01x")
block("7541 6.1", "the index 0", BAD, GET, b"\x80")
block("7541 5.1", "an index that overflows", BAD, GET, b"\xff" * 12 + b"\x01")
block("7541 5.1", "a length that overflows", BAD, GET, b"\x00\x7f" + b"\xff" * 10 + b"\x7f")
block("7541 5.1", "an index with zeros in front", ANSWER, b"\x82\x86\x04\x02/a\x01\x0ccouplet.test", b"\x0f\x80\x00\x01x")
block("7541 5.1", "an index that ends too early", BAD, GET, b"\xff")
block("7541 5.2", "a string that ends too early", BAD, GET, b"\x00\x01a\x05bcd")
block("7541 5.2", "a name without a value", BAD, GET, b"\x00\x01a")
block("7541 5.2", "Huffman padding of eight bits", BAD, GET, b"\x00\x01a\x82\x1f\xff")
block("7541 5.2", "Huffman padding that is not of ones", BAD, GET, b"\x00\x01a\x81\x18")
block("7541 5.2", "the end of a string within one", BAD, GET, b"\x00\x01a\x84\xff\xff\xff\xff")
block("7541 5.2", "a code of Huffman that is cut", BAD, GET, b"\x00\x01a\x81\xfe")
block("7541 5.2", "a string of Huffman codes", ANSWER, GET, b"\x00\x01a\x81\x1f")
block("7541 5.2", "an empty string of Huffman codes", ANSWER, GET, b"\x00\x01a\x80")
block("7541 6.2.1", "a field for the table", ANSWER, GET, literal(b"a", b"b", 0x40))
block("7541 6.2.2", "a field beside the table", ANSWER, GET, literal(b"a", b"b", 0x00))
block("7541 6.2.3", "a field for no table", ANSWER, GET, literal(b"a", b"b", 0x10))
block("7541 4.2", "the table's size between fields", BAD, GET, b"\x20", literal(b"a", b"b"))
block("7541 4.2", "the table's size after the fields", BAD, GET, b"\x20")
block("7541 4.2", "the table's size twice", ANSWER, b"\x20\x3f\xe1\x1f", GET)
block("7541 6.3", "a table larger than the setting", BAD, b"\x3f\xe2\x1f", GET)
block("7541 6.3", "a table far larger than the setting", BAD, b"\x3f\xe1\xff\xff\x7f", GET)
block("7541 6.3", "a table as large as the setting", ANSWER, b"\x3f\xe1\x1f", GET)
two_blocks("7541 2.3.2", "an entry of the request before", "200 GET /b 0",
           GET + literal(b"a", b"b", 0x40), b"\x82\x86\x04\x02/b\xbe")
two_blocks("7541 4.1", "an entry that was evicted", BAD, GET + literal(b"a", b"b", 0x40), b"\x20" + GET + b"\xbe")
two_blocks("7541 4.4", "an entry larger than the table", BAD,
           GET + literal(b"a", b"b", 0x40), GET + b"\x40\x01c\x7f\xa1\x1f" + b"d" * 4128 + b"\xbe")

@case("7541 4.4", "entries that push one another out of the table", "200 GET /a 0")
def _(w):
    for n in range(200):
        w.head(request("GET", "/a", ("x-number", f"{n:03}" + "v" * 60)), 2 * n + 1)
        seen = w.answer(2 * n + 1)
        if seen != ANSWER:
            break
    return seen

@case("4.3", "the fields of a malformed request enter the table", "200 GET /b 0")
def _(w):
    # No method.
    w.raw(b"\x86" + literal(b":path", b"/b", 0x40), 1)
    assert w.answer(1) == stream(PROTOCOL)
    w.raw(b"\x82\x86\xbe", 3)
    return w.answer(3)

@case("4.3", "a block without fields", stream(PROTOCOL))
def _(w):
    w.raw(b"")

@case("7541 4.2", "a client that allows no table", "200", first=PREFACE + frame(SETTINGS, 0, 0, setting(1, 0)))
def _(w):
    # The server may have sent fields for the table before.
    w.decoder.max_allowed_table_size = 0
    w.get("/a", 1)
    first = w.answer(1)
    assert first == ANSWER, first
    w.get("/a", 3)
    w.answer(3)
    # Neither adds entries nor refers to them, which the decoder would refuse.
    return w.stream(3).status


def resized(name, *payloads):
    """Sets the table's size twice. The server, which signalled 0 at first, need not signal it again."""
    @case("7541 4.2", name, "0x20, then 0x88")
    def _(w):
        w.get("/a", 1)
        assert w.answer(1) == ANSWER
        first = w.block[0]
        for payload in payloads:
            w.frame(SETTINGS, 0, 0, payload)
        w.until(lambda: w.acknowledged == 1 + len(payloads))
        w.get("/a", 3)
        w.answer(3)
        return f"{first:#x}, then {w.block[0]:#x}"

resized("a table without room, then one with, in two frames of settings", setting(1, 0), setting(1, 4096))
resized("a table without room, then one with, in one frame of settings", setting(1, 0) + setting(1, 4096))


# --- 5.1: the states of streams.

case("5.1", "data on an idle stream", connection(PROTOCOL), lambda w: w.data(b"x"))
case("5.1", "a reset of an idle stream", connection(PROTOCOL), lambda w: w.send(RstStreamFrame(1, error_code=8)))
case("5.1", "a window of an idle stream", connection(PROTOCOL), lambda w: w.send(WindowUpdateFrame(1, window_increment=1)))
case("5.1", "a priority of an idle stream", ANSWER, lambda w: (w.send(PriorityFrame(9, depends_on=0, stream_weight=1)), w.get()))
case("5.1", "data after the end", stream(CLOSED), lambda w: (w.get("/never"), w.data(b"x")))
case("5.1", "headers after the end", stream(CLOSED), lambda w: (w.get("/never"), w.raw(GET)))
case("5.1", "trailers after the end", stream(CLOSED), lambda w: (w.get("/never"), w.raw(literal(b"a", b"b"))))
case("5.1", "a window after the end", ANSWER, lambda w: (w.get(), w.send(WindowUpdateFrame(1, window_increment=1))))
case("5.1", "a priority after the end", ANSWER, lambda w: (w.get(), w.send(PriorityFrame(1, depends_on=0, stream_weight=1))))
case("5.1", "data after a reset", stream(CLOSED), lambda w: (w.post("/never"), w.send(RstStreamFrame(1, error_code=8)), w.data(b"x")))
case("5.1", "headers after a reset", connection(PROTOCOL), lambda w: (w.post("/never"), w.send(RstStreamFrame(1, error_code=8)), w.raw(GET)))

def closed(name, wanted, act):
    """Acts after a complete answer."""
    def after(w):
        w.get()
        assert w.answer() == ANSWER
        w.stream(1).is_over = False
        act(w)
        return w.alive() or "ignored" if wanted == "ignored" else w.ended()
    case("5.1", name, wanted, after)

closed("data on a closed stream", stream(CLOSED), lambda w: w.data(b"x"))
closed("headers on a closed stream", connection(PROTOCOL), lambda w: w.raw(GET))
closed("a window of a closed stream", "ignored", lambda w: w.send(WindowUpdateFrame(1, window_increment=1)))
closed("a reset of a closed stream", "ignored", lambda w: w.send(RstStreamFrame(1, error_code=8)))
closed("two resets of a closed stream", "ignored", lambda w: w.send(RstStreamFrame(1, error_code=8), RstStreamFrame(1, error_code=8)))
closed("a priority of a closed stream", "ignored", lambda w: w.send(PriorityFrame(1, depends_on=0, stream_weight=1)))

@case("5.1", "a request that is reset", "ignored")
def _(w):
    w.get("/never")
    w.send(RstStreamFrame(1, error_code=8))
    return w.alive() or "ignored"

@case("5.1", "an answer that is reset", "ignored")
def _(w):
    w.get("/large/1000000")
    w.until(lambda: w.stream(1).body)
    w.send(RstStreamFrame(1, error_code=8), WindowUpdateFrame(0, window_increment=1 << 20))
    return w.alive() or "ignored"

case("5.1.1", "an even stream", connection(PROTOCOL), lambda w: w.get(stream=2))
case("5.1.1", "the stream 0", connection(PROTOCOL), lambda w: w.frame(HEADERS, 5, 0, GET))
case("5.1.1", "a stream below an earlier one", connection(PROTOCOL), lambda w: (w.get("/never", 5), w.get("/a", 3)))
case("5.1.1", "a stream used again", connection(PROTOCOL), lambda w: (w.get("/a", 5), w.answer(5), w.raw(GET, 5)))
case("5.1.1", "data on a stream that was left out", stream(CLOSED, 3), lambda w: (w.get("/never", 5), w.data(b"x", 3), w.ended())[-1])

@case("5.1.1", "streams with gaps", "200 GET /a 0")
def _(w):
    for number in (1, 7, 1001, 0x7FFF_FFF1):
        w.get("/a", number)
        seen = w.answer(number)
        assert seen == ANSWER, seen
    w.next_stream = 0x7FFF_FFFD
    return seen

@case("5.1.1", "the last stream that there is", ANSWER)
def _(w):
    w.get("/a", 0x7FFF_FFFF)
    seen = w.answer(0x7FFF_FFFF)
    w.frame(PING, 0, 0, ALIVE)
    assert w.until(lambda: ALIVE in w.pongs)
    w.next_stream = None
    return seen


# --- 5.2, 6.9: flow control.

def has(w, count, stream=1):
    """Waits for `count` bytes of an answer, and returns its length at the next pong, which follows any excess."""
    before = len(w.pongs)
    w.until(lambda: len(w.stream(stream).body) >= count)
    w.frame(PING, 0, 0, b"and now?")
    w.until(lambda: len(w.pongs) > before)
    return len(w.stream(stream).body)

@case("6.9.2", "a window of no bytes, then pieces", "0 1 3 10", first=PREFACE + frame(SETTINGS, 0, 0, setting(4, 0)))
def _(w):
    w.get("/large/10")
    seen = [has(w, 0)]
    for more in (1, 2, 7):
        w.send(WindowUpdateFrame(1, window_increment=more))
        seen.append(has(w, seen[-1] + more))
    assert w.answer().startswith("200")
    w.frame(SETTINGS, 0, 0, setting(4, 65_535))
    return " ".join(map(str, seen))

@case("6.9.2", "settings that make a window negative", "1000 1000 1000 1001", first=PREFACE + frame(SETTINGS, 0, 0, setting(4, 1000)))
def _(w):
    w.get("/large/2000")
    seen = [has(w, 1000)]
    # Now it is 400 - 1000.
    w.frame(SETTINGS, 0, 0, setting(4, 400))
    seen.append(has(w, 1000))
    w.send(WindowUpdateFrame(1, window_increment=600))
    seen.append(has(w, 1000))
    w.send(WindowUpdateFrame(1, window_increment=1))
    seen.append(has(w, 1001))
    w.send(WindowUpdateFrame(1, window_increment=999))
    assert w.answer().startswith("200")
    return " ".join(map(str, seen))

@case("6.9.2", "settings that widen the windows of open streams", "5 5 20 20", first=PREFACE + frame(SETTINGS, 0, 0, setting(4, 5)))
def _(w):
    for number in (1, 3):
        w.get("/large/20", number)
    seen = [has(w, 5, number) for number in (1, 3)]
    w.frame(SETTINGS, 0, 0, setting(4, 20))
    seen += [has(w, 20, number) for number in (1, 3)]
    return " ".join(map(str, seen))

@case("6.9.2", "settings do not change the connection's window", "65535 65536", first=PREFACE + frame(SETTINGS, 0, 0, setting(4, 1 << 20)))
def _(w):
    w.get("/large/100000")
    seen = [has(w, 65_535)]
    w.send(WindowUpdateFrame(0, window_increment=1))
    seen.append(has(w, 65_536))
    w.send(WindowUpdateFrame(0, window_increment=100_000))
    assert w.answer().startswith("200")
    return " ".join(map(str, seen))

@case("6.9.1", "an answer without a body needs no window", "204", first=PREFACE + frame(SETTINGS, 0, 0, setting(4, 0)))
def _(w):
    w.get("/empty")
    w.answer()
    w.frame(SETTINGS, 0, 0, setting(4, 65_535))
    return w.stream(1).status

def window(w):
    """The bytes that the connection may send, once the server has widened its window."""
    w.until(lambda: 0 in w.windows and w.settings)
    return 65_535 + w.windows[0]

def spend(w, number, count):
    while count > 0:
        w.data(bytes(min(count, 16_384)), number, end=False)
        count -= 16_384

@case("6.9.1", "a body as long as the windows, and an empty frame more", "ignored")
def _(w):
    w.post("/never")
    spend(w, 1, min(window(w), w.settings[4]))
    w.data(b"", end=False)
    return w.alive() or "ignored"

# The window of a stream is 65,535 bytes until the client acknowledges another.

def unacknowledged(w):
    w.acknowledges = False
    w.post("/never")
    window(w)
    spend(w, 1, 65_535)

@case("6.9.1", "bodies longer than the window of the connection", connection(FLOW))
def _(w):
    unacknowledged(w)
    for number in range(3, 2 * (window(w) // 65_535) + 3, 2):
        w.post("/never", stream=number)
        spend(w, number, 65_535)

case("6.9.1", "a body longer than the window of its stream", stream(FLOW), lambda w: (unacknowledged(w), w.data(b"x", end=False)))
case("6.9.1", "padding longer than the window of its stream", stream(FLOW), lambda w: (unacknowledged(w), w.data(b"", end=False, padding=0)))

case("6.9", "a window of a stream that grows by nothing", stream(PROTOCOL), lambda w: (w.get("/never"), w.frame(WINDOW_UPDATE, 0, 1, bytes(4))))
case("6.9", "a window of the connection that grows by nothing", connection(PROTOCOL), lambda w: w.frame(WINDOW_UPDATE, 0, 0, bytes(4)))
case("6.9", "a window of three bytes", connection(SIZE), lambda w: w.frame(WINDOW_UPDATE, 0, 0, bytes(3)))
case("6.9", "a window of five bytes", connection(SIZE), lambda w: w.frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1\0"))
case("6.9", "a reserved bit before a window", ANSWER, lambda w: (w.frame(WINDOW_UPDATE, 0, 0, b"\x80\0\0\1"), w.get()))
case("6.9.1", "a window of a stream that overflows", stream(FLOW), lambda w: (w.get("/never"), w.send(WindowUpdateFrame(1, window_increment=0x7FFF_FFFF))))
case("6.9.1", "a window of the connection that overflows", connection(FLOW), lambda w: w.send(WindowUpdateFrame(0, window_increment=0x7FFF_FFFF)))
case("6.9.1", "a window of the connection that overflows in steps", connection(FLOW), lambda w: w.send(*[WindowUpdateFrame(0, window_increment=0x2000_0000)] * 4))
case("6.9.1", "the largest window of the connection", ANSWER, lambda w: (w.send(WindowUpdateFrame(0, window_increment=0x7FFF_FFFF - 65_535)), w.get()))
case("6.9.1", "the largest window of a stream", "ignored",
     lambda w: (w.get("/never"), w.send(WindowUpdateFrame(1, window_increment=0x7FFF_FFFF - 65_535)), w.alive() or "ignored")[-1])
case("6.9.2", "settings that make a window overflow", connection(FLOW),
     lambda w: (w.get("/never"), w.send(WindowUpdateFrame(1, window_increment=0x7FFF_FFFF - 65_535)), w.frame(SETTINGS, 0, 0, setting(4, 65_536))))


# --- 6.1: DATA.

case("6.1", "data on the stream 0", connection(PROTOCOL), lambda w: w.frame(DATA, 0, 0, b"x"))
case("6.1", "padding as long as its frame", connection(PROTOCOL), lambda w: (w.post(), w.frame(DATA, PADDED, 1, b"\x03ab")))
case("6.1", "padding longer than its frame", connection(PROTOCOL), lambda w: (w.post(), w.frame(DATA, PADDED, 1, b"\xffab")))
case("6.1", "padding without its length", connection(SIZE), lambda w: (w.post(), w.frame(DATA, PADDED, 1)))
case("6.1", "data with padding", POSTED, lambda w: (w.post(), w.data(b"hello", padding=200)))
case("6.1", "data with padding of no bytes", POSTED, lambda w: (w.post(), w.data(b"hello", padding=0)))
case("6.1", "padding alone", POSTED, lambda w: (w.post(), w.data(b"hello", end=False), w.data(b"", padding=255)))
case("6.1", "padding that is not of zeros", POSTED, lambda w: (w.post(), w.frame(DATA, PADDED | END_STREAM, 1, b"\x03helloabc")))
case("6.1", "empty data", POSTED, lambda w: (w.post(), w.data(b"", end=False), w.data(b"hello", end=False), w.data(b"")))
case("6.1", "a body byte by byte", POSTED, lambda w: (w.post(), *[w.data(b"hello"[n : n + 1], end=n == 4) for n in range(5)]))

@case("6.1", "padding counts for the windows, and is given back", "200 POST /a 4500000")
def _(w):
    w.post()
    sent, size = 0, 1000 + 256
    # With more padding than the first windows are wide.
    for _ in range(4500):
        room = lambda: min(window(w), w.settings[4] + w.windows.get(1, 0)) - sent >= size
        assert w.until(room), "the windows stay closed"
        w.data(b"x" * 1000, end=False, padding=255)
        sent += size
    w.data(b"")


# --- 6.2, 6.3: HEADERS and PRIORITY.

case("6.2", "headers with padding", ANSWER, lambda w: w.raw(b"\x05" + GET + bytes(5), flags=0x5 | PADDED))
case("6.2", "padding longer than the headers", connection(PROTOCOL), lambda w: w.raw(b"\xff" + GET, flags=0x5 | PADDED))
case("6.2", "headers with padding and without its length", connection(SIZE), lambda w: w.raw(b"", flags=0x5 | PADDED))
case("6.2", "headers with a priority", ANSWER, lambda w: w.raw(b"\x80\0\0\0\x10" + GET, flags=0x5 | PRIORITY_FLAG))
case("6.2", "headers with a priority below a later stream", ANSWER, lambda w: w.raw(b"\0\0\0\x99\x10" + GET, flags=0x5 | PRIORITY_FLAG))
case("6.2", "headers with padding and a priority", ANSWER, lambda w: w.raw(b"\x02\0\0\0\0\xff" + GET + bytes(2), flags=0x5 | PADDED | PRIORITY_FLAG))
case("6.2", "headers with half a priority", connection(SIZE), lambda w: w.raw(b"\0\0\0", flags=0x5 | PRIORITY_FLAG))
case("6.2", "padding as long as the priority and more", connection(PROTOCOL), lambda w: w.raw(b"\x06\0\0\0\0\xff", flags=0x5 | PADDED | PRIORITY_FLAG))
case("6.2", "headers with a priority below themselves", ANSWER, lambda w: w.raw(b"\0\0\0\x01\x10" + GET, flags=0x5 | PRIORITY_FLAG))
case("6.3", "a priority of the stream 0", connection(PROTOCOL), lambda w: w.frame(PRIORITY, 0, 0, bytes(5)))
case("6.3", "a priority of four bytes", stream(SIZE), lambda w: (w.get("/never"), w.frame(PRIORITY, 0, 1, bytes(4))))
case("6.3", "a priority of six bytes", stream(SIZE), lambda w: (w.get("/never"), w.frame(PRIORITY, 0, 1, bytes(6))))
case("6.3", "a priority below itself", POSTED, lambda w: (w.post(), w.frame(PRIORITY, 0, 1, b"\0\0\0\1\x10"), w.data(b"hello")))
case("6.3", "a priority in the middle of a body", POSTED, lambda w: (w.post(), w.frame(PRIORITY, 0, 1, b"\0\0\0\3\x10"), w.data(b"hello")))


# --- 6.4: RST_STREAM.

case("6.4", "a reset of the stream 0", connection(PROTOCOL), lambda w: w.frame(RST_STREAM, 0, 0, bytes(4)))
case("6.4", "a reset of three bytes", connection(SIZE), lambda w: (w.get("/never"), w.frame(RST_STREAM, 0, 1, bytes(3))))
case("6.4", "a reset of five bytes", connection(SIZE), lambda w: (w.get("/never"), w.frame(RST_STREAM, 0, 1, bytes(5))))

@case("7", "a reset for an unknown reason", "ignored")
def _(w):
    w.get("/never")
    w.frame(RST_STREAM, 0, 1, b"\xde\xad\xbe\xef")
    return w.alive() or "ignored"


# --- 6.5: SETTINGS.

def settings(section, name, wanted, *pairs):
    payload = b"".join(setting(*pair) for pair in pairs)
    case(section, name, wanted, lambda w: (w.frame(SETTINGS, 0, 0, payload), w.get()) if wanted == ANSWER else w.frame(SETTINGS, 0, 0, payload))

case("6.5", "settings on a stream", connection(PROTOCOL), lambda w: w.frame(SETTINGS, 0, 1))
case("6.5", "settings of five bytes", connection(SIZE), lambda w: w.frame(SETTINGS, 0, 0, bytes(5)))
case("6.5", "settings of seven bytes", connection(SIZE), lambda w: w.frame(SETTINGS, 0, 0, setting(3, 1) + b"\0"))
case("6.5", "an acknowledgement with settings", connection(SIZE), lambda w: w.frame(SETTINGS, ACK, 0, setting(3, 1)))
settings("6.5.2", "a push that is neither on nor off", connection(PROTOCOL), (2, 2))
settings("6.5.2", "a window that is too large", connection(FLOW), (4, 0x8000_0000))
settings("6.5.2", "a window that is far too large", connection(FLOW), (4, 0xFFFF_FFFF))
settings("6.5.2", "frames that are too small", connection(PROTOCOL), (5, 16_383))
settings("6.5.2", "frames that are too large", connection(PROTOCOL), (5, 0x100_0000))
settings("6.5.2", "a push that is off", ANSWER, (2, 0))
settings("6.5.2", "a push that is on", ANSWER, (2, 1))
settings("6.5.2", "the largest window", ANSWER, (4, 0x7FFF_FFFF))
settings("6.5.2", "the largest frames", ANSWER, (5, 0xFF_FFFF))
settings("6.5.2", "no streams", ANSWER, (3, 0))
settings("6.5.2", "the largest table", ANSWER, (1, 0xFFFF_FFFF))
settings("6.5.2", "no table", ANSWER, (1, 0))
settings("6.5.2", "short lists of fields", ANSWER, (6, 100))
settings("6.5.3", "a setting twice", ANSWER, (4, 0), (4, 65_535))
settings("6.5.3", "all settings at once", ANSWER, (1, 8192), (2, 0), (3, 10), (4, 70_000), (5, 20_000), (6, 10_000), (8, 0))

@case("6.5.3", "settings are acknowledged in order", "4")
def _(w):
    for value in (100, 200, 300):
        w.frame(SETTINGS, 0, 0, setting(3, value))
    w.until(lambda: w.acknowledged == 4)
    return str(w.acknowledged)


# --- 6.6: PUSH_PROMISE.

case("6.6", "a push by a client", connection(PROTOCOL), lambda w: w.frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET))
case("6.6", "a push by a client on an open stream", connection(PROTOCOL), lambda w: (w.post("/never"), w.frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + GET)))
case("6.6", "a push by a client on the stream 0", connection(PROTOCOL), lambda w: w.frame(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + GET))


# --- 6.7: PING.

case("6.7", "a ping on a stream", connection(PROTOCOL), lambda w: w.frame(PING, 0, 1, bytes(8)))
case("6.7", "a ping of seven bytes", connection(SIZE), lambda w: w.frame(PING, 0, 0, bytes(7)))
case("6.7", "a ping of nine bytes", connection(SIZE), lambda w: w.frame(PING, 0, 0, bytes(9)))
case("6.7", "a ping of no bytes", connection(SIZE), lambda w: w.frame(PING, 0, 0))

@case("6.7", "pings are answered in order", "[b'11111111', b'22222222', b'33333333']")
def _(w):
    w.send(*[PingFrame(0, opaque_data=text) for text in (b"11111111", b"22222222", b"33333333")])
    w.until(lambda: len(w.pongs) == 3)
    return str(w.pongs)

@case("6.7", "a pong that nobody asked for is not answered", "[b'12345678']")
def _(w):
    w.frame(PING, ACK, 0, b"what is?")
    w.frame(PING, 0, 0, b"12345678")
    w.until(lambda: b"12345678" in w.pongs)
    return str(w.pongs)

@case("6.7", "a ping in the middle of a body", POSTED)
def _(w):
    w.post()
    w.frame(PING, 0, 0, b"12345678")
    w.until(lambda: w.pongs)
    w.data(b"hello")


# --- 6.8: GOAWAY.

case("6.8", "a farewell on a stream", connection(PROTOCOL), lambda w: w.frame(GOAWAY, 0, 1, bytes(8)))
case("6.8", "a farewell of seven bytes", connection(SIZE), lambda w: w.frame(GOAWAY, 0, 0, bytes(7)))

def farewell(name, error, debug):
    @case("6.8", name, "200 POST /a 5, closed")
    def _(w):
        w.post()
        w.send(GoAwayFrame(0, last_stream_id=0, error_code=error, additional_data=debug))
        w.data(b"hello")
        seen = w.answer()
        return f"{seen}, {w.end()}"

farewell("a farewell while a request is open", 0, b"")
farewell("a farewell with words", 0, b"see you" * 100)
farewell("a farewell for an unknown reason", 0xDEAD, b"")

@case("6.8", "a farewell tells the last stream", "5")
def _(w):
    for number in (1, 3, 5):
        w.get("/a", number)
        w.answer(number)
    w.frame(PING, 0, 1, bytes(8))
    w.end()
    return str(w.farewells[-1].last_stream_id)


# --- 6.10: CONTINUATION.

def pieces(w, block, *cuts, stream=1):
    """A block in headers and continuations."""
    ends = [*cuts, len(block)]
    parts = [block[start:end] for start, end in zip([0, *cuts], ends)]
    made = [HeadersFrame(stream, parts[0], flags=["END_STREAM"])]
    made += [ContinuationFrame(stream, part) for part in parts[1:]]
    made[-1].flags.add("END_HEADERS")
    w.next_stream = max(w.next_stream, stream + 2)
    w.send(*made)

@case("6.10", "fields cut at every position", f"{len(GET) + 1} answers")
def _(w):
    for cut in range(len(GET) + 1):
        pieces(w, GET, cut, stream=2 * cut + 1)
        assert w.answer(2 * cut + 1) == ANSWER, f"{cut}: {w.answer(2 * cut + 1)}"
    return f"{len(GET) + 1} answers"

case("6.10", "headers without fields, and a continuation with all", ANSWER, lambda w: pieces(w, GET, 0))
case("6.10", "continuations without fields", ANSWER, lambda w: pieces(w, GET, 0, 0, 5, 5, len(GET)))
case("6.10", "fields byte by byte in continuations", ANSWER, lambda w: pieces(w, GET, *range(1, len(GET))))

@case("6.10", "trailers in a continuation", POSTED + " a=b")
def _(w):
    w.post()
    w.data(b"hello", end=False)
    trailers = literal(b"a", b"b")
    w.raw(trailers[:2], flags=END_STREAM)
    w.frame(CONTINUATION, END_HEADERS, 1, trailers[2:])

@case("6.10", "a continuation with other flags", ANSWER)
def _(w):
    w.raw(GET[:4], flags=END_STREAM)
    w.frame(CONTINUATION, END_HEADERS | 0xFB, 1, GET[4:])

case("6.10", "a continuation of nothing", connection(PROTOCOL), lambda w: w.frame(CONTINUATION, END_HEADERS, 1, GET))
case("6.10", "a continuation after the end of the fields", connection(PROTOCOL), lambda w: (w.raw(GET[:-14], flags=END_HEADERS), w.frame(CONTINUATION, END_HEADERS, 1, GET[-14:])))
case("6.10", "a continuation on the stream 0", connection(PROTOCOL), lambda w: (w.raw(GET, flags=END_STREAM), w.frame(CONTINUATION, END_HEADERS, 0)))
case("6.10", "a continuation of another stream", connection(PROTOCOL), lambda w: (w.raw(GET, flags=END_STREAM), w.frame(CONTINUATION, END_HEADERS, 3)))
case("6.10", "a continuation after data", connection(PROTOCOL), lambda w: (w.post(), w.data(b"x", end=False), w.frame(CONTINUATION, END_HEADERS, 1)))
for kind, what in ((DATA, "data"), (HEADERS, "headers"), (PRIORITY, "a priority"), (RST_STREAM, "a reset"), (SETTINGS, "settings"), (PING, "a ping"), (GOAWAY, "a farewell"), (WINDOW_UPDATE, "a window")):
    on, payload = (0, bytes(8)) if kind in (SETTINGS, PING, GOAWAY, WINDOW_UPDATE) else (1, bytes(5))
    case("6.10", f"{what} between headers and continuation", connection(PROTOCOL),
         lambda w, kind=kind, on=on, payload=payload: (w.raw(GET, flags=END_STREAM), w.frame(kind, 0, on, payload)))


# --- 8.1: messages.

case("8.1", "trailers", POSTED + " a=b", lambda w: (w.post(), w.data(b"hello", end=False), w.raw(literal(b"a", b"b"))))
case("8.1", "trailers without a body", "200 POST /a 0 a=b", lambda w: (w.post(), w.raw(literal(b"a", b"b"))))
case("8.1", "trailers without fields", POSTED, lambda w: (w.post(), w.data(b"hello", end=False), w.raw(b"")))
case("8.1", "trailers that do not end the stream", stream(PROTOCOL), lambda w: (w.post(), w.data(b"hello", end=False), w.raw(literal(b"a", b"b"), flags=END_HEADERS)))
case("8.1", "a pseudo-field in trailers", stream(PROTOCOL), lambda w: (w.post(), w.data(b"hello", end=False), w.raw(literal(b":path", b"/b"))))
case("8.1", "a status in trailers", stream(PROTOCOL), lambda w: (w.post(), w.data(b"hello", end=False), w.raw(b"\x88")))
case("8.1", "a name in upper case in trailers", stream(PROTOCOL), lambda w: (w.post(), w.data(b"hello", end=False), w.raw(literal(b"A", b"b"))))
case("8.1", "a field of the connection in trailers", stream(PROTOCOL), lambda w: (w.post(), w.data(b"hello", end=False), w.raw(literal(b"connection", b"close"))))
case("8.1", "data after trailers", stream(CLOSED), lambda w: (w.post("/never"), w.raw(literal(b"a", b"b")), w.data(b"x")))
case("8.1", "a body of a GET", "200 GET /a 5", lambda w: (w.head(request(), flags=END_HEADERS), w.data(b"hello")))

@case("8.1", "a HEAD has fields and no body", "200 0")
def _(w):
    w.head(request("HEAD"))
    w.answer()
    assert w.stream(1).is_over
    return f"{w.stream(1).status} {len(w.stream(1).body)}"

@case("8.1", "an answer comes before the end of the request", "200 early")
def _(w):
    w.post("/early")
    return w.answer()

@case("8.1", "an echo with trailers", "200 hello [('a', 'b')]")
def _(w):
    w.post("/echo")
    w.data(b"hello", end=False)
    w.raw(literal(b"a", b"b"))
    return f"{w.answer()} {[tuple(field) for field in w.stream(1).trailers]}"

@case("8.1.1", "an answer has no field of the connection", "ignored")
def _(w):
    w.get()
    w.answer()
    names = {name for name, _ in w.stream(1).fields}
    wrong = names & {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
    upper = {name for name in names if name != name.lower()}
    return str(wrong | upper) if wrong | upper else "ignored"

def length(name, wanted, fields, body, *more):
    def act(w):
        w.head(request("POST", "/a", *[("content-length", value) for value in fields]), flags=0x4 if body is not None else 0x5)
        if body is not None:
            w.data(body, **dict(more))
    case("8.1.1", name, wanted, act)

length("a body as long as it says", POSTED, ["5"], b"hello")
length("a body as long as it says twice", POSTED, ["5", "5"], b"hello")
length("a body shorter than it says", stream(PROTOCOL), ["6"], b"hello")
length("a body longer than it says", stream(PROTOCOL), ["4"], b"hello")
length("no body where there should be one", stream(PROTOCOL), ["5"], None)
length("no body, and a length of 0", "200 POST /a 0", ["0"], None)
length("two lengths", stream(PROTOCOL), ["5", "6"], b"hello")
length("a length that is no number", stream(PROTOCOL), ["five"], b"hello")
length("a length with a sign", stream(PROTOCOL), ["+5"], b"hello")
length("a negative length", stream(PROTOCOL), ["-5"], b"hello")
length("a length of 30 digits", stream(PROTOCOL), ["1" * 30], b"hello")
length("an empty length", stream(PROTOCOL), [""], b"hello")
length("a length to which padding does not count", POSTED, ["5"], b"hello", ("padding", 9))

@case("8.1.1", "trailers before the length that it says", stream(PROTOCOL))
def _(w):
    w.post("/a", ("content-length", "6"))
    w.data(b"hello", end=False)
    w.raw(literal(b"a", b"b"))


# --- 8.2: fields.

def field(section, name, wanted, *pairs):
    case(section, name, wanted, lambda w: w.raw(GET + b"".join(literal(*pair) for pair in pairs)))

MALFORMED = stream(PROTOCOL)
field("8.2.1", "a name in upper case", MALFORMED, (b"A", b"b"))
field("8.2.1", "a name with a capital in it", MALFORMED, (b"aBc", b"b"))
field("8.2.1", "a name with a space", MALFORMED, (b"a b", b"c"))
field("8.2.1", "a name with a control character", MALFORMED, (b"a\x01", b"c"))
field("8.2.1", "a name with a zero", MALFORMED, (b"a\0", b"c"))
field("8.2.1", "a name with a DEL", MALFORMED, (b"a\x7f", b"c"))
field("8.2.1", "a name beyond ASCII", MALFORMED, (b"a\xff", b"c"))
field("8.2.1", "a name with a colon", MALFORMED, (b"a:b", b"c"))
field("8.2.1", "a name of no bytes", MALFORMED, (b"", b"c"))
field("8.2.1", "a value with a zero", MALFORMED, (b"a", b"b\0c"))
field("8.2.1", "a value with a line feed", MALFORMED, (b"a", b"b\nc"))
field("8.2.1", "a value with a carriage return", MALFORMED, (b"a", b"b\rc"))
field("8.2.1", "a value that is a line of HTTP/1.1", MALFORMED, (b"a", b"b\r\nhost: other\r\n"))
field("8.2.1", "a value that begins with a space", MALFORMED, (b"a", b" b"))
field("8.2.1", "a value that ends with a space", MALFORMED, (b"a", b"b "))
field("8.2.1", "a value that begins with a tab", MALFORMED, (b"a", b"\tb"))
field("8.2.1", "a value that ends with a tab", MALFORMED, (b"a", b"b\t"))
field("8.2.1", "a value with a space and a tab", ANSWER, (b"a", b"b c\td"))
field("8.2.1", "a value beyond ASCII", ANSWER, (b"a", b"b\xc3\xbc\xff"))
field("8.2.1", "an empty value", ANSWER, (b"a", b""))
field("8.2.1", "all bytes of a name", ANSWER, (b"!#$%&'*+-.^_`|~09az", b"b"))
field("8.2.2", "connection", MALFORMED, (b"connection", b"close"))
field("8.2.2", "connection: keep-alive", MALFORMED, (b"connection", b"keep-alive"))
field("8.2.2", "keep-alive", MALFORMED, (b"keep-alive", b"timeout=5"))
field("8.2.2", "proxy-connection", MALFORMED, (b"proxy-connection", b"keep-alive"))
field("8.2.2", "transfer-encoding", MALFORMED, (b"transfer-encoding", b"chunked"))
field("8.2.2", "upgrade", MALFORMED, (b"upgrade", b"h2c"))
field("8.2.2", "te other than trailers", MALFORMED, (b"te", b"gzip"))
field("8.2.2", "te with trailers and more", MALFORMED, (b"te", b"trailers, deflate"))
field("8.2.2", "te: trailers", ANSWER, (b"te", b"trailers"))
field("8.2.3", "cookies in several fields", ANSWER + " cookie=a=b; c=d", (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"x-echo", b"cookie"))
field("8.2", "many fields of one name", ANSWER, *[(b"a", b"b")] * 50)

@case("10.5.1", "fields beyond the limit", "431")
def _(w):
    block = b"".join(b"\x00\x01a\x7f\xe9\x06" + b"v" * 1000 for _ in range(70))
    block = GET + block
    pieces(w, block, *range(16_384, len(block), 16_384))
    return w.answer()

case("10.5.1", "fields far beyond the limit", connection(CALM),
     lambda w: pieces(w, GET + literal(b"a", b"v" * 100, 0x40) + b"\xbe" * 60_000, 16_384, 32_768, 49_152))


# --- 8.3: pseudo-fields.

def pseudo(section, name, wanted, *pairs):
    case(section, name, wanted, lambda w: w.raw(b"".join(literal(key.encode(), value.encode("latin-1")) for key, value in pairs)))

M, S, A, P = (":method", "GET"), (":scheme", "http"), (":authority", "couplet.test"), (":path", "/a")
pseudo("8.3", "an unknown pseudo-field", MALFORMED, M, S, A, P, (":x", "y"))
pseudo("8.3", "a pseudo-field without a name", MALFORMED, M, S, A, P, (":", "y"))
pseudo("8.3", "a pseudo-field of answers", MALFORMED, M, S, A, P, (":status", "200"))
pseudo("8.3", "a pseudo-field after others", MALFORMED, M, S, A, ("a", "b"), P)
pseudo("8.3", "a pseudo-field in upper case", MALFORMED, (":Method", "GET"), S, A, P)
pseudo("8.3", "pseudo-fields in another order", ANSWER, P, A, S, M)
for name, pair in (("methods", M), ("schemes", S), ("authorities", A), ("paths", P)):
    pseudo("8.3", f"two {name}", MALFORMED, M, S, A, P, pair)
pseudo("8.3.1", "no method", MALFORMED, S, A, P)
pseudo("8.3.1", "no scheme", MALFORMED, M, A, P)
pseudo("8.3.1", "no path", MALFORMED, M, S, A)
pseudo("8.3.1", "no path and no authority", MALFORMED, M, S)
pseudo("8.3.1", "no authority", ANSWER, M, S, P)
pseudo("8.3.1", "an empty path", MALFORMED, M, S, A, (":path", ""))
pseudo("8.3.1", "an empty method", MALFORMED, (":method", ""), S, A, P)
pseudo("8.3.1", "an empty scheme", MALFORMED, M, (":scheme", ""), A, P)
pseudo("8.3.1", "a method with a space", MALFORMED, (":method", "G T"), S, A, P)
pseudo("8.3.1", "a path with a space", MALFORMED, M, S, A, (":path", "/a b"))
pseudo("8.3.1", "a path with a line feed", MALFORMED, M, S, A, (":path", "/a\nb"))
pseudo("8.3.1", "a path with a fragment", MALFORMED, M, S, A, (":path", "/a#b"))
pseudo("8.3.1", "a path without its slash", MALFORMED, M, S, A, (":path", "a"))
pseudo("8.3.1", "a whole URI for a path", MALFORMED, M, S, A, (":path", "http://couplet.test/a"))
pseudo("8.3.1", "an asterisk for a path", MALFORMED, M, S, A, (":path", "*"))
pseudo("8.3.1", "an asterisk for the path of OPTIONS", "200 OPTIONS * 0", (":method", "OPTIONS"), S, A, (":path", "*"))
pseudo("8.3.1", "a path with a query", "200 GET /a?b=c&d 0", M, S, A, (":path", "/a?b=c&d"))
pseudo("8.3.1", "a scheme with a space", MALFORMED, M, (":scheme", "ht tp"), A, P)
pseudo("8.3.1", "another scheme", ANSWER, M, (":scheme", "https"), A, P)
pseudo("8.3.1", "user information in the authority", MALFORMED, M, S, (":authority", "ada@couplet.test"), P)
pseudo("8.3.1", "an authority with a space", MALFORMED, M, S, (":authority", "couplet test"), P)
pseudo("8.3.1", "an authority with a slash", MALFORMED, M, S, (":authority", "couplet.test/a"), P)
pseudo("8.3.1", "an authority with a port", ANSWER, M, S, (":authority", "couplet.test:8000"), P)
pseudo("8.3.1", "a host in place of an authority", ANSWER, M, S, P, ("host", "couplet.test"))
pseudo("8.3.1", "a host that is the authority", ANSWER, M, S, A, P, ("host", "couplet.test"))
pseudo("8.3.1", "a host that is not the authority", MALFORMED, M, S, A, P, ("host", "other.test"))
pseudo("8.3.1", "a host with the scheme's port", ANSWER, M, S, A, P, ("host", "couplet.test:80"))
pseudo("8.3.1", "a host with another port", MALFORMED, M, S, A, P, ("host", "couplet.test:79"))
pseudo("8.3.1", "two hosts", MALFORMED, M, S, P, ("host", "couplet.test"), ("host", "couplet.test"))
pseudo("8.3.1", "a host that is none", MALFORMED, M, S, P, ("host", "couplet test"))


# --- 8.5: CONNECT, and RFC 8441.

C, TO = (":method", "CONNECT"), (":authority", "couplet.test:80")
pseudo("8.5", "a CONNECT", "405", C, TO)
pseudo("8.5", "a CONNECT with a path", MALFORMED, C, TO, P)
pseudo("8.5", "a CONNECT with a scheme", MALFORMED, C, TO, S)
pseudo("8.5", "a CONNECT with both", MALFORMED, C, TO, S, P)
pseudo("8.5", "a CONNECT without an authority", MALFORMED, C)
pseudo("8.5", "a CONNECT without a port", MALFORMED, C, A)
pseudo("8.5", "a CONNECT with a length and no bytes", MALFORMED, C, TO, ("content-length", "5"))
case("8.5", "a CONNECT with a length and bytes", "405",
     lambda w: (w.head([C, TO, ("content-length", "5")], flags=END_HEADERS), w.data(b"hello")))
case("8.5", "a CONNECT with bytes", "405", lambda w: (w.head([C, TO], flags=END_HEADERS), w.data(b"hello")))
pseudo("8441 4", "an extended CONNECT", "405", C, S, TO, P, (":protocol", "websocket"))
pseudo("8441 4", "an extended CONNECT without an authority", MALFORMED, C, S, P, (":protocol", "websocket"))
pseudo("8441 4", "an extended CONNECT with a host in place of an authority", MALFORMED, C, S, P, (":protocol", "websocket"), ("host", "couplet.test"))
pseudo("8441 4", "an extended CONNECT without a path", MALFORMED, C, S, TO, (":protocol", "websocket"))
pseudo("8441 4", "an extended CONNECT without a scheme", MALFORMED, C, TO, P, (":protocol", "websocket"))
pseudo("8441 4", "a protocol without CONNECT", MALFORMED, M, S, A, P, (":protocol", "websocket"))

@case("8441 3", "the server takes an extended CONNECT", "1")
def _(w):
    w.until(lambda: w.settings)
    return str(w.settings.get(8))


# Known deviations: the outcome and its reason, by the names of cases.
DIFFERS = {}


def run(port, case):
    section, name, wanted, act, first = case
    expected = DIFFERS.get(name, (wanted,))[0]
    w = Wire(port, first)
    try:
        seen = act(w)
        if not isinstance(seen, str):
            seen = w.ended() if expected.startswith(("connection", "closed")) else w.answer()
        if not w.is_closed and w.next_stream and (dead := w.alive()):
            seen += f", then {dead}"
    finally:
        w.close()
    return seen


def main():
    port = int(sys.argv[1])
    witness = Client(port)
    for case in CASES:
        try:
            seen = run(port, case)
        except (AssertionError, OSError) as error:
            seen = f"{type(error).__name__}: {error}"
        if (said := witness.get("/witness")) != "200 GET /witness 0":
            seen += f"; the other connection: {said}"
        print(*case[:3], seen, *DIFFERS.get(case[1], ()), sep="\t", flush=True)


if __name__ == "__main__":
    main()

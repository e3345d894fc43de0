"""The package h2 as a client: client.py PORT TASK [NUMBER].

A task prints its counts, in one line.
"""

import socket
import sys
from collections import Counter, deque

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

PATIENCE = 15


class Answer:
    def __init__(self):
        self.fields, self.trailers, self.body, self.is_over, self.error = {}, {}, bytearray(), False, None

    def __str__(self):
        if self.error is not None:
            return f"error {self.error}"
        return f"{self.fields.get(':status')} {self.body.decode(errors='replace')}"


class Client:
    """One connection, which sends requests as windows allow and collects answers by stream."""

    def __init__(self, port, window=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.connection.initiate_connection()
        wanted = 1
        if window is not None:
            self.connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
            wanted = 2
        self.answers, self.bodies, self.farewell, self.is_closed = {}, {}, None, False
        # A server that has acknowledged our settings has sent its own.
        self.acknowledged = 0
        self.flush()
        self.until(lambda: self.acknowledged == wanted)

    def flush(self):
        try:
            self.socket.sendall(self.connection.data_to_send())
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def request(self, method, path, body=None, trailers=None, more=()):
        """Begins a request, and returns its stream."""
        stream = self.connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "http"), (":authority", "couplet.test"), (":path", path), *more]
        has_more = body is not None or trailers is not None
        self.connection.send_headers(stream, fields, end_stream=not has_more)
        self.answers[stream] = Answer()
        if has_more:
            self.bodies[stream] = [memoryview(body or b""), trailers]
        self.pump()
        return stream

    def pump(self):
        """Sends as much of the bodies as the windows allow."""
        for stream, (body, trailers) in list(self.bodies.items()):
            while len(body) > 0:
                room = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
                if room <= 0:
                    break
                self.connection.send_data(stream, bytes(body[:room]))
                body = body[room:]
            self.bodies[stream][0] = body
            if len(body) == 0:
                del self.bodies[stream]
                if trailers:
                    self.connection.send_headers(stream, trailers, end_stream=True)
                else:
                    self.connection.end_stream(stream)
        self.flush()

    def step(self):
        """Processes the next bytes of the server; false if it has closed."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        for event in self.connection.receive_data(data):
            self.take(event)
        self.pump()
        return True

    def take(self, event):
        if isinstance(event, SettingsAcknowledged):
            self.acknowledged += 1
        elif isinstance(event, ConnectionTerminated):
            self.farewell = event
        if (answer := self.answers.get(getattr(event, "stream_id", None))) is None:
            return
        if isinstance(event, ResponseReceived):
            answer.fields = dict(event.headers)
        elif isinstance(event, TrailersReceived):
            answer.trailers = dict(event.headers)
        elif isinstance(event, DataReceived):
            answer.body += event.data
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            answer.is_over = True
        elif isinstance(event, StreamReset):
            self.bodies.pop(event.stream_id, None)
            # After the end, a reset only declines the rest of the request.
            if not answer.is_over:
                answer.error, answer.is_over = event.error_code, True

    def until(self, done):
        while not done():
            if not self.step():
                return False
        return True

    def answer(self, stream):
        if not self.until(lambda: self.answers[stream].is_over):
            self.answers[stream].error = "closed"
        return self.answers.pop(stream)

    def get(self, path):
        try:
            return str(self.answer(self.request("GET", path)))
        except Exception as error:
            return repr(error)

    def close(self):
        """Sends GOAWAY, and waits for the server to close."""
        self.connection.close_connection()
        self.flush()
        while self.step():
            pass
        return self.is_closed


# The tasks.

TASKS = {}


def task(name):
    return lambda act: TASKS.setdefault(name, act)


@task("requests")
def _(client, count):
    """One request of each kind, on one connection."""
    said = [
        str(client.answer(client.request("GET", "/a"))),
        str(client.answer(client.request("POST", "/a", b"hello"))),
        str(client.answer(client.request("PUT", "/a", b""))),
        str(client.answer(client.request("POST", "/a", b"hello", [("a", "b")]))),
    ]
    head = client.answer(client.request("HEAD", "/a"))
    said.append(f"{head.fields[':status']} {len(head.body)} of {head.fields.get('content-length')}")
    echo = client.answer(client.request("POST", "/echo", b"hello", [("a", "b")]))
    said.append(f"{echo} {echo.trailers}")
    said.append(f"{client.answer(client.request('GET', '/empty')).fields[':status']}")
    said.append(f"closed {client.close()}")
    return "|".join(said)


@task("bodies")
def _(client, size):
    """A large body in each direction, then an echo of one."""
    body = bytes(n % 251 for n in range(size))
    up = client.answer(client.request("POST", "/a", body))
    down = client.answer(client.request("GET", f"/large/{size}"))
    both = client.answer(client.request("POST", "/echo", body))
    return f"{up}|{len(down.body)}|{bytes(both.body) == body}"


@task("parallel")
def _(client, count):
    """Concurrent echoes of `count` large bodies, in windows of 1,000 bytes."""
    size = 20_000
    streams = {client.request("POST", "/echo", bytes([n % 256]) * size): n for n in range(count)}
    open_at_once = client.connection.open_outbound_streams
    right = sum(bytes(client.answer(stream).body) == bytes([n % 256]) * size for stream, n in streams.items())
    return f"{open_at_once} {right}"


@task("many")
def _(client, count):
    """Sends `count` requests on one connection, as many at a time as the server allows."""
    most, said, open_streams = 0, Counter(), deque()
    limit = client.connection.remote_settings.max_concurrent_streams
    for n in range(count):
        if len(open_streams) == limit:
            said[str(client.answer(open_streams.popleft()))] += 1
        open_streams.append(client.request("GET", "/many"))
        most = max(most, client.connection.open_outbound_streams)
    while open_streams:
        said[str(client.answer(open_streams.popleft()))] += 1
    return f"{limit} {most} {dict(said)}"


def beyond(client, count):
    """Opens as many streams as the server allows, which stay unanswered, and puts `count` more in `wire.more`."""
    from wire import END_HEADERS, END_STREAM, HEADERS, PING, Wire, frame, plain

    wire = Wire(client.socket.getpeername()[1])
    wire.until(lambda: 3 in wire.settings)
    limit = wire.settings[3]
    held = [2 * n + 1 for n in range(limit)]
    for stream in held:
        wire.get("/held", stream)
    wire.frame(PING, 0, 0, b"are open")
    wire.until(lambda: wire.pongs)
    first = held[-1] + 2
    wire.more = [frame(HEADERS, END_HEADERS | END_STREAM, first + 2 * n, plain("/a")) for n in range(count)]
    wire.next_stream = first + 2 * count
    return wire, held


def outcome(wire, held, client):
    """Makes the server answer the held requests, and counts the outcomes."""
    other = client.get("/release")
    wire.until(lambda: all(wire.stream(stream).is_over for stream in held))
    answered = sum(str(wire.stream(stream)) == "200 GET /held 0" for stream in held)
    refused = [told.code for stream, told in wire.streams.items() if stream not in held]
    codes = Counter(code for code in refused if code is not None)
    return f"answered {answered} refused {codes[7]} other {sum(codes.values()) - codes[7]} {other}"


@task("beyond")
def _(client, count):
    """Streams beyond the limit: each is refused, and the others are answered."""
    wire, held = beyond(client, count)
    wire.write(b"".join(wire.more))
    wire.until(lambda: len(wire.streams) == len(held) + count)
    told = outcome(wire, held, client)
    return f"{told} alive {wire.alive() is None}"


@task("far-beyond")
def _(client, count):
    """Enough streams that the server closes the connection."""
    wire, held = beyond(client, count)
    wire.write(b"".join(wire.more))
    ended = wire.end()
    told = outcome(wire, held, client)
    return f"{ended} {told} client {client.get('/a')}"


def main():
    port, name, *number = sys.argv[1:]
    window = 1000 if name == "parallel" else None
    print(TASKS[name](Client(int(port), window), int(number[0]) if number else 0))


if __name__ == "__main__":
    main()

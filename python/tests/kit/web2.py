"""A web server in memory behind HTTP/2, and its clients by Python's h2: `web2.py REACTOR FOLDER SEED COUNT` prints
the events of the clients and of the server's resources, a line of JSON for each conversation. The lines are the same
under every reactor."""

import json
import random
import sys
import unittest.mock

from kit import reactors

if __name__ == "__main__":
    # The modules that are imported now find it.
    reactors.install(sys.argv[1])

from h2 import config, connection, events, exceptions, settings
from twisted.internet import address, error, interfaces, task
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web import server
from zope.interface import directlyProvides, providedBy

from kit.webserver import REQUEST_STEPS, VARYING, cut, overriding, site

PATHS = """/ /show /show/a%20b//c?x=1&y=&x=2&z /show /'it's%22"\\ /none/such * /pieces /known /cookies /empty /fails /text
    /code?204 /code?304 /code?599 /big /gzip /redirect /later /later /large""".split()
FILES = """small.html empty.tar.gz none %2e%2e/small.html sub sub/ sub/inner large.bin""".split()
METHODS = ["GET"] * 6 + ["HEAD", "POST", "POST", "PUT", "BREW", "OPTIONS"]
FORM = "application/x-www-form-urlencoded"
FIELDS = [
    ("cookie", "k=v; w"),
    ("cookie", "u=%20"),
    ("x-odd", ""),
    ("x-odd", "v"),
    ("etag", "e"),
    ("www-authenticate", "w"),
    ("x-xss-protection", "1"),
    ("referer", "a'b\"c\\d\xff\te"),
    ("user-agent", "\\'"),
    ("if-none-match", "tag"),
    ("if-modified-since", "Thu, 01 Jan 2099 00:00:10 GMT"),
    ("range", "bytes=1-3"),
    ("accept-encoding", "gzip"),
    ("expect", "100-Continue"),
    ("te", "trailers"),
    ("content-type", FORM),
    ("content-type", "multipart/form-data; boundary=b"),
    ("content-type", "multipart/form-data"),
]
BODIES = [
    b"",
    b"hello",
    b"a=1&b",
    b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nvalue\r\n--b--',
    b"l" * 120_000,
]


def frame(kind, flags, stream, payload=b""):
    """A frame: RFC 9113, 4.1."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def frames(output):
    """The whole frames of bytes: their types, flags, streams and payloads."""
    found = []
    while len(output) >= (end := 9 + int.from_bytes(output[:3])):
        found.append((output[3], output[4], int.from_bytes(output[5:9]), output[9:end]))
        output = output[end:]
    return found


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
# GET / of the static table, over https; the authority is a.
GET = b"\x82\x87\x84\x41\x01a"


class Peer:
    """A client by Python's h2, without a transport.

    seen: for each stream its answer; `None` has the events of the connection.
    """

    def __init__(self, window=65535):
        self.conn = connection.H2Connection(config.H2Configuration(header_encoding="latin-1"))
        self.conn.local_settings = settings.Settings(
            client=True, initial_values={settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.conn.initiate_connection()
        self.seen, self.parts, self.held, self.is_slow = {None: []}, {}, [], False

    def request(self, method, path, *fields, authority="a.example", body=None, pieces=1):
        """Sends a request, and returns its stream; `send` sends the pieces of its body."""
        stream = self.conn.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path), *fields]
        self.conn.send_headers(stream, head, end_stream=body is None)
        if body is not None:
            length = len(body) // pieces + 1
            self.parts[stream] = [body[at : at + length] for at in range(0, len(body), length)] or [b""]
        return stream

    def send(self, stream, pad=None):
        """Sends the next part of a body, as far as the window allows."""
        parts = self.parts[stream]
        room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
        room -= 0 if pad is None else pad + 1
        if parts[0] and room <= 0:
            return
        part, parts[0] = parts[0][:room], parts[0][room:]
        if not parts[0]:
            parts.pop(0)
        if not parts:
            del self.parts[stream]
        self.conn.send_data(stream, part, end_stream=not parts, pad_length=pad)

    def note(self, event):
        stream = getattr(event, "stream_id", None)
        seen = self.seen.setdefault(stream, [])
        match event:
            case events.ResponseReceived() | events.InformationalResponseReceived():
                seen.append([field for field in event.headers if field[0] != "date"])
            case events.DataReceived():
                if not seen or not isinstance(seen[-1], str):
                    seen.append("")
                seen[-1] += event.data.decode("latin-1")
                self.held.append((event.flow_controlled_length, stream))
                if not self.is_slow:
                    self.release()
            case events.StreamEnded() | events.ConnectionTerminated() | events.StreamReset():
                seen.append([type(event).__name__, int(getattr(event, "error_code", None) or 0)])
                if not isinstance(event, events.StreamEnded):
                    self.parts.pop(stream, None)
            case events.PingAckReceived():
                seen.append(event.ping_data.decode())

    def release(self):
        """Gives windows back, of all the bytes received."""
        held, self.held = self.held, []
        for length, stream in held:
            try:
                self.conn.acknowledge_received_data(length, stream)
            except exceptions.StreamClosedError:
                pass


class Client(Peer):
    """A client of a protocol of the server's, over a transport in memory."""

    def __init__(self, made, window=65535, split=lambda data: [data], is_secure=False):
        super().__init__(window)
        self.split = split
        self.transport = StringTransport(peerAddress=address.IPv4Address("TCP", "192.0.2.1", 999))
        self.transport.negotiatedProtocol = b"h2"
        self.transport.setTcpNoDelay = lambda enabled: None
        if is_secure:
            directlyProvides(self.transport, providedBy(self.transport), interfaces.ISSLTransport)
        self.protocol = made.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)

    def ask(self, *arguments, **more):
        """Sends a request that the server gets, and returns its stream."""
        stream = self.request(*arguments, **more)
        self.exchange()
        return stream

    def exchange(self):
        """Passes bytes between the client and the server until both wait."""
        from twisted.internet import reactor

        while True:
            for piece in self.split(self.conn.data_to_send()):
                if not self.transport.disconnecting:
                    self.protocol.dataReceived(piece)
            for _ in range(0 if reactor.running else 2):
                # Twisted sends one frame of a body in each turn of the reactor.
                reactor.runUntilCurrent()
            output = self.transport.value()
            self.transport.clear()
            if not output:
                break
            for event in self.conn.receive_data(output):
                self.note(event)


class Conversation:
    """Random requests on one connection."""

    def __init__(self, folder, seed, number):
        self.random = random.Random(f"{seed} {number}")
        # How often it is used depends on the server's frames.
        self.pieces = random.Random(number)
        self.number, self.clock, self.seen = number, task.Clock(), []
        self.has_files, self.is_full = number % 3 == 0, False
        # Twisted's files are sent by tasks, whose turns are made here.
        self.turns = []
        task._theCooperator = task.Cooperator(scheduler=lambda turn: self.turns.append(turn) or unittest.mock.Mock())
        made = site(folder, self.clock, self.seen)
        if number % 3 == 1:
            self.override(made)
        window = self.random.choice([65535, 65535, 500, 5000, 2**20])
        self.client = Client(made, window, self.split, self.random.random() < 0.3)
        self.client.is_slow = self.random.random() < 0.3

    def override(self, made):
        """Has the site use a class of requests that overrides some steps."""
        steps = self.random.sample(REQUEST_STEPS, self.random.randint(0, 3))
        request = overriding(server.Request, steps, self.seen)
        made.requestFactory = (lambda *args, **kw: request(*args, **kw)) if self.random.random() < 0.3 else request

    def split(self, data):
        """The pieces in which the server gets bytes."""
        if self.pieces.random() < 0.6:
            return [data] if data else []
        return cut(self.pieces, data)

    def request(self):
        """Sends a random request."""
        path = self.random.choice(PATHS + [f"/files/{name}" for name in FILES] if self.has_files else PATHS)
        body = self.random.choice(BODIES) if self.random.random() < 0.4 else None
        fields = self.random.sample(FIELDS, self.random.randint(0, 5))
        if body is not None and self.random.random() < 0.7:
            fields.insert(0, ("content-length", str(len(body))))
        # HTTP has no other method for an asterisk: RFC 9110, 7.1.
        method = "OPTIONS" if path == "*" else self.random.choice(METHODS)
        self.client.request(method, path, *fields, body=body, pieces=self.random.choice([1, 2, 5]))

    def step(self):
        """One action of the client."""
        chance, conn = self.random.random(), self.client.conn
        # The others wait for windows, whose sizes are the server's.
        short = [stream for stream, parts in self.client.parts.items() if len(parts[0]) < 1000]
        if short and chance < 0.6:
            stream = self.random.choice(short)
            self.client.send(stream, self.random.choice([None, None, 0, 9]))
        elif chance < 0.85:
            self.request()
        elif chance < 0.9:
            conn.ping(b"%08d" % self.random.randrange(10**8))
        elif chance < 0.92:
            self.pause()
        elif chance < 0.95 and short:
            stream = self.random.choice(short)
            self.client.parts.pop(stream)
            conn.reset_stream(stream, self.random.choice([0, 2, 8, 99]))
        else:
            self.client.release()

    def pause(self):
        """Fills the transport, or has it take output again."""
        producer = self.client.transport.producer
        if producer is not None:
            self.is_full = not self.is_full
            (producer.pauseProducing if self.is_full else producer.resumeProducing)()

    def turn(self):
        self.client.exchange()
        while self.turns:
            self.turns.pop()()
            self.client.exchange()

    def run(self):
        """The events of the client and of the resources."""
        for _ in range(self.random.randint(1, 12)):
            self.step()
            if self.random.random() < 0.7:
                self.turn()
            if self.random.random() < 0.1:
                self.clock.advance(1)
        if self.is_full:
            self.pause()
        for _ in range(3):
            for stream in list(self.client.parts):
                while stream in self.client.parts:
                    self.client.send(stream)
                    self.turn()
            while self.client.held:
                self.client.release()
                self.turn()
            self.clock.advance(1)
            self.turn()
        transport = self.client.transport
        state = [transport.disconnecting, transport.producerState, len(self.clock.getDelayedCalls())]
        self.client.protocol.connectionLost(Failure(error.ConnectionDone()))
        state.append(len(self.clock.getDelayedCalls()))
        # Bodies may arrive in other parts.
        seen = [entry for entry in self.seen if entry[0] != "handleContentChunk"]
        answers = sorted((stream, events) for stream, events in self.client.seen.items() if stream)
        return [state, sorted(map(json.dumps, seen)) if self.has_files else seen, self.client.seen[None], answers]


def main():
    _, folder, seed, count = sys.argv[1:]
    from h2 import stream

    # Twisted's answers without a body have the length of one, as does an empty one that is compressed.
    stream.H2Stream._track_content_length = lambda *_: None
    for number in range(int(count)):
        seen = [number, *Conversation(folder, seed, number).run()]
        print(VARYING.sub("-", json.dumps(seen)))


if __name__ == "__main__":
    main()

"""Servers for the tests of HTTP/2 clients: by hand in memory, by Python's h2, and by nghttpd."""

import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import couplet_twisted
from couplet_twisted._webclient2 import Connection
from couplet_twisted._webcommon import takeIdle
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from h2 import config, connection, events, settings
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web._newclient import Request
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from kit.running import unused
from kit.web2 import frame, frames

SETTINGS, HEADERS, DATA, RST_STREAM, PING, GOAWAY, WINDOW_UPDATE = 4, 1, 0, 3, 6, 7, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The statuses 200 and 404 of the static table.
OK, NOT_FOUND = b"\x88", b"\x8d"


def literal(name, value):
    """A field: RFC 7541, 6.2.2."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Wire:
    """A connection of a pool in memory, whose server is a test."""

    def __init__(self, **settings):
        self.clock = Clock()
        self.pool = couplet_twisted.HTTP2ConnectionPool(self.clock)
        for name, value in settings.items():
            setattr(self.pool, name, value)
        self.key = (b"https", b"a.example", 443)
        self.transport = StringTransport()
        self.transport.abortConnection = self.abort
        self.isAborted = False
        self.connection = Connection(self.pool, self.key)
        self.connection.makeConnection(self.transport)
        self.results = []

    def abort(self):
        self.isAborted = True

    def hello(self, *settings):
        """Sends the server's settings, and forgets the client's output so far."""
        payload = b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in settings)
        self.receive(frame(SETTINGS, 0, 0, payload), frame(SETTINGS, 1, 0))
        self.sent()
        return self

    def request(self, method=b"GET", uri=b"/", producer=None, **headers):
        """Sends a request; its outcome goes into `results`."""
        given = Headers({b"Host": [b"a.example"], **{name.encode(): values for name, values in headers.items()}})
        takeIdle(self.pool, self.key)
        deferred = self.connection.request(Request._construct(method, uri, given, producer, persistent=True))
        at = len(self.results)
        self.results.append(None)

        def note(result):
            self.results[at] = result

        deferred.addBoth(note)
        return deferred

    def ask(self, count):
        """Sends as many requests."""
        for _ in range(count):
            self.request()

    def receive(self, *pieces):
        self.connection.dataReceived(b"".join(pieces))

    def lose(self, reason=None):
        self.connection.connectionLost(Failure(reason or ConnectionDone()))

    def sent(self):
        """The frames that the client has sent since the last call."""
        data = self.transport.value()
        self.transport.clear()
        return frames(data.removeprefix(PREFACE))

    def kinds(self):
        return [(kind, stream) for kind, _, stream, _ in self.sent()]

    @property
    def isClosed(self):
        return self.transport.disconnecting


def asked(count=1, **settings):
    """A connection with open requests, whose server has sent its settings."""
    wire = Wire(**settings).hello()
    wire.ask(count)
    return wire


def uploading(length=UNKNOWN_LENGTH, *settings, isWide=False):
    """A connection with a PUT, and its body. `isWide`: the windows of the server are large."""
    wire, body = Wire().hello(*settings, *[(4, 2**30)] * isWide), Body(length)
    if isWide:
        wire.receive(update(0, 2**30))
    wire.request(b"PUT", producer=body)
    return wire, body


def update(stream, by):
    return frame(WINDOW_UPDATE, 0, stream, by.to_bytes(4))


def read(response):
    """The protocol to which a body is delivered."""
    reader = Reader()
    response.deliverBody(reader)
    return reader


def respond(stream, *parts, head=OK, ends=True):
    """A response, with a body of these parts."""
    data = [frame(DATA, 0, stream, part) for part in parts]
    if ends and data:
        data.append(frame(DATA, 1, stream))
    return frame(HEADERS, 4 if data or not ends else 5, stream, head) + b"".join(data)


class Body:
    """A body producer that a test drives."""

    def __init__(self, length):
        self.length, self.events, self.finished = length, [], Deferred()

    def startProducing(self, consumer):
        self.consumer = consumer
        self.events.append("start")
        return self.finished

    def pauseProducing(self):
        self.events.append("pause")

    def resumeProducing(self):
        self.events.append("resume")

    def stopProducing(self):
        self.events.append("stop")


class Reader:
    """A protocol that notes a response's body and its end."""

    def __init__(self):
        self.data, self.reason, self.transport = b"", None, None

    def makeConnection(self, transport):
        self.transport = transport

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.reason = reason


class H2Server:
    """A protocol factory: a server by Python's h2, which answers with the number of bytes it has received."""

    def __init__(self, streams=100, window=65535):
        self.streams, self.window, self.connections = streams, window, []

    def build(self):
        owner = self

        class Served(Protocol):
            def connectionMade(self):
                owner.connections.append(self)
                made = config.H2Configuration(client_side=False, header_encoding=None)
                self.conn = connection.H2Connection(made)
                values = {
                    settings.SettingCodes.MAX_CONCURRENT_STREAMS: owner.streams,
                    settings.SettingCodes.INITIAL_WINDOW_SIZE: owner.window,
                }
                self.conn.local_settings = settings.Settings(client=False, initial_values=values)
                self.conn.initiate_connection()
                self.heads, self.lengths, self.unsent, self.isLost, self.isLeft = {}, {}, {}, False, False
                self.flush()

            def flush(self):
                self.transport.write(self.conn.data_to_send())

            def connectionLost(self, reason):
                self.isLost = True

            def dataReceived(self, data):
                for event in self.conn.receive_data(data):
                    stream = getattr(event, "stream_id", None)
                    if isinstance(event, events.RequestReceived):
                        self.heads[stream], self.lengths[stream] = dict(event.headers), 0
                    elif isinstance(event, events.DataReceived):
                        self.lengths[stream] += len(event.data)
                        self.conn.acknowledge_received_data(event.flow_controlled_length, stream)
                    elif isinstance(event, events.ConnectionTerminated):
                        self.isLeft = True
                    elif isinstance(event, events.StreamEnded):
                        owner.answer(self, stream)
                    elif isinstance(event, events.StreamReset):
                        self.lengths.pop(stream, None)
                        self.unsent.pop(stream, None)
                for stream in list(self.unsent):
                    self.push(stream)
                self.flush()

            def push(self, stream):
                """Sends a body as far as its window allows."""
                body = self.unsent[stream]
                while body and (room := min(self.conn.local_flow_control_window(stream), 16384)):
                    self.conn.send_data(stream, body[:room])
                    body = body[room:]
                self.unsent[stream] = body
                if not body:
                    del self.unsent[stream]
                    self.conn.end_stream(stream)
                    self.lengths.pop(stream, None)

            def answer(self, stream):
                path = self.heads[stream][b":path"]
                body = b"g" * int(path[5:]) if path.startswith(b"/get/") else b"%d" % self.lengths[stream]
                self.conn.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
                self.unsent[stream] = body
                self.push(stream)
                self.flush()

        return Served()

    def answer(self, served, stream):
        """Answers a request. A test may replace it."""
        served.answer(stream)


class Nghttpd:
    """nghttpd with a folder of files, until the end of the block."""

    def __init__(self, certificate, *options):
        self.certificate, self.options = certificate, options

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        (folder / "small").write_bytes(b"small")
        (folder / "large").write_bytes(b"l" * 1_000_000)
        key = self.certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(key)
        (folder / "certificate.pem").write_bytes(self.certificate.certificate.public_bytes(Encoding.PEM))
        [self.port] = unused(1)
        command = [shutil.which("nghttpd"), "--address=127.0.0.1", f"--htdocs={folder}", *self.options]
        command += [str(self.port), str(folder / "key.pem"), str(folder / "certificate.pem")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while self.process.poll() is None:
            # nghttpd does not report that it listens.
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise AssertionError(f"nghttpd ended with status {self.process.returncode}")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

"""Connections of tests: protocols, producers and readers that note their events, pairs of them, and factories."""

import functools
import socket
import struct
import zlib

from twisted.internet import defer, interfaces, protocol, threads
from zope.interface import implementer

MIB = 1024 * 1024


def quiet(build, kind=protocol.Factory):
    """A factory that does not log. `build` makes its protocols."""
    factory = kind.forProtocol(build)
    factory.noisy = False
    return factory


async def pair(case, server=None, client=None):
    """A server and its connected client."""
    server, client = server or Noting(case, "server"), client or Noting(case, "client")
    await case.connect(case.listen(lambda: server), client)
    return server, client


async def unix_pair(case, server=None, client=None, path="socket", **options):
    """The same over a UNIX socket, whose path is in the case's own folder."""
    from twisted.internet import endpoints

    server, client = server or Noting(case, "server"), client or Noting(case, "client")
    case.ports.append(case.reactor.listenUNIX(path, quiet(lambda: server), **options))
    await endpoints.connectProtocol(endpoints.UNIXClientEndpoint(case.reactor, path), client)
    return server, client


def reset(skt):
    """Closes a socket with a reset."""
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    skt.close()


async def ended(*parties):
    """Waits for the loss of all connections."""
    await defer.gatherResults([party.lost for party in parties])


async def close(*parties):
    """Closes the connection of the first party, and waits for its loss on all sides."""
    parties[0].transport.loseConnection()
    await ended(*parties)


def in_thread(function, *args):
    """A Deferred of a function's result in another thread."""
    return threads.deferToThread(function, *args)


class Called(protocol.Protocol):
    """Calls a function with the data that arrive. Then `called` fires."""

    def __init__(self, function):
        self.function, self.called = function, defer.Deferred()

    def dataReceived(self, data):
        self.function(data)
        self.called.callback(None)


class Source:
    """A producer that only notes its calls."""

    def __init__(self, note):
        for word, name in ("paused", "pause"), ("resumed", "resume"), ("stopped", "stop"):
            setattr(self, f"{name}Producing", functools.partial(note, word))


@implementer(interfaces.IPushProducer, interfaces.IPullProducer)
class Producer:
    """Registers itself with a consumer, writes as many pieces when it is asked to, and closes. Counts its pauses."""

    def __init__(self, case, consumer, streaming, left, closes=True):
        self.case, self.consumer, self.streaming, self.left, self.closes = case, consumer, streaming, left, closes
        self.paused, self.pauses = False, 0
        consumer.registerProducer(self, streaming)
        if streaming:
            self.resumeProducing()

    def resumeProducing(self):
        self.paused = False
        while self.left and not self.paused:
            self.left -= 1
            self.consumer.write(b"%06d" % self.left * 1000)
            if not self.left:
                self.consumer.unregisterProducer()
                if self.closes:
                    self.consumer.loseConnection()
            if not self.streaming:
                return

    def pauseProducing(self):
        self.pauses += not self.paused
        self.paused = True

    def stopProducing(self):
        self.left = 0
        self.case.say("producer", "stopped")


@implementer(interfaces.IReadDescriptor)
class Reader:
    """Calls a function with itself when a descriptor is readable."""

    def __init__(self, fd, act, lost=lambda reason: None):
        self.fd, self.act, self.connectionLost = fd, act, lost

    def fileno(self):
        return self.fd

    def logPrefix(self):
        return "reader"

    def doRead(self):
        self.act(self)


class Noting(protocol.Protocol):
    """Notes its events. When the connection is lost, it notes the number and the checksum of its bytes."""

    def __init__(self, case, party):
        self.case, self.party = case, party
        self.size = self.sum = 0
        self.lost = defer.Deferred()
        self.some = defer.Deferred()
        self.want = None

    def say(self, *words):
        self.case.say(self.party, *words)

    def connectionMade(self):
        self.say("made")

    def dataReceived(self, data):
        self.size += len(data)
        self.sum = zlib.crc32(data, self.sum)
        if self.want is not None and self.size >= self.want:
            self.want = None
            self.some.callback(None)

    def wanted(self, size):
        """A Deferred that fires when `size` bytes have arrived."""
        self.some = defer.Deferred()
        self.want = size
        if self.size >= size:
            self.dataReceived(b"")
        return self.some

    def why(self, reason):
        return reason.getErrorMessage()

    def connectionLost(self, reason):
        self.say("lost", reason.type.__name__, self.why(reason), self.size, self.sum)
        self.lost.callback(None)


class Echo(Noting):
    """Sends back the bytes that it receives."""

    def dataReceived(self, data):
        super().dataReceived(data)
        self.transport.write(data)


@implementer(interfaces.IHalfCloseableProtocol)
class Half(Noting):
    """Notes half-closes, at which `readLost` and `writeLost` fire."""

    def __init__(self, case, party):
        super().__init__(case, party)
        self.readLost, self.writeLost = defer.Deferred(), defer.Deferred()

    def readConnectionLost(self):
        self.say("read side lost", self.size)
        self.readLost.callback(None)

    def writeConnectionLost(self):
        self.say("write side lost")
        self.writeLost.callback(None)

"""A Twisted peer for the tests beside it: `peer.py CASE server|client PORT`.

One process, one connection. A server prints `listening` and its port first. What the connection
does is printed line by line; `lost` and the class of the reason come last.
"""

import socket
import sys

from twisted.internet import interfaces, protocol, reactor
from twisted.protocols import basic
from zope.interface import implementer

# Longer than any case takes: a peer that is left alone does not stay for ever.
LONG = 120
BULK = 8 * 1024 * 1024
ANSWER = 1_000_000
PIECE = 64 * 1024
STRETCH = 1024 * 1024
# What a socket holds, set so that the kernel does not take most of the bulk. Less than a few
# segments of the loopback interface (64 KiB) would leave the sender to its timers.
ROOM = 512 * 1024


def say(*words):
    print(*words, flush=True)


def pattern(start, count):
    """The bytes from `start` on of a stream in which a lost or moved byte shows."""
    ring = bytes(range(251))
    offset = start % 251
    return (ring * (count // 251 + 2))[offset : offset + count]


def messages(limit, odd):
    """Short ones, those about each number of digits, those about the limit, and odd ones."""
    lengths = list(range(40)) + [98, 99, 100, 101, 998, 999, 1000, 1001, 9999, 10000, 10001]
    lengths += list(range(limit - 9, limit + 1))
    return [bytes(97 + (i + n) % 26 for i in range(n)) for n in lengths] + odd


class Ends:
    """Says how the connection ended, and ends the process."""

    def connectionLost(self, reason):
        say("lost", reason.type.__name__)
        reactor.stop()


class CrlfLines(basic.LineReceiver):
    odd = [b"", b"", b"\r", b"\n", b"a\nb", b"a\rb", b"\n\r", b"\r\r"]

    def lineReceived(self, line):
        self.message(line)

    def send(self, message):
        self.sendLine(message)


class LfLines(CrlfLines):
    delimiter = b"\n"
    odd = [b"", b"", b"\r", b"a\r", b"a\rb", b"\r\r"]


class Strings:
    odd = [b"", b"", b",", b":", b"3:abc,", b"\0\0\0\1a", b"\r\n", bytes(range(256))]

    def stringReceived(self, string):
        self.message(string)

    def send(self, message):
        self.sendString(message)


class Netstrings(Strings, basic.NetstringReceiver):
    pass


class Int32Strings(Strings, basic.Int32StringReceiver):
    pass


class Echo(Ends):
    def message(self, message):
        self.send(message)


class Talk(Ends):
    """Sends every message at once, compares what comes back, and closes."""

    def connectionMade(self):
        self.expected = messages(self.MAX_LENGTH, self.odd)
        for message in self.expected:
            self.send(message)
        self.expected.reverse()

    def message(self, message):
        expected = self.expected.pop()
        if message != expected:
            say("sent", expected[:80], "and got", message[:80])
            self.transport.abortConnection()
        elif not self.expected:
            say("all came back")
            self.transport.loseConnection()


class Exceed(Ends):
    """Sends the longest message that is allowed, and when it is back one that is too long."""

    def connectionMade(self):
        self.send(b"x" * self.MAX_LENGTH)

    def message(self, message):
        say("came back", len(message))
        self.send(b"x" * (self.MAX_LENGTH + 1))


class Collect(Ends, protocol.Protocol):
    """Takes in a pattern."""

    received = 0
    spoilt = False

    def dataReceived(self, data):
        self.spoilt = self.spoilt or data != pattern(self.received, len(data))
        self.received += len(data)

    def sayReceived(self):
        say("received", self.received, "spoilt" if self.spoilt else "intact")


@implementer(interfaces.IHalfCloseableProtocol)
class ShutFirst(Collect):
    """Asks, closes its sending side, and reads the answer to its end."""

    def connectionMade(self):
        self.transport.write(pattern(0, ANSWER))
        self.transport.loseWriteConnection()

    def writeConnectionLost(self):
        say("write closed")

    def readConnectionLost(self):
        self.sayReceived()
        self.transport.loseConnection()


@implementer(interfaces.IHalfCloseableProtocol)
class AnswerAfterShut(Collect):
    """Answers when the other side has no more to send."""

    def writeConnectionLost(self):
        pass

    def readConnectionLost(self):
        self.sayReceived()
        self.transport.write(pattern(0, ANSWER))
        self.transport.loseConnection()


class Abort(Ends, protocol.Protocol):
    def dataReceived(self, data):
        self.transport.abortConnection()


class AskForAbort(Ends, protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"now")


class ReadSlowly(Collect):
    """Reads nothing before a line comes on stdin, and then in stretches, with pauses between."""

    paused = True
    stretch = 0

    def connectionMade(self):
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self.transport.pauseProducing()
        reactor.callInThread(self.waitForLine)
        say("paused")

    def waitForLine(self):
        sys.stdin.readline()
        reactor.callFromThread(self.resume)

    def resume(self):
        self.paused = False
        self.transport.resumeProducing()

    def dataReceived(self, data):
        if self.paused:
            say("bytes came in a pause")
        super().dataReceived(data)
        self.stretch += len(data)
        if self.stretch >= STRETCH:
            self.stretch = 0
            self.paused = True
            self.transport.pauseProducing()
            reactor.callLater(0, self.resume)

    def connectionLost(self, reason):
        self.sayReceived()
        super().connectionLost(reason)


@implementer(interfaces.IPushProducer)
class Pour(Ends, protocol.Protocol):
    """Writes while the transport wants more, and says when it does not for the first time."""

    written = 0
    paused = True
    stalled = False

    def connectionMade(self):
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self):
        self.paused = False
        while not self.paused and self.written < BULK:
            self.transport.write(pattern(self.written, PIECE))
            self.written += PIECE
        if self.written == BULK:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self):
        self.paused = True
        if not self.stalled:
            self.stalled = True
            say("stalled")

    def stopProducing(self):
        say("stopped at", self.written)


FRAMES = {
    "crlf-lines": CrlfLines,
    "lf-lines": LfLines,
    "netstrings": Netstrings,
    "int32-strings": Int32Strings,
}
CASES = {
    "shut-first": ShutFirst,
    "answer-after-shut": AnswerAfterShut,
    "abort": Abort,
    "ask-for-abort": AskForAbort,
    "read-slowly": ReadSlowly,
    "pour": Pour,
}
for name, frame in FRAMES.items():
    for manner in (Echo, Talk, Exceed):
        case = f"{manner.__name__.lower()}-{name}"
        CASES[case] = type(case, (manner, frame), {})


class One(protocol.Factory):
    """Its port takes one connection."""

    port = None

    def buildProtocol(self, address):
        if self.port:
            self.port.stopListening()
        return super().buildProtocol(address)


class OneClient(protocol.ClientFactory):
    def clientConnectionFailed(self, connector, reason):
        say("not connected:", reason.getErrorMessage())
        reactor.stop()


def main(case, role, port):
    if role == "server":
        factory = One.forProtocol(CASES[case])
        factory.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        say("listening", factory.port.getHost().port)
    else:
        factory = OneClient.forProtocol(CASES[case])
        reactor.connectTCP("127.0.0.1", int(port), factory)
    reactor.callLater(LONG, reactor.stop)
    reactor.run()


main(*sys.argv[1:])

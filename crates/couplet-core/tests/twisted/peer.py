"""A Twisted peer for the tests in this folder: `peer.py CASE server|client PORT [FOLDER]`.

PORT may be the path of a UNIX socket. With a FOLDER, which contains `ca.pem` and `server.pem`, the
connection uses TLS; cases that start TLS themselves begin in clear.
`stdio` is a program for standard input and output; `spawn-eof` and `spawn-quit` start the program whose
path stands in place of PORT, with `pipes` or a `terminal` as its role.
One process, one connection. A server first prints `listening` and its port. The connection's
events follow, one per line; `lost` and the class of the reason come last.
"""

import os
import socket
import sys

from twisted.internet import interfaces, protocol, reactor, ssl, stdio
from twisted.protocols import basic
from zope.interface import implementer

# Longer than any case takes: an abandoned peer exits after it.
LONG = 120
BULK = 8 * 1024 * 1024
ANSWER = 1_000_000
PIECE = 64 * 1024
STRETCH = 1024 * 1024
# Socket buffer size, set so that the kernel does not absorb most of the bulk. Less than a few
# loopback segments (64 KiB) would make the sender wait for its timers.
ROOM = 512 * 1024
NAME = "couplet.test"


def contexts(role):
    """The settings of a side of TLS, which trusts our authority."""
    read = lambda name: open(os.path.join(FOLDER, name)).read()
    if role == "server":
        return ssl.PrivateCertificate.loadPEM(read("server.pem")).options()
    return ssl.optionsForClientTLS(NAME, trustRoot=ssl.Certificate.loadPEM(read("ca.pem")))


def set_room(transport, option):
    """Sets a buffer size of the socket, which may be below TLS."""
    below = getattr(transport, "transport", transport)
    below.getHandle().setsockopt(socket.SOL_SOCKET, option, ROOM)


def say(*words):
    print(*words, flush=True)


def pattern(start, count):
    """`count` bytes from offset `start` of a pattern that exposes lost or reordered bytes."""
    ring = bytes(range(251))
    offset = start % 251
    return (ring * (count // 251 + 2))[offset : offset + count]


def messages(limit, odd):
    """Short messages, lengths around each digit count, lengths up to the limit, and `odd`."""
    lengths = list(range(40)) + [98, 99, 100, 101, 998, 999, 1000, 1001, 9999, 10000, 10001]
    lengths += list(range(limit - 9, limit + 1))
    return [bytes(97 + (i + n) % 26 for i in range(n)) for n in lengths] + odd


class Ends:
    """Prints how the connection ended, and stops the reactor."""

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
    """Sends every message immediately, compares the echoes, and closes."""

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
            say("all echoed")
            self.transport.loseConnection()


class Exceed(Ends):
    """Sends the longest legal message, and when its echo arrives one that is too long."""

    def connectionMade(self):
        self.send(b"x" * self.MAX_LENGTH)

    def message(self, message):
        say("echoed", len(message))
        self.send(b"x" * (self.MAX_LENGTH + 1))


class Collect(Ends, protocol.Protocol):
    """Checks received bytes against the pattern."""

    received = 0
    spoilt = False

    def dataReceived(self, data):
        self.spoilt = self.spoilt or data != pattern(self.received, len(data))
        self.received += len(data)

    def sayReceived(self):
        say("received", self.received, "spoilt" if self.spoilt else "intact")


@implementer(interfaces.IHalfCloseableProtocol)
class ShutFirst(Collect):
    """Sends, shuts down its write side, and reads the answer until EOF."""

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
    """Answers when the peer has shut down its write side."""

    def writeConnectionLost(self):
        pass

    def readConnectionLost(self):
        self.sayReceived()
        self.transport.write(pattern(0, ANSWER))
        self.transport.loseConnection()


@implementer(interfaces.IHandshakeListener, interfaces.IHalfCloseableProtocol)
class ShutOverTls(Collect):
    """Sends after the handshake, and shuts down as far as its transport allows."""

    def handshakeCompleted(self):
        self.transport.write(pattern(0, ANSWER))
        self.transport.loseWriteConnection()

    def writeConnectionLost(self):
        say("write closed")

    def readConnectionLost(self):
        say("read closed")

    def connectionLost(self, reason):
        self.sayReceived()
        super().connectionLost(reason)


class Abort(Ends, protocol.Protocol):
    def dataReceived(self, data):
        self.transport.abortConnection()


class AskForAbort(Ends, protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"now")


@implementer(interfaces.IHandshakeListener)
class ReadSlowly(Collect):
    """Reads nothing until a line arrives on stdin, then reads in stretches with pauses between."""

    paused = True
    stretch = 0

    def connectionMade(self):
        # A pause would hold up a handshake.
        if not FOLDER:
            self.begin()

    def handshakeCompleted(self):
        self.begin()

    def begin(self):
        set_room(self.transport, socket.SO_RCVBUF)
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
        # Twisted's TLS delivers bytes during a pause if they are already decrypted.
        if self.paused and not FOLDER:
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
    """Writes until paused, and prints `stalled` at the first pause."""

    written = 0
    paused = True
    stalled = False

    def connectionMade(self):
        set_room(self.transport, socket.SO_SNDBUF)
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


@implementer(interfaces.IFileDescriptorReceiver)
class Descriptors(Ends, protocol.Protocol):
    """Passes the writing end of a pipe, and writes to the descriptor that it is passed."""

    passed = 0

    def connectionMade(self):
        self.reading, writing = os.pipe()
        self.transport.sendFileDescriptor(writing)
        self.transport.write(b"yours")

    def fileDescriptorReceived(self, descriptor):
        self.passed += 1
        os.write(descriptor, b"from Twisted")
        os.close(descriptor)

    def dataReceived(self, data):
        say("passed", self.passed, "with", data.decode())
        say("read", os.read(self.reading, 100).decode())
        self.transport.loseConnection()


class ReadAll(Collect):
    """Does not half-close."""

    def connectionLost(self, reason):
        self.sayReceived()
        super().connectionLost(reason)


@implementer(interfaces.IHandshakeListener)
class StartTls(Ends, protocol.Protocol):
    """The side of TLS in `side`: its server starts it when asked, its client when the server agrees.
    Each then says a word, and the client closes when it has received the server's."""

    def start(self):
        # By default the listening side is the TLS server; a false second argument reverses this.
        self.transport.startTLS(contexts(self.side), self.side == ROLE)

    def handshakeCompleted(self):
        say("secure")


class StartTlsServer(StartTls):
    side = "server"

    def dataReceived(self, data):
        say("heard", data.decode())
        if data == b"?":
            self.transport.write(b"+")
            self.start()
            self.transport.write(b"encrypted")


class StartTlsClient(StartTls):
    side = "client"

    def connectionMade(self):
        self.transport.write(b"?")

    def dataReceived(self, data):
        say("heard", data.decode())
        if data == b"+":
            self.start()
            self.transport.write(b"secret")
        else:
            self.transport.loseConnection()


FRAMES = {
    "crlf-lines": CrlfLines,
    "lf-lines": LfLines,
    "netstrings": Netstrings,
    "int32-strings": Int32Strings,
}
CASES = {
    "shut-first": ShutFirst,
    "answer-after-shut": AnswerAfterShut,
    "shut-over-tls": ShutOverTls,
    "abort": Abort,
    "ask-for-abort": AskForAbort,
    "read-slowly": ReadSlowly,
    "pour": Pour,
    "descriptors": Descriptors,
    "read-all": ReadAll,
    "start-tls-server": StartTlsServer,
    "start-tls-client": StartTlsClient,
}
for name, frame in FRAMES.items():
    for manner in (Echo, Talk, Exceed):
        case = f"{manner.__name__.lower()}-{name}"
        CASES[case] = type(case, (manner, frame), {})


SIZES = [0, 1, 512, 8192, 9000, 65507]
GROUP = "239.255.80.7"


class EchoDatagrams(protocol.DatagramProtocol):
    """Sends each datagram back, until one says `end`."""

    received = 0

    def datagramReceived(self, data, address):
        self.transport.write(data, address)
        if data == b"end":
            say("received", self.received)
            reactor.stop()
        self.received += 1


class EchoGroup(EchoDatagrams):
    """The same, as a member of a group."""

    def startProtocol(self):
        self.transport.joinGroup(GROUP, "127.0.0.1").addCallback(self.joined)

    def joined(self, _):
        say("listening", self.transport.getHost().port)


class AskDatagrams(protocol.DatagramProtocol):
    """Sends a datagram of each size once the last one came back, and then `end`."""

    def __init__(self, address=None):
        self.address = address
        self.left = [pattern(size, size) for size in SIZES] + [b"end"]
        self.answers = 0

    def startProtocol(self):
        if self.address and self.address[0] == GROUP:
            self.transport.setOutgoingInterface("127.0.0.1")
        elif self.address:
            self.transport.connect(*self.address)
            self.address = None
        self.write()

    def write(self):
        # A port with a peer takes no address.
        self.transport.write(self.left[0], *filter(None, [self.address]))

    def datagramReceived(self, data, address=None):
        if data != self.left.pop(0):
            say("changed", len(data))
        self.answers += 1
        if self.left:
            return self.write()
        say("answers", self.answers)
        reactor.stop()


class AskPeer(AskDatagrams, protocol.ConnectedDatagramProtocol):
    """The same, on a UNIX socket with a peer."""


def datagrams(case, role, port):
    size = {"maxPacketSize": 65536}
    if "/" in port and role == "client":
        reactor.connectUNIXDatagram(port, AskPeer(), bindAddress=port + "-asks", **size)
    elif "/" in port:
        reactor.listenUNIXDatagram(port, EchoDatagrams(), **size)
        say("listening", port)
    elif role == "client" and case == "multicast":
        reactor.listenMulticast(0, AskDatagrams((GROUP, int(port))), **size)
    elif role == "client":
        address = ("127.0.0.1", int(port))
        reactor.listenUDP(0, AskDatagrams(address), interface="127.0.0.1", **size)
    elif case == "multicast":
        reactor.listenMulticast(0, EchoGroup(), listenMultiple=True, **size)
    else:
        port = reactor.listenUDP(0, EchoDatagrams(), interface="127.0.0.1", **size)
        say("listening", port.getHost().port)
    reactor.callLater(LONG, reactor.stop)
    reactor.run()


class Capitals(Ends, basic.LineReceiver):
    """Answers each line of its standard input in capitals."""

    delimiter = b"\n"

    def lineReceived(self, line):
        self.sendLine(line.upper())

    def connectionLost(self, reason):
        # The standard output may be closed.
        print("lost", reason.type.__name__, file=sys.stderr, flush=True)
        reactor.stop()


class Spawn(protocol.ProcessProtocol):
    """Starts a program that answers in capitals, and ends it by `quit` or the end of its input."""

    def __init__(self, ends_by, over):
        self.ends_by, self.in_terminal = ends_by, over == "terminal"
        self.said, self.answers = b"", 0

    def connectionMade(self):
        self.transport.write(b"Rose is a rose\n")

    def outReceived(self, data):
        self.said += data.replace(b"\r", b"")
        *lines, self.said = self.said.split(b"\n")
        for line in lines:
            # A terminal echoes its input, and also shows the program's errors.
            if line.startswith(b"connection closed"):
                say("error", line.decode())
            elif line == line.upper() and line:
                say("answer", line.decode() if len(line) < 100 else f"{len(line)} capitals")
                self.answers += 1
                if self.answers == 1:
                    # Not earlier: the program changes the terminal's mode when it starts, and would lose a
                    # line that is half typed at that moment.
                    self.transport.write(3000 * b"p" + b"\n")
                else:
                    self.end()

    def end(self):
        if self.ends_by == "quit":
            self.transport.write(b"quit\n")
        elif self.in_terminal:
            self.transport.write(b"\x04")
        else:
            self.transport.closeStdin()

    def errReceived(self, data):
        say("error", data.decode().strip())

    def processEnded(self, reason):
        say("ended", reason.type.__name__, reason.value.exitCode)
        reactor.stop()


def programs(case, role, port):
    if case == "stdio":
        stdio.StandardIO(Capitals())
    else:
        child = Spawn(case.removeprefix("spawn-"), role)
        reactor.spawnProcess(child, port, [port], env=None, usePTY=child.in_terminal)
    reactor.callLater(LONG, reactor.stop)
    reactor.run()


class One(protocol.Factory):
    """Stops listening after one connection."""

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
    if case in ("datagrams", "multicast"):
        return datagrams(case, role, port)
    if case == "stdio" or case.startswith("spawn-"):
        return programs(case, role, port)
    tls = contexts(role) if FOLDER and not case.startswith("start-tls") else None
    if role == "server":
        factory = One.forProtocol(CASES[case])
        if "/" in port:
            factory.port = reactor.listenUNIX(port, factory)
            say("listening", port)
        else:
            host = {"interface": "127.0.0.1"}
            if tls:
                factory.port = reactor.listenSSL(0, factory, tls, **host)
            else:
                factory.port = reactor.listenTCP(0, factory, **host)
            say("listening", factory.port.getHost().port)
    else:
        factory = OneClient.forProtocol(CASES[case])
        if "/" in port:
            reactor.connectUNIX(port, factory)
        elif tls:
            reactor.connectSSL("127.0.0.1", int(port), factory, tls)
        else:
            reactor.connectTCP("127.0.0.1", int(port), factory)
    reactor.callLater(LONG, reactor.stop)
    reactor.run()


ROLE = sys.argv[2]
FOLDER = sys.argv[4] if len(sys.argv) > 4 else None
main(*sys.argv[1:4])

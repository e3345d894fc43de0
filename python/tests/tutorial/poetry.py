"""Poetry over the network, in plain Twisted: `poetry.py REACTOR serve FILE | get PORT... | proxy PORT |
transform | ask PORT NAME FILE`. Servers print their port and run until stopped; clients print poems."""

import sys

from twisted.internet import defer, endpoints, error, interfaces, protocol, task
from twisted.protocols import basic
from zope.interface import implementer

from kit import reactors


class SlowPoem(protocol.Protocol):
    """Sends a poem in small parts, and closes."""

    def connectionMade(self):
        self.parts = iter([self.factory.poem[at : at + 10] for at in range(0, len(self.factory.poem), 10)])
        self.sending = task.LoopingCall(self.send)
        self.sending.start(0.001)

    def send(self):
        part = next(self.parts, None)
        if part is None:
            self.transport.loseConnection()
        else:
            self.transport.write(part)

    def connectionLost(self, reason):
        if self.sending.running:
            self.sending.stop()


class Reader(protocol.Protocol):
    """Reads a poem until its server closes."""

    def __init__(self):
        self.poem, self.read = b"", defer.Deferred()

    def dataReceived(self, data):
        self.poem += data

    def connectionLost(self, reason):
        if reason.check(error.ConnectionDone):
            self.read.callback(self.poem)
        else:
            self.read.errback(reason)


class Proxy(protocol.Protocol):
    """Fetches the poem of another server once, and sends it to each client."""

    cached = None

    def connectionMade(self):
        if Proxy.cached is None:
            Proxy.cached = fetch(self.factory.upstream)
        answer = defer.Deferred()
        Proxy.cached.chainDeferred(answer)
        Proxy.cached = answer.addCallback(self.send)

    def send(self, poem):
        self.transport.write(poem)
        self.transport.loseConnection()
        return poem


@implementer(interfaces.IHalfCloseableProtocol)
class Transforming(basic.NetstringReceiver):
    """Transforms poems: the answer to a netstring NAME.POEM is the poem, as a netstring. Clients may close their
    direction immediately, as Couplet's does: without the interface, epoll then drops unsent answers."""

    def stringReceived(self, request):
        name, _, poem = request.partition(b".")
        if name == b"cummingsify":
            self.sendString(poem.lower())
        else:
            self.transport.loseConnection()

    def readConnectionLost(self):
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


class Asking(basic.NetstringReceiver):
    """Requests the transformation of a poem."""

    def __init__(self, request):
        self.request, self.read = request, defer.Deferred()

    def connectionMade(self):
        self.sendString(self.request)

    def stringReceived(self, poem):
        self.read.callback(poem)
        self.transport.loseConnection()

    def connectionLost(self, reason):
        if not self.read.called:
            self.read.errback(reason)


async def connected(port, made):
    """Connects to a local port. Returns the protocol's result."""
    from twisted.internet import reactor

    await endpoints.connectProtocol(endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", int(port)), made)
    return await made.read


def fetch(port):
    return defer.ensureDeferred(connected(port, Reader()))


def serve(reactor, kind, **attributes):
    factory = protocol.Factory.forProtocol(kind)
    vars(factory).update(attributes)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print("port", port.getHost().port, flush=True)


async def client(reactor, poems):
    """Prints poems in order, and stops the reactor."""
    try:
        for poem in await poems:
            sys.stdout.buffer.write(poem)
    finally:
        reactor.stop()


def main(name, role, *words):
    reactor = reactors.install(name)
    if role == "serve":
        serve(reactor, SlowPoem, poem=open(words[0], "rb").read())
    elif role == "proxy":
        serve(reactor, Proxy, upstream=words[0])
    elif role == "transform":
        serve(reactor, Transforming)
    else:
        if role == "get":
            made = [fetch(port) for port in words]
        else:
            port, kind, file = words
            request = kind.encode() + b"." + open(file, "rb").read()
            made = [defer.ensureDeferred(connected(port, Asking(request)))]
        defer.ensureDeferred(client(reactor, defer.gatherResults(made, consumeErrors=True)))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])

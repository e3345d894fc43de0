"""Twisted as a server."""

import ctypes
import signal
import sys

from twisted.internet import protocol, reactor
from twisted.protocols import basic, portforward

role = sys.argv[sys.argv.index("--role") + 1]
backlog = int(sys.argv[sys.argv.index("--backlog") + 1])
connections = set()


class Echo(protocol.Protocol):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        if role == "echo":
            # A slow reader is read slowly.
            self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)
        if role == "echo-one":
            self.transport.loseConnection()


class EchoLines(basic.LineReceiver):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def lineReceived(self, line):
        self.sendLine(line)


class FanOut(Echo):
    def connectionMade(self):
        super().connectionMade()
        connections.add(self)

    def connectionLost(self, reason):
        connections.discard(self)

    def dataReceived(self, data):
        for connection in connections:
            connection.transport.write(data)


# The benchmark ends its servers; this is for the case that it was killed.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if role == "hello-1":
    from twisted.web import resource, server

    class Hello(resource.Resource):
        isLeaf = True

        def render_GET(self, request):
            request.setHeader(b"content-type", b"text/plain")
            return b"Hello, World!"

    factory = server.Site(Hello(), timeout=300)
elif role.startswith("relay-to-"):
    host, server = role.removeprefix("relay-to-").rsplit(":", 1)
    factory = portforward.ProxyFactory(host, int(server))
else:
    kinds = {"fan-out": FanOut, "lines": EchoLines}
    factory = protocol.Factory.forProtocol(kinds.get(role, Echo))
factory.noisy = False
port = reactor.listenTCP(0, factory, backlog=backlog, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)
# SIGTERM ends it at once, as it does the other servers.
reactor.run(installSignalHandlers=False)

"""Twisted as a server; takes the same options as the benchmark's own servers, and its backlog."""

import ctypes
import signal
import sys

from twisted.internet import protocol, reactor
from twisted.protocols import portforward

role = sys.argv[sys.argv.index("--role") + 1]
backlog = int(sys.argv[sys.argv.index("--backlog") + 1])
connections = set()


class Echo(protocol.Protocol):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        if role == "echo":
            # Who reads slowly is read slowly.
            self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)
        if role == "echo-one":
            self.transport.loseConnection()


class FanOut(Echo):
    def connectionMade(self):
        super().connectionMade()
        connections.add(self)

    def connectionLost(self, reason):
        connections.discard(self)

    def dataReceived(self, data):
        for connection in connections:
            connection.transport.write(data)


# Whoever started it ends it; this is for the case that they were killed.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if role.startswith("relay-to-"):
    host, server = role.removeprefix("relay-to-").rsplit(":", 1)
    factory = portforward.ProxyFactory(host, int(server))
else:
    factory = protocol.Factory.forProtocol(FanOut if role == "fan-out" else Echo)
factory.noisy = False
port = reactor.listenTCP(0, factory, backlog=backlog, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)
# SIGTERM ends it at once, as it does the other servers.
reactor.run(installSignalHandlers=False)

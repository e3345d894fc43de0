"""Twisted as an echo server; takes the same options as the benchmark's own servers."""

import ctypes
import signal
import sys

from twisted.internet import protocol, reactor

close_first = "--close-first" in sys.argv


class Echo(protocol.Protocol):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data):
        self.transport.write(data)
        if close_first:
            self.transport.loseConnection()


# Whoever started it ends it; this is for the case that they were killed.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
factory = protocol.Factory.forProtocol(Echo)
factory.noisy = False
port = reactor.listenTCP(0, factory, backlog=128, interface="127.0.0.1")
print(f"listening on 127.0.0.1:{port.getHost().port}", flush=True)
# SIGTERM ends it at once, as it does the other servers.
reactor.run(installSignalHandlers=False)

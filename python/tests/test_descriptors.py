"""No method of a transport takes a further descriptor: a process serves as many connections as under the model."""

import socket

from twisted.internet import defer, interfaces, protocol
from zope.interface import providedBy

from kit import certificates
from kit.cases import Cases
from kit.connections import Source, quiet
from kit.running import descriptors

COUNT = 20


def plain(names):
    """Calls of methods without arguments."""
    return {name: lambda transport, name=name: getattr(transport, name)() for name in names.split()}


# In this order: the last ones end the connection.
CALLS = {
    **plain("getHost getPeer getTcpNoDelay getTcpKeepAlive getHandle fileno logPrefix"),
    "setTcpNoDelay": lambda transport: transport.setTcpNoDelay(1),
    "setTcpKeepAlive": lambda transport: transport.setTcpKeepAlive(1),
    "socket": lambda transport: getattr(transport, "socket", None),
    "socket.setsockopt": lambda transport: transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8)),
    "socket.getsockname": lambda transport: transport.socket.getsockname(),
    "socket.gettimeout": lambda transport: transport.socket.gettimeout(),
    "socket.fileno": lambda transport: transport.socket.fileno() == transport.fileno() != -1,
    "repr": lambda transport: repr(transport) and None,
    "write": lambda transport: transport.write(b"some"),
    "writeSequence": lambda transport: transport.writeSequence([b"some"]),
    "registerProducer": lambda transport: transport.registerProducer(Source(bool), True),
    **plain("unregisterProducer pauseProducing resumeProducing stopReading startReading stopWriting startWriting"),
    **plain("loseWriteConnection stopProducing loseConnection abortConnection"),
}
# The methods of these interfaces must be among the calls.
INTERFACES = [
    interfaces.ITransport,
    interfaces.ITCPTransport,
    interfaces.IConsumer,
    interfaces.IPushProducer,
    interfaces.ISystemHandle,
]


class Early(protocol.Protocol):
    """Calls the first methods before the loop has the socket."""

    def __init__(self, calls):
        self.calls, self.lost = calls, defer.Deferred()

    def connectionMade(self):
        for name in self.calls:
            CALLS[name](self.transport)

    def connectionLost(self, reason):
        self.lost.callback(None)


class Descriptors(Cases):
    """Descriptors of connections."""

    async def count(case, listen, connect, without=()):
        calls = [name for name in CALLS if name not in without]
        early = calls[: calls.index("write")]
        before = descriptors()
        for of in ("server", "client"):
            for names in ([], early):
                servers = [Early(names if of == "server" else []) for _ in range(COUNT)]
                clients = [Early(names if of == "client" else []) for _ in range(COUNT)]
                waiting = iter(servers)
                factory = quiet(lambda: next(waiting))
                port = listen(factory)
                listening = descriptors()
                for client in clients:
                    await connect(port, client)
                await case.sleep(0.2)
                case.say(of, len(names), "made", (descriptors() - listening) / COUNT)
                for name in calls:
                    ours = servers if of == "server" else clients
                    answers = [CALLS[name](each.transport) for each in ours if each.transport.connected]
                    taken = (descriptors() - listening) / COUNT
                    case.say(of, len(names), name, taken, answers[0] if isinstance(answers and answers[0], bool) else "")
                await defer.gatherResults([each.lost for each in servers + clients])
                await port.stopListening()
        case.say("end", descriptors() - before)

    async def test_tcp(case):
        made = protocol.Protocol()
        await case.connect(case.listen(lambda: protocol.Protocol()), made)
        for interface in INTERFACES:
            case.say(interface.__name__, sorted(set(interface.names(all=True)) - CALLS.keys()))
            case.say(interface.__name__, interface in providedBy(made.transport))

        def listen(factory):
            return case.reactor.listenTCP(0, factory, interface="127.0.0.1")

        def connect(port, client):
            return case.connect(port.getHost().port, client)

        await Descriptors.count(case, listen, connect)

    async def test_unix(case):
        from twisted.internet import endpoints

        def listen(factory):
            return case.reactor.listenUNIX("socket", factory)

        def connect(port, client):
            return endpoints.connectProtocol(endpoints.UNIXClientEndpoint(case.reactor, "socket"), client)

        await Descriptors.count(case, listen, connect)

    async def test_tls(case):
        from twisted.internet import endpoints, ssl

        server = certificates.made("localhost", "localhost")
        options = ssl.optionsForClientTLS("localhost", server.trust())

        def listen(factory):
            return case.reactor.listenSSL(0, factory, server.options(), interface="127.0.0.1")

        def connect(port, client):
            below = endpoints.TCP4ClientEndpoint(case.reactor, "127.0.0.1", port.getHost().port)
            return endpoints.connectProtocol(endpoints.wrapClientTLS(options, below), client)

        # These are not for connections over TLS.
        half = ["loseWriteConnection", "stopProducing", "registerProducer", "unregisterProducer"]
        await Descriptors.count(case, listen, connect, [*half, "pauseProducing", "resumeProducing"])

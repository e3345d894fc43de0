"""Outgoing connections until they are made: the same events and errors as under the model."""

import os
import socket

from twisted.internet import defer, error, protocol

from kit.cases import Cases, only_subject


class Factory(protocol.ClientFactory):
    """Notes the events of its connects. `ended` fires when a connect has failed or a connection is lost."""

    noisy = False

    def __init__(self, case, build=protocol.Protocol):
        self.case, self.build = case, build
        self.made, self.ended = defer.Deferred(), defer.Deferred()

    def say(self, *words):
        self.case.say("client", *words)

    def startedConnecting(self, connector):
        self.say("started", connector.state)

    def buildProtocol(self, address):
        self.say("build", type(address).__name__, address.host)
        built = self.build()
        if built is not None:
            built.connectionMade = self.connectionMade
        return built

    def connectionMade(self):
        self.say("made")
        self.made.callback(None)

    def clientConnectionFailed(self, connector, reason):
        self.say("failed", connector.state, reason.type.__name__, reason.getErrorMessage().partition("[")[0])
        self.ended.callback(None)

    def clientConnectionLost(self, connector, reason):
        self.say("lost", connector.state, reason.type.__name__)
        self.ended.callback(None)


class Busy:
    """A listening socket whose queue is full: a connect to it waits."""

    def __init__(self, family=socket.AF_INET, address=("127.0.0.1", 0)):
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(0)
        self.address = self.listener.getsockname()
        self.first = socket.socket(family, socket.SOCK_STREAM)
        self.first.connect(self.address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.first.close()


class Dialling(Cases):
    """Connects over TCP and to UNIX sockets."""

    async def test_a_connect_that_waits_can_be_stopped(case):
        with Busy() as busy:
            for end in ("stopConnecting", "disconnect"):
                factory = Factory(case)
                connector = case.reactor.connectTCP(*busy.address, factory)
                await case.sleep(0.02)
                case.say("client", connector.state, connector.transport in case.reactor.getWriters())
                getattr(connector, end)()
                await factory.ended
                case.say("client", connector.state)

    async def test_a_connect_that_waits_too_long(case):
        with Busy() as busy:
            factory = Factory(case)
            case.reactor.connectTCP(*busy.address, factory, timeout=0.05)
            await factory.ended

    async def test_a_connect_that_waits_fails_at_the_end_of_the_run(case):
        busy = Busy()
        case.reactor.connectTCP(*busy.address, Factory(case))
        await case.sleep(0.02)

    @only_subject
    async def test_a_connect_to_a_full_unix_socket_is_made_once_it_has_room(case):
        """On the epoll reactor it fails."""
        path = os.path.abspath("full")
        with Busy(socket.AF_UNIX, path) as busy:
            factory = Factory(case)
            factory.buildProtocol = lambda address: protocol.Protocol()
            connector = case.reactor.connectUNIX(path, factory)
            await case.sleep(0.02)
            assert connector.state == "connecting"
            accepted = busy.listener.accept()[0]
            while connector.state != "connected":
                await case.sleep()
            connector.disconnect()
            await factory.ended
            accepted.close()
            stopped = Factory(case)
            with Busy(socket.AF_UNIX, path + "2") as busy:
                connector = case.reactor.connectUNIX(path + "2", stopped)
                await case.sleep(0.02)
                connector.stopConnecting()
                await stopped.ended
        assert not case.reactor.getDelayedCalls()

    async def test_connects_that_fail(case):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refusing = unused.getsockname()[1]
            for host, port in (
                ("127.0.0.1", refusing),
                ("::1", refusing),
                ("127.0.0.1", 70_000),
                ("127.0.0.1", -1),
                ("255.255.255.255", 80),
                ("::ffff:127.0.0.1", refusing),
            ):
                factory = Factory(case)
                try:
                    case.reactor.connectTCP(host, port, factory)
                except (OverflowError, error.ConnectError) as raised:
                    case.say("client", "raised", type(raised).__name__)
                else:
                    await factory.ended

    async def test_factories_that_decline_or_raise(case):
        def fail():
            raise ValueError("as asked")

        port = case.listen(protocol.Protocol)
        for build in (lambda: None, fail):
            factory = Factory(case, build)
            case.reactor.connectTCP("127.0.0.1", port, factory)
            await factory.ended

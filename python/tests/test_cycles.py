"""Python's garbage collector frees unreachable objects, even if reference cycles pass through the loop."""

import gc
import socket
import weakref

from twisted.internet import defer, protocol

from kit.cases import Cases, only_subject
from kit.connections import ended, quiet
from kit.running import descriptors
from test_dialling import Busy


def forgotten(case, party, references):
    """Notes how many of the weak references are alive after a collection."""
    gc.collect()
    case.say(party, "alive", sum(reference() is not None for reference in references))


class Stored(protocol.Protocol):
    """A protocol that refers to all objects of its connection, and that they refer to."""

    def connectionMade(self):
        self.all = [self.transport, self.factory, self, self.dataReceived]
        self.transport.protocolAgain = self
        self.transport.registerProducer(self, True)
        self.factory.made.append(weakref.ref(self))
        self.factory.made.append(weakref.ref(self.transport))
        self.factory.everyone.append(self)

    def dataReceived(self, data):
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def pauseProducing(self):
        """Do nothing."""

    resumeProducing = stopProducing = pauseProducing

    def connectionLost(self, reason):
        self.factory.lost.callback(None)


def storing(case, kind=protocol.ClientFactory):
    """A factory of `Stored` that refers to its protocols."""
    factory = quiet(Stored, kind)
    factory.made, factory.everyone, factory.lost = [weakref.ref(factory)], [], defer.Deferred()
    return factory


class Cycles(Cases):
    """Objects in a cycle are collected when they are no longer in use, as under the model."""

    async def test_connections_and_their_factories(case):
        references = []

        async def connection():
            serving, asking = storing(case, protocol.ServerFactory), storing(case)
            references.append(serving.made)
            references.append(asking.made)
            port = case.reactor.listenTCP(0, serving, interface="127.0.0.1")
            case.reactor.connectTCP("127.0.0.1", port.getHost().port, asking)
            while not asking.everyone:
                await case.sleep(0.001)
            asking.everyone[0].transport.write(b"end")
            await ended(serving, asking)
            await port.stopListening()
            serving.made.append(weakref.ref(port))

        await connection()
        await case.sleep(0.02)
        case.say("made", [len(made) for made in references])
        forgotten(case, "connections", sum(references, []))

    async def test_connections_that_failed_or_are_given_up(case):
        references = []

        async def attempt(name, address):
            factory, failed = storing(case), defer.Deferred()
            factory.clientConnectionFailed = lambda connector, reason: failed.callback(reason.type.__name__)
            connector = case.reactor.connectTCP(*address, factory)
            connector.cycle = factory.cycle = connector.transport.cycle = connector
            references.extend(map(weakref.ref, [factory, connector, connector.transport]))
            if name == "given up":
                await case.sleep(0.05)
                case.say(name, connector.state)
                connector.stopConnecting()
            case.say(name, await failed)

        with socket.socket() as taken, Busy() as busy:
            # This port is bound, but does not listen.
            taken.bind(("127.0.0.1", 0))
            await attempt("failed", taken.getsockname())
            await attempt("given up", busy.address)
            await case.sleep(0.02)
        forgotten(case, "attempts", references)

    async def test_timed_calls_that_refer_to_themselves(case):
        def made(delay):
            def call():
                case.say("call", call.itself.active())

            call.itself = case.reactor.callLater(delay, call)
            return call

        calls = [made(0), made(60), made(60)]
        references = [weakref.ref(call) for call in calls] + [weakref.ref(call.itself) for call in calls]
        calls[1].itself.cancel()
        await case.sleep(0.02)
        calls.clear()
        # One call is still pending.
        forgotten(case, "calls", references)

    # The model keeps cancelled calls until it has many of them.
    @only_subject
    async def test_a_timed_call_that_was_cancelled(case):
        def call():
            pass

        call.itself = case.reactor.callLater(60, call)
        references = [weakref.ref(call), weakref.ref(call.itself)]
        call.itself.cancel()
        del call
        gc.collect()
        assert [reference() for reference in references] == [None, None]

    async def test_a_port_that_was_stopped(case):
        factory = storing(case, protocol.ServerFactory)
        port = case.reactor.listenTCP(0, factory, interface="127.0.0.1")
        factory.port = port
        port.cycle = [factory, port.doRead]
        references = [weakref.ref(factory), weakref.ref(port)]
        stopped = port.stopListening()
        del factory, port
        await stopped
        await case.sleep(0.02)
        forgotten(case, "port", references)

    async def test_readers_that_were_removed(case):
        from twisted.internet import abstract

        ends = socket.socketpair()

        class Reader(abstract.FileDescriptor):
            def fileno(self):
                return ends[0].fileno()

            def doRead(self):
                case.say("reader", ends[0].recv(10))
                self.stopReading()

        reader = Reader(case.reactor)
        reader.cycle = reader
        reader.startReading()
        ends[1].send(b"x")
        await case.sleep(0.02)
        references = [weakref.ref(reader)]
        del reader
        forgotten(case, "reader", references)
        for end in ends:
            end.close()

    async def test_a_reactor_that_is_not_installed(case):
        kind = type(case.reactor)
        before = descriptors()
        references = []
        for _ in range(3):
            other = kind()
            other.cycle = other
            calls = []
            other.callLater(0, calls.append, other)
            other.doIteration(0.01)
            other.runUntilCurrent()
            other.removeAll()
            # Twisted's own tests clean up a reactor like this.
            for reader in list(other._internalReaders):
                other.removeReader(reader)
                reader.connectionLost(None)
            other._internalReaders.clear()
            references.append(weakref.ref(other))
            del other, calls, reader
        forgotten(case, "reactor", references)
        case.say("reactor", "descriptors", descriptors() - before)

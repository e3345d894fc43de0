"""Long runs: memory does not grow, no descriptor leaks, cycles are collected."""

import gc
import itertools
import os
import resource
import weakref

from twisted.internet import defer, protocol, task

from kit.cases import Cases, case, only_subject
from test_streams import Noting

# The allowed growth of resident memory from the second quarter to the last: less than 32 bytes for each of
# 50 000 rounds, plus the allocator's noise.
GROWTH_KIB = 1536
PAGE_KIB = resource.getpagesize() // 1024


def resident():
    """The resident memory in KiB."""
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * PAGE_KIB


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Steady(Cases):
    """Memory and descriptors after many rounds."""

    @staticmethod
    async def measure(case, round_, rounds):
        """Runs `rounds` rounds in quarters, and compares the second quarter with the last."""
        await round_(rounds // 100)
        # Servers' connections end after the clients'.
        await case.sleep(0.05)
        before = descriptors()
        sizes = []
        for _ in range(4):
            await round_(rounds // 4)
            sizes.append(resident())
        await case.sleep(0.05)
        assert descriptors() == before, f"{descriptors()} descriptors, before {before}"
        assert sizes[3] - sizes[1] < GROWTH_KIB, f"KiB after each quarter: {sizes}"

    @only_subject
    async def test_connections(case):
        class Server(protocol.Protocol):
            def dataReceived(self, data):
                self.transport.write(data)

        class Client(protocol.Protocol):
            def connectionMade(self):
                self.transport.write(b"hello")

            def dataReceived(self, data):
                self.transport.loseConnection()

            def connectionLost(self, reason):
                self.factory.ended.callback(None)

        number = case.listen(Server)

        async def one_after_another(count):
            for _ in range(count):
                factory = protocol.ClientFactory()
                factory.noisy = False
                factory.protocol = Client
                factory.ended = defer.Deferred()
                case.reactor.connectTCP("127.0.0.1", number, factory)
                await factory.ended

        async def round_(count):
            lanes = [defer.ensureDeferred(one_after_another(count // 10)) for _ in range(10)]
            await defer.gatherResults(lanes)

        await Steady.measure(case, round_, 100_000)

    @only_subject
    async def test_timed_calls(case):
        async def round_(count):
            fired = []
            for _ in range(count // 100):
                calls = [case.reactor.callLater(0.001, fired.append, None) for _ in range(50)]
                calls += [case.reactor.callLater(60, print) for _ in range(50)]
                for call in calls[50:75]:
                    call.reset(90)
                for call in calls[50:]:
                    call.cancel()
                await case.sleep(0.001)
            await case.sleep(0.05)
            assert len(fired) == count // 100 * 50, len(fired)

        await Steady.measure(case, round_, 100_000)

    @only_subject
    async def test_messages(case):
        class Server(protocol.Protocol):
            def dataReceived(self, data):
                self.transport.write(data)

        class Client(protocol.Protocol):
            left, ended = 0, None

            def dataReceived(self, data):
                self.left -= 1
                if self.left > 0:
                    self.transport.write(b"x" * 64)
                else:
                    self.ended.callback(None)

        number = case.listen(Server)
        clients = [await case.connect(number, Client()) for _ in range(20)]

        async def round_(count):
            for client in clients:
                client.left, client.ended = count // 20, defer.Deferred()
                client.transport.write(b"x" * 64)
            await defer.gatherResults([client.ended for client in clients])

        await Steady.measure(case, round_, 1_000_000)

    @only_subject
    async def test_calls_from_threads(case):
        from twisted.internet import threads

        async def round_(count):
            await task.cooperate(threads.deferToThread(int) for _ in range(count)).whenDone()

        await Steady.measure(case, round_, 20_000)


class Cycles(Cases):
    """Connections and the objects that they refer to."""

    @case
    async def test_lost_protocols_and_transports_are_collected(case):
        references = []
        # Each server is a separate party: the order of one's end and the next one's start may differ between reactors.
        parties = itertools.count()
        number = case.listen(lambda: kept(Noting(case, f"server {next(parties)}")))

        def kept(made):
            # A typical cycle of a program.
            made.cycle = [made]
            references.append(weakref.ref(made))
            return made

        async def connections():
            for _ in range(10):
                client = kept(Noting(case, f"client {len(references)}"))
                await case.connect(number, client)
                references.append(weakref.ref(client.transport))
                client.transport.write(b"x" * 1000)
                client.transport.loseConnection()
                await client.lost

        await connections()
        await case.sleep(0.1)
        gc.collect()
        case.say("alive", sum(reference() is not None for reference in references))
        assert len(references) == 30

    @case
    async def test_fired_and_cancelled_calls_are_collected(case):
        class Target:
            def call(self):
                case.say("call", "fired")

        targets = [Target(), Target()]
        references = [weakref.ref(target) for target in targets]
        case.reactor.callLater(0, targets[0].call)
        case.reactor.callLater(50, targets[1].call).cancel()
        targets.clear()
        await case.sleep(0.05)
        gc.collect()
        case.say("alive", [reference() is not None for reference in references])

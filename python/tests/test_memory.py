"""Long runs: memory does not grow, no descriptor leaks, cycles are collected."""

import contextlib
import functools
import gc
import os

from twisted.internet import defer, protocol, ssl, task

from kit import certificates, pages
from kit.cases import Cases, only_subject
from kit.connections import quiet
from kit.running import descriptors

# The allowed growth of resident memory from the second quarter to the last: less than 32 bytes for each of
# 50 000 rounds, plus the allocator's noise.
GROWTH_KIB = 1536
# Multiplies the rounds; `run soak` sets it. With 40 there are a million web requests, and 100 000 TLS connections and
# upgrades.
SCALE = int(os.environ.get("COUPLET_MEMORY_SCALE", 1))
PAGE_KIB = os.sysconf("SC_PAGESIZE") // 1024


def resident():
    """The resident memory in KiB."""
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * PAGE_KIB


class Back(protocol.Protocol):
    """Sends back all that it gets."""

    def dataReceived(self, data):
        self.transport.write(data)


class Asking(protocol.Protocol):
    """Sends a message, and closes after the answer."""

    message = b"hello"

    def connectionMade(self):
        self.transport.write(self.message)

    def dataReceived(self, data):
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.factory.ended.callback(None)


def answers(reactor):
    """A function that answers a GET at once, and a POST in a later turn unless the client has closed the connection."""

    def answer(request):
        if request.method == b"GET":
            assert request.args == {b"name": [b"value"]} and request.getHeader("user-agent") == "test"
            return b"end"
        assert request.content.read() == b"body"
        request.setHeader(b"content-length", b"3")
        call = reactor.callLater(0, lambda: (request.write(b"end"), request.finish()))
        request.notifyFinish().addErrback(lambda _: call.active() and call.cancel())

    return answer


class Browsing(Asking):
    """Makes requests, and closes the connection right after the last one."""

    get = b"GET /page?name=value HTTP/1.1\r\nHost: here\r\nUser-Agent: test\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody"
    tail, requests = b"", 50

    def connectionMade(self):
        self.requests -= 1
        self.transport.write(self.get if self.requests % 2 else self.post)
        if not self.requests:
            self.transport.loseConnection()

    def dataReceived(self, data):
        self.tail = (self.tail + data)[-3:]
        if self.tail == b"end":
            self.connectionMade()


def upgrade(request):
    """Gives the connection of a request to another protocol, as Autobahn does."""
    transport, request.channel.transport = request.channel.transport, None
    transport.protocol = back = Back()
    back.makeConnection(transport)
    transport.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    transport.resumeProducing()


class Upgrading(Asking):
    """Requests an upgrade, and closes after the answer to a frame."""

    message = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    def dataReceived(self, data):
        if data == b"frame":
            self.transport.loseConnection()
        else:
            assert data.startswith(b"HTTP/1.1 101 "), data
            self.transport.write(b"frame")


class Steady(Cases, by=only_subject):
    """Memory and descriptors after many rounds."""

    @staticmethod
    async def measure(case, round_, rounds):
        """Runs `rounds` rounds, or a multiple, in quarters, and compares the second quarter with the last."""
        rounds *= SCALE
        await round_(rounds // 100)
        # Servers' connections end after the clients'.
        await case.sleep(0.05)
        before = descriptors()
        sizes = [resident()]
        for _ in range(4):
            await round_(rounds // 4)
            sizes.append(resident())
        await case.sleep(0.05)
        after = descriptors()
        case.say("measured", f"{rounds} rounds, KiB at the start and after each quarter {sizes}, descriptors {before}, {after}")
        assert after == before, f"{after} descriptors, before {before}"
        assert sizes[4] - sizes[2] < GROWTH_KIB, f"KiB at the start and after each quarter: {sizes}"

    @staticmethod
    def clients(connect, kind, rounds=1):
        """A function for `measure`: clients connect in ten lanes, one after another. Each counts as some rounds."""

        async def lane(count):
            for _ in range(count):
                factory = quiet(kind, protocol.ClientFactory)
                factory.ended = defer.Deferred()
                connect(factory)
                await factory.ended

        async def round_(count):
            await defer.gatherResults([defer.ensureDeferred(lane(count // 10 // rounds)) for _ in range(10)])

        return round_

    async def test_connections(case):
        number = case.listen(Back)
        connect = functools.partial(case.reactor.connectTCP, "127.0.0.1", number)
        await Steady.measure(case, Steady.clients(connect, Asking), 100_000)

    async def test_tls_connections(case):
        made = certificates.made("server", "localhost")
        theirs = ssl.optionsForClientTLS("localhost", made.trust())
        number = case.listen(Back, made.options())

        def connect(factory):
            case.reactor.connectSSL("127.0.0.1", number, factory, theirs)

        await Steady.measure(case, Steady.clients(connect, Asking), 2500)

    async def test_web_requests(case):
        site = pages.site(answers(case.reactor))
        number = case.listen(lambda: site.buildProtocol(None))
        connect = functools.partial(case.reactor.connectTCP, "127.0.0.1", number)
        await Steady.measure(case, Steady.clients(connect, Browsing, 50), 25_000)

    async def test_upgraded_connections(case):
        site = pages.site(upgrade)
        number = case.listen(lambda: site.buildProtocol(None))
        connect = functools.partial(case.reactor.connectTCP, "127.0.0.1", number)
        await Steady.measure(case, Steady.clients(connect, Upgrading), 2500)

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

    async def test_messages(case):
        class Client(protocol.Protocol):
            left, ended = 0, None

            def dataReceived(self, data):
                self.left -= 1
                if self.left > 0:
                    self.transport.write(b"x" * 64)
                else:
                    self.ended.callback(None)

        number = case.listen(Back)
        clients = [await case.connect(number, Client()) for _ in range(20)]

        async def round_(count):
            for client in clients:
                client.left, client.ended = count // 20, defer.Deferred()
                client.transport.write(b"x" * 64)
            await defer.gatherResults([client.ended for client in clients])

        await Steady.measure(case, round_, 1_000_000)

    async def test_datagrams(case):
        class Server(protocol.DatagramProtocol):
            def datagramReceived(self, data, address):
                # The port of a UNIX socket may have ended.
                with contextlib.suppress(OSError):
                    self.transport.write(data, address)

        class Client(protocol.DatagramProtocol):
            def datagramReceived(self, data, address):
                self.left -= 1
                if self.left > 0:
                    self.transport.write(data, address)
                else:
                    self.ended.callback(None)

        udp = case.reactor.listenUDP(0, Server(), interface="127.0.0.1")
        case.reactor.listenUNIXDatagram("server", Server())
        clients = [(Client(), ("127.0.0.1", udp.getHost().port)) for _ in range(5)]
        for client, _ in clients:
            case.reactor.listenUDP(0, client, interface="127.0.0.1")
        for name in range(5):
            clients.append((Client(), "server"))
            case.reactor.listenUNIXDatagram(f"client-{name}", clients[-1][0])

        async def round_(count):
            # Ports that the server has not seen before.
            for number in range(max(1, count // 1000)):
                port = case.reactor.listenUDP(0, protocol.DatagramProtocol(), interface="127.0.0.1")
                port.write(b"hello", clients[0][1])
                await port.stopListening()
                made = protocol.ConnectedDatagramProtocol()
                port = case.reactor.connectUNIXDatagram("server", made, bindAddress=f"new-{number}")
                port.write(b"hello")
                await port.stopListening()
                os.unlink(f"new-{number}")
            for client, to in clients:
                client.left, client.ended = count // 10, defer.Deferred()
                client.transport.write(b"x" * 64, to)
            await defer.gatherResults([client.ended for client, _ in clients])

        await Steady.measure(case, round_, 200_000)

    async def test_children(case):
        class Child(protocol.ProcessProtocol):
            def connectionMade(self):
                self.transport.write(b"x" * 1000)
                self.transport.closeStdin()

            def processEnded(self, reason):
                self.ended.callback(None)

        async def round_(count):
            for number in range(count):
                child = Child()
                child.ended = defer.Deferred()
                case.reactor.spawnProcess(child, "/bin/cat", ["cat"], usePTY=False)
                await child.ended

        await Steady.measure(case, round_, 400)

    async def test_calls_from_threads(case):
        from twisted.internet import threads

        async def round_(count):
            await task.cooperate(threads.deferToThread(int) for _ in range(count)).whenDone()

        await Steady.measure(case, round_, 20_000)

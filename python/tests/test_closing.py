"""Calls after a requested close: their effects are the same as under the model, whether output is unsent or not.

Each test is a table for one kind of transport: an earlier call that closes × a moment × a later call. A line of it has
the bytes that the peer got, the end that it saw, and the events of the protocol.
"""

import contextlib
import itertools
import os
import socket
import ssl as peers_ssl
import sys
import tempfile
import threading
import time
import zlib

from twisted.internet import defer, interfaces, protocol, stdio
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from kit import certificates
from kit.cases import Cases, only_subject
from kit.connections import quiet, reset

# More than the buffers of the system hold.
BIG = 3 << 20
# Iterations without an event after which a connection counts as open for good.
QUIET = 60
# Cases at the same time.
WIDTH = 24


class Produced:
    """A producer that writes three pieces, and notes its calls."""

    def __init__(self, noting, transport):
        self.noting, self.transport, self.left = noting, transport, 3

    def resumeProducing(self):
        self.noting.note("resumed")
        if self.left:
            self.left -= 1
            self.transport.write(b"p" * 1000)
            if not self.left:
                self.transport.unregisterProducer()

    def pauseProducing(self):
        self.noting.note("paused")

    def stopProducing(self):
        self.noting.note("stopped")


def produces(streaming, *also):
    """A call that registers a producer, and writes more."""

    def register(noting, transport):
        transport.registerProducer(Produced(noting, transport), streaming)
        for data in also:
            transport.write(data)

    return register


def sends_descriptor(noting, transport):
    transport.sendFileDescriptor(0)
    transport.write(b"d")


CALLS = {
    "write": lambda noting, transport: transport.write(b"late"),
    "write nothing": lambda noting, transport: transport.write(b""),
    "write much": lambda noting, transport: transport.write(b"m" * 200_000),
    "writeSequence": lambda noting, transport: transport.writeSequence([b"la", b"", b"te"]),
    "registerProducer, pull": produces(False),
    "registerProducer, push": produces(True),
    "registerProducer, push much": produces(True, b"m" * 100_000),
    "loseConnection, write": lambda noting, transport: (transport.loseConnection(), transport.write(b"late")),
}
for _name in "unregisterProducer loseConnection stopProducing pauseProducing resumeProducing".split():
    CALLS[_name] = lambda noting, transport, name=_name: getattr(transport, name)()
HALF = {
    "loseWriteConnection": lambda noting, transport: transport.loseWriteConnection(),
    "loseWriteConnection, write": lambda noting, transport: (transport.loseWriteConnection(), transport.write(b"late")),
}
ABORT = {
    "abortConnection": lambda noting, transport: transport.abortConnection(),
    "abortConnection, write": lambda noting, transport: (transport.abortConnection(), transport.write(b"late")),
}
MOMENTS = ["in the same callback", "in the next iteration", "while output is unsent", "after the end of the output"]


class Noting:
    """The events of one case, and its end."""

    def __init__(self):
        self.events = []
        self.closes, self.lost = defer.Deferred(), defer.Deferred()
        # The later call, if it follows the end of the output.
        self.last = None

    def note(self, *words):
        self.events.append(" ".join(map(str, words)))

    def ended(self, *words):
        self.note(*words)
        if not self.lost.called:
            self.lost.callback(None)


class Closed(protocol.Protocol):
    """Gets closed when the peer has sent a byte."""

    def __init__(self, noting, act):
        self.noting, self.act = noting, act

    def dataReceived(self, data):
        act, self.act = self.act, None
        if act is None:
            self.noting.note("received", len(data))
        else:
            act(self.transport)

    def connectionLost(self, reason):
        self.noting.ended("lost", reason.type.__name__)


@implementer(interfaces.IHalfCloseableProtocol)
class HalfClosed(Closed):
    """The same, and knows half-closed connections."""

    def readConnectionLost(self):
        self.noting.note("read lost")
        self.transport.loseConnection()

    def writeConnectionLost(self):
        self.noting.note("write lost")


def acts(case, noting, earlier, moment, call, reads, before=b"before "):
    """The actions of a protocol on its transport. `reads` is an event: the peer reads from then on."""

    def attempt(transport):
        try:
            call(noting, transport)
        except Exception as problem:
            noting.note("raises", type(problem).__name__)

    def act(transport):
        noting.closes.callback(None)
        transport.write(b"b" * BIG if moment == "while output is unsent" else before)
        earlier(noting, transport)
        if moment == "in the same callback":
            attempt(transport)
            reads.set()
        elif moment == "in the next iteration":
            case.reactor.callLater(0, attempt, transport)
            case.reactor.callLater(0, reads.set)
        elif moment == "while output is unsent":
            case.reactor.callLater(0.05, attempt, transport)
            # Not in the same iteration, however late they are.
            case.reactor.callLater(0.05, case.reactor.callLater, 0.05, reads.set)
        else:
            noting.last = lambda: attempt(transport)
            reads.set()

    return act


async def until(case, is_met, progress=bool):
    """Waits until a condition is met, or for many iterations without progress."""
    left, before = QUIET, None
    while left and not is_met():
        await case.sleep(0.05)
        left, before = left - 1 if progress() == before else QUIET, progress()


async def ended(case, noting, made):
    """Waits for the end of a connection, and makes the later call if it follows the end. A connection that stays open
    is ended. Returns the events."""
    await until(case, lambda: noting.lost.called)
    if noting.last is not None:
        noting.last()
        await until(case, lambda: noting.lost.called)
    if not noting.lost.called:
        noting.note("still open")
        transport = made.transport
        getattr(transport, "abortConnection", transport.loseConnection)()
    return list(noting.events)


def read(receive, some=None):
    """All bytes until the end, in short, and how they end. `some` gets the pieces."""
    some, end = [] if some is None else some, "end"
    try:
        while data := receive(65536):
            some.append(data)
    except OSError as error:
        end = type(error).__name__
    data = b"".join(some)
    if end == "ConnectionResetError":
        # The bytes that were still on their way are lost.
        return end
    return f"{len(data)} bytes {zlib.crc32(data):08x}, {end}"


# Twisted delays small writes over TLS by an iteration: the half-close or the end precedes them.
LATE = ["write", "writeSequence", "loseConnection, write", "loseWriteConnection, write"]


def same_for_rustls(names, outcome):
    """An outcome over TLS, without the differences of rustls that the README names."""
    first, moment, then = names
    saw, *events = outcome
    if then in LATE and moment in ("in the next iteration", "after the end of the output"):
        saw = saw.split(", ")[-1]
    if then in ABORT:
        # Of a connection that is lost or aborted.
        events = [event for event in events if event not in ("raises AttributeError", "paused")]
    if then == "pauseProducing" and "loseWriteConnection" not in first:
        events = ["lost" if event == "still open" else event for event in events]
    # A half-close ends TLS too.
    return [saw.replace("SSLEOFError", "end"), *("lost" if event.startswith("lost") else event for event in events)]


async def table(case, run, earlier, calls, width=WIDTH, alike=None):
    """Notes the outcome of each case; `run` gets the earlier call, the moment and the later call. `width` cases run
    at the same time. `alike` removes allowed differences from outcomes."""
    lines = {}

    async def one(names):
        first, moment, then = names
        saw, *events = await run(earlier[first], moment, calls[then])
        # The bytes that were sent before an abort are a matter of time.
        if then in ABORT or first in ABORT:
            saw = saw.split(", ")[-1] if moment != "in the next iteration" else ""
        lines[names] = alike(names, [saw, *events]) if alike else [saw, *events]

    case.reactor.suggestThreadPoolSize(width)
    waiting = itertools.product(earlier, MOMENTS, calls)

    async def worker():
        for names in waiting:
            await one(names)

    await defer.gatherResults([defer.ensureDeferred(worker()) for _ in range(width)])
    for (first, moment, then), outcome in lines.items():
        case.say(f"{first}; {moment}: {then}", outcome)


async def over_sockets(case, listens, connects, earlier, calls, kind, alike=None):
    """The table for connections; the peer is a thread with a plain socket."""

    async def run(first, moment, then):
        noting, reads, received = Noting(), threading.Event(), []
        made = kind(noting, acts(case, noting, first, moment, then, reads))

        def peer(name):
            with connects(name) as skt:
                skt.settimeout(300)
                if isinstance(skt, peers_ssl.SSLSocket):
                    # The server has sent the end of its handshake before the answer.
                    skt.sendall(b"h")
                    skt.recv(1)
                skt.sendall(b"g")
                reads.wait(100)
                saw = read(skt.recv, received)
                # With TLS: answer the close_notify.
                with contextlib.suppress(OSError):
                    getattr(skt, "unwrap", bool)()
                return saw

        factory = quiet(lambda: made)
        port = listens(factory)
        # Accepted sockets inherit it: much output stays unsent.
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        saw = deferToThread(peer, port.getHost())
        await noting.closes
        port.stopListening()
        await until(case, lambda: saw.called, lambda: len(received))
        events = await ended(case, noting, made)
        return [await saw, *events]

    await table(case, run, earlier, calls, alike=alike)


def served(engine):
    """The TLS of a server that this engine encrypts."""
    options = certificates.made("localhost", "localhost").options()
    if engine == "pyOpenSSL":
        # rustls takes no contexts of OpenSSL.
        options.getContext()
    return options


def listening(case, *options):
    """A function that listens with a factory, over TLS with these options."""
    listen = case.reactor.listenSSL if options else case.reactor.listenTCP
    return lambda factory: listen(0, factory, *options, interface="127.0.0.1")


def context():
    """The TLS of a client that trusts everyone."""
    made = peers_ssl.SSLContext(peers_ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, peers_ssl.CERT_NONE
    return made


def small(skt, size=4096):
    """The socket with a small buffer, so that much output stays unsent."""
    skt.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return skt


CLOSES = {
    "loseConnection": CALLS["loseConnection"],
    "stopProducing": CALLS["stopProducing"],
    "loseWriteConnection": HALF["loseWriteConnection"],
    "both": lambda noting, transport: (transport.loseWriteConnection(), transport.loseConnection()),
}
# A close with a producer.
PRODUCING = {
    f"{kind}, {name}": lambda noting, transport, first=CALLS[kind], then=CLOSES[name]: (
        first(noting, transport),
        then(noting, transport),
    )
    for name in ("loseConnection", "loseWriteConnection")
    for kind in ("registerProducer, pull", "registerProducer, push", "registerProducer, push much")
}
ABORTS = {"abortConnection": ABORT["abortConnection"]}
SOCKETS = CLOSES | PRODUCING | ABORTS


class Closing(Cases):
    """Calls after a requested close."""

    async def over_tcp(case, kind, earlier=SOCKETS, calls=CALLS | HALF | ABORT):
        def connects(name):
            skt = small(socket.socket())
            skt.connect((name.host, name.port))
            return skt

        await over_sockets(case, listening(case), connects, earlier, calls, kind)

    async def test_over_tcp(case):
        await Closing.over_tcp(case, Closed)

    async def test_over_tcp_with_half_closes(case):
        await Closing.over_tcp(case, HalfClosed)

    async def test_over_tcp_in_a_timed_call(case):
        class Timed(HalfClosed):
            def dataReceived(self, data):
                case.reactor.callLater(0, super().dataReceived, data)

        await Closing.over_tcp(case, Timed, CLOSES | ABORTS, CALLS | ABORT)

    async def test_of_a_client_in_connection_made(case):
        async def run(first, moment, then):
            noting, reads = Noting(), threading.Event()
            listening = socket.create_server(("127.0.0.1", 0))
            small(listening)

            def peer():
                with listening, listening.accept()[0] as skt:
                    skt.settimeout(300)
                    reads.wait(100)
                    return read(skt.recv)

            class Client(HalfClosed):
                def connectionMade(self):
                    self.dataReceived(b"")

            made = Client(noting, acts(case, noting, first, moment, then, reads))
            saw = deferToThread(peer)
            await case.connect(listening.getsockname()[1], made)
            return [await saw, *await ended(case, noting, made)]

        await table(case, run, SOCKETS, CALLS | HALF | ABORT)

    async def test_over_unix_sockets(case):
        folder = tempfile.mkdtemp(dir=".")
        names = itertools.count()

        def connects(name):
            skt = socket.socket(socket.AF_UNIX)
            skt.connect(name.name)
            return skt

        def listens(factory):
            return case.reactor.listenUNIX(os.path.join(folder, str(next(names))), factory)

        calls = CALLS | HALF | ABORT | {"sendFileDescriptor": sends_descriptor}
        await over_sockets(case, listens, connects, SOCKETS, calls, HalfClosed)

    async def over_tls(case, engine, starts=False):
        """`starts`: TLS starts on a plain connection."""
        options = served(engine)
        # With pyOpenSSL, the moment of a pull producer's output is a matter of time.
        earlier, calls = (
            {name: call for name, call in known.items() if "pull" not in name}
            for known in (SOCKETS, CALLS | HALF | ABORT)
        )
        class Encrypted(HalfClosed):
            def connectionMade(self):
                if starts:
                    self.transport.startTLS(options)
                case.engines.add(getattr(self.transport, "tls_engine", engine))

            def dataReceived(self, data):
                if data == b"h":
                    self.transport.write(b"r")
                else:
                    super().dataReceived(data)

        def connects(name):
            skt = small(socket.socket(), 32 * 1024)
            skt.settimeout(300)
            skt.connect((name.host, name.port))
            return context().wrap_socket(skt, suppress_ragged_eofs=False)

        listens = listening(case) if starts else listening(case, options)
        case.engines = set()
        alike = same_for_rustls if engine == "rustls" else None
        await over_sockets(case, listens, connects, earlier, calls, Encrypted, alike)
        case.say("engines", *case.engines)
        # Twisted's protocol of TLS receives the answer to its close_notify after its end.
        known = "- AttributeError: 'NoneType' object has no attribute 'bio_read'"
        case.notes["log"] = [note for note in case.notes.get("log", ()) if note != known]

    async def test_over_tls(case):
        await Closing.over_tls(case, "rustls")

    async def test_over_tls_by_pyopenssl(case):
        await Closing.over_tls(case, "pyOpenSSL")

    async def test_over_started_tls(case):
        await Closing.over_tls(case, "rustls", True)

    async def test_over_started_tls_by_pyopenssl(case):
        await Closing.over_tls(case, "pyOpenSSL", True)

    async def test_of_standard_input_and_output(case):
        async def run(first, moment, then):
            noting, reads = Noting(), threading.Event()
            (our_in, their_out), (their_in, our_out) = os.pipe(), os.pipe()

            def peer():
                os.write(their_out, b"g")
                reads.wait(100)
                try:
                    return read(lambda size: os.read(their_in, size))
                finally:
                    os.close(their_in)
                    os.close(their_out)

            made = HalfClosed(noting, acts(case, noting, first, moment, then, reads))
            stdio.StandardIO(made, our_in, our_out, case.reactor)
            saw = deferToThread(peer)
            await noting.closes
            events = await ended(case, noting, made)
            # StandardIO closes the descriptors 0 and 1 only.
            os.close(our_in)
            os.close(our_out)
            return [await saw, *events]

        await table(case, run, CLOSES | PRODUCING, CALLS | HALF, 60)

    async def test_of_a_childs_input(case):
        program = (
            "import os, zlib\n"
            "os.write(4, b'r')\n"
            "os.read(3, 1)\n"
            "some = b''.join(iter(lambda: os.read(0, 65536), b''))\n"
            "os.write(4, b'%d bytes %08x' % (len(some), zlib.crc32(some)))\n"
        )

        class Reads:
            def __init__(self, transport):
                self.set = lambda: transport.writeToChild(3, b"g")

        async def run(first, moment, then):
            noting = Noting()

            class Child(protocol.ProcessProtocol):
                def childDataReceived(self, number, data):
                    if data == b"r":
                        acts(case, noting, first, moment, then, Reads(self.transport))(self.transport)
                    else:
                        noting.note("read", number, data)

                def childConnectionLost(self, number):
                    if number != 3:
                        noting.note("lost", number)

                def processEnded(self, reason):
                    noting.ended("ended", reason.value.exitCode)

            descriptors = {0: "w", 1: "r", 2: "r", 3: "w", 4: "r"}
            command = ["python", "-ISc", program]
            case.reactor.spawnProcess(Child(), sys.executable, command, None, childFDs=descriptors)
            await noting.closes
            if moment == MOMENTS[-1]:
                await until(case, lambda: "lost 0" in noting.events)
                noting.last()
            await noting.lost
            # The losses of descriptors have no order.
            return ["", *sorted(noting.events)]

        closes = {
            "closeStdin": lambda noting, transport: transport.closeStdin(),
            "closeChildFD(0)": lambda noting, transport: transport.closeChildFD(0),
            "loseConnection": CALLS["loseConnection"],
        }
        producing = {
            f"{name}, closeStdin": lambda noting, transport, call=call: (call(noting, transport), transport.closeStdin())
            for name, call in CALLS.items()
            if name.startswith("registerProducer")
        }
        on_pipe = lambda act: lambda noting, transport: 0 in transport.pipes and act(noting, transport.pipes[0])
        earlier = closes | producing | {"pipe.loseConnection": on_pipe(CALLS["loseConnection"])}
        calls = {f"pipe.{name}": on_pipe(act) for name, act in CALLS.items()}
        calls |= {name: call for name, call in CALLS.items() if "Producing" not in name}
        calls |= closes | {
            "writeToChild": lambda noting, transport: transport.writeToChild(0, b"late"),
            "closeStdin, write": lambda noting, transport: (transport.closeStdin(), transport.write(b"late")),
            "closeStdout": lambda noting, transport: transport.closeStdout(),
            "closeStderr": lambda noting, transport: transport.closeStderr(),
            "closeChildFD(9)": lambda noting, transport: transport.closeChildFD(9),
            # Pauses and resumes the child's output.
            "pauseProducing": lambda noting, transport: (transport.pauseProducing(), transport.resumeProducing()),
        }
        await table(case, run, earlier, calls, 12)

    async def held_back(case, listens, connects, build, others=()):
        """Each call that sends reports a loss that was held back: a connection that neither reads nor writes is
        reset, and neither reactor notices. `build` makes a protocol that stops to read, and then notes `idle`."""
        calls = CALLS | HALF | ABORT
        unheard = ["write nothing", "registerProducer, push", "pauseProducing", "unregisterProducer", *others]

        async def one(name):
            noting = Noting()
            made = build(noting)
            factory = quiet(lambda: made)
            port = listens(factory)
            peer = await deferToThread(connects, port.getHost())
            while not noting.events:
                await case.sleep(0.01)
            port.stopListening()
            await case.sleep(0.05)
            reset(peer)
            await case.sleep(0.1)
            before = list(noting.events)
            try:
                calls[name](noting, made.transport)
            except Exception as problem:
                noting.note("raises", type(problem).__name__)
            await until(case, lambda: noting.lost.called)
            case.say(name, before, noting.events[len(before) :])
            if not noting.lost.called:
                made.transport.abortConnection()

        await defer.gatherResults([defer.ensureDeferred(one(name)) for name in calls if name not in unheard])

    async def test_a_loss_that_was_held_back_is_reported_by_each_call_that_sends(case):
        """The peer ends its stream and gets an answer before the reset."""

        @implementer(interfaces.IHalfCloseableProtocol)
        class Answers(Closed):
            def readConnectionLost(self):
                self.transport.write(b"answer")
                self.noting.note("idle")

            def writeConnectionLost(self):
                self.noting.note("write lost")

        def connects(name):
            peer = socket.create_connection((name.host, name.port))
            peer.shutdown(socket.SHUT_WR)
            return peer

        # Under epoll the reason is a matter of time, and the end of the peer's stream is reported a second time.
        others = ["abortConnection, write", "resumeProducing"]
        build = lambda noting: Answers(noting, None)
        await Closing.held_back(case, listening(case), connects, build, others)

    async def held_back_over_tls(case, engine):
        def connects(name):
            skt = context().wrap_socket(socket.create_connection((name.host, name.port)))
            skt.sendall(b"h")
            return skt

        def idle(noting):
            def act(transport):
                transport.pauseProducing()
                noting.note("idle", getattr(transport, "tls_engine", engine))

            return HalfClosed(noting, act)

        await Closing.held_back(case, listening(case, served(engine)), connects, idle)

    async def test_a_loss_that_was_held_back_over_tls(case):
        await Closing.held_back_over_tls(case, "rustls")

    async def test_a_loss_that_was_held_back_over_tls_by_pyopenssl(case):
        await Closing.held_back_over_tls(case, "pyOpenSSL")


class Kept(Cases, by=only_subject):
    """Outcomes that differ from the model's, as the README says."""

    async def test_calls_keep_the_promises_of_their_interfaces(case):
        class Waits:
            """A producer that is asked once more after it has unregistered."""

            def __init__(self, transport):
                self.transport = transport

            def resumeProducing(self):
                case.reactor.callLater(0.05, self.transport.unregisterProducer)

            def stopProducing(self):
                raise AssertionError("stopped")

        def waits(transport):
            transport.write(b"before")
            transport.registerProducer(Waits(transport), False)
            transport.loseWriteConnection()

        def twice(transport):
            transport.write(b"before")
            transport.loseWriteConnection()
            case.reactor.callLater(0.1, transport.loseWriteConnection)

        def too_few(transport):
            transport.sendFileDescriptor(0)
            transport.sendFileDescriptor(0)
            transport.write(b"b")
            case.reactor.callLater(0.1, transport.loseConnection)

        def iterator(transport):
            transport.writeSequence(iter([b"be", b"", b"fore"]))
            transport.loseConnection()

        done, reads_on = ["lost ConnectionDone"], ["write lost", "received 5", "read lost", "lost ConnectionDone"]
        rows = [
            ("a half-close waits for its producer", waits, b"before", reads_on),
            ("a second half-close does nothing", twice, b"before", reads_on),
            ("bytes are sent before a loss by descriptors", too_few, b"b", ["lost FileDescriptorOverrun"]),
            ("an iterator is sent", iterator, b"before", done),
        ]

        async def outcome(act, is_unix):
            noting = Noting()
            made = HalfClosed(noting, act)
            factory = quiet(lambda: made)
            path = os.path.join(tempfile.mkdtemp(dir="."), "socket")
            listening = [case.reactor.listenUNIX, path] if is_unix else [case.reactor.listenTCP, 0]
            port = listening[0](listening[1], factory)

            def peer():
                with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET) as skt:
                    skt.settimeout(300)
                    skt.connect(path if is_unix else ("127.0.0.1", port.getHost().port))
                    skt.sendall(b"g")
                    saw = b"".join(iter(lambda: skt.recv(100), b""))
                    # After the second half-close.
                    time.sleep(0.2)
                    with contextlib.suppress(OSError):
                        skt.sendall(b"still")
                    return saw

            saw = await deferToThread(peer)
            await noting.lost
            port.stopListening()
            return saw, noting.events

        wrong = []
        for name, act, *expected in rows:
            for is_unix in (False, True) if act is not too_few else (True,):
                found = await outcome(act, is_unix)
                if list(found) != expected:
                    wrong.append(f"{name}, unix={is_unix}: {found}, not {expected}")
        assert not wrong, "\n".join(wrong)

"""The documentation of Twisted's interfaces, sentence by sentence: each sentence is tested before the first run of the
reactor, in a run, after a run that crashed, and after the last run. The outcome is the same as under the model.

`python test_sentences.py MOMENT REACTOR` runs the tests of a moment.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest
import zlib

from kit import reactors
from kit.cases import HANG, SUBJECT
from kit.connections import Source, quiet

INTERFACES = "IReactorTime IDelayedCall IReactorCore IListeningPort ITransport ITCPTransport IUNIXTransport".split()
# Sentences that promise nothing.
ADVICE = {
    "IReactorTime.getDelayedCalls": ["See L{"],
    "IReactorCore.resolve": ["@note: Rather", "If you do want", "Note that different"],
    "IReactorCore.iterate": ["This is most useful"],
    "ITransport.writeSequence": ["If possible, make sure that all"],
    "ITransport.getPeer": ["Treat this", "It is the unfortunate"],
    "ITCPTransport.abortConnection": ["@since"],
    "ITCPTransport.setTcpNoDelay": ["Small packets"],
    "ITCPTransport.setTcpKeepAlive": ["They are intended"],
}

# By moment: those that a function tests.
TESTED = {}
# Each is a generator that takes the moment, does something, and yields conditions to wait for.
SENTENCES = []
# Each is a program that runs the reactor.
LIVES = []


def sentences(member, *beginnings):
    """Of a test: the sentences of an interface's member that begin so."""

    def tests(test):
        TESTED.setdefault(member, []).extend(beginnings)
        if test not in SENTENCES + LIVES:
            (LIVES if test.__name__.startswith("life_") else SENTENCES).append(test)
        return test

    return tests


class Moment:
    """Notes the outcomes of one test."""

    def __init__(self, reactor):
        self.reactor, self.notes = reactor, []
        # The notes of peers, which have no order relative to ours.
        self.peers = []

    def note(self, *words):
        text = " ".join(map(str, words))
        self.notes.append(re.sub(r"0x[0-9a-f]+|\d{6,}\.\d+|(?<=port=)\d+", "?", text))

    def noting(self, *words):
        """A function that notes its arguments."""
        return lambda *args, **kwargs: self.note(*words, *args, *(f"{key}={value}" for key, value in kwargs.items()))

    def attempt(self, name, call, *args, **kwargs):
        """Notes the result, or the exception, of a call."""
        try:
            result = call(*args, **kwargs)
        except Exception as problem:
            return self.note(name, "raises", type(problem).__name__, problem)
        self.note(name, "returns", result if isinstance(result, (int, str, bytes, type(None))) else type(result).__name__)
        return result

    def until(self, number):
        """A condition: there are at least `number` notes."""
        return lambda: len(self.notes) >= number


class Life(Moment):
    """Prints each outcome at once."""

    def note(self, *words):
        print(*words, flush=True)


# IReactorTime and IDelayedCall.


@sentences("IReactorTime.seconds", "Get the current time", "@return: A number")
def seconds(at):
    import time

    now = at.reactor.seconds()
    from twisted.internet import interfaces

    at.note([each.providedBy(at.reactor) for each in (interfaces.IReactorTime, interfaces.IReactorCore)])
    at.note("a", type(now).__name__, "near the time of day:", abs(now - time.time()) < 3600)
    yield 0.05
    at.note("later it is more:", at.reactor.seconds() > now)


@sentences("IReactorTime.callLater", "Call a function later", "@param delay", "@param callable", "@param args", "@param kw")
def calls_later(at):
    at.reactor.callLater(0.05, at.noting("third"))
    at.reactor.callLater(0.001, at.noting("second"), 1, two=2)
    at.reactor.callLater(0, at.noting("first"), 1, "a", b=None)
    at.note("nothing is called yet")
    yield at.until(4)
    for wrong in ((-1, print), ("1", print), (None, print), (0,)):
        # The texts differ.
        try:
            at.reactor.callLater(*wrong)
        except Exception as problem:
            at.note("wrong", wrong[:1], type(problem).__name__)
    at.reactor.callLater(0, at.noting, 1)
    at.reactor.callLater(0, at.reactor.callLater, 0, at.noting("from a call"))
    at.reactor.callLater(0, at.noting("in the turn before"))
    yield at.until(10)


@sentences("IReactorTime.callLater", "@return: An object", "It also may")
def returns_a_call(at):
    from twisted.internet.interfaces import IDelayedCall

    call = at.reactor.callLater(0.01, at.noting("called"))
    at.note("provides IDelayedCall:", IDelayedCall.providedBy(call))
    cancelled = at.reactor.callLater(0.001, at.noting("the cancelled call"))
    at.attempt("cancel", cancelled.cancel)
    delayed = at.reactor.callLater(0.001, at.noting("delayed, called"))
    at.attempt("delay", delayed.delay, 0.1)
    reset = at.reactor.callLater(100, at.noting("reset, called"))
    at.attempt("reset", reset.reset, 0.05)
    yield at.until(7)


@sentences("IDelayedCall.getTime", "Get time", "@return")
def time_of_a_call(at):
    for delay in (0, True, 5, 7.5):
        call = at.reactor.callLater(delay, at.noting("called"))
        found = call.getTime()
        at.note(type(found).__name__, round(found - at.reactor.seconds(), 1), round(found - call.seconds(), 1))
        if delay:
            call.delay(10)
            at.note("delayed", round(call.getTime() - at.reactor.seconds(), 1))
            call.delay(-4)
            at.note("delayed back", round(call.getTime() - at.reactor.seconds(), 1))
            call.reset(1)
            at.note("reset", round(call.getTime() - at.reactor.seconds(), 1))
            at.attempt("reset to the past", call.reset, -1)
            call.cancel()
            at.attempt("time of a cancelled call is a number:", lambda: isinstance(call.getTime(), float))
    yield 0.05
    at.note("in the past:", -1000 < at.reactor.callLater(0, int).getTime() - at.reactor.seconds() <= 0)


@sentences("IDelayedCall.cancel", "Cancel the", "@raises twisted.internet.error.AlreadyCalled", "@raises twisted.internet.error.AlreadyCancelled")
@sentences("IDelayedCall.delay", "Delay the", "@param", "@raises twisted.internet.error.AlreadyCalled", "@raises twisted.internet.error.AlreadyCancelled")
@sentences("IDelayedCall.reset", "Reset the", "@raises twisted.internet.error.AlreadyCalled", "@raises twisted.internet.error.AlreadyCancelled")
@sentences("IDelayedCall.active", "@return")
@sentences("IReactorTime.getDelayedCalls")
def ends_of_a_call(at):
    called, cancelled, waits = (at.reactor.callLater(delay, at.noting("called", delay)) for delay in (0, 0.001, 50))
    earlier = at.reactor.callLater(60, at.noting("reset, called"))
    inside = at.reactor.callLater(0, lambda: attempts("in its call", inside))

    def attempts(when, call):
        at.note(when, "active:", call.active(), "listed:", call in at.reactor.getDelayedCalls())
        at.attempt(f"{when}: cancel", call.cancel)
        at.attempt(f"{when}: delay", call.delay, 1)
        at.attempt(f"{when}: reset", call.reset, 1)
        at.note(when, "active:", call.active(), "listed:", call in at.reactor.getDelayedCalls())

    attempts("cancelled", cancelled)
    at.attempt("delay", waits.delay, 1)
    at.attempt("reset", earlier.reset, 0.02)
    yield at.until(20)
    attempts("called", called)
    at.note("waits", waits.active(), waits in at.reactor.getDelayedCalls())
    waits.cancel()
    at.note(type(at.reactor.getDelayedCalls()).__name__)


@sentences("IDelayedCall.reset", "@param secondsFromNow")
def reset_is_a_new_call(at):
    first = at.reactor.callLater(0, at.noting("reset to the end"))
    at.reactor.callLater(0, at.noting("second"))
    at.reactor.callLater(0.001, at.noting("third"))
    late = at.reactor.callLater(30, at.noting("reset to the front"))
    first.reset(0.05)
    late.reset(0)
    yield at.until(4)


# IReactorCore.


@sentences("IReactorCore.resolve", "Asynchronously resolve", "@param name", "@param timeout")
def resolves(at):
    for name in ("", "127.0.0.1", "localhost", "256.1.1.1", "no such name"):
        for timeout in ((), ([0],), ([60, 60],)):
            if name not in ("", "127.0.0.1") and timeout == ([0],):
                # A matter of time.
                continue
            found = at.attempt("resolve", at.reactor.resolve, name, *timeout)
            kind = lambda failure, name=name: at.note(repr(name), "fails:", failure.type.__name__)
            # The lookups end in any order.
            found.addCallbacks(at.noting(repr(name), "is"), kind)
    yield at.until(26)
    at.notes.sort()


@sentences("IReactorCore.addSystemEventTrigger", "Add a function", 'Each "system event"', "@param", "@return", "An implementor")
@sentences("IReactorCore.fireSystemEvent", "Fire a system-wide")
def triggers(at):

    # Several names, so that events do not mix.
    add = at.reactor.addSystemEventTrigger
    for phase in ("after", "during", "before", "after", "before"):
        add(phase, "own", at.noting(phase), 1, two=2)
    at.attempt("fire", at.reactor.fireSystemEvent, "own")
    at.attempt("fire again", at.reactor.fireSystemEvent, "own")
    at.attempt("fire one without triggers", at.reactor.fireSystemEvent, "another")
    for bad in (("never", "own", print), ("before", "own", None), ("before",)):
        at.attempt(f"add {bad[0]}", add, *bad)
    persist = add("before", "persist", at.noting("persist"))
    at.attempt("fire persist", at.reactor.fireSystemEvent, "persist")
    at.attempt("remove what was called", at.reactor.removeSystemEventTrigger, persist)
    yield 0


@sentences("IReactorCore.addSystemEventTrigger", "Callbacks registered", 'The "during" phase', 'Once the "during"')
def triggers_wait(at):
    from twisted.internet import defer

    add = at.reactor.addSystemEventTrigger
    for how in ("callback", "errback"):
        name = f"waits for {how}"
        first, second = defer.Deferred(), defer.Deferred()
        add("before", name, lambda first=first: first)
        add("before", name, lambda: at.note("before, raises") or 1 / 0)
        add("before", name, lambda second=second: second)
        add("before", name, lambda: defer.succeed(1))
        add("during", name, lambda: at.note("during, raises") or 1 / 0)
        add("during", name, lambda: at.note("during, a Deferred") or defer.Deferred())
        add("during", name, lambda: at.note("during, false") or False)
        add("after", name, lambda: at.note("after, raises") or 1 / 0)
        add("after", name, at.noting("after"))
        at.attempt("fire", at.reactor.fireSystemEvent, name)
        at.attempt("the second", getattr(second, how), Exception("no"))
        yield 0.02
        at.attempt("the first", getattr(first, how), Exception("no"))
    # Triggers that add and remove others.
    name = "changes"
    removed = add("during", name, at.noting("the removed one"))
    add("before", name, lambda: at.attempt("remove", at.reactor.removeSystemEventTrigger, removed))
    add("before", name, lambda: add("before", name, at.noting("an added one")) and None)
    add("before", name, lambda: add("after", name, at.noting("one added for later")) and None)
    add("during", name, lambda: add("before", name, at.noting("one added too late")) and None)
    at.attempt("fire", at.reactor.fireSystemEvent, name)
    at.attempt("fire again", at.reactor.fireSystemEvent, name)
    yield 0


@sentences("IReactorCore.removeSystemEventTrigger", "Removes a", "@param", "@raise KeyError", "@raise ValueError", "@raise TypeError")
def removes_triggers(at):
    add, remove = at.reactor.addSystemEventTrigger, at.reactor.removeSystemEventTrigger
    kept = add("during", "event", at.noting("kept"))
    for phase in ("before", "during", "after"):
        twice = [add(phase, "event", at.noting("removed")) for _ in range(2)]
        at.attempt("remove", remove, twice[0])
        at.attempt("remove again", remove, twice[0])
        at.attempt("remove the equal one", remove, twice[1])
    for bad in (None, "name", 5, ("event",), ("event", None), ("none", kept[1]), ("event", ("during", print, (), {}))):
        at.attempt("remove what is none", remove, bad)
    at.reactor.fireSystemEvent("event")
    yield 0


@sentences("IReactorCore.callWhenRunning", "Call a", "If the reactor has not", "Otherwise", "@param", "@return")
def calls_when_running(at):
    at.attempt("call", at.reactor.callWhenRunning, at.noting("called"), 1, two=2)
    removed = at.attempt("call", at.reactor.callWhenRunning, at.noting("removed"))
    at.attempt("remove", at.reactor.removeSystemEventTrigger, removed)
    at.attempt("no function", at.reactor.callWhenRunning, None)
    at.attempt("raises", at.reactor.callWhenRunning, lambda: at.note("called, raises") or 1 / 0)
    yield 0.05
    at.note("later")


@sentences("IReactorCore.iterate", "Run the main loop's", "All pending")
def iterates(at):
    """In a run, the same happens in nested turns."""
    for delay in (0, 0.03):
        at.reactor.callLater(0, at.noting("pending"))
        at.reactor.callLater(0, at.noting("pending too"))
        waits = at.reactor.callLater(60, at.noting("not due yet"))
        at.reactor.callFromThread(at.noting("from a thread"))
        at.attempt("iterate", at.reactor.iterate, delay)
        at.note("iterated")
        waits.cancel()
        yield 0
    at.attempt("iterate", at.reactor.iterate)


@sentences("IListeningPort.startListening", "Start", "@raise CannotListenError")
@sentences("IListeningPort.stopListening", "Stop", "If it does not")
@sentences("IListeningPort.getHost", "Get the", "@return")
def listens(at):
    from twisted.internet import protocol
    from twisted.internet.interfaces import IListeningPort

    factory = quiet(protocol.Protocol)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for listen, where, more in (
            (at.reactor.listenTCP, 0, {"interface": "127.0.0.1"}),
            (at.reactor.listenUNIX, f"{folder}/socket", {}),
        ):
            port = listen(where, factory, **more)
            host = port.getHost()
            at.note(IListeningPort.providedBy(port), getattr(host, "host", ""), type(host).__name__)
            at.note("the name of the socket:", os.path.basename(getattr(host, "name", "")))
            try:
                listen(where or host.port, factory, **more)
            except Exception as problem:
                at.note("listen twice", type(problem).__name__)
            stopped = []
            at.attempt("stop", port.stopListening).addCallback(stopped.append)
            yield lambda: stopped
            at.attempt("start again", port.startListening)
            stopped = []
            at.attempt("stop again", port.stopListening).addCallback(stopped.append)
            yield lambda: stopped


# ITransport, ITCPTransport and IUNIXTransport.


class Pair:
    """A transport at any moment, and its peer: a plain socket."""

    def __init__(self, at, kind, is_half_closed=False):
        from twisted.internet import interfaces, protocol
        from zope.interface import directlyProvides

        if kind == "tcp":
            with socket.create_server(("127.0.0.1", 0)) as listening:
                self.peer = socket.create_connection(listening.getsockname())
                ours = listening.accept()[0]
        else:
            ours, self.peer = socket.socketpair()
        # Much output stays unsent until the peer reads.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.received, self.end, self.descriptors, self.at = b"", None, [], at
        self.peer.setblocking(False)
        self.protocol = made = protocol.Protocol()
        made.dataReceived = lambda data: at.note("received", data)
        made.connectionLost = lambda reason: at.note("lost", reason.type.__name__)
        if is_half_closed:
            made.readConnectionLost = at.noting("read lost")
            made.writeConnectionLost = at.noting("write lost")
            directlyProvides(made, interfaces.IHalfCloseableProtocol)
        factory = quiet(lambda: made)
        with ours:
            at.reactor.adoptStreamConnection(ours.fileno(), ours.family, factory)
        self.transport = made.transport

    def reads(self):
        """Reads all available bytes; true once the stream has ended."""
        while self.end is None:
            try:
                data, descriptors, *_ = socket.recv_fds(self.peer, 1 << 16, 50)
            except BlockingIOError:
                return False
            except OSError as error:
                data, descriptors, self.end = b"", [], type(error).__name__
            self.received += data
            self.descriptors += descriptors
            if not data and self.end is None:
                self.end = "end"
        return True

    def has(self, size):
        """A condition: the peer got `size` bytes, or the end."""
        return lambda: self.reads() or len(self.received) >= size

    def says(self, *names):
        data = self.received
        text = data if len(data) < 50 else f"{len(data)} bytes {zlib.crc32(data):08x}"
        self.at.peers.append(" ".join(map(str, (*names, text, "then", self.end))))

    def finish(self):
        self.transport.abortConnection()
        self.peer.close()
        for each in self.descriptors:
            os.close(each)


KINDS = ["tcp", "unix"]


@sentences("ITransport.write", "Write some", "If possible", "No data", "@param")
def writes(at):
    for kind in KINDS:
        pair = Pair(at, kind)
        for data in (b"a", b"", b"bc", b"d" * (3 << 20), b"e"):
            at.attempt(f"{kind}: write {len(data)}", pair.transport.write, data)
        for data in ("text", None, 5):
            at.attempt(f"{kind}: write {data!r}", pair.transport.write, data)
        yield pair.has(4 + (3 << 20))
        pair.says(kind)
        pair.transport.write(b"f" * (3 << 20))
        pair.transport.loseConnection()
        lost = at.until(len(at.notes) + 1)
        yield lambda: pair.reads() and lost()
        pair.says(kind)
        at.attempt(f"{kind}: write when it is lost", pair.transport.write, b"late")
        pair.finish()


@sentences("ITransport.writeSequence", "Write an iterable", "@param")
def writes_a_sequence(at):
    for kind in KINDS:
        pair = Pair(at, kind)
        for data in ([b"a", b"", b"b"], [], (b"c", b"d" * 200_000), [b"e"] * 2000):
            at.attempt(f"{kind}: write {len(data)}", pair.transport.writeSequence, data)
        for data in (["text"], [b"f", None], None):
            at.attempt(f"{kind}: write {data!r}", pair.transport.writeSequence, data)
        yield pair.has(200_000 + 2000 + 3)
        pair.says(kind)
        pair.finish()


@sentences("ITransport.loseConnection", "Close my", "Note that if")
def loses(at):
    for kind in KINDS:
        for streaming in (None, True, False):
            pair = Pair(at, kind)
            pair.transport.write(b"before" * 1000)
            if streaming is not None:
                at.attempt(f"{kind}: register", pair.transport.registerProducer, Source(at.note), streaming)
            at.attempt(f"{kind}: lose", pair.transport.loseConnection)
            # A streaming producer that is not paused does not delay it.
            yield 0.05
            pair.reads()
            pair.says(kind, "a producer that streams:", streaming)
            if streaming is not None:
                pair.transport.write(b"produced")
                yield 0.05
                at.attempt(f"{kind}: unregister", pair.transport.unregisterProducer)
            yield pair.reads
            pair.says(kind)
            yield 0
            at.attempt(f"{kind}: lose again", pair.transport.loseConnection)
            pair.finish()


@sentences("ITransport.getPeer", "Get the", "@return")
@sentences("ITransport.getHost", "Similar", "@return")
@sentences("ITCPTransport.getHost", "Returns")
@sentences("ITCPTransport.getPeer", "Returns")
def addresses(at):
    from twisted.internet import interfaces

    names = """ITCPTransport IUNIXTransport ITransport IConsumer IPushProducer IHalfCloseableDescriptor ILoggingContext
        ITLSTransport ISSLTransport IReadWriteDescriptor ISystemHandle"""
    for kind in KINDS:
        pair = Pair(at, kind)
        at.note(kind, [name for name in names.split() if getattr(interfaces, name).providedBy(pair.transport)])
        for name in ("getHost", "getPeer"):
            found = getattr(pair.transport, name)()
            at.note(kind, name, found, interfaces.IAddress.providedBy(found))
        if kind == "tcp":
            at.note(pair.transport.getPeer().port == pair.peer.getsockname()[1])
            at.note(pair.transport.getHost().port == pair.peer.getpeername()[1])
        pair.transport.loseConnection()
        yield pair.reads
        yield 0.01
        for name in ("getPeer", "fileno", "resumeProducing", "loseConnection", "abortConnection"):
            at.attempt(f"{kind}, lost: {name}", getattr(pair.transport, name))
        at.note([bool(getattr(pair.transport, name)) for name in ("connected", "disconnected", "disconnecting")])
        pair.finish()


@sentences("ITCPTransport.loseWriteConnection", "Half-close", "If the protocol")
def loses_its_output(at):
    for kind in KINDS:
        for is_half_closed in (True, False):
            pair = Pair(at, kind, is_half_closed)
            pair.transport.write(b"before")
            at.attempt(f"{kind}: lose", pair.transport.loseWriteConnection)
            at.note("not yet")
            at.attempt(f"{kind}: lose again", pair.transport.loseWriteConnection)
            yield pair.reads
            pair.says(kind)
            yield 0.02
            pair.peer.send(b"still read")
            yield 0.05
            pair.transport.write(b"late")
            pair.peer.shutdown(socket.SHUT_WR)
            yield 0.05
            pair.transport.loseConnection()
            yield 0.05
            pair.says(kind)
            pair.finish()


@sentences("ITCPTransport.loseWriteConnection", "When closing")
def loses_its_output_when_it_is_sent(at):
    for kind in KINDS:
        for streaming in (None, True, False):
            pair = Pair(at, kind, True)
            pair.transport.write(b"b" * (3 << 20))
            if streaming is not None:
                pair.transport.registerProducer(Source(at.note), streaming)
            at.attempt(f"{kind}: lose", pair.transport.loseWriteConnection)
            yield 0.05
            at.note("the peer reads")
            yield pair.has(3 << 20)
            yield 0.05
            pair.reads()
            pair.says(kind, "a producer that streams:", streaming)
            pair.transport.write(b"last")
            at.attempt(f"{kind}: unregister", pair.transport.unregisterProducer)
            yield 0.05
            pair.reads()
            pair.says(kind)
            at.attempt(f"{kind}: abort", pair.transport.abortConnection)
            yield 0.05
            pair.finish()


@sentences("ITCPTransport.abortConnection", "Close the", "Discards")
def aborts(at):
    for kind in KINDS:
        for streaming in (None, True, False):
            pair = Pair(at, kind)
            pair.transport.write(b"b" * (8 << 20))
            if streaming is not None:
                pair.transport.registerProducer(Source(at.note), streaming)
            at.attempt(f"{kind}: abort", pair.transport.abortConnection)
            at.attempt(f"{kind}: abort again", pair.transport.abortConnection)
            at.attempt(f"{kind}: write", pair.transport.write, b"late")
            yield 0.05
            yield pair.reads
            at.peers.append(f"{kind}: all was sent: {len(pair.received) >= 8 << 20}, then {pair.end}")
            at.attempt(f"{kind}: abort, lost", pair.transport.abortConnection)
            pair.finish()


@sentences("ITCPTransport.getTcpNoDelay", "Return")
@sentences("ITCPTransport.setTcpNoDelay", "Enable/disable", "Enabling")
@sentences("ITCPTransport.getTcpKeepAlive", "Return")
@sentences("ITCPTransport.setTcpKeepAlive", "Enable/disable", "Enabling")
def options(at):
    for kind in KINDS:
        pair = Pair(at, kind)
        transport = pair.transport
        levels = {"NoDelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY), "KeepAlive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
        for name, option in levels.items():
            for value in (None, True, False, 1, 0):
                if value is not None:
                    at.attempt(f"{kind}: set {name} {value}", getattr(transport, f"setTcp{name}"), value)
                at.attempt(f"{kind}: get {name}", getattr(transport, f"getTcp{name}"))
                if kind == "tcp":
                    at.note("of the system:", bool(transport.getHandle().getsockopt(*option)))
        yield 0
        pair.finish()


@sentences("IUNIXTransport.sendFileDescriptor", "Send a duplicate", "The send will", "@param", "Note that a")
def sends_descriptors(at):
    pair = Pair(at, "unix")
    ends = [*os.pipe(), os.open(os.devnull, os.O_RDONLY), socket.socket(), os.open(".", os.O_RDONLY)]
    numbers = [each if isinstance(each, int) else each.fileno() for each in ends]
    kept = [os.fstat(number)[:2] for number in numbers]
    for number in numbers:
        at.attempt("send", pair.transport.sendFileDescriptor, number)
        pair.transport.write(b"d")
    yield lambda: pair.has(len(numbers))() and len(pair.descriptors) == len(numbers)
    pair.says("unix")
    at.note("in order:", [os.fstat(number)[:2] for number in pair.descriptors] == kept)
    at.note("duplicates:", not set(pair.descriptors) & set(numbers), [os.fstat(number)[:2] for number in numbers] == kept)
    for each in ends:
        os.close(each) if isinstance(each, int) else each.close()
    pair.finish()


@sentences("IUNIXTransport.sendFileDescriptor", "The send is", "The send can")
def sends_descriptors_with_bytes(at):
    # Much output precedes the descriptor.
    pair = Pair(at, "unix")
    pair.transport.write(b"b" * (3 << 20))
    at.attempt("send", pair.transport.sendFileDescriptor, 0)
    pair.transport.write(b"d")
    yield lambda: pair.has((3 << 20) + 1)() or pair.descriptors
    yield pair.has((3 << 20) + 1)
    pair.says("much before it:", len(pair.descriptors))
    pair.finish()
    # More writes, as many, fewer, or none.
    for writes in (3, 2, 1, 0):
        pair = Pair(at, "unix")
        for _ in range(2):
            at.attempt("send", pair.transport.sendFileDescriptor, 0)
        for _ in range(writes):
            pair.transport.write(b"d")
        yield 0.05
        pair.reads()
        if writes != 1:
            # After too few writes, the bytes may be lost or not.
            pair.says(f"{writes} writes:", len(pair.descriptors))
        pair.transport.loseConnection()
        yield 0.05
        at.attempt("send when it is lost", pair.transport.sendFileDescriptor, 0)
        pair.finish()


# Whole lives of a reactor.


def traced(at, *events):
    """Notes each phase of the events, and whether the reactor runs."""
    for event in events:
        for phase in ("before", "during", "after"):
            note = lambda text=f"{phase} {event}": at.note(text, bool(at.reactor.running))
            at.reactor.addSystemEventTrigger(phase, event, note)


@sentences("IReactorCore.running", "A C{bool}")
@sentences("IReactorCore.run", "Fire 'startup'")
@sentences("IReactorCore.stop", "Fire 'shutdown'")
@sentences("IReactorCore.fireSystemEvent", "System-wide events")
@sentences("IReactorCore.addSystemEventTrigger", "These events")
def life_of_one_run(at):
    from twisted.internet import defer

    at.note("made", type(at.reactor.running).__name__, at.reactor.running)
    at.attempt("stop", at.reactor.stop)
    traced(at, "startup", "shutdown", "persist")
    waits = defer.Deferred()
    waits.addCallback(lambda _: at.note("the wait ends", bool(at.reactor.running)))
    at.reactor.addSystemEventTrigger("before", "shutdown", lambda: waits)

    def running():
        at.note("running", at.reactor.running)
        at.attempt("run", at.reactor.run)
        at.reactor.callLater(0.1, waits.callback, None)
        at.attempt("stop", at.reactor.stop)
        at.attempt("stop again", at.reactor.stop)
        at.attempt("run", at.reactor.run)
        at.note("stopped", at.reactor.running)

    at.reactor.callLater(0, running)
    at.attempt("run", at.reactor.run)
    at.note("ended", at.reactor.running)
    at.attempt("stop", at.reactor.stop)
    at.attempt("run", at.reactor.run)
    traced(at, "startup", "shutdown")
    at.attempt("run", at.reactor.run, False)
    at.attempt("fire", at.reactor.fireSystemEvent, "shutdown")
    at.note("ended", at.reactor.running)


@sentences("IReactorCore.crash", "Stop the main", "This is named", "However")
def life_of_crashes(at):
    from twisted.internet import defer

    traced(at, "startup", "shutdown")
    at.attempt("crash", at.reactor.crash)
    at.note("crashed", at.reactor.running)
    for number in range(3):
        at.reactor.callWhenRunning(at.note, "run", number, at.reactor.running)
        at.reactor.callLater(0.01, at.reactor.crash)
        at.reactor.callLater(0.01, at.note, "in the same iteration")
        at.reactor.callLater(0.5, at.note, "later", number)
        at.attempt("run", at.reactor.run)
        at.note("crashed", at.reactor.running)
        at.note(len(at.reactor.getDelayedCalls()), "timed calls wait")
        # Each crash adds the start of the reactor once more.
        traced(at, "startup")
    # A wedged shutdown.
    at.reactor.addSystemEventTrigger("before", "shutdown", defer.Deferred)
    at.reactor.callLater(0.01, at.reactor.stop)
    at.reactor.callLater(0.1, at.reactor.crash)
    at.attempt("run", at.reactor.run)
    at.note("crashed", at.reactor.running)
    at.attempt("run", at.reactor.run)
    at.attempt("stop", at.reactor.stop)


@sentences("IReactorCore.iterate", "The reactor must", "It must also")
def life_of_iterations(at):
    """The reactor is started and stopped, and iterates between."""
    traced(at, "startup", "shutdown")
    at.reactor.startRunning(False)
    at.note("started", at.reactor.running)
    at.reactor.callLater(0, at.note, "a timed call")
    at.reactor.callWhenRunning(at.note, "called")
    for _ in range(3):
        at.attempt("iterate", at.reactor.iterate, 0.01)
    at.attempt("stop", at.reactor.stop)
    at.note("stopped", at.reactor.running)
    for _ in range(3):
        at.attempt("iterate", at.reactor.iterate, 0.01)
    at.note("ended", at.reactor.running)
    at.reactor.callLater(0, at.note, "a call after the end")
    at.attempt("iterate", at.reactor.iterate, 0.01)
    at.attempt("run", at.reactor.run)


@sentences("IReactorCore.iterate", "This method is not")
def life_of_nested_iterations(at):
    def outer():
        at.note("outer")
        at.reactor.callLater(0, inner)
        at.attempt("iterate", at.reactor.iterate, 0.01)
        at.attempt("iterate", at.reactor.iterate, 0.01)
        at.note("outer ends")
        at.reactor.callLater(0.05, at.reactor.stop)

    def inner():
        at.note("inner")
        at.reactor.callLater(0, at.note, "innermost")
        at.attempt("iterate", at.reactor.iterate, 0.01)
        at.attempt("iterate", at.reactor.iterate, 0.01)
        at.note("inner ends")

    at.reactor.callWhenRunning(outer)
    at.attempt("run", at.reactor.run)


@sentences("IReactorCore.stop", "Fire 'shutdown'")
def life_of_stops_in_a_startup(at):
    traced(at, "startup", "shutdown")
    for phase in ("before", "during", "after"):
        at.reactor.addSystemEventTrigger(phase, "startup", at.attempt, f"stop {phase} the startup", at.reactor.stop)
    at.reactor.callLater(0, at.note, "a timed call")
    at.attempt("run", at.reactor.run)
    at.reactor.addSystemEventTrigger("after", "shutdown", at.note, "never")
    at.attempt("stop", at.reactor.stop)


@sentences("IReactorCore.stop", "Fire 'shutdown'")
def life_of_stops_in_a_shutdown(at):
    traced(at, "shutdown")
    for phase in ("before", "during", "after"):
        at.reactor.addSystemEventTrigger(phase, "shutdown", at.attempt, f"stop {phase} the shutdown", at.reactor.stop)
        at.reactor.addSystemEventTrigger(phase, "shutdown", at.reactor.callLater, 0, at.note, "a timed call from", phase)
        at.reactor.addSystemEventTrigger(phase, "shutdown", at.attempt, "run", at.reactor.run)
        at.reactor.addSystemEventTrigger(phase, "shutdown", at.reactor.callWhenRunning, at.note, "is running,", phase)
    at.reactor.callWhenRunning(at.reactor.stop)
    at.attempt("run", at.reactor.run)
    at.note(len(at.reactor.getDelayedCalls()), "timed calls wait")


@sentences("IReactorCore.crash", "Stop the main")
def life_of_crashes_in_a_startup(at):
    traced(at, "startup", "shutdown")
    at.reactor.addSystemEventTrigger("after", "startup", at.reactor.crash)
    at.reactor.callLater(0, at.note, "a timed call")
    at.attempt("run", at.reactor.run)
    at.note("crashed", at.reactor.running)
    # testtools runs each of its tests like this.
    for number in range(3):
        at.reactor.callWhenRunning(at.reactor.crash)
        at.attempt("run", at.reactor.run, False)
        at.note("crashed", at.reactor.running)
        at.reactor.callLater(0.01, at.note, "the run goes on", number)
        at.reactor.callLater(0.02, at.reactor.crash)
        at.attempt("run", at.reactor.run, False)
    at.reactor.callLater(0, at.reactor.stop)
    at.attempt("run", at.reactor.run)
    at.note("ended", at.reactor.running)


# Whole programs.

POLLS = 300


def start(at, test):
    """Runs a test up to its first wait."""
    steps = test(at)
    return steps, step(at, steps)


def step(at, steps):
    """The next condition; `None` at the end."""
    try:
        return next(steps, None)
    except Exception as problem:
        import traceback

        at.note("the test raises", *traceback.format_exception(problem))


def met(condition):
    """A condition as a function: a number is a time."""
    if callable(condition):
        return condition
    turns = iter(range(int(condition * 100) + 2))
    return lambda: next(turns, None) is None


def waits(at, steps, condition):
    """Yields before each turn for which a test waits."""
    while condition is not None:
        is_met = met(condition)
        for _ in range(POLLS):
            if is_met():
                break
            yield
        condition = step(at, steps)


def by_iterations(*begun):
    for _ in waits(*begun):
        begun[0].reactor.iterate(0.01)


async def by_a_run(*begun):
    from twisted.internet import task

    for _ in waits(*begun):
        await task.deferLater(begun[0].reactor, 0.01, lambda: None)


def in_a_run(reactor, begun):
    """Runs the reactor, and the rest of the tests in it."""
    from twisted.internet import defer

    def rest():
        ends = [defer.ensureDeferred(by_a_run(*each)) for each in begun()]
        defer.gatherResults(ends).addErrback(lambda failure: failure.printTraceback(sys.stdout)).addBoth(
            lambda _: reactor.stop()
        )

    # The run ends even if a test's call stops the startup.
    reactor.callLater(0.05, rest)
    reactor.run()


def run_until(reactor, end):
    reactor.callLater(0, end)
    reactor.run()


def begins_before(reactor, tests):
    begun = [(at, *start(at, test)) for at, test in tests]
    in_a_run(reactor, lambda: begun)


def iterates_only(reactor, tests):
    for at, test in tests:
        by_iterations(at, *start(at, test))


def begins_in_the_run(reactor, tests):
    in_a_run(reactor, lambda: [(at, *start(at, test)) for at, test in tests])


MOMENTS = {
    "before the first run": begins_before,
    "before the first run, by iterations": iterates_only,
    "in a run": begins_in_the_run,
    "after a crash": lambda reactor, tests: (run_until(reactor, reactor.crash), begins_before(reactor, tests)),
    "after a crash, in the next run": lambda reactor, tests: (
        run_until(reactor, reactor.crash),
        begins_in_the_run(reactor, tests),
    ),
    "after a run": lambda reactor, tests: (run_until(reactor, reactor.stop), iterates_only(reactor, tests)),
}


def main():
    moment, reactor = sys.argv[1], reactors.install(sys.argv[2])
    if moment in MOMENTS:
        tests = [(Moment(reactor), test) for test in SENTENCES]
        MOMENTS[moment](reactor, tests)
        for at, test in tests:
            print(f"{test.__name__}:", *at.notes, *at.peers, sep="\n    ")
    else:
        {life.__name__: life for life in LIVES}[moment](Life(reactor))
    print("done", flush=True)


def outcome(moment, reactor):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.abspath(__file__), moment, reactor]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG, stdin=subprocess.DEVNULL)
    if not ended.stdout.endswith("done\n"):
        raise AssertionError(f"{moment}, {reactor}: {ended.stdout}{ended.stderr}")
    return ended.stdout


def documented():
    """The sentences of each member."""
    from twisted.internet import interfaces

    for name in INTERFACES:
        interface = getattr(interfaces, name)
        for member in interface.names():
            text = " ".join((interface[member].__doc__ or "").split())
            pattern = r"(?<=[.])\s+(?=[A-Z])|\s*(?=@(?:return|raises?|param|note|since)\b)"
            yield f"{name}.{member}", [part for part in re.split(pattern, text) if part]


class Sentences(unittest.TestCase):
    """The interfaces of reactors' times and cores, and of the transports of TCP and UNIX sockets."""

    maxDiff = None

    def same(self, *moments):
        for moment in moments:
            with self.subTest(moment):
                self.assertMultiLineEqual(outcome(moment, reactors.MODEL), outcome(moment, SUBJECT))

    def test_every_sentence_has_a_test_or_is_advice(self):
        members = dict(documented())
        known = {member: TESTED.get(member, []) + ADVICE.get(member, []) for member in TESTED | ADVICE}
        for member, texts in members.items():
            for text in texts:
                self.assertTrue(text.startswith(tuple(known.get(member, ()))), f"{member}: {text}")
        for member, beginnings in known.items():
            for beginning in beginnings:
                self.assertTrue(any(text.startswith(beginning) for text in members[member]), f"{member}: {beginning}")

    def test_sentences_hold_at_every_moment(self):
        self.same(*MOMENTS)

    def test_sentences_about_runs_hold(self):
        self.same(*(life.__name__ for life in LIVES))


if __name__ == "__main__":
    main()

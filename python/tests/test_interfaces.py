"""The methods of reactors' and transports' interfaces with many arguments: before the first run, in it and after it, the
outcome is that of the model. `test_sentences` follows their documentation."""

import os
import subprocess
import sys
import tempfile
import unittest

from kit import reactors
from kit.cases import SUBJECT

# Each attempt prints its outcome: a value, or an exception and its text.
PROGRAM = r'''
import os, re, socket, sys, threading
from kit import reactors
reactor = reactors.install(sys.argv[1])
from kit.connections import quiet
from twisted.internet import defer, error, interfaces, protocol, task
from zope.interface.verify import verifyObject

def attempt(when, name, call):
    try:
        result = call()
    except BaseException as problem:
        result = f"{type(problem).__name__}: {problem}"
    text = re.sub(r"0x[0-9a-f]+|\d{6,}\.\d+|(?<=127\.0\.0\.1:)\d+", "?", str(result))
    print(f"{when}: {name}: {text}", flush=True)

calls = []
def note(*args, **kwargs):
    calls.append((args, kwargs))

def raised(function, *args):
    try:
        function(*args)
    except Exception as problem:
        return type(problem).__name__

def kind(value):
    return type(value).__name__

def times(when):
    """IReactorTime and IDelayedCall."""
    go = lambda name, call: attempt(when, name, call)
    go("seconds", lambda: kind(reactor.seconds()))
    go("seconds go on", lambda: reactor.seconds() <= reactor.seconds())
    go("provides", lambda: [each.providedBy(reactor) for each in (interfaces.IReactorTime, interfaces.IReactorCore)])
    for delay in (0, 5, 5.5, True):
        made = []
        go(f"callLater {delay!r}", lambda: made.append(reactor.callLater(delay, note, 1, two=2)))
        call = made[0]
        go("provides IDelayedCall", lambda: interfaces.IDelayedCall.providedBy(call))
        go("active", call.active)
        go("time", lambda: round(call.getTime() - reactor.seconds()))
        go("is listed", lambda: call in reactor.getDelayedCalls())
        go("delay", lambda: call.delay(10))
        go("time", lambda: round(call.getTime() - reactor.seconds()))
        go("delay back", lambda: call.delay(-3))
        go("time", lambda: round(call.getTime() - reactor.seconds()))
        go("reset", lambda: call.reset(20))
        go("time", lambda: round(call.getTime() - reactor.seconds()))
        go("reset to the past", lambda: call.reset(-1))
        go("reset", lambda: call.reset(30))
        go("func", lambda: (call.func is note, call.args, call.kw))
        go("cancel", call.cancel)
        go("active", call.active)
        go("is listed", lambda: call in reactor.getDelayedCalls())
        for method in ("cancel", "getTime"):
            go(f"{method} again", lambda: round(getattr(call, method)() or 0) and None)
        for method in ("delay", "reset"):
            go(f"{method} again", lambda: getattr(call, method)(1))
    go("callLater -1", lambda: reactor.callLater(-1, note))
    # Twisted's code accepts a function that can't be called. The texts differ.
    go("callLater no number", lambda: raised(reactor.callLater, "1", note))
    go("callLater without arguments", lambda: raised(reactor.callLater))
    go("getDelayedCalls", lambda: (kind(reactor.getDelayedCalls()), len(reactor.getDelayedCalls())))

def core(when):
    """IReactorCore."""
    go = lambda name, call: attempt(when, name, call)
    go("running", lambda: bool(reactor.running))
    for phase in ("before", "during", "after"):
        made = []
        go(f"trigger {phase}", lambda: made.append(reactor.addSystemEventTrigger(phase, "custom", note, phase, k=1)))
        go("removed", lambda: reactor.removeSystemEventTrigger(made[0]))
        go("removed again", lambda: reactor.removeSystemEventTrigger(made[0]))
    go("trigger of no phase", lambda: reactor.addSystemEventTrigger("never", "custom", note))
    go("trigger of nothing", lambda: reactor.addSystemEventTrigger("before", "custom", None))
    go("removed what is none", lambda: reactor.removeSystemEventTrigger("nothing"))
    go("removed None", lambda: reactor.removeSystemEventTrigger(None))
    del calls[:]
    for phase in ("after", "during", "before"):
        reactor.addSystemEventTrigger(phase, "custom", note, phase, k=1)
    wait = defer.Deferred()
    reactor.addSystemEventTrigger("before", "custom", lambda: wait)
    go("fire", lambda: reactor.fireSystemEvent("custom"))
    go("called", lambda: calls)
    go("the Deferred fires", lambda: wait.callback(None))
    go("called", lambda: calls)
    go("fire again", lambda: reactor.fireSystemEvent("custom"))
    go("called", lambda: len(calls))
    go("fire what has no triggers", lambda: reactor.fireSystemEvent("other"))
    go("callWhenRunning nothing", lambda: reactor.callWhenRunning(None))

def stops(when):
    go = lambda name, call: attempt(when, name, call)
    go("stop", reactor.stop)
    go("run", reactor.run)

def ports(when):
    """IReactorTCP, IReactorUNIX, IListeningPort."""
    go = lambda name, call: attempt(when, name, call)
    factory = quiet(protocol.Protocol)
    made = []
    go("listenTCP", lambda: made.append(reactor.listenTCP(0, factory, interface="127.0.0.1")))
    go("host", lambda: (made[0].getHost().type, made[0].getHost().host))
    go("provides", lambda: interfaces.IListeningPort.providedBy(made[0]))
    go("listen twice", lambda: reactor.listenTCP(made[0].getHost().port, factory, interface="127.0.0.1").__class__)
    go("stopListening", lambda: kind(made[0].stopListening()))
    go("listenUNIX", lambda: made.append(reactor.listenUNIX(f"socket {when}", factory)))
    go("host", lambda: made[1].getHost())
    go("stopListening", lambda: kind(made[1].stopListening()))

attempt("before", "callWhenRunning", lambda: kind(reactor.callWhenRunning(note, "running", k=1)))
removed = reactor.callWhenRunning(note, "removed")
attempt("before", "callWhenRunning removed", lambda: reactor.removeSystemEventTrigger(removed))
times("before"), core("before"), ports("before")
attempt("before", "stop", reactor.stop)
del calls[:]
pending = reactor.callLater(0, note, "pending")
reactor.callWhenRunning(note, "running")
attempt("before", "iterate", reactor.iterate)
attempt("before", "iterate 0", lambda: reactor.iterate(0))
attempt("before", "the timed call was made", lambda: calls)
attempt("before", "crash", reactor.crash)

class Noted(protocol.Protocol):
    def __init__(self, name):
        self.name, self.lost, self.made = name, defer.Deferred(), defer.Deferred()
    def connectionMade(self):
        self.made.callback(None)
        methods(f"made, {self.name}", self.transport)
    def dataReceived(self, data):
        pass
    def fileDescriptorReceived(self, number):
        os.close(number)
    def connectionLost(self, reason):
        print(f"{self.name}: lost {reason.type.__name__}")
        methods(f"lost, {self.name}", self.transport, False)
        self.lost.callback(None)

def methods(when, transport, is_open=True):
    """ITCPTransport and IUNIXTransport."""
    go = lambda name, call: attempt(when, name, call)
    port = lambda address: re.sub(r"port=\d+", "port=?", repr(address))
    go("getHost", lambda: port(transport.getHost()) if is_open else "")
    go("getPeer", lambda: port(transport.getPeer()))
    for of in (interfaces.ITCPTransport, interfaces.IUNIXTransport, interfaces.ITransport, interfaces.IConsumer,
               interfaces.IPushProducer, interfaces.IHalfCloseableDescriptor, interfaces.ILoggingContext,
               interfaces.ITLSTransport, interfaces.IReadWriteDescriptor, interfaces.ISystemHandle):
        go(of.__name__, lambda: of.providedBy(transport))
    if is_open:
        for name in ("getTcpNoDelay", "getTcpKeepAlive"):
            go(name, getattr(transport, name))
        for value in (1, 0, True, False):
            go(f"setTcpNoDelay {value}", lambda: transport.setTcpNoDelay(value))
            go("getTcpNoDelay", transport.getTcpNoDelay)
            go(f"setTcpKeepAlive {value}", lambda: transport.setTcpKeepAlive(value))
            go("getTcpKeepAlive", transport.getTcpKeepAlive)
    for data in (b"", b"some", "text", bytearray(b"some"), memoryview(b"some"), None, 5):
        if isinstance(data, (bytes, str)) or data is None:
            go(f"write {data!r}", lambda: transport.write(data))
    go("writeSequence", lambda: transport.writeSequence([b"a", b"", b"b"]))
    go("writeSequence nothing", lambda: transport.writeSequence([]))
    go("writeSequence iterator", lambda: transport.writeSequence(iter([b"a"])))
    if is_open:
        if hasattr(transport, "sendFileDescriptor"):
            go("sendFileDescriptor", lambda: transport.sendFileDescriptor(0))
            go("write", lambda: transport.write(b"with it"))
        go("pauseProducing", transport.pauseProducing)
        go("resumeProducing", transport.resumeProducing)
    else:
        go("fileno", transport.fileno)
        go("resumeProducing", transport.resumeProducing)
        go("loseConnection", transport.loseConnection)
        go("abortConnection", transport.abortConnection)
    for name in ("connected", "disconnected", "disconnecting"):
        go(name, lambda: bool(getattr(transport, name)))

@defer.inlineCallbacks
def during():
    attempt("during", "callWhenRunning", lambda: reactor.callWhenRunning(note, "at once"))
    attempt("during", "called", lambda: calls)
    times("during"), core("during"), ports("during")
    attempt("during", "run", reactor.run)
    waits = reactor.callLater(0, note)
    yield task.deferLater(reactor, 0.05, lambda: None)
    for name in ("cancel", "active"):
        attempt("during", f"{name} after the call", getattr(waits, name))
    for name in ("delay", "reset"):
        attempt("during", f"{name} after the call", lambda: getattr(waits, name)(1))
    from twisted.internet import endpoints
    for name, port, end in (
        ("tcp", reactor.listenTCP, lambda port: endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)),
        ("unix", reactor.listenUNIX, lambda port: endpoints.UNIXClientEndpoint(reactor, "during")),
    ):
        server = Noted(f"{name} server")
        factory = quiet(lambda: server)
        listening = port(0 if name == "tcp" else "during", factory)
        client = Noted(f"{name} client")
        yield endpoints.connectProtocol(end(listening), client)
        yield server.made
        methods(f"open, {name}", client.transport)
        yield task.deferLater(reactor, 0.05, lambda: None)
        client.transport.loseConnection()
        yield defer.gatherResults([client.lost, server.lost])
        yield listening.stopListening()
    attempt("during", "stop", reactor.stop)
    attempt("during", "stop again", reactor.stop)
    attempt("during", "running", lambda: bool(reactor.running))
    reactor.addSystemEventTrigger("after", "shutdown", print, "after the shutdown")
    reactor.addSystemEventTrigger("during", "shutdown", print, "during the shutdown")
    reactor.addSystemEventTrigger("before", "shutdown", print, "before the shutdown")

reactor.callWhenRunning(lambda: during().addErrback(lambda failure: (failure.printTraceback(sys.stdout), reactor.stop())))
attempt("run", "returns", reactor.run)
times("after"), core("after"), ports("after"), stops("after")
attempt("after", "callWhenRunning", lambda: kind(reactor.callWhenRunning(note)))
attempt("after", "iterate", reactor.iterate)
print("done")
'''


class Interfaces(unittest.TestCase):
    """IReactorTime, IReactorCore, ITCPTransport, IUNIXTransport and their kin."""

    maxDiff = None

    def outcome(self, reactor):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "program.py")
            with open(program, "w") as file:
                file.write(PROGRAM)
            command = [sys.executable, program, reactor]
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        self.assertTrue(ended.stdout.endswith("done\n"), ended.stdout + ended.stderr)
        # The sides of a connection take turns.
        return sorted(ended.stdout.splitlines(), key=lambda line: line.partition(":")[0])

    def test_each_sentence_holds_before_during_and_after_a_run(self):
        self.assertEqual(self.outcome(reactors.MODEL), self.outcome(SUBJECT))

"""Processes that end with open connections in every state: no hang, no abort, the right status."""

import signal
import subprocess
import sys
import unittest

from kit import reactors
from kit.cases import SUBJECT

# Opens a connection in each state, calls `opened`, and then the function `end`.
PROGRAM = """
import os, signal, socket, sys, threading
from kit import certificates, reactors
reactor = reactors.install(sys.argv[1])
from kit.connections import quiet
from kit.pages import site
from twisted.internet import defer, protocol, ssl, task, threads

def say(*words):
    print(*words, flush=True)

class Noting(protocol.Protocol):
    def __init__(self, name):
        self.name, self.made, self.answered = name, defer.Deferred(), defer.Deferred()

    def connectionMade(self):
        self.made.callback(self)

    def dataReceived(self, data):
        self.answered.callback(None)

    def connectionLost(self, reason):
        lost.append(self.name)

def slow(request):
    request.notifyFinish().addErrback(lambda failure: lost.append("request"))
    asked.callback(None)

def upgrade(request):
    transport, request.channel.transport = request.channel.transport, None
    transport.protocol = upgraded = Noting("upgraded server")
    upgraded.makeConnection(transport)
    transport.write(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
    transport.resumeProducing()

class Port(protocol.DatagramProtocol):
    def __init__(self, name):
        self.name = name

    def stopProtocol(self):
        lost.append(self.name)

class Peer(protocol.ConnectedDatagramProtocol):
    def stopProtocol(self):
        lost.append("unix peer")

class Child(protocol.ProcessProtocol):
    def connectionMade(self):
        self.transport.write(b"line\\n")
        self.answered = defer.Deferred()

    def childDataReceived(self, number, data):
        answered, self.answered = self.answered, defer.Deferred()
        answered.callback(None)

def listening(backlog=50):
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    return listener, listener.getsockname()[1]

def serving(factory, options=None):
    arguments = (0, factory, options) if options else (0, factory)
    listen = reactor.listenSSL if options else reactor.listenTCP
    return listen(*arguments, interface="127.0.0.1").getHost().port

def connect(name, number, *context):
    made = Noting(name)
    factory = quiet(lambda: made, protocol.ClientFactory)
    factory.clientConnectionFailed = lambda *_: lost.append(f"{name} failed")
    (reactor.connectSSL if context else reactor.connectTCP)("127.0.0.1", number, factory, *context)
    return made.made

async def states():
    # A full queue of connections: the next one stays in its connect.
    full, number = listening(0)
    kept.extend([full, socket.create_connection(("127.0.0.1", number))])
    connect("connecting", number)
    silent, number = listening()
    kept.append(silent)
    await connect("open", number)
    half = await connect("half-closed", number)
    half.transport.loseWriteConnection()
    closing = await connect("closing", number)
    # More than the kernel takes from a writer whose peer does not read.
    closing.transport.write(bytes(64 << 20))
    closing.transport.loseConnection()
    await connect("in a handshake", number, ssl.CertificateOptions())
    browser = await connect("browser", serving(site(slow)))
    browser.transport.write(b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
    await asked
    upgraded = await connect("upgraded", serving(site(upgrade)))
    upgraded.transport.write(b"GET / HTTP/1.1\\r\\nHost: here\\r\\nUpgrade: other\\r\\n\\r\\n")
    await upgraded.answered
    made, secured = certificates.made("server", "localhost"), Noting("secured server")
    port = serving(quiet(lambda: secured), made.options())
    client = await connect("secured", port, ssl.optionsForClientTLS("localhost", made.trust()))
    await secured.made
    secured.transport.write(b"answer")
    await client.answered
    reading = Noting("paused server")
    await connect("full", serving(quiet(lambda: reading)))
    await reading.made
    reading.transport.pauseProducing()
    reactor.listenUDP(0, Port("udp"), interface="127.0.0.1")
    reactor.listenUNIXDatagram(f"\\0exits-{os.getpid()}", Port("unix datagrams"))
    reactor.connectUNIXDatagram(f"\\0exits-{os.getpid()}", Peer())
    for terminal in (False, True):
        child = Child()
        reactor.spawnProcess(child, "/bin/cat", ["cat"], {}, usePTY=terminal)
        await child.answered
    reactor.callLater(1000, say, "late")
    # Turns in which the closing connection writes, and the half-closed one sends its end.
    await task.deferLater(reactor, 0.05)
    lost.clear()
    end()

lost, kept, asked = [], [], defer.Deferred()
reactor.callWhenRunning(lambda: defer.ensureDeferred(states()).addErrback(lambda failure: failure.printTraceback()))
"""

RUN = """
reactor.run()
say("lost", sorted(lost))
"""


class Exits(unittest.TestCase):
    """Under the subject as under the model."""

    maxDiff = None

    def says(self, name, text):
        command = [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", PROGRAM + text, name]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return f"{ended.stdout}{ended.stderr}status {ended.returncode}"

    def ends(self, text, status, words=""):
        """Checks a program's output and status."""
        said = self.says(reactors.MODEL, text)
        self.assertTrue(said.endswith(f"status {status}"), said)
        self.assertIn(words, said)
        self.assertMultiLineEqual(said, self.says(SUBJECT, text))

    def test_stops_crashes_and_exits(self):
        for text, status, words in (
            ("end = reactor.stop" + RUN, 0, "request"),
            ("end = reactor.crash" + RUN, 0, "lost []"),
            ("end = reactor.crash" + RUN + "reactor.callLater(0, reactor.stop)" + RUN, 0, "request"),
            ("end = reactor.crash" + RUN + "sys.exit(3)", 3, "lost []"),
            ("end = reactor.crash" + RUN + 'raise ValueError("raised")', 1, "ValueError: raised"),
            ("end = lambda: os._exit(4)" + RUN, 4, ""),
        ):
            with self.subTest(text=text):
                self.ends(text, status, words)

    def test_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1):
            with self.subTest(number=number):
                ended = number in (signal.SIGTERM, signal.SIGINT)
                text = f"end = lambda: os.kill(os.getpid(), {int(number)})"
                # Twisted's `run` raises a signal that has ended it again for the default handler.
                self.ends(text + RUN, 0 if ended else -number)

    def test_threads(self):
        text = """
def end():
    reactor.suggestThreadPoolSize(2)
    for _ in range(2):
        reactor.callInThread(release.wait)
    # Non-daemon threads end after the reactor's.
    threading.Thread(target=calls).start()
    reactor.callFromThread(reactor.stop)

def calls():
    for _ in range(1000):
        reactor.callFromThread(release.set)
    main.join()
    reactor.callFromThread(say, "never called")

release, main = threading.Event(), threading.main_thread()
reactor.addSystemEventTrigger("before", "shutdown", release.set)
"""
        self.ends(text + RUN, 0)

    def test_a_daemon_thread(self):
        """The interpreter ends while another thread runs the reactor, and is in one place or another."""
        text = """
def end():
    act()
    opened.set()

opened = threading.Event()
threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True).start()
opened.wait()
say("leaves")
"""
        acts = {
            "waits": "act = lambda: None",
            "turns": "act = lambda: task.LoopingCall(lambda: sum(range(10_000))).start(0)",
            "writes": "act = lambda: task.LoopingCall(lambda: kept.append(bytes(1000))).start(0.001)",
            "is in a callback": "act = lambda: reactor.callLater(0, lambda: [sum(range(1000)) for _ in iter(int, 1)])",
            "is in a system call": "act = lambda: reactor.callLater(0, lambda: socket.socketpair()[0].recv(1))",
            "gets calls": """
def act():
    def flood():
        while True:
            reactor.callFromThread(len, "")
    threading.Thread(target=flood, daemon=True).start()
""",
        }
        for name, act in acts.items():
            with self.subTest(name):
                self.assertEqual("leaves\nstatus 0", self.says(SUBJECT, f"{act}\n{text}"))

    @unittest.skipUnless(SUBJECT == reactors.SUBJECT, "the subject has no event loop")
    def test_an_event_loop_in_a_daemon_thread(self):
        text = """
import threading, couplet_twisted

def turn():
    sum(range(10_000))
    loop.call_soon(turn)

loop, started = couplet_twisted.EventLoop(), threading.Event()
loop.call_soon(turn)
loop.call_soon(started.set)
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
print("leaves")
"""
        ended = subprocess.run([sys.executable, "-X", "dev", "-c", text], capture_output=True, text=True, timeout=300)
        self.assertEqual(("leaves\n", "", 0), (ended.stdout, ended.stderr, ended.returncode))

    def test_a_fork_beside_a_daemon_thread(self):
        """The child waits for no other thread."""
        text = """
end = lambda: opened.set()
opened = threading.Event()
threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True).start()
opened.wait()
if not os.fork():
    from couplet_twisted import _couplet
    sys.exit(5 if _couplet.park_threads(0) else 6)
say(os.wait()[1] >> 8)
"""
        self.assertEqual("5\nstatus 0", self.says(SUBJECT, text))

    def test_a_fork(self):
        # After a fork, the model reports an unexpected state of its epoll.
        text = """
def end():
    child = os.fork()
    if child:
        threads.deferToThread(os.waitpid, child, 0).addCallback(lambda ended: say("child", ended[1] >> 8)).addCallback(
            lambda _: reactor.stop())
    else:
        global status
        status = 6
        reactor.crash()

status = 0
"""
        said = self.says(SUBJECT, text + RUN + "sys.exit(status)")
        lost = ["browser", "closing", "connecting failed", "full", "half-closed", "in a handshake", "open", "request"]
        lost += ["secured", "secured server", "udp", "unix datagrams", "unix peer", "upgraded", "upgraded server"]
        self.assertMultiLineEqual(f"lost []\nchild 6\nlost {lost}\nstatus 0", said)

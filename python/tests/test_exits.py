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
from kit import reactors
reactor = reactors.install(sys.argv[1])
from twisted.internet import defer, protocol, ssl, task, threads
from twisted.web import resource, server

def say(*words):
    print(*words, flush=True)

class Noting(protocol.Protocol):
    name = "server"

    def connectionMade(self):
        self.made.callback(self)

    def connectionLost(self, reason):
        lost.append(self.name)

class Slow(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        request.notifyFinish().addErrback(lambda failure: lost.append("request"))
        asked.callback(None)
        return server.NOT_DONE_YET

def listening(backlog=50):
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    return listener, listener.getsockname()[1]

def connect(name, number, context=None):
    protocol_ = Noting()
    protocol_.name, protocol_.made = name, defer.Deferred()
    factory = protocol.ClientFactory()
    factory.noisy = False
    factory.buildProtocol = lambda address: protocol_
    factory.clientConnectionFailed = lambda *_: lost.append(f"{name} failed")
    if context:
        reactor.connectSSL("127.0.0.1", number, factory, context)
    else:
        reactor.connectTCP("127.0.0.1", number, factory)
    return protocol_.made

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
    site = server.Site(Slow())
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    browser = await connect("browser", port.getHost().port)
    browser.transport.write(b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n")
    await asked
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
        command = [sys.executable, "-X", "dev", "-W", "ignore::ResourceWarning", "-c", PROGRAM + text, name]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return f"{ended.stdout}{ended.stderr}status {ended.returncode}"

    def ends(self, text, status):
        """Checks a program's output and status. Returns the output."""
        said = self.says(reactors.MODEL, text)
        self.assertTrue(said.endswith(f"status {status}"), said)
        self.assertMultiLineEqual(said, self.says(SUBJECT, text))
        return said

    def test_a_stop(self):
        said = self.ends("end = reactor.stop" + RUN, 0)
        self.assertIn("request", said)

    def test_a_crash(self):
        said = self.ends("end = reactor.crash" + RUN, 0)
        self.assertIn("lost []", said)

    def test_a_run_after_a_crash(self):
        self.ends("end = reactor.crash" + RUN + "reactor.callLater(0, reactor.stop)" + RUN, 0)

    def test_a_status_of_the_program(self):
        self.ends("end = reactor.crash" + RUN + "sys.exit(3)", 3)

    def test_an_exception_of_the_program(self):
        said = self.ends("end = reactor.crash" + RUN + 'raise ValueError("raised")', 1)
        self.assertIn("ValueError: raised", said)

    def test_an_immediate_exit(self):
        self.ends("end = lambda: os._exit(4)" + RUN, 4)

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
        lost = ["browser", "closing", "connecting failed", "half-closed", "in a handshake", "open", "request"]
        self.assertMultiLineEqual(f"lost []\nchild 6\nlost {lost}\nstatus 0", said)

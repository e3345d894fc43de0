"""Web servers answer with Couplet's steps of twisted.web as they do with Twisted's."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from twisted.internet.testing import StringTransport
from twisted.web import server, static

from kit import reactors
from kit.cases import SUBJECT, Cases, only_subject


def python(*arguments):
    """The output of a Python program."""
    ended = subprocess.run([sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, timeout=300)
    if ended.returncode:
        raise AssertionError(f"{arguments}: {ended.returncode}\n{ended.stderr}")
    return ended.stdout


def compare(test, module, count, *more):
    """The conversations that a module prints, a line for each, must be the same under both reactors."""
    for seed in ("1", "2"):
        model, subject = (
            python("-m", module, reactor, *more, seed, str(count)).splitlines() for reactor in (reactors.MODEL, SUBJECT)
        )
        test.assertEqual(len(model), count)
        for ours, wanted in zip(subject, model):
            test.assertEqual(ours, wanted)


def compare_sites(test, module, count):
    """The same for the conversations of a module with servers of the files in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "sub").mkdir()
        for name, length in [("small.html", 6), ("empty.tar.gz", 0), ("sub/inner", 3), ("large.bin", 70_000)]:
            (path / name).write_bytes(b"f" * length)
            os.utime(path / name, (1_577_836_800, 1_577_836_800))
        compare(test, module, count, folder)


class Answers(unittest.TestCase):
    """Thousands of conversations in memory."""

    def test_a_server_answers_as_under_epoll_and_its_resources_see_the_same(self):
        compare_sites(self, "kit.webserver", 700)


# A server answers requests for some paths. Prints the first and the last word of each answer.
SERVED = """
import socket, sys, threading
from kit import reactors
reactor = reactors.install(sys.argv[1])
from twisted.web import resource, server

class Page(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        return answer(request) + b";"

port = reactor.listenTCP(0, server.Site(Page()), interface="127.0.0.1")

def ask(*paths):
    with socket.create_connection(("127.0.0.1", port.getHost().port)) as client:
        for path in paths:
            client.sendall(b"GET %s HTTP/1.1\\r\\nX: ;\\r\\n\\r\\n" % path)
            said = b""
            while b";" not in said:
                said += client.recv(1000) or b";"
            print(said.split()[0].decode(), said.split()[-1].decode())
    reactor.callFromThread(reactor.stop)
"""

SECURE = """
from twisted.internet.interfaces import ISSLTransport, ITransport
from twisted.python.components import registerAdapter
from zope.interface import directlyProvides

if sys.argv[2:]:
    registerAdapter(lambda transport: transport, ITransport, ISSLTransport)

def answer(request):
    said = request.isSecure(), request.getHost() == request.channel.transport.getHost()
    directlyProvides(request.channel.transport, ISSLTransport)
    return b"%d-%d" % said

threading.Thread(target=ask, args=(b"/", b"/"), daemon=True).start()
reactor.run()
"""

TAKEN = """
def answer(request):
    channel = request.channel
    if request.path == b"/take":
        channel.dataReceived = lambda data: channel.transport.write(b"taken: " + data)
    return b"answered"

threading.Thread(target=ask, args=(b"/", b"/", b"/take", b"/"), daemon=True).start()
reactor.run()
"""


class Connections(unittest.TestCase):
    """Requests over sockets."""

    def test_a_program_may_take_the_data_of_a_channel(self):
        for reactor in (reactors.MODEL, SUBJECT):
            said = python("-c", SERVED + TAKEN, reactor).splitlines()
            self.assertEqual(said, ["HTTP/1.1 answered;"] * 3 + ["taken: ;"], reactor)

    def test_a_request_is_secure_once_its_transport_says_so_or_is_adapted(self):
        for arguments, wanted in [([], ["0-1;", "1-1;"]), (["adapted"], ["1-1;", "1-1;"])]:
            for reactor in (reactors.MODEL, SUBJECT):
                said = python("-c", SERVED + SECURE, reactor, *arguments).split()
                self.assertEqual(said, ["HTTP/1.1", wanted[0], "HTTP/1.1", wanted[1]], reactor)


def body(folder, name):
    """The body of a site's answer about a file."""
    protocol, transport = server.Site(static.File(str(folder))).buildProtocol(None), StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode())
    head, _, answered = transport.value().partition(b"\r\n\r\n")
    return answered if b" 200 " in head else head.split()[1]


class Files(Cases, by=only_subject):
    """Small files of `static.File`."""

    async def test_a_small_file_is_read_again_after_a_change_or_a_second(case):
        from couplet_twisted import _webfiles

        opened = []
        sys.addaudithook(lambda event, arguments: event == "open" and opened.append(arguments[0]))

        def reads(wanted):
            opened.clear()
            assert [body(folder, "page") for _ in range(3)] == [wanted] * 3
            return opened.count(str(path))

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "page")
            path.write_bytes(b"one")
            # The next change might have the same time.
            assert reads(b"one") == 3
            _webfiles._SETTLED_AFTER = -(10**12)
            assert reads(b"one") == 1
            assert reads(b"one") == 0
            before = path.stat()
            while path.stat().st_ctime_ns == before.st_ctime_ns:
                path.write_bytes(b"two")
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert reads(b"two") == 1
            pathlib.Path(folder, "next").write_bytes(b"six")
            os.replace(pathlib.Path(folder, "next"), path)
            assert reads(b"six") == 1
            path.unlink()
            assert reads(b"404") == 0
            path.write_bytes(b"ten")
            _webfiles._FRESH_FOR = 0
            assert reads(b"ten") == 3

    async def test_the_contents_that_are_kept_are_bounded(case):
        from couplet_twisted import _webfiles

        _webfiles._SETTLED_AFTER = -(10**12)
        with tempfile.TemporaryDirectory() as folder:
            for number in range(300):
                pathlib.Path(folder, f"{number}").write_bytes(b"%d" % number)
                assert body(folder, f"{number}") == b"%d" % number
                assert 0 < len(_webfiles._contents) <= 128


# Prints the modules of a step of web servers, web clients, HTTP/2, klein and TLS, and what encrypts.
STEPS = """
from twisted.web import _newclient, client, http, server, static
from klein.resource import KleinResource
from twisted.protocols.tls import TLSMemoryBIOProtocol as Tls
steps = server.Request.process, _newclient.HTTPClientParser.dataReceived, http.H2Connection
print(*(step.__module__ for step in (*steps, KleinResource.render, Tls.makeConnection)), Tls.tls_engine)
"""
COUPLETS = [f"couplet_twisted.{name}" for name in ("_web", "_webclient", "_web2", "_webklein", "_tls")]
TWISTEDS = ["twisted.web.server", "twisted.web._newclient", "twisted.web._http2", "klein._resource"]
TWISTEDS += ["twisted.protocols.tls"]


def steps(*lines):
    """The modules of the steps, after these lines of a program."""
    *modules, engine = python("-c", "\n".join([*lines, STEPS])).split()
    assert engine == "pyOpenSSL", engine
    return modules


class Installs(unittest.TestCase):
    """`install(web=..., tls=...)`."""

    def test_steps_are_couplets_unless_the_program_declines(self):
        modules = ["from twisted.web import client, server", "import twisted.internet.ssl, twisted.protocols.tls"]
        for arguments, expected in [
            ("", COUPLETS),
            ("web=True, tls=True", COUPLETS),
            ("web=False", TWISTEDS[:4] + COUPLETS[4:]),
            ("tls=False", COUPLETS[:4] + TWISTEDS[4:]),
        ]:
            line = f"import couplet_twisted; couplet_twisted.install({arguments})"
            for lines in ([line], [*modules, line], [line, *modules]):
                self.assertEqual(steps(*lines), expected, lines)

    def test_modules_of_the_web_may_be_imported_in_any_order(self):
        for first in ("static", "server", "resource", "http", "client", "vhost", "proxy", "wsgi", "util", "distrib"):
            line = f"import couplet_twisted; couplet_twisted.install(); import twisted.web.{first}"
            modules = "server.Request.process.__module__, static.File.getChild.__module__"
            said = python("-c", f"{line}\nfrom twisted.web import server, static; print({modules})")
            self.assertEqual(said.split(), ["couplet_twisted._web", "couplet_twisted._webfiles"], first)

    def test_a_program_without_a_web_server_does_not_import_one(self):
        for lines, module in [("", "twisted.web"), ("import twisted.web.client", "twisted.web.server")]:
            line = f"import couplet_twisted, sys; couplet_twisted.install(); {lines}"
            self.assertEqual(python("-c", f"{line}\nprint({module!r} in sys.modules)"), "False\n", module)

    def test_another_release_of_twisted_keeps_its_steps_unless_the_program_asks(self):
        lines = ["import twisted", "twisted.version.minor = 4", "import couplet_twisted"]
        self.assertEqual(steps(*lines, "couplet_twisted.install()"), TWISTEDS)
        self.assertEqual(steps(*lines, "couplet_twisted.install(web=True, tls=True)"), COUPLETS)

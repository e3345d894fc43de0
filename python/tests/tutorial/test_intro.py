"""The poetry programs of Dave Peticolas's introduction to Twisted, unchanged, as servers and as clients, under either
reactor and together with the program `couplet`.

No package has them: COUPLET_TWISTED_INTRO names a checkout of https://github.com/jdavisp3/twisted-intro.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

from kit import reactors, running
from kit.cases import SUBJECT

MODEL = reactors.MODEL
RUST = "Rust"
NAMES = ["ecstasy", "fascination", "science"]
SERVERS = ["twisted-server-1/fastpoetry.py", "twisted-server-3/fastpoetry.py", "plugin"]
PROXIES = [f"twisted-server-{number}/poetry-proxy.py" for number in (1, 2, 4)]


@unittest.skipUnless(os.environ.get("COUPLET_TWISTED_INTRO"), "COUPLET_TWISTED_INTRO names no checkout")
class Introduction(unittest.TestCase):
    """Fifteen programs."""

    maxDiff = None

    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = pathlib.Path(held.name) / "intro"
        ignored = shutil.ignore_patterns(".git", "images")
        shutil.copytree(os.environ["COUPLET_TWISTED_INTRO"], self.folder, ignore=ignored)
        # twistd requires this suffix.
        fixed = self.folder / "twisted-server-3/fastpoetry.py"
        fixed.with_suffix(".tac").symlink_to(fixed)
        self.poems = [self.file(name).read_text() for name in NAMES]

    def file(self, name):
        return self.folder / f"poetry/{name}.txt"

    def rust(self, *words):
        return running.couplet(self, *words, folder=self.folder)

    def program(self, side, file, *words, ports=(), sockets=0):
        file = str(self.folder / file)
        return running.program(self, side, dict(ports), file, *words, sockets=sockets, folder=self.folder)

    def server(self, side, in_rust, *in_python):
        """Starts a server, by its command in Rust or in Python. Returns its port."""
        if side == RUST:
            return self.rust(*in_rust, "--listen", "0").port(running.COUPLET_LISTENS)
        return self.program(side, *in_python, sockets=1).port("port=")

    def serve(self, side, name, file=SERVERS[0]):
        """Starts a server of a poem. Returns its port."""
        poem = str(self.file(name))
        if file == SERVERS[0]:
            return self.server(side, ["serve", poem, "--delay", "0.001", "--num-bytes", "40"], file, poem)
        if file == SERVERS[1]:
            # This file has a fixed port and a fixed poem.
            (port,) = running.unused(1)
            server = self.program(side, file.replace(".py", ".tac"), ports=[(10000, port)], sockets=1)
            self.addCleanup(server.stop)
            return str(port)
        # twistd finds plugins in its working directory.
        twistd = [sys.executable, "-c", "from twisted.scripts import twistd; twistd.run()"]
        twistd += [f"--reactor={side}", "--nodaemon", "--pidfile="]
        words = ["fastpoetry", "--port", "0", "--iface", "127.0.0.1", "--poem", poem]
        return running.Running(self, twistd + words, folder=self.folder).port("PoetryFactory starting on ")

    def proxy(self, side, upstream, file=PROXIES[0]):
        return self.server(side, ["proxy", "--upstream", upstream], file, upstream)

    def transform(self, side):
        return self.server(side, ["transform"], "twisted-server-1/transformedpoetry.py")

    def said(self, client):
        """The output of a client, which must succeed."""
        said, status = client.ended()
        self.assertEqual(status, 0, said)
        return said

    def client(self, side, number, *ports):
        return self.said(self.program(side, f"twisted-client-{number}/get-poetry.py", *ports))

    def check(self, number, said):
        """Checks that a client has reported all poems."""
        if number < 3:
            for task, poem in enumerate(self.poems, 1):
                sizes = re.findall(rf"Task {task}: got (\d+) bytes", said)
                self.assertEqual(sum(map(int, sizes)), len(poem.encode()), said)
                self.assertIn(f"Task {task}: {len(poem)} characters of poetry", said)
        elif number == 5:
            # At random, a poem is transformed, stays unchanged or fails. In addition, one server is dead.
            lost = said.count("The poem download failed.") - 1
            forms = [form for poem in self.poems for form in (poem.lower(), str(poem.encode()))]
            self.assertEqual(lost + sum(map(said.count, forms)), len(self.poems), said)
        else:
            for poem in self.poems:
                self.assertEqual(said.count(poem.lower() if number > 5 else poem), 1, said)

    def test_clients(self):
        for server in (RUST, MODEL, SUBJECT):
            ports = [self.serve(server, name) for name in NAMES]
            transform, dead = self.transform(server), [str(port) for port in running.unused(1)]
            for number in range(1, 9):
                transforms = [transform] if number > 5 else []
                # These two clients don't exit if a connection is refused.
                asked = ports if number in (1, 3) else ports + dead
                for client in (MODEL, SUBJECT):
                    with self.subTest(server=server, client=client, number=number):
                        said = self.client(client, number, *transforms, *asked)
                        self.check(number, said)
                        self.assertEqual("ailed" in said, asked != ports, said)

    def test_servers(self):
        for server in (MODEL, SUBJECT):
            for file in SERVERS:
                with self.subTest(server=server, file=file):
                    port = self.serve(server, "ecstasy", file)
                    for said in (self.said(self.rust("get", port)), self.client(SUBJECT, 4, port)):
                        self.assertIn(self.poems[0], said)

    def test_proxies(self):
        for server, proxy in ((RUST, MODEL), (RUST, SUBJECT), (SUBJECT, SUBJECT), (MODEL, SUBJECT), (SUBJECT, RUST)):
            for file in PROXIES if proxy != RUST else PROXIES[:1]:
                with self.subTest(server=server, proxy=proxy, file=file):
                    port = self.proxy(proxy, self.serve(server, "science"), file)
                    # The second poem comes from the proxy's cache.
                    for _ in range(2):
                        for said in (self.said(self.rust("get", port)), self.client(SUBJECT, 3, port)):
                            self.assertIn(self.poems[2], said)

    def test_transformations(self):
        upstream = self.serve(RUST, "fascination")
        for server in (RUST, MODEL, SUBJECT):
            with self.subTest(server=server):
                said = self.said(self.rust("get", upstream, "--transform", self.transform(server)))
                self.assertIn(self.poems[1].lower(), said)

"""Poetry servers and clients in Twisted, together with the program `couplet`: poems arrive unchanged in all
combinations of servers and clients, as under the model."""

import pathlib
import random
import sys
import tempfile
import unittest

from kit import reactors, running
from kit.cases import SUBJECT

PROGRAM = pathlib.Path(__file__).with_name("poetry.py")
REACTORS = list(dict.fromkeys((reactors.MODEL, SUBJECT)))
RUST = "Rust"
SIDES = [(server, client) for server in (RUST, *REACTORS) for client in (RUST, *REACTORS)]


class Poetry(unittest.TestCase):
    """Poems over the loopback interface."""

    maxDiff = None

    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = pathlib.Path(held.name)
        words = random.Random(1)
        self.files, self.poems = [], []
        for number in range(3):
            lines = ["".join(words.choices("abc deF gh\u00e9", k=30)).strip() for _ in range(5 + number)]
            self.poems.append(("\n".join(lines) + "\n").encode())
            self.files.append(self.folder / f"poem{number}.txt")
            self.files[-1].write_bytes(self.poems[-1])

    def server(self, side, role, *words):
        """Starts a server. Returns its port."""
        if side == RUST:
            return running.poetry(self, role, *words).port(running.COUPLET_LISTENS)
        return running.Running(self, [sys.executable, PROGRAM, side, role, *words]).port("port ")

    def serve(self, side, file):
        more = ["--delay", "0.001", "--num-bytes", "10", "--listen", "0"] if side == RUST else []
        return self.server(side, "serve", str(file), *more)

    def got(self, side, *words):
        """The output of a client, which must succeed."""
        more = {"output": "poems", "folder": self.folder}
        if side == RUST:
            client = running.poetry(self, *words, **more)
        else:
            client = running.Running(self, [sys.executable, PROGRAM, side, *words], **more)
        said, status = client.ended()
        self.assertEqual(status, 0, said)
        return (self.folder / "poems").read_bytes()

    def test_a_poem(self):
        for server, client in SIDES:
            with self.subTest(server=server, client=client):
                self.assertEqual(self.got(client, "get", self.serve(server, self.files[0])), self.poems[0])

    def test_three_poems_at_once(self):
        # Couplet's client prints poems as they arrive.
        for server, client in SIDES:
            with self.subTest(server=server, client=client):
                ports = [self.serve(server, file) for file in self.files]
                got = self.got(client, "get", *ports)
                self.assertEqual(len(got), sum(map(len, self.poems)))
                self.assertTrue(all(poem in got for poem in self.poems), got)

    def test_a_poem_through_a_proxy(self):
        for server, proxy, client in [(RUST, each, RUST) for each in REACTORS] + [
            (SUBJECT, RUST, SUBJECT),
            (RUST, SUBJECT, SUBJECT),
            (SUBJECT, SUBJECT, SUBJECT),
            (reactors.MODEL, SUBJECT, reactors.MODEL),
        ]:
            with self.subTest(server=server, proxy=proxy, client=client):
                upstream = self.serve(server, self.files[1])
                more = ["--listen", "0", "--upstream"] if proxy == RUST else []
                port = self.server(proxy, "proxy", *more, upstream)
                for _ in range(3):
                    self.assertEqual(self.got(client, "get", port), self.poems[1])

    def test_a_poem_is_transformed(self):
        expected = self.poems[2].decode().lower().encode()
        upstream = self.serve(RUST, self.files[2])
        for server, client in SIDES:
            with self.subTest(server=server, client=client):
                port = self.server(server, "transform", *(["--listen", "0"] if server == RUST else []))
                if client == RUST:
                    words = ["get", upstream, "--transform", port]
                else:
                    words = ["ask", port, "cummingsify", str(self.files[2])]
                self.assertEqual(self.got(client, *words), expected)

"""The reactor is installed by its function, and by its name in Twisted's programs."""

import signal
import subprocess
import unittest
import urllib.request

from kit import reactors
from kit.cases import SUBJECT
from kit.running import Running, ended

MODULE = reactors.REACTORS[SUBJECT][0]


class Install(unittest.TestCase):
    """`install()`."""

    def test_install_needs_no_pyopenssl(self):
        said = ended(
            "-c",
            "import sys; sys.modules['OpenSSL'] = None\n"
            f"import {MODULE} as module; module.install()\n"
            "from twisted.internet import protocol, reactor\n"
            "reactor.listenTCP(0, protocol.Factory(), interface='127.0.0.1')\n"
            "reactor.callLater(0, reactor.stop); reactor.run(); print('ran')",
        )
        self.assertEqual(said, (0, "ran\n"))


class Programs(unittest.TestCase):
    """`twist` and `twistd` with `--reactor`."""

    def test_the_reactor_is_listed(self):
        # `twist` lists reactors only in its help.
        for program, entry in (
            (["twist", "--help"], f'"{SUBJECT}"'),
            (["twistd", "--help-reactors"], rf"(?m)^\s*{SUBJECT}\s"),
        ):
            listed = subprocess.run(program, capture_output=True, text=True, timeout=300)
            self.assertRegex(listed.stdout + listed.stderr, entry, program)

    def serve(self, command, number):
        """Starts a web server, waits for an answer, and ends it by a signal. Returns its output and status."""
        server = Running(self, [*command, "web", "--listen=tcp:0:interface=127.0.0.1", "--path=."])
        # The answer proves that the reactor runs and handles signals. Some programs would die of earlier ones.
        urllib.request.urlopen(f"http://127.0.0.1:{server.port('Site starting on ')}/", timeout=300).close()
        return server.stop(number)

    def test_programs_run_on_the_reactor_and_end_as_on_the_model(self):
        for program, *options in (["twist"], ["twistd", "-n", "--pidfile="]):
            for number in (signal.SIGTERM, signal.SIGINT):
                statuses = {}
                for name in {SUBJECT, reactors.MODEL}:
                    said, statuses[name] = self.serve([program, *options, f"--reactor={name}"], number)
                    if program == "twistd":
                        self.assertIn(f"reactor class: {reactors.REACTORS[name][1]}", said)
                self.assertEqual(statuses[SUBJECT], statuses[reactors.MODEL], (program, number))

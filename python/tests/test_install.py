"""The reactor is installed by its function, and by its name in Twisted's programs."""

import os
import re
import signal
import subprocess
import unittest
import urllib.request

from kit import reactors
from kit.cases import SUBJECT
from kit.running import ended

MODULE, PATH = reactors.REACTORS[SUBJECT]


def python(program):
    """A program's output."""
    return ended("-c", program)[1]


class Install(unittest.TestCase):
    """`install()`."""

    def test_install_makes_it_the_reactor(self):
        said = python(
            f"import {MODULE} as module; module.install()\n"
            "from twisted.internet import reactor\n"
            "print(type(reactor).__module__ + '.' + type(reactor).__qualname__)"
        )
        self.assertEqual(said, PATH + "\n")

    def test_it_needs_no_pyopenssl(self):
        said = python(
            "import sys; sys.modules['OpenSSL'] = None\n"
            f"import {MODULE} as module; module.install()\n"
            "from twisted.internet import protocol, reactor\n"
            "reactor.listenTCP(0, protocol.Factory(), interface='127.0.0.1')\n"
            "reactor.callLater(0, reactor.stop); reactor.run(); print('ran')"
        )
        self.assertEqual(said, "ran\n")


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
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(server.stdout.close)
        said, is_served = "", False
        for line in server.stdout:
            said += line
            port = re.search(r"Site starting on (\d+)", line)
            if port and not is_served:
                # The answer proves that the reactor runs and handles signals. Some programs would die of earlier ones.
                urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/", timeout=300).close()
                is_served = True
                os.kill(server.pid, number)
        return said, server.wait(300)

    def test_twist_runs_on_it_and_ends_as_the_model(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            statuses = {}
            for name in {SUBJECT, reactors.MODEL}:
                command = ["twist", f"--reactor={name}", "web", "--listen=tcp:0:interface=127.0.0.1", "--path=."]
                said, statuses[name] = self.serve(command, number)
                self.assertIn("Site starting on", said)
            self.assertEqual(statuses[SUBJECT], statuses[reactors.MODEL], statuses)

    def test_twistd_runs_on_it_and_ends_as_the_model(self):
        statuses = {}
        for name in {SUBJECT, reactors.MODEL}:
            pidfile = f"{name}-{os.getpid()}.pid"
            command = ["twistd", "-n", f"--pidfile={pidfile}", f"--reactor={name}", "web"]
            command += ["--listen=tcp:0:interface=127.0.0.1", "--path=."]
            said, statuses[name] = self.serve(command, signal.SIGTERM)
            if name == SUBJECT:
                self.assertIn(f"reactor class: {PATH}", said)
        self.assertEqual(statuses[SUBJECT], statuses[reactors.MODEL], statuses)

"""Evennia: its launcher starts, reloads and stops a portal and a server."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import unittest

from kit.cases import SUBJECT
from kit.running import unused

PROGRAM = pathlib.Path(sys.executable).parent / "evennia"
PATIENCE = 300
USER = {"USERNAME": "admin", "PASSWORD": "longpassword1", "EMAIL": "admin@example.com"}
SETTINGS = """
TELNET_PORTS = [{}]
WEBSERVER_PORTS = [({}, {})]
WEBSOCKET_CLIENT_PORT = {}
AMP_PORT = {}
TELNET_INTERFACES = WEBSERVER_INTERFACES = ["127.0.0.1"]
WEBSOCKET_CLIENT_INTERFACE = "127.0.0.1"
"""


class Evennia(unittest.TestCase):
    """A game."""

    def launch(self, *arguments, folder=None):
        """Runs the launcher, which must succeed."""
        variables = {**os.environ, "TWISTED_REACTOR": "couplet" if SUBJECT == "couplet" else ""}
        # The launcher finds `twistd` by this variable.
        variables["PATH"] = f"{PROGRAM.parent}:{variables['PATH']}"
        variables.update({f"EVENNIA_SUPERUSER_{name}": value for name, value in USER.items()})
        run = subprocess.run(
            [PROGRAM, *arguments],
            cwd=folder or self.game,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run.stdout

    def setUp(self):
        top = tempfile.TemporaryDirectory()
        self.addCleanup(top.cleanup)
        self.game = pathlib.Path(top.name, "game")
        self.launch("--init", "game", folder=top.name)
        ports = unused(5)
        with (self.game / "server/conf/settings.py").open("a") as to:
            to.write(SETTINGS.format(*ports))
        self.telnet = ports[0]
        self.launch("migrate")

    def until(self, player, wanted, saying=b""):
        """Reads a player's output until it contains `wanted`, and sends `saying` every second."""
        got, end, next_word = b"", time.monotonic() + PATIENCE, 0
        while wanted not in got:
            self.assertLess(time.monotonic(), end, got)
            if time.monotonic() > next_word:
                player.sendall(saying)
                next_word = time.monotonic() + 1
            try:
                more = player.recv(65536)
            except TimeoutError:
                continue
            self.assertTrue(more, got)
            got += more

    def test_a_player_stays_connected_from_start_over_reload_to_stop(self):
        self.addCleanup(self.launch, "stop")
        # The launcher waits ten seconds for the portal. On a busy machine that is too short, so try again.
        while "Server started" not in self.launch("start"):
            pass
        login = f"connect {USER['USERNAME']} {USER['PASSWORD']}\r\n".encode()
        with socket.create_connection(("127.0.0.1", self.telnet), 1) as player:
            # The first start creates the game and restarts the server: earlier input is lost.
            self.until(player, b"Limbo", login)
            while "Server: RUNNING" not in self.launch("status"):
                pass
            self.assertIn("Server reloaded", self.launch("reload"))
            self.until(player, b"Server restarted")
            # After the restart, a player who logged in before it is out of character.
            self.until(player, b"unique account", b"who\r\n")
            self.assertIn("Server stopped", self.launch("stop"))
        logs = [path.read_text() for path in (self.game / "server/logs").glob("*.log")]
        # While a portal without a server stops, it reports its players' ends to every peer, even to the launcher.
        known = "amp.UnhandledCommand: (b'UNHANDLED', \"Unhandled Command: b'AdminPortal2Server'\")"
        self.assertFalse([log for log in logs if log.count("Traceback") > log.count(known)])
        reactors = sum(log.count("couplet_twisted.reactor.CoupletReactor") for log in logs)
        if SUBJECT == "couplet":
            self.assertGreaterEqual(reactors, 3)

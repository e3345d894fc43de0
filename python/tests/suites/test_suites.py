"""The ways in which third-party programs start and run the reactor: launchers, notebooks, shells, metrics."""

import http.client
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from kit import reactors
from kit.cases import SUBJECT, Cases
from kit.running import unused

COUPLETS = "couplet_twisted.reactor"
ENVIRONMENT = {**os.environ, "TWISTED_REACTOR": "couplet" if SUBJECT == "couplet" else ""}


def ended(command, folder=None, **variables):
    """A program's status and output."""
    environment = {**ENVIRONMENT, **variables}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=folder, stdin=subprocess.DEVNULL
    )
    return run.returncode, run.stdout + run.stderr


class Synapse(unittest.TestCase):
    """Synapse's metrics of the reactor's turns, and its messages."""

    def test_synapses_metrics_see_the_turns(self):
        status, said = ended([sys.executable, "-c", """
import time
from twisted.internet import reactor, task
print(type(reactor).__module__)
from synapse.metrics import _reactor_metrics as metrics
def counts():
    samples = list(metrics.tick_time.collect())[0].samples
    return {sample.labels.get("le", sample.name): sample.value for sample in samples}
reactor.callLater(0.1, time.sleep, 0.3)
for number in range(100):
    reactor.callLater(number / 1000, int)
reactor.callLater(0.6, reactor.stop)
reactor.run()
after = counts()
print("turns", after["+Inf"] >= 10)
print("long ones", after["+Inf"] - after["0.2"])
print("no waits", after["python_twisted_reactor_tick_time_sum"] < 0.5)
"""])
        self.assertEqual(status, 0, said)
        self.assertIn("turns True\nlong ones 1.0\nno waits True\n", said)
        if SUBJECT == "couplet":
            self.assertIn(COUPLETS, said)

    def test_two_thousand_messages_arrive_in_order(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        port, = unused(1)
        config = pathlib.Path(folder.name, "homeserver.yaml")
        unlimited = {"per_second": 1e6, "burst_count": 1e6}
        listener = {"port": port, "type": "http", "bind_addresses": ["127.0.0.1"], "resources": [{"names": ["client"]}]}
        settings = {
            "server_name": "localhost",
            "listeners": [listener],
            "database": {"name": "sqlite3", "args": {"database": f"{folder.name}/database"}},
            "media_store_path": f"{folder.name}/media",
            "signing_key_path": f"{folder.name}/key",
            "pid_file": f"{folder.name}/pid",
            "macaroon_secret_key": "secret",
            "form_secret": "secret",
            "report_stats": False,
            "trusted_key_servers": [],
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "rc_message": unlimited,
            "rc_registration": unlimited,
        }
        # JSON is also YAML.
        config.write_text(json.dumps(settings))
        program = [sys.executable, "-m", "synapse.app.homeserver", "-c", str(config)]
        status, said = ended([*program, "--generate-keys"], folder.name)
        self.assertEqual(status, 0, said)
        log = pathlib.Path(folder.name, "log")
        with log.open("w") as to:
            server = subprocess.Popen(program, cwd=folder.name, env=ENVIRONMENT, stdout=to, stderr=to)
        try:
            got = messages(port, 2000)
            loaded = pathlib.Path(f"/proc/{server.pid}/maps").read_text()
            server.terminate()
            self.assertEqual(server.wait(300), 0, log.read_text()[-2000:])
        finally:
            server.kill()
            server.wait()
        self.assertEqual(got, [f"message {number}" for number in range(2000)])
        self.assertEqual("_couplet.abi3.so" in loaded, SUBJECT == "couplet")


def messages(port, number):
    """Sends `number` messages to a homeserver over one connection. Returns the contents of the room."""
    until = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    client, headers = http.client.HTTPConnection("127.0.0.1", port, timeout=300), {}

    def ask(method, path, body=None):
        client.request(method, f"/_matrix/client/v3/{path}", body and json.dumps(body), headers)
        answer = client.getresponse()
        said = json.load(answer)
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {said}")
        return said

    user = {"username": "a", "password": "b", "auth": {"type": "m.login.dummy"}}
    headers["Authorization"] = "Bearer " + ask("POST", "register", user)["access_token"]
    room = "rooms/" + ask("POST", "createRoom", {"name": "a room"})["room_id"]
    for each in range(number):
        ask("PUT", f"{room}/send/m.room.message/{each}", {"msgtype": "m.text", "body": f"message {each}"})
    got, since = [], ""
    while len(got) < number:
        page = ask("GET", f"{room}/messages?dir=b&limit=500{since}")
        got += [event["content"]["body"] for event in page["chunk"] if event["type"] == "m.room.message"]
        if "end" not in page:
            break
        since = "&from=" + page["end"]
    return got[::-1]


class Threads(unittest.TestCase):
    """The reactor runs in another thread than the one that imported it."""

    def test_crochet(self):
        status, said = ended([sys.executable, "-c", """
import crochet
crochet.setup()
from twisted.internet import defer, protocol, reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
print(type(reactor).__module__)
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
class Client(protocol.Protocol):
    def __init__(self):
        self.got = defer.Deferred()
    def connectionMade(self):
        self.transport.write(b"hello")
    def dataReceived(self, data):
        self.got.callback(data)
        self.transport.loseConnection()
@crochet.wait_for(timeout=300)
@defer.inlineCallbacks
def exchange():
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    client = Client()
    yield connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), client)
    got = yield client.got
    yield port.stopListening()
    return got
for _ in range(3):
    print(exchange())
"""])
        self.assertEqual(status, 0, said)
        self.assertEqual(said.count("b'hello'"), 3, said)

    def test_scrapy_shell(self):
        class Site(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html><title>a page</title></html>")

            def log_message(self, *_):
                pass

        site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
        self.addCleanup(site.server_close)
        self.addCleanup(site.shutdown)
        threading.Thread(target=site.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{site.server_port}/"
        reactor = "couplet_twisted.reactor.CoupletReactor"
        command = [sys.executable, "-m", "scrapy", "shell", url, "-c", "response.css('title::text').get()"]
        if SUBJECT == "couplet":
            command += ["-s", f"TWISTED_REACTOR={reactor}"]
        with tempfile.TemporaryDirectory() as folder:
            status, said = ended(command, folder)
        self.assertEqual(status, 0, said[-2000:])
        self.assertIn("a page", said)
        self.assertLess(len(said), 100_000)
        self.assertNotIn("Traceback", said)
        if SUBJECT == "couplet":
            self.assertIn(reactor, said)


class Django(Cases):
    """Django's ORM in Twisted callbacks."""

    async def test_queries_in_callbacks(case):
        from django.conf import settings

        settings.configure(
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True
        )
        import django
        from django.db import connection

        django.setup()

        def query(where):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 6 * 7")
                case.say(where, cursor.fetchone())

        case.reactor.callLater(0, query, "timed call")
        case.reactor.callFromThread(query, "call from a thread")
        await case.sleep(0.05)
        query("program")


class Testtools(unittest.TestCase):
    """The runner of testtools crashes the reactor after each test, even before a run reaches its main loop."""

    def test_its_spinner(self):
        name = SUBJECT if SUBJECT in reactors.REACTORS else reactors.MODEL
        status, said = ended([sys.executable, "-c", f"""
from kit import reactors
reactor = reactors.install({name!r})
import unittest
from testtools import TestCase
from testtools.twistedsupport import AsynchronousDeferredRunTest
from twisted.internet import task
class Tests(TestCase):
    run_tests_with = AsynchronousDeferredRunTest.make_factory(timeout=300)
    def test_at_once(self): pass
    def test_again(self): pass
    def test_later(self): return task.deferLater(reactor, 0.01, lambda: None)
    def test_much_later(self): return task.deferLater(reactor, 0.05, lambda: None)
unittest.main(argv=["it"])
"""])
        self.assertEqual(status, 0, said)
        self.assertIn("Ran 4 tests", said)

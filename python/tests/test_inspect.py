"""`couplet_twisted.inspect`: connections, ports, timed calls and Deferreds of a program, and its stack when it hangs."""

import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request

from kit.cases import SUBJECT

# The beginning of each program. `say` passes a value to the test; `wait` blocks until the test writes a byte, and
# keeps the interpreter's lock.
BEGIN = """\
import ctypes, json, os, sys
import couplet_twisted
couplet_twisted.install()

def say(**values):
    print(json.dumps(values), flush=True)

def wait():
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)

"""

# Runs until the test closes its input.
RUN = """
from twisted.internet import reactor, stdio, protocol
class Ends(protocol.Protocol):
    def connectionLost(self, reason):
        reactor.stop()
reactor.callWhenRunning(stdio.StandardIO, Ends())
reactor.run()
"""

# A server whose protocol hangs when it gets a byte.
HANGS = """
url = couplet_twisted.inspect(0, name="hangs")
from twisted.internet import endpoints, protocol, reactor
class Greedy(protocol.Protocol):
    def dataReceived(self, data):
        self.think()
    def think(self):
        wait()
        self.transport.write(b"done")
class Makes(protocol.Factory):
    protocol = Greedy
listening = endpoints.serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Makes())
listening.addCallback(lambda port: say(url=url, port=port.getHost().port))
reactor.run()
"""

DEFERREDS = """
from twisted.internet import defer
plain = defer.Deferred()
def handle(result):
    return plain
async def inner():
    await plain
async def outer():
    await inner()
@defer.inlineCallbacks
def generator():
    yield plain
kept = [defer.ensureDeferred(outer()), generator(), defer.DeferredList([plain, defer.succeed(1)])]
chained = defer.succeed(None)
chained.addCallback(handle)
fired = defer.Deferred()
fired.callback(1)
gone = defer.Deferred()
del gone
"""


def line_of(text, program):
    """The number of the line of a program that contains a text."""
    numbers = [number for number, line in enumerate(program.splitlines(), 1) if text in line]
    assert len(numbers) == 1, (text, numbers)
    return numbers[0]


def inspected(text, said="", options="0"):
    """A program under inspection, which passes `said` and its URL to the test, and runs until its input ends."""
    return f"{BEGIN}url = couplet_twisted.inspect({options})\n{text}say(url=url, {said})\n{RUN}"


class Program:
    """A program under inspection, in a separate process."""

    def __init__(self, case, text, command=(), name="program.py"):
        folder = tempfile.TemporaryDirectory()
        case.addCleanup(folder.cleanup)
        self.text, self.path = text, pathlib.Path(folder.name, name)
        self.path.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, *command, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder.name,
        )
        case.addCleanup(self.end)
        self.said = json.loads(self.process.stdout.readline() or '{"url": ""}')
        self.url = urllib.parse.urlsplit(self.said["url"])

    def end(self):
        """Ends the program."""
        self.process.kill()
        self.process.communicate()

    def go_on(self):
        """Ends a `wait`."""
        self.process.stdin.write("x")
        self.process.stdin.flush()

    def close(self):
        """Ends the program's input; returns the rest of its output."""
        return self.process.communicate()[0]

    def place(self, text, function):
        """The place of a line of the program."""
        return f"{self.path}:{line_of(text, self.text)} in {function}"

    def get(self, view):
        """The rows of a view."""
        with urllib.request.urlopen(self.url._replace(path=f"/{view}.json").geturl(), timeout=300) as answer:
            return json.load(answer)

    def row(self, view, **fields):
        """The only row of a view with these fields."""
        rows = self.get(view)
        found = [row for row in rows if all(row[key] == value for key, value in fields.items())]
        assert len(found) == 1, rows
        return found[0]

    def connection(self, protocol):
        """The row of the connection with this protocol, once the program has it."""

        def found(state):
            rows = state["views"]["connections"]
            return next((row for row in rows if row["protocol"] == protocol), None)

        return self.until(found)

    def until(self, check):
        """The first true result of `check` for the state."""
        while True:
            found = check(self.get("state"))
            if found:
                return found


def hung(state):
    """The call that holds a loop, if one does."""
    return state["loops"][0]["state"] == "hung" and state["loops"][0]["doing"]


def traced(state):
    """The call of a loop that hangs, once its backtrace has the frames of Rust and C too."""
    doing = hung(state)
    return doing if doing and len(doing["backtrace"]) > 6 else None


def setUpModule():
    if SUBJECT != "couplet":
        raise unittest.SkipTest("the inspector of couplet_twisted")


class Rows(unittest.TestCase):
    """The rows of a program that answers."""

    def test_a_plain_protocol_and_its_factory(self):
        program = Program(self, BEGIN + HANGS)
        with socket.create_connection(("127.0.0.1", program.said["port"])) as client:
            row = program.connection("Greedy")
            self.assertEqual(row["peer"], "tcp:127.0.0.1:%d" % client.getsockname()[1])
            self.assertEqual(row["state"], "open")
            self.assertIn("waits for the peer", row["why"])
        self.assertEqual(program.row("ports")["factory"], "Makes")
        self.assertEqual(program.get("state")["program"]["name"], "hangs")

    def test_twisted_web(self):
        server = (
            "from twisted.internet import reactor\n"
            "from twisted.web import resource, server\n"
            "class Slow(resource.Resource):\n"
            "    isLeaf = True\n"
            "    def render_GET(self, request):\n"
            "        self.left = request.notifyFinish()\n"
            "        return server.NOT_DONE_YET\n"
            "port = reactor.listenTCP(0, server.Site(Slow()), interface='127.0.0.1')\n"
        )
        program = Program(self, inspected(server, "port=port.getHost().port"))
        with socket.create_connection(("127.0.0.1", program.said["port"])) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")
            is_made = program.place("request.notifyFinish()", "render_GET")
            program.until(lambda state: any(row["place"] == is_made for row in state["views"].get("deferreds", [])))
            program.connection("twisted.web.http.HTTPChannel")
        self.assertEqual(program.row("ports")["factory"], "twisted.web.server.Site")

    def test_a_connection_over_tls_has_the_protocol_inside(self):
        client = (
            "from twisted.internet import protocol, reactor, ssl\n"
            "class Inside(protocol.Protocol): pass\n"
            "ours, theirs = __import__('socket').socketpair()\n"
            "factory = protocol.ClientFactory.forProtocol(Inside)\n"
            "factory.noisy = False\n"
            "from twisted.protocols import tls\n"
            "wrapped = tls.TLSMemoryBIOFactory(ssl.optionsForClientTLS('it'), True, factory)\n"
            "port = reactor.listenTCP(0, protocol.Factory.forProtocol(protocol.Protocol), interface='127.0.0.1')\n"
            "reactor.connectTCP('127.0.0.1', port.getHost().port, wrapped)\n"
        )
        program = Program(self, inspected(client))

        def both(state):
            names = sorted(row["protocol"] for row in state["views"]["connections"])
            # The program has a protocol on its standard input and output.
            return names == ["Ends", "Ends", "Inside", "twisted.internet.protocol.Protocol"]

        program.until(both)

    def test_the_pipes_of_a_child_have_its_protocol(self):
        child = (
            "from twisted.internet import protocol, reactor\n"
            "class Child(protocol.ProcessProtocol): pass\n"
            "child = reactor.spawnProcess(Child(), '/bin/cat', ['cat'])\n"
        )
        program = Program(self, inspected(child, "pid=child.pid"))

        def pipes(state):
            rows = [row for row in state["views"]["connections"] if row["protocol"] == "Child"]
            return sorted(row["peer"] for row in rows) if len(rows) == 3 else None

        names = [f"process:{program.said['pid']} (descriptor {number})" for number in range(3)]
        self.assertEqual(program.until(pipes), names)

    def test_timed_calls_have_the_places_of_the_program(self):
        calls = (
            "from twisted.internet import reactor, task\n"
            "def later(): pass\n"
            "class Owner:\n"
            "    def tick(self): pass\n"
            "def begin():\n"
            "    reactor.callLater(1000, later)\n"
            "    reactor.callLater(2000, Owner().tick)\n"
            "    task.deferLater(reactor, 3000, later)\n"
            "    task.LoopingCall(later).start(4000, now=False)\n"
            "begin()\n"
        )
        program = Program(self, inspected(calls))
        row = program.row("calls", name="later")
        self.assertEqual(row["place"], program.place("callLater(1000", "begin"))
        self.assertEqual(row["kind"], "timed call")
        self.assertRegex(row["why"], "^due in 1[67] min")
        self.assertAlmostEqual(row["due"] - row["since"], 1000, delta=1)
        row = program.row("calls", name="Owner.tick")
        self.assertEqual(row["place"], program.place("callLater(2000", "begin"))
        row = program.row("calls", place=program.place("deferLater", "begin"))
        self.assertIn("callback", row["name"])
        row = program.row("calls", name="LoopingCall of later")
        self.assertEqual(row["place"], program.place("LoopingCall(later)", "begin"))
        self.assertEqual([row["place"] for row in program.get("calls") if "timers.rs" in row["place"]], [])

    def test_deferreds(self):
        program = Program(self, inspected(DEFERREDS))
        plain = program.row("deferreds", place=program.place("plain = defer.Deferred()", "<module>"))
        self.assertEqual((plain["state"], plain["callbacks"]), ("pending", 4))
        self.assertIn(program.place("await plain", "inner") + ", for outer", plain["awaited_by"])
        self.assertIn(program.place("yield plain", "generator"), plain["awaited_by"])
        self.assertIn("1 more", plain["awaited_by"])
        self.assertIn("has not been fired for ", plain["why"])
        number = plain["deferred"]
        kept = program.path, line_of("kept = [", program.text)
        why = [row["why"] for row in program.get("deferreds") if row["place"] == "%s:%d in <module>" % kept]
        waits = f"waits for Deferred {number} at "
        self.assertEqual(
            sorted(why),
            [
                "waits for 1 of 2 Deferreds",
                waits + program.place("await plain", "inner") + ", for outer",
                waits + program.place("yield plain", "generator"),
            ],
        )
        chained = program.row("deferreds", state="chained")
        self.assertEqual(chained["place"], program.place("chained = defer.succeed", "<module>"))
        self.assertEqual(chained["why"], f"waits for Deferred {number}, which a callback returned")
        places = [row["place"] for row in program.get("deferreds")]
        for text in ("fired = ", "gone = "):
            self.assertNotIn(program.place(text, "<module>"), places)

    def test_callbacks_of_all_kinds(self):
        text = (
            "import functools\n"
            "from twisted.internet import defer\n"
            "class Handles:\n"
            "    def __getattr__(self, name):\n"
            "        say(asked=name)\n"
            "        raise AttributeError(name)\n"
            "    def __call__(self, result): pass\n"
            "def failed(reason): pass\n"
            "kept = defer.Deferred().addCallback(functools.partial(print, 1)).addCallback(Handles())\n"
            "kept.addErrback(failed)\n"
            "bound = defer.Deferred().addCallback([].append).addCallback(Handles().__call__)\n"
        )
        program = Program(self, inspected(text))
        row = program.row("deferreds", callbacks=3)
        failed = f"failed ({program.path}:{line_of('def failed', program.text)})"
        self.assertEqual(row["awaited_by"], f"print; Handles; {failed}")
        row = program.row("deferreds", callbacks=2)
        self.assertRegex(row["awaited_by"], r"^list\.append; Handles\.__call__ \(.*program\.py:\d+\)$")
        self.assertEqual(program.close(), "", "nothing of the program was called")

    def test_rows_are_limited(self):
        many = (
            "from twisted.internet import defer, reactor\n"
            "kept = [defer.Deferred() for _ in range(10)]\n"
            "calls = [reactor.callLater(1000 + n, print) for n in range(10)]\n"
        )
        program = Program(self, inspected(many, options="0, rows=3"))
        self.assertEqual(len(program.get("deferreds")), 3)
        calls = program.get("calls")
        self.assertEqual(len(calls), 3)
        # Those that are due next.
        self.assertAlmostEqual(max(row["due"] for row in calls) - min(row["due"] for row in calls), 2, delta=1)

    def test_deferreds_are_left_alone_if_requested(self):
        text = "from twisted.internet import defer\nkept = defer.Deferred()\n"
        said = "wrapped=hasattr(defer.Deferred.__init__, '__wrapped__')"
        program = Program(self, inspected(text, said, "0, deferreds=False"))
        self.assertFalse(program.said["wrapped"])
        self.assertEqual(program.get("state")["views"].get("deferreds", []), [])


class Hangs(unittest.TestCase):
    """The inspector answers while the program hangs."""

    def test_a_protocol_that_holds_the_lock_of_the_interpreter(self):
        program = Program(self, BEGIN + HANGS)
        with socket.create_connection(("127.0.0.1", program.said["port"])) as client:
            # So that its row is known.
            row = program.connection("Greedy")
            client.sendall(b"x")
            # All these answers arrive before the program continues.
            doing = program.until(traced)
            self.assertIn("a callback of Greedy (connection ", doing["what"])
            self.assertEqual(doing["row"], row["id"])
            wanted = [
                f"  py: wait ({program.path}:{line_of('PyDLL', program.text)})",
                f"  py: think ({program.path}:{line_of('        wait()', program.text)})",
                f"  py: dataReceived ({program.path}:{line_of('self.think()', program.text)})",
            ]
            self.assertEqual(doing["backtrace"][:3], wanted)
            self.assertEqual(program.row("ports")["factory"], "Makes")
            program.go_on()
            self.assertEqual(client.recv(10), b"done")
        program.until(lambda state: not hung(state))

    def test_a_timed_call_in_a_loop(self):
        text = (
            "from twisted.internet import reactor\n"
            "def spin():\n"
            "    while not os.path.exists('stop'):\n"
            "        pass\n"
            "reactor.callLater(0, spin)\n"
        )
        program = Program(self, inspected(text))
        doing = program.until(hung)
        self.assertEqual(doing["what"], "timed call spin")
        self.assertTrue(any(" py: spin (" in line for line in doing["backtrace"]), doing)
        program.path.with_name("stop").touch()
        program.until(lambda state: not hung(state))


class Access(unittest.TestCase):
    """Endpoints and tokens."""

    def test_a_request_needs_the_token(self):
        program = Program(self, inspected(""))
        self.assertEqual(program.url.hostname, "127.0.0.1")
        self.assertEqual(len(program.url.query), len("token=") + 32)
        for query in ("", "token=x"):
            url = program.url._replace(path="/state.json", query=query).geturl()
            with self.assertRaises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url, timeout=300)
            self.assertEqual(caught.exception.code, 403)
        self.assertEqual(program.get("state")["program"]["pid"], program.process.pid)

    def test_a_unix_socket(self):
        program = Program(self, inspected("", options="'unix:' + os.path.abspath('it.sock')"))
        path = program.path.with_name("it.sock")
        self.assertEqual(program.said["url"], f"unix:{path}")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /state.json HTTP/1.0\r\n\r\n")
            answer = client.makefile("rb").read()
        self.assertTrue(answer.startswith(b"HTTP/1.0 200 "), answer[:100])
        self.assertEqual(program.close(), "")
        self.assertFalse(path.exists())

    def test_an_endpoint_for_other_machines_is_refused_unless_it_is_allowed(self):
        text = (
            "from twisted.internet import reactor\n"
            "try: couplet_twisted.inspect('tcp:0')\n"
            "except OSError as e: said = str(e)\n"
            "reactor.callLater(0, reactor.stop)\n"
            "reactor.run()\n"
            "say(url='', said=said)\n"
        )
        program = Program(self, BEGIN + text)
        self.assertIn("cannot open the inspector: tcp:0 accepts connections from other machines", program.said["said"])
        self.assertEqual(program.process.wait(), 0, "the reactor ran without it")
        program = Program(self, inspected("", options="'tcp:0', token='t', allow_any_interface=True"))
        program.url = program.url._replace(netloc=f"127.0.0.1:{program.url.port}")
        self.assertEqual(program.url.query, "token=t")
        self.assertEqual(len(program.get("loops")), 1)

    def test_an_inspection_begins_once_and_before_the_reactor_runs(self):
        text = (
            "errors = []\n"
            "def inspect(**more):\n"
            "    try: couplet_twisted.inspect(0, **more)\n"
            "    except (RuntimeError, ValueError) as e: errors.append(str(e))\n"
            "from twisted.internet import reactor\n"
            "inspect(rows=0)\n"
            "reactor.callLater(0, inspect)\n"
            "reactor.callLater(0, reactor.stop)\n"
            "reactor.run()\n"
            "say(url='', errors=errors)\n"
        )
        program = Program(self, BEGIN + text)
        self.assertEqual(
            program.said["errors"],
            [
                "inspect: rows is 0, but it must be positive",
                "inspect: the reactor has begun to run; call inspect() before",
            ],
        )
        text = (
            "import couplet_twisted, json\n"
            "try: couplet_twisted.inspect()\n"
            "except RuntimeError as e: print(json.dumps({'url': '', 'said': str(e)}))\n"
        )
        self.assertIn("call couplet_twisted.install() first", Program(self, text).said["said"])


# Prints the URL that the log has once the reactor runs. twistd redirects `sys.stdout` to the log.
LOGGED = """\
import json, sys
from twisted.logger import globalLogPublisher
def observe(event):
    if event.get("url"):
        print(json.dumps({"url": event["url"]}), file=sys.__stdout__, flush=True)
globalLogPublisher.addObserver(observe)
"""


class Starts(unittest.TestCase):
    """The other ways to start it."""

    def check(self, text, command=(), name="program.py"):
        program = Program(self, text, command, name)
        self.assertEqual(program.get("loops")[0]["state"], "running")
        self.assertEqual(program.get("state")["program"]["pid"], program.process.pid)

    def test_install(self):
        self.check(LOGGED + "import couplet_twisted; couplet_twisted.install(inspect=0)\n" + RUN)

    def test_the_module(self):
        self.check(LOGGED + RUN, ["-m", "couplet_twisted", "--inspect", "0"])
        text = "import couplet_twisted; couplet_twisted.install()\n"
        self.check(LOGGED + text + RUN, ["-m", "couplet_twisted", "--inspect", "0"])

    def test_twistd(self):
        text = LOGGED + "from twisted.application import service\napplication = service.Application('it')\n"
        run = "from twisted.scripts import twistd; twistd.run()"
        self.check(text, ["-c", run, "-n", "--pidfile=", "-l", "/dev/null", "--inspect", "0", "-oy"], "it.tac")

    def test_twistd_with_workers_is_refused(self):
        command = ["-c", "from twisted.scripts import twistd; twistd.run()", "--inspect=0", "--workers=2"]
        ended = subprocess.run([sys.executable, *command, "web"], capture_output=True, text=True, timeout=300)
        self.assertIn("--inspect and --workers exclude each other", ended.stderr)
        self.assertEqual(ended.returncode, 1)

    def test_without_inspection_nothing_is_installed(self):
        text = (
            "import threading\n"
            "from twisted.internet import defer, reactor\n"
            "call = reactor.callLater(1000, print)\n"
            "def check():\n"
            "    tasks = {open(f'/proc/self/task/{each}/comm').read() for each in os.listdir('/proc/self/task')}\n"
            "    wrapped = hasattr(defer.Deferred.__init__, '__wrapped__')\n"
            "    loaded = 'couplet_twisted.inspection' in sys.modules\n"
            "    say(url='', tasks=len(tasks), wrapped=wrapped, place=call._place is not None, loaded=loaded)\n"
            "    reactor.stop()\n"
            "reactor.callLater(0, check)\n"
            "reactor.run()\n"
        )
        nothing = {"url": "", "tasks": 1, "wrapped": False, "place": False, "loaded": False}
        self.assertEqual(Program(self, BEGIN + text).said, nothing)
        shown = {"url": "", "tasks": 3, "wrapped": True, "place": True, "loaded": True}
        self.assertEqual(Program(self, BEGIN + "couplet_twisted.inspect(0)\n" + text).said, shown)

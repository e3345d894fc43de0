"""Services in several processes: `couplet_twisted.workers` and `twistd --workers`."""

import http.client
import os
import pathlib
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest

from kit.cases import SUBJECT
from kit.running import PATIENCE, Running, unused
from kit.web2 import GET, PREFACE, frame, frames

# A site whose answers are the process, a slow one, and one that keeps memory.
SITE = """
import os
from twisted.internet import reactor, task
from twisted.python import log
from twisted.web import resource, server

class Slow(resource.Resource):
    def render_GET(self, request):
        request.write(b"begin")
        ended = request.notifyFinish()
        ended.addErrback(lambda _: None)
        later = task.deferLater(reactor, float(request.args[b"seconds"][0]), self.end, request)
        ended.addCallback(lambda _: later.cancel())
        later.addErrback(lambda _: None)
        return server.NOT_DONE_YET

    def end(self, request):
        request.write(b"end")
        request.finish()

class Eat(resource.Resource):
    eaten = []

    def render_GET(self, request):
        self.eaten.append(b"x" * (100 << 20))
        return b"eaten"

class Process(resource.Resource):
    def render_GET(self, request):
        return b"%d" % os.getpid()

class Logged(Process):
    def render_GET(self, request):
        log.msg("a request")
        return super().render_GET(request)

def site():
    root = resource.Resource()
    for name, kind in ((b"", Process), (b"logged", Logged), (b"slow", Slow), (b"eat", Eat)):
        root.putChild(name, kind())
    made = server.Site(root)
    # Tests that send many requests don't read the output meanwhile.
    made.log = lambda request: None
    return made
"""

# Has the site speak HTTP/2 without TLS.
HTTP2 = """
    from twisted.web import http

    class Clear(http._GenericHTTPChannelProtocol):
        def makeConnection(self, transport):
            transport.negotiatedProtocol = b"h2"
            super().makeConnection(transport)

    made.protocol = lambda: Clear(http.HTTPChannel())
"""

PROGRAM = """
import sys
from twisted.internet import endpoints
from twisted.python import log
from couplet_twisted import workers

log.startLogging(sys.stdout, setStdout=False)
endpoint, options = sys.argv[1], eval(sys.argv[2])

async def start(reactor, number):
    import site_of_test
    await endpoints.serverFromString(reactor, endpoint).listen(site_of_test.site())

workers.run(2, start, **options)
"""

TAC = """
import sys
from twisted.application import service, strports
sys.path.insert(0, {folder!r})
import site_of_test
application = service.Application("test")
strports.service({endpoint!r}, site_of_test.site()).setServiceParent(application)
"""

READY = re.compile(r"worker (\d+) \(process (\d+)\) is ready")


class Load:
    """Threads that send requests until they are stopped, on short connections or on kept ones."""

    def __init__(self, test, port, kept=(False, True)):
        self.port, self.counts, self.errors = port, [0] * len(kept), []
        self.isOver = threading.Event()
        self.threads = [
            threading.Thread(target=self.send, args=(number, is_kept)) for number, is_kept in enumerate(kept)
        ]
        for thread in self.threads:
            thread.start()
        test.addCleanup(self.end)

    def send(self, number, is_kept):
        client = None
        while not self.isOver.is_set():
            try:
                client = client or http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)
                client.request("GET", "/", headers={} if is_kept else {"Connection": "close"})
                answer = client.getresponse()
                assert answer.status == 200 and int(answer.read())
                if answer.will_close:
                    client.close()
                self.counts[number] += 1
            except Exception as error:
                self.errors.append(error)
                client.close()
                client = None
        client and client.close()

    def more(self):
        """Waits until each thread has sent 20 more requests."""
        goal = [count + 20 for count in self.counts]
        until(lambda: all(count >= least for count, least in zip(self.counts, goal)), "the load continues")

    def end(self):
        self.isOver.set()
        for thread in self.threads:
            thread.join()
        return self.errors


def until(is_true, what):
    """Waits for a condition."""
    give_up = time.monotonic() + PATIENCE
    while not is_true():
        if time.monotonic() > give_up:
            raise AssertionError(f"after {PATIENCE} s: not {what}")
        threading.Event().wait(0.01)


def is_here(process):
    """Whether a process runs."""
    try:
        return not pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return False


class Services(unittest.TestCase):
    """Starts services in a temporary folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.code(SITE)
        (self.folder / "program.py").write_text(PROGRAM)
        (self.port,) = unused(1)
        self.endpoint = f"tcp:{self.port}:interface=127.0.0.1"

    def started(self, count=2, program="program.py", endpoint=None, **options):
        """Starts the program, and waits until its workers are ready."""
        command = [sys.executable, "-B", program, endpoint or self.endpoint, repr(options)]
        running = Running(self, command, folder=self.folder)
        self.wait_for_ready(running, count)
        return running

    def fails(self, *said, endpoint=None):
        """Checks that the program ends with status 1, and that its output has these words. Returns the output."""
        command = [sys.executable, "-B", "program.py", endpoint or self.endpoint, "{}"]
        return self.check(Running(self, command, folder=self.folder).ended(), 1, *said)

    def check(self, ended, status, *said):
        """Checks the status of a program and its output. Returns the output."""
        self.assertEqual(ended[1], status, ended[0])
        for words in said:
            self.assertIn(words, ended[0])
        return ended[0]

    def stop(self, service):
        """Stops a service, which ends with status 0. Returns its output."""
        return self.check(service.stop(), 0, "all workers have ended")

    def reload(self, service):
        """Replaces the first two workers. Returns the processes of the new ones."""
        service.process.send_signal(signal.SIGHUP)
        service.until("all workers are new")
        return self.wait_for_ready(service, 4)[2:]

    def code(self, text):
        """Writes the code that workers load when they start."""
        (self.folder / "site_of_test.py").write_text(text)

    def twistd(self, *arguments):
        """Starts twistd with two workers."""
        command = [sys.executable, "-B", pathlib.Path(sys.executable).with_name("twistd"), "--workers", "2", *arguments]
        return Running(self, command, folder=self.folder)

    def wait_for_ready(self, running, count):
        """Waits until `count` workers have been ready since the start, and returns the processes."""
        while len(READY.findall(running.text)) < count:
            line = running.says.readline().decode()
            self.assertTrue(line, f"the service ended:\n{running.text}")
            running.text += line
        return [int(process) for _, process in READY.findall(running.text)]

    def wait_for_ends(self, service, count):
        """Waits until `count` more workers have ended with status 0."""
        for _ in range(count):
            service.until("ended with status 0")
            service.text = service.text.replace("ended with status 0", "ended", 1)

    def get(self, path="/"):
        """The answer to a request."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)
        self.addCleanup(client.close)
        client.request("GET", path, headers={"Connection": "close"})
        return client.getresponse()

    def process(self):
        """The process that serves a new connection."""
        return int(self.get().read())

    def begun(self, seconds):
        """A response that has begun, and ends after a time."""
        answer = self.get(f"/slow?seconds={seconds}")
        self.assertEqual(answer.read(5), b"begin")
        return answer

    def wait_for_all(self, processes):
        """Waits until each of these processes, and no other, has served a request."""
        seen = set()
        until(lambda: seen.add(self.process()) or seen >= set(processes), f"served by all of {processes}")
        self.assertEqual(seen, set(processes))


@unittest.skipUnless(SUBJECT == "couplet", "workers run on Couplet's reactor")
class Workers(Services):
    """`couplet_twisted.workers.run`."""

    def test_all_workers_serve(self):
        service = self.started()
        processes = self.wait_for_ready(service, 2)
        self.assertNotIn(service.process.pid, processes)
        self.wait_for_all(processes)
        self.stop(service)

    def test_a_killed_worker_is_replaced_and_no_connection_is_refused(self):
        service = self.started()
        killed, other = self.wait_for_ready(service, 2)
        load = Load(self, self.port)
        load.more()
        os.kill(killed, signal.SIGKILL)
        service.until("was killed by SIGKILL: it is restarted")
        *_, fresh = self.wait_for_ready(service, 3)
        self.wait_for_all([other, fresh])
        load.more()
        # The connections of the killed worker are lost, and no others.
        errors = load.end()
        self.assertLessEqual(len(errors), 2, errors)
        self.assertEqual([error for error in errors if isinstance(error, ConnectionRefusedError)], [])

    def test_a_reload_loses_no_connection(self):
        service = self.started()
        load = Load(self, self.port)
        for number in range(1, 4):
            load.more()
            service.process.send_signal(signal.SIGHUP)
            processes = self.wait_for_ready(service, 2 + 2 * number)
            self.wait_for_ends(service, 2)
        load.more()
        self.assertEqual(load.end(), [])
        self.assertEqual(len(set(processes)), 8)
        self.wait_for_all(processes[-2:])

    def test_a_kept_connection_that_is_idle_during_a_reload_gets_one_more_answer(self):
        service = self.started()
        client = http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)
        self.addCleanup(client.close)
        client.request("GET", "/")
        self.assertFalse((answer := client.getresponse()).will_close)
        process = int(answer.read())
        self.reload(service)
        # The order to drain may arrive a bit later.
        while not answer.will_close:
            client.request("GET", "/")
            answer = client.getresponse()
            self.assertEqual(int(answer.read()), process)
        service.until(f"(process {process}) ended with status 0")

    def test_a_reload_that_fails_keeps_the_old_workers(self):
        service = self.started()
        processes = self.wait_for_ready(service, 2)
        self.code("raise RuntimeError('the new code is broken')")
        service.process.send_signal(signal.SIGHUP)
        service.until("failed to start: RuntimeError: the new code is broken; the old workers stay")
        self.wait_for_all(processes)

    def test_a_reload_loads_new_code(self):
        service = self.started()
        self.code(SITE.replace('b"%d" %', 'b"-%d" %'))
        self.wait_for_all([-process for process in self.reload(service)])

    def test_restart_by_connections(self):
        service = self.started(mostConnections=100)
        load = Load(self, self.port, kept=(False,))
        service.until("is replaced: it accepted")
        self.wait_for_ready(service, 3)
        service.until("ended with status 0")
        self.assertEqual(load.end(), [])

    def test_restart_by_memory(self):
        service = self.started(mostMemory=120 << 20)
        self.assertEqual(self.get("/eat").read(), b"eaten")
        service.until("MiB of memory")
        self.wait_for_ready(service, 3)
        service.until("ended with status 0")

    def test_sigterm_lets_a_response_end(self):
        service = self.started()
        answer = self.begun(1)
        service.process.send_signal(signal.SIGTERM)
        service.until("stopping")
        until(self.is_refused, "new connections are refused")
        self.assertEqual(answer.read(), b"end")
        self.check(service.ended(), 0)

    def test_sigterm_lets_the_responses_of_http2_end(self):
        self.code(SITE.replace("    return made", HTTP2 + "    return made"))
        service = self.started()
        # A literal path: RFC 7541, 6.2.1.
        slow = GET.replace(b"\x84", b"\x44\x0f/slow?seconds=1")
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(PREFACE + frame(1, 5, 1, slow) + frame(1, 5, 3, slow))
            received, has_begun, is_asked = b"", False, False
            while data := connection.recv(65536):
                received += data
                seen = frames(received)
                if not has_begun and [each[3] for each in seen if each[0] == 0] == [b"begin"] * 2:
                    has_begun = True
                    service.process.send_signal(signal.SIGTERM)
                for ping in [each for each in seen if each[0] == 6][is_asked:]:
                    is_asked = True
                    connection.sendall(frame(6, 1, 0, ping[3]))
        self.assertEqual([each[0] for each in seen].count(7), 2, seen)
        bodies = {number: [each[3] for each in seen if each[:3:2] == (0, number)] for number in (1, 3)}
        self.assertEqual(bodies, {1: [b"begin", b"end", b""], 3: [b"begin", b"end", b""]})
        self.check(service.ended(), 0)

    def is_refused(self):
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    def test_a_drain_is_limited(self):
        service = self.started(drain=0.2)
        answer = self.begun(50)
        self.check(service.stop(), 0)
        self.assertRaises((http.client.IncompleteRead, ConnectionResetError), answer.read)

    def test_a_second_sigterm_ends_immediately(self):
        service = self.started(drain=50)
        answer = self.begun(50)
        service.process.send_signal(signal.SIGTERM)
        service.until("stopping")
        started = time.monotonic()
        self.check(service.stop(), 0)
        self.assertLess(time.monotonic() - started, 10)
        self.assertRaises((http.client.IncompleteRead, ConnectionResetError), answer.read)

    def test_sigterm_to_a_worker_replaces_it(self):
        service = self.started()
        first, second = self.wait_for_ready(service, 2)
        os.kill(first, signal.SIGTERM)
        *_, fresh = self.wait_for_ready(service, 3)
        service.until(f"worker 1 (process {first}) ended with status 0")
        self.wait_for_all([second, fresh])

    def test_more_and_fewer_workers(self):
        service = self.started()
        service.process.send_signal(signal.SIGTTIN)
        processes = self.wait_for_ready(service, 3)
        self.wait_for_all(processes)
        service.process.send_signal(signal.SIGTTOU)
        service.until(f"worker 3 (process {processes[2]}) ended with status 0")
        self.wait_for_all(processes[:2])

    def test_a_unix_socket(self):
        path = self.folder / "socket"
        service = self.started(endpoint=f"unix:{path}")
        self.reload(service)
        self.wait_for_ends(service, 2)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.assertIn(b"200 OK", client.recv(1000))
        # Another service can't take the path.
        self.fails("Cannot acquire lock", endpoint=f"unix:{path}")
        service.stop()
        self.assertFalse(path.exists())
        self.assertFalse(os.path.lexists(f"{path}.lock"))

    def test_a_start_that_fails(self):
        with socket.create_server(("127.0.0.1", self.port)):
            self.fails("worker 1 failed to start: CannotListenError: Couldn't listen on 127.0.0.1")
        self.code("raise RuntimeError('no database')")
        self.assertTrue(self.fails().endswith("worker 1 failed to start: RuntimeError: no database\n"))
        text = "from twisted.internet import epollreactor\nepollreactor.install()\n" + PROGRAM
        (self.folder / "program.py").write_text(text)
        self.fails("workers need Couplet's reactor")

    def test_workers_end_with_their_parent(self):
        service = self.started()
        processes = self.wait_for_ready(service, 2)
        answer = self.begun(3)
        service.process.kill()
        # Another parent can listen before the last connection ends.
        until(self.is_refused, "new connections are refused")
        self.assertTrue(any(map(is_here, processes)))
        self.assertEqual(answer.read(), b"end")
        until(lambda: not any(map(is_here, processes)), "the workers ended")

    def test_a_port_that_the_program_closes_is_closed(self):
        close = """
class Close(resource.Resource):
    def render_GET(self, request):
        from twisted.internet import task
        (port,) = [each for each in reactor._streams if hasattr(each, "stopListening")]
        task.deferLater(reactor, 0, port.stopListening)
        return b"closed"
"""
        text = SITE.replace("def site():", f"{close}\ndef site():").replace('b"eat", Eat', 'b"close", Close')
        self.code(text)
        service = self.started()
        for _ in range(2):
            self.assertFalse(self.is_refused())
            self.assertEqual(self.get("/close").read(), b"closed")
        until(self.is_refused, "the port is closed")
        self.check(service.stop(), 0)

    def test_a_port_on_which_new_code_does_not_listen_is_closed(self):
        impatient = "from couplet_twisted import sockets\nsockets._UNCLAIMED = 0\n"
        program = PROGRAM.replace("endpoint)", "site_of_test.ENDPOINT)")
        (self.folder / "program.py").write_text(program.replace("workers.run", f"{impatient}workers.run"))
        self.code(f"{SITE}\nENDPOINT = {self.endpoint!r}\n")
        service = self.started()
        (other,) = unused(1)
        self.code(f"{SITE}\nENDPOINT = 'tcp:{other}:interface=127.0.0.1'\n")
        service.process.send_signal(signal.SIGHUP)
        service.until(f"no worker listens on tcp:127.0.0.1:{self.port}: it is closed")
        self.assertTrue(self.is_refused())
        self.port = other
        self.wait_for_all(self.wait_for_ready(service, 4)[2:])

    def test_the_parent_gives_up_if_no_worker_can_start_again(self):
        service = self.started()
        self.code("raise RuntimeError('broken')")
        for process in self.wait_for_ready(service, 2):
            os.kill(process, signal.SIGKILL)
        text = self.check(service.ended(), 1, "RuntimeError: broken; it is tried again")
        self.assertTrue(text.endswith("(5 starts failed in a row)\n"), text)

    def test_workers_end_with_a_parent_that_has_not_read_their_messages(self):
        service = self.started(mostMemory=120 << 20)
        processes = self.wait_for_ready(service, 2)
        service.process.send_signal(signal.SIGSTOP)
        self.assertEqual(self.get("/eat").read(), b"eaten")
        # Within a second the worker asks for a replacement.
        threading.Event().wait(2)
        service.process.kill()
        until(lambda: not any(map(is_here, processes)), "the workers ended")


@unittest.skipUnless(SUBJECT == "couplet", "workers run on Couplet's reactor")
class Twistd(Services):
    """`twistd --workers`."""

    def tac(self):
        (self.folder / "test.tac").write_text(TAC.format(folder=str(self.folder), endpoint=self.endpoint))
        return "--python=test.tac"

    def test_a_command(self):
        (self.folder / "index.html").write_text("hello")
        service = self.twistd("-n", "web", "--listen", self.endpoint, "--path", ".")
        self.wait_for_ready(service, 2)
        self.assertEqual(self.get().read(), b"hello")
        file = self.folder / "twistd.pid"
        self.assertEqual(file.read_text(), str(service.process.pid))
        service.until('"GET / HTTP/1.1" 200')
        text = self.check(service.stop(), 0)
        self.assertFalse(file.exists())
        self.assertRegex(text, r"\[worker [12]\] .*GET /")

    def test_an_application(self):
        service = self.twistd("-n", self.tac())
        processes = self.wait_for_ready(service, 2)
        self.wait_for_all(processes)
        self.wait_for_all(self.reload(service))

    def test_a_socket_of_systemd(self):
        self.endpoint = "systemd:domain=INET:index=0"
        twistd = pathlib.Path(sys.executable).with_name("twistd")
        program = (
            "import os, socket, sys\n"
            f"skt = socket.create_server(('127.0.0.1', {self.port}))\n"
            "os.dup2(os.dup(skt.fileno()), 3)\n"
            "os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='web', LISTEN_PID=str(os.getpid()))\n"
            f"os.execv(sys.executable, ['python', '-B', {str(twistd)!r}, '--workers=2', '-n', {self.tac()!r}])\n"
        )
        (self.folder / "systemd.py").write_text(program)
        service = Running(self, [sys.executable, "systemd.py"], folder=self.folder)
        self.wait_for_all(self.wait_for_ready(service, 2))
        self.wait_for_all(self.reload(service))
        self.stop(service)

    def test_a_daemon(self):
        launcher = self.twistd("--logfile=log", "--pidfile=pid", self.tac())
        self.check(launcher.ended(), 0)
        daemon = int((self.folder / "pid").read_text())
        self.addCleanup(lambda: is_here(daemon) and os.kill(daemon, signal.SIGKILL))
        self.process()
        os.kill(daemon, signal.SIGUSR1)
        until(lambda: (self.folder / "log.1").exists(), "the log is rotated")
        file = self.folder / "log"
        until(lambda: self.get("/logged").read() and "a request" in file.read_text(), "workers use the new file")
        self.assertEqual(len(READY.findall((self.folder / "log.1").read_text())), 2)
        os.kill(daemon, signal.SIGTERM)
        until(lambda: not is_here(daemon), "the daemon ended")
        self.assertFalse((self.folder / "pid").exists())
        self.assertIn("all workers have ended", file.read_text())

    def test_a_daemon_that_cannot_listen(self):
        with socket.create_server(("127.0.0.1", self.port)):
            self.check(self.twistd("--logfile=log", self.tac()).ended(), 1, "worker 1 failed to start")
        self.assertIn("Address already in use", (self.folder / "log").read_text())
        self.assertFalse((self.folder / "twistd.pid").exists())

    def test_the_log_of_a_daemon_says_why_it_cannot_start(self):
        argument = self.tac()
        self.code("1 / 0")
        said = "failed to start: Failed to load application: division by zero"
        self.check(self.twistd("--logfile=log", argument).ended(), 1, said)
        self.assertIn('site_of_test.py", line 1, in <module>', (self.folder / "log").read_text())

    def test_wrong_words(self):
        for words, said in (
            (["-n", "nothing"], "worker 1 failed to start: Unknown command: nothing"),
            (["-n", "--python=nothing.tac"], "No such file or directory: 'nothing.tac'"),
            (["--reactor=epoll", "-n", "web"], "--workers needs Couplet's reactor: leave out --reactor=epoll"),
            (["--drain=soon", "web"], "twistd --workers: Parameter type enforcement failed"),
        ):
            self.check(self.twistd(*words).ended(), 1, said)
        self.check(self.twistd("--help").ended(), 0, "--most-memory=", "web")

"""The programs of Twisted's documentation, unchanged: the tutorial and the examples.

Each runs under the model and under the subject, as server and as client, with each other and with plain sockets.
The output must be the same.
"""

import shutil
import socket
import tempfile
import unittest

from kit import listings, reactors, running
from kit.cases import SUBJECT

MODEL = reactors.MODEL
FINGER = "core/howto/tutorial/listings/finger/"
EXAMPLES = "core/examples/"
PB = "core/howto/listings/pb/"
AMP = "core/howto/listings/amp/"
USERS = b"moshez: Happy and well\nshawn: alive\n"
# The reactors of a server and a client.
SIDES = [(SUBJECT, SUBJECT), (SUBJECT, MODEL), (MODEL, SUBJECT)]


class Listings(unittest.TestCase):
    """Tests that run programs of the documentation."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.docs = listings.folder()

    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = held.name

    def program(self, reactor, file, ports, *arguments, **more):
        """Starts a program of the documentation in the test's folder."""
        assert (self.docs / file).exists(), f"Twisted's documentation has no {file}"
        return running.program(self, reactor, ports, str(self.docs / file), *arguments, folder=self.folder, **more)

    def page(self, port, path):
        """A page of the server, without the line that has the time."""
        page = running.answer(port, b"GET " + path + b" HTTP/1.0\r\n\r\n")
        return [line for line in page.split(b"\r\n") if not line.startswith(b"Date:")]

    def same(self, scenario):
        """Checks that the scenario returns the same under the model and the subject."""
        self.assertEqual(scenario(MODEL), scenario(SUBJECT))

    def same_on_both_sides(self, scenario):
        """Checks that the scenario returns the same for all combinations of reactors."""
        expected = scenario(MODEL, MODEL)
        for server, client in SIDES:
            self.assertEqual(expected, scenario(server, client), f"server: {server}, client: {client}")


class Finger(Listings):
    """The tutorial: a finger server, step by step."""

    def queries(self, file):
        """A scenario that returns the answers of the file's server to finger queries."""

        def scenario(reactor):
            ports = dict(zip([1079], running.unused(1)))
            server = self.program(reactor, file, ports, sockets=1)
            queries = [b"moshez\r\n", b"nobody\r\n", b"\r\n", b"mos" + b"x" * 5000 + b"\r\n"]
            answers = [running.answer(ports[1079], query, is_open=file.endswith("2.py")) for query in queries]
            said, status = server.stop()
            return answers, running.plain(said, ports), status

        return scenario

    def test_01_runs_until_it_is_stopped(self):
        self.same(lambda reactor: self.program(reactor, FINGER + "finger01.py", {}).stop())

    def test_02_to_09_answer(self):
        for number in range(2, 10):
            with self.subTest(number):
                self.same(self.queries(f"{FINGER}finger{number:02}.py"))

    def test_07_knows_a_user(self):
        answers, _, _ = self.queries(FINGER + "finger07.py")(SUBJECT)
        self.assertEqual(answers[:2], [b"Happy and well\r\n", b"No such user\r\n"])

    def application(self, number, ports, talk, sockets):
        """Compares the results of `talk` with the ports of an application; `self.irc` is its IRC server."""

        def scenario(reactor):
            ours = dict(zip(ports, running.unused(len(ports))))
            users = f"{self.folder}/users"
            with open(users, "wb") as file:
                file.write(USERS)
            with socket.create_server(("127.0.0.1", 0)) as self.irc:
                self.irc.settimeout(running.PATIENCE)
                ours[6667] = self.irc.getsockname()[1]
                file = f"{FINGER}finger{number}.tac"
                server = self.program(reactor, file, ours, sockets=sockets, places=[("/etc/users", users)])
                found = talk(ours)
            said, status = server.stop()
            self.assertIn(reactors.REACTORS[reactor][1], said)
            return found, status

        self.same(scenario)

    def test_11_is_an_application(self):
        def talk(ports):
            return [running.answer(ports[79], query) for query in (b"moshez\r\n", b"nobody\r\n")]

        self.application(11, [79], talk, 1)

    def test_12_and_13_take_what_users_set(self):
        def talk(ports):
            before = running.answer(ports[79], b"jethro\r\n")
            running.answer(ports[1079], b"jethro\r\nat work\r\n", is_open=True)
            return before, running.answer(ports[79], b"jethro\r\n")

        for number in (12, 13):
            with self.subTest(number):
                self.application(number, [79, 1079], talk, 2)

    def test_14_reads_a_file(self):
        self.application(14, [79], lambda ports: running.answer(ports[79], b"shawn\r\n"), 1)

    def test_15_has_pages(self):
        def talk(ports):
            return [self.page(ports[8000], b"/" + user) for user in (b"moshez", b"shawn", b"nobody", b"")]

        self.application(15, [79, 8000], talk, 2)

    # Later versions need an older Twisted: the current one refuses their resources.

    def test_16_answers_on_irc(self):
        def talk(ports):
            with self.irc.accept()[0] as bot, bot.makefile("rwb") as lines:
                hello = [lines.readline(), lines.readline()]
                lines.write(b":test 001 fingerbot :Welcome\r\n:asker!a@test PRIVMSG fingerbot :moshez\r\n")
                lines.flush()
                answer = lines.readline()
            return hello, answer, running.answer(ports[79], b"moshez\r\n")

        self.application(16, [79, 8000], talk, 2)


class Pairs(Listings):
    """Examples that consist of a server and a client."""

    def pair(self, server, client, port, until=()):
        """Compares the output and the ends of server and client. With `until`, the client is ended once each has
        printed its words; otherwise it ends automatically."""

        def scenario(server_reactor, client_reactor):
            ports = dict(zip([port], running.unused(1)))
            serving = self.program(server_reactor, server, ports, sockets=1)
            asking = self.program(client_reactor, client, ports)
            for side, words in zip((serving, asking), until):
                side.until(words)
            said, status = (asking.text, None) if until else asking.ended()
            heard = serving.text
            rest, end = serving.stop()
            return running.plain(said, ports), status, running.plain(heard if until else rest, ports), end

        self.same_on_both_sides(scenario)

    def test_pairs(self):
        for folder, server, client, port in (
            (EXAMPLES, "simpleserv.py", "simpleclient.py", 8000),
            (EXAMPLES, "echoserv.py", "echoclient.py", 8000),
            (EXAMPLES, "echoserv_ssl.py", "echoclient_ssl.py", 8000),
            # This server authenticates its clients.
            (EXAMPLES, "ssl_clientauth_server.py", "ssl_clientauth_client.py", 8000),
            (EXAMPLES, "starttls_server.py", "starttls_client.py", 8000),
            (EXAMPLES, "echoserv_udp.py", "echoclient_udp.py", 8000),
            (EXAMPLES, "ampserver.py", "ampclient.py", 1234),
            (AMP, "basic_server.tac", "basic_client.py", 8750),
            (EXAMPLES, "pbsimple.py", "pbsimpleclient.py", 8789),
            (PB, "exc_server.py", "exc_client.py", 8800),
        ):
            with self.subTest(server):
                self.pair(folder + server, folder + client, port)

    def test_perspective_broker_passes_objects(self):
        three = ("Two.three was given 12", "telling it to do three(12)")
        self.pair(PB + "pb1server.py", PB + "pb1client.py", 8800, until=three)
        self.pair(PB + "pb2server.py", PB + "pb2client.py", 8800, until=("our twos are the same", "one is"))
        self.pair(PB + "pb3server.py", PB + "pb3client.py", 8800, until=("telling it to print(12)", "called with 12"))


class Servers(Listings):
    """Servers that are tested by plain sockets."""

    def served(self, file, ports, talk, *arguments, sockets=None):
        """Compares the results of `talk` with the ports."""

        def scenario(reactor):
            ours = dict(zip(ports, running.unused(len(ports))))
            server = self.program(reactor, file, ours, *arguments, sockets=sockets or len(ports))
            found = talk(ours)
            _, status = server.stop()
            return found, status

        self.same(scenario)

    def lines(self, port):
        """A connection to a server, as a file."""
        skt = socket.create_connection(("127.0.0.1", port), running.PATIENCE)
        self.addCleanup(skt.close)
        file = skt.makefile("rwb", buffering=0)
        self.addCleanup(file.close)
        return file

    def test_chat(self):
        def talk(ports):
            first, second = self.lines(ports[8123]), self.lines(ports[8123])
            got = [first.readline(), second.readline()]
            for side, name in ((first, b"ann"), (second, b"ann"), (second, b"bob")):
                side.write(name + b"\r\n")
                got.append(side.readline())
            first.write(b"hello\r\n")
            got.append(second.readline())
            second.write(b"hi\r\n")
            return got, first.readline()

        self.served("core/howto/listings/servers/chat.py", [8123], talk)

    def test_chat_as_an_application(self):
        def talk(ports):
            first, second = self.lines(ports[1025]), self.lines(ports[1025])
            first.write(b"one\r\n")
            got = [first.readline(), second.readline()]
            second.write(b"two\r\n")
            return got, first.readline(), second.readline()

        # twistd needs the suffix .tac.
        renamed = f"{self.folder}/chatserver.tac"
        shutil.copyfile(self.docs / EXAMPLES / "chatserver.py", renamed)
        self.served(renamed, [1025], talk)

    def test_web(self):
        def talk(ports):
            return [self.page(ports[1999], path) for path in (b"/", b"/vhost/http/elsewhere:80/", b"/none")]

        self.served("web/examples/web.py", [1999], talk)

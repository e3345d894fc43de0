"""`couplet_twisted.basic` beside `twisted.protocols.basic`: the same calls of the same protocols, for any bytes, any
cuts and any actions of the protocols; and receivers on the reactor's own connections."""

import gc
import itertools
import operator
import sys
import unittest
import weakref

from hypothesis import given, settings, strategies as st
from twisted.internet import defer, protocol
from twisted.internet.testing import StringTransport
from twisted.protocols import basic as model, policies

from couplet_twisted import basic as own
from kit.cases import Cases
from kit.connections import Noting, ended, pair
from test_tls import SERVER, trusting

EXAMPLES = 1500


class Oops(Exception):
    """An error of user code."""


class Scripted:
    """
    A protocol that notes its calls, and acts by the first byte of each message.

    @cvar REENTERS: Whether it may call its own `dataReceived`.
    """

    REENTERS = True

    def __init__(self, notes):
        self.notes = notes

    def note(self, *words):
        self.notes.append(words)

    def act(self, message):
        """Does the action that a message requests."""
        word, rest = message[:1], message[1:]
        if word == b"p":
            self.pauseProducing()
        elif word == b"c":
            self.transport.loseConnection()
        elif word == b"m":
            self.MAX_LENGTH = 2 + len(rest)
        elif word == b"x":
            raise Oops(rest)
        elif word == b"e" and self.REENTERS and not self.is_inside:
            self.is_inside = True
            self.note("inside", self.dataReceived(rest + b"c\r\n"))
            self.is_inside = False
        elif word == b"w":
            return rest

    is_inside = False


class ScriptedLines(Scripted):
    """A protocol of lines."""

    def lineReceived(self, line):
        self.note("line", line, self._buffer)
        if line[:1] == b"r":
            self.setRawMode()
        elif line[:1] == b"d":
            self.delimiter = line[1:] or b"\n"
        elif line[:1] == b"k":
            self.note("cleared", self.clearLineBuffer())
        elif line[:1] == b"b":
            self._buffer = line[1:]
        elif line[:1] == b"l":
            self.line_mode = len(line) % 2
        return self.act(line)

    def rawDataReceived(self, data):
        self.note("raw", data)
        if len(data) > 2:
            self.note("back", self.setLineMode(data[2:]))
        return self.act(data)

    def lineLengthExceeded(self, line):
        self.note("exceeded", line)
        if line[:1] == b"s":
            return b"survived"
        return super().lineLengthExceeded(line)


class ScriptedStrings(Scripted):
    """A protocol of length-prefixed strings."""

    # Twisted's class would deliver strings again.
    REENTERS = False

    def stringReceived(self, string):
        self.note("string", string, self.recvd)
        if string[:1] == b"b":
            self.recvd = string[1:]
        self.act(string)

    def lengthLimitExceeded(self, length):
        self.note("exceeded", length, self.recvd)
        super().lengthLimitExceeded(length)


class ScriptedNetstrings(Scripted):
    """A protocol of netstrings."""

    def stringReceived(self, string):
        self.note("string", string)
        if string[:1] != b"p":
            self.act(string)


class Transport(StringTransport):
    """Notes the requests of its protocol."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def loseConnection(self):
        self.notes.append(("lose",))
        super().loseConnection()

    # Repeated pauses and resumes are no errors.

    def pauseProducing(self):
        self.notes.append(("pause",))

    def resumeProducing(self):
        self.notes.append(("resume",))


def played(module, kind, script, attributes, steps, ends=()):
    """The notes of a protocol based on a module's class. A step is a chunk of input or a function of the protocol."""
    notes = []
    made = type("Made", (script, getattr(module, kind)), dict(attributes))(notes)
    made.makeConnection(Transport(notes))
    for step in steps:
        try:
            if isinstance(step, bytes):
                # All falsy results are equivalent.
                notes.append(("returned", made.dataReceived(step) or None))
            else:
                notes.append(("called", step(made)))
        except Oops as oops:
            notes.append(("raised", str(oops)))
        if any(note[0] in ends for note in notes):
            break
    if hasattr(made, "clearLineBuffer"):
        notes.append(("left", made.clearLineBuffer()))
    return notes


def pieces(stream, cuts):
    """The stream in pieces, cut at these offsets."""
    at = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in zip(at, at[1:])]


def splits(stream):
    """Every way to cut a stream."""
    for count in range(len(stream)):
        for cuts in itertools.combinations(range(1, len(stream)), count):
            yield pieces(stream, cuts)


def streams(words):
    """Streams of these words, in pieces."""
    joined = st.lists(st.sampled_from(words), max_size=40).map(b"".join)
    return st.builds(pieces, joined, st.lists(st.integers(0, 200), max_size=8))


def mixed(words, calls):
    """Streams of these words, with calls in between."""
    some = st.one_of(streams(words), st.sampled_from(calls).map(lambda call: [call])) if calls else streams(words)
    return st.lists(some, max_size=5).map(lambda lists: [step for steps in lists for step in steps])


# Calls of a protocol; their texts name the method and its arguments.
resume, to_raw = operator.methodcaller("resumeProducing"), operator.methodcaller("setRawMode")
to_lines = operator.methodcaller("setLineMode", b"and\r\n")
stop = operator.methodcaller("__setattr__", "paused", True)
tighten, loosen = (operator.methodcaller("__setattr__", "MAX_LENGTH", length) for length in (3, 20))

LINE_WORDS = [b"\r\n", b"\r\n", b"\n", b"\r", b"a", b"bc"] + [bytes([word]) for word in b"pcmxewrdkbls"]
LINE_CALLS = [resume, resume, stop, to_raw, to_lines, tighten, loosen]
LIMITS = st.sampled_from([0, 1, 3, 4, 5, 20, 16384, 2**70, 5.0])
DELIMITERS = st.sampled_from([b"\r\n", b"\n", b"\r\n\r", b"aa", b"a\ra"])
INT_KINDS = st.sampled_from(["Int8StringReceiver", "Int16StringReceiver", "Int32StringReceiver"])
NET_WORDS = [b"0:,", b"1:m,", b"2:mm,", b"1:x,", b"3:e1:", b"1:c,", b"4:1:a,,", b"1", b"0", b":", b",", b"2:a", b"\n", b"-"]


class Same(unittest.TestCase):
    """Our receivers and Twisted's make the same calls."""

    maxDiff = None

    def check(self, kind, script, attributes, steps, ends=()):
        want = played(model, kind, script, attributes, steps, ends)
        self.assertEqual(played(own, kind, script, attributes, steps, ends), want)
        return want

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(mixed(LINE_WORDS, LINE_CALLS), LIMITS, DELIMITERS)
    def test_lines(self, steps, limit, delimiter):
        self.check("LineReceiver", ScriptedLines, {"MAX_LENGTH": limit, "delimiter": delimiter}, steps)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(mixed(NET_WORDS, [tighten, loosen]), LIMITS.filter(bool))
    def test_netstrings(self, steps, limit):
        # Transports never deliver empty chunks.
        steps = [step for step in steps if step != b""]
        self.check("NetstringReceiver", ScriptedNetstrings, {"MAX_LENGTH": limit}, steps)

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.data(), INT_KINDS, LIMITS)
    def test_strings(self, data, kind, limit):
        size = getattr(model, kind).prefixLength
        words = [len(word).to_bytes(size) + word for word in (b"", b"a", b"p", b"mab", b"m", b"x", b"c", b"b", b"b\0\0\0\0")]
        steps = data.draw(mixed(words + [b"\0", b"\3"], [resume, stop, tighten, loosen]))
        # After these events Twisted's class delivers strings again.
        self.check(kind, ScriptedStrings, {"MAX_LENGTH": limit}, steps, ends=("raised", "exceeded"))

    def test_every_split(self):
        for stream in (b"a\r\n\r\nr\r\n0123", b"mab\r\nabcdef", b"p\r\nb\r\nd|\r\n|", b"e\r\nx\r\nw\r\n"):
            for steps in splits(stream):
                attributes = {"MAX_LENGTH": 5}
                self.check("LineReceiver", ScriptedLines, attributes, [*steps, resume])
        for stream in (b"1:m,3:abc,", b"2:mm,10:ab", b"3:abcd,1:a", b"12\n:", b"01:a,", b"1:x,1:c,0:,"):
            for steps in splits(stream):
                self.check("NetstringReceiver", ScriptedNetstrings, {"MAX_LENGTH": 9}, steps)
        for stream in (b"\0\1a\0\2bc\0\7", b"\0\1p\0\0\0\1c\0\1d", b"\0\3b\0\0\0\1a\0\0"):
            for steps in splits(stream):
                ends = ("exceeded",)
                self.check("Int16StringReceiver", ScriptedStrings, {"MAX_LENGTH": 6}, [*steps, resume], ends)

    def test_attributes_of_framing_may_be_set_on_class_or_instance(self):
        class Mixed(ScriptedLines):
            delimiter = b"|"
            MAX_LENGTH = 6

        class Inside(ScriptedLines):
            def act(self, message):
                if message == b"b":
                    type(self).delimiter = b"|"
                elif message == b"h":
                    vars(self)["delimiter"] = b"|"
                return super().act(message)

        class Asked(ScriptedLines):
            # The delimiter changes after each line.
            @property
            def delimiter(self):
                return b"|" if len(self.notes) % 2 else b"\n"

            @delimiter.setter
            def delimiter(self, value):
                self.note("set", value)

            @delimiter.deleter
            def delimiter(self):
                self.note("deleted")

        class Hidden(ScriptedLines):
            def __getattribute__(self, name):
                return b"|" if name == "delimiter" else super().__getattribute__(name)

        def of_class(**values):
            def change(made):
                for name, value in values.items():
                    setattr(type(made), name, value)
                return [getattr(made, name) for name in values], [getattr(type(made), name) for name in values]

            return change

        def of_instance(made):
            made.delimiter = b"\n"
            before = made.delimiter, type(made).delimiter
            del made.delimiter
            return before, made.delimiter

        def gone(made):
            try:
                del made.paused
            except AttributeError:
                return "it has none of its own"

        changes = [
            of_class(delimiter=b"\n"),
            of_class(MAX_LENGTH=2),
            of_class(line_mode=0),
            of_class(line_mode=1, MAX_LENGTH=9, paused=True),
            of_class(paused=False, delimiter=b"|"),
            of_instance,
            gone,
        ]
        for script in (ScriptedLines, Mixed, Inside, Asked, Hidden):
            for change, other in itertools.permutations(changes, 2):
                steps = [b"a|b\nd|\nc\r\nd\nr|", b"e|f\ng\n\r\n", change, b"h|i\nj|k\nd\r\nl\nr\n", other, b"m|n\no\nd|p|"]
                self.check("LineReceiver", script, {}, steps)

    def test_other_formats_of_a_prefix(self):
        for form, size in (("<H", 2), ("!Q", 8), ("<h", 2), ("=I", 4), (">L", 4), ("B", 1)):
            stream = b"\1\0\0\0\0\0\0\0\2" * 4
            attributes = {"structFormat": form, "prefixLength": size, "MAX_LENGTH": 500}
            for steps in (pieces(stream, range(0, 36, step)) for step in (1, 3, 7, 36)):
                notes = self.check("IntNStringReceiver", ScriptedStrings, attributes, steps, ends=("exceeded",))
                self.assertTrue({"string", "exceeded"} & {note[0] for note in notes}, form)

    def test_mistakes_of_programs_raise_the_same_errors(self):
        def error(module, kind, attributes, data):
            made = type("Made", (getattr(module, kind),), attributes)()
            made.makeConnection(StringTransport())
            with self.assertRaises(Exception) as caught:
                made.dataReceived(data)
            return type(caught.exception)

        for case_ in (
            ("LineReceiver", {}, b"a\r\n"),
            ("LineReceiver", {"line_mode": 0}, b"a"),
            ("LineReceiver", {"delimiter": "\n"}, b"a\n"),
            ("LineReceiver", {"MAX_LENGTH": None}, b"a\r\n"),
            ("LineReceiver", {}, "text"),
            ("NetstringReceiver", {}, b"1:a,"),
            ("Int8StringReceiver", {}, b"\1a"),
            ("IntNStringReceiver", {"prefixLength": 3, "structFormat": "!I"}, b"\1abcd"),
            ("IntNStringReceiver", {}, b"\1abcd"),
        ):
            with self.subTest(case_):
                self.assertIs(error(own, *case_), error(model, *case_))


class Classes(unittest.TestCase):
    """Other uses of the classes in programs."""

    def test_every_public_class_of_twisted_has_a_subclass(self):
        for name in own.__all__:
            self.assertTrue(issubclass(getattr(own, name), getattr(model, name)), name)
            self.assertTrue(getattr(own, name).__doc__, name)
        public = {name for name, kind in vars(model).items() if getattr(kind, "__module__", "") == model.__name__}
        self.assertEqual({name for name in public if name[0] != "_"}, set(own.__all__))

    def test_a_call_inside_of_a_call_delivers_the_rest_once(self):
        class Inside(own.Int8StringReceiver):
            def __init__(self):
                self.got = []

            def stringReceived(self, string):
                self.got.append(string)
                if string == b"i":
                    self.dataReceived(b"\1d\1")

        inside = Inside()
        inside.dataReceived(b"\1a\1i\1b")
        inside.dataReceived(b"e")
        self.assertEqual(inside.got, [b"a", b"i", b"b", b"d", b"e"])

    def test_a_constructor_that_calls_no_other_is_enough(self):
        class Timed(own.LineReceiver, policies.TimeoutMixin):
            def __init__(self, one, *, two):
                self.got = [one, two]

            def lineReceived(self, line):
                self.resetTimeout()
                self.got.append(line)

        timed = Timed(1, two=2)
        timed.dataReceived(b"a\r\nb\r\nc")
        self.assertEqual(timed.got, [1, 2, b"a", b"b"])

    def test_inside_of_a_wrapper(self):
        class Echo(own.LineReceiver):
            def lineReceived(self, line):
                self.sendLine(line)

        factory = policies.WrappingFactory(protocol.Factory.forProtocol(Echo))
        wrapper, transport = factory.buildProtocol(None), StringTransport()
        wrapper.makeConnection(transport)
        wrapper.dataReceived(b"a\r\nb\r\n")
        self.assertEqual(transport.value(), b"a\r\nb\r\n")

    def test_a_protocol_of_several_receivers(self):
        class Both(own.LineReceiver, own.Int8StringReceiver):
            def lineReceived(self, line):
                self.got = line

        both = Both()
        both.dataReceived(b"a\r\n")
        self.assertEqual(both.got, b"a")

    def test_a_protocol_in_a_cycle_is_collected(self):
        class Keeps(own.LineReceiver):
            def lineReceived(self, line):
                try:
                    raise Oops
                except Oops as oops:
                    # The exception's frames refer to the iterator.
                    self.kept = oops

        keeps = Keeps()
        keeps.dataReceived(b"a\r\nbc")
        gone = weakref.ref(keeps)
        del keeps
        gc.collect()
        self.assertIsNone(gone())

    def test_raw_bytes_that_come_alone_are_not_copied(self):
        class Raw(own.LineReceiver):
            line_mode = 0

            def rawDataReceived(self, data):
                self.got = data

        raw, data = Raw(), b"raw bytes"
        raw.dataReceived(data)
        self.assertIs(raw.got, data)


# A program has its reactor installed: the model then uses Twisted's receivers.
receivers = own if "couplet_twisted.reactor" in sys.modules else model


class Lines(receivers.LineReceiver):
    """Notes and answers its lines."""

    def __init__(self, case, party):
        self.case, self.party = case, party
        self.lost = defer.Deferred()

    def lineReceived(self, line):
        self.case.say(self.party, "line", line)
        answer = getattr(self, "on_" + line.decode(), None)
        if answer:
            answer()
        self.sendLine(b"to " + line)

    def connectionLost(self, reason):
        self.case.say(self.party, "lost", reason.type.__name__)
        self.lost.callback(None)


class OnlyLines(receivers.LineOnlyReceiver):
    """Answers its lines."""

    def lineReceived(self, line):
        self.sendLine(b"to " + line)
        if line == b"end":
            self.transport.loseConnection()


class Said(Noting):
    """Notes all bytes that it receives."""

    data = b""

    def dataReceived(self, data):
        super().dataReceived(data)
        self.data += data

    def connectionLost(self, reason):
        self.say("got", self.data)
        super().connectionLost(reason)


class Connected(Cases):
    """Our receivers on the subject's connections, beside Twisted's on the model's."""

    @staticmethod
    async def talk(case, server, *chunks):
        client = Said(case, "client")
        await case.connect(case.listen(lambda: server), client)
        for chunk in chunks:
            client.transport.write(chunk)
            await case.sleep(0.05)
        client.transport.loseConnection()
        await client.lost

    async def test_lines_and_other_writes_keep_their_order(case):
        class Server(Lines):
            def connectionMade(self):
                self.sendLine(b"hello")

            def on_write(self):
                self.transport.write(b"between\r\n")
                self.sendLine(b"")
                self.transport.writeSequence([b"a", b"b\r\n"])

            def on_pause(self):
                self.pauseProducing()
                case.reactor.callLater(0.02, self.resumeProducing)

            def on_end(self):
                self.transport.loseConnection()

            def sendLine(self, line):
                # Only the model sends lines written after a close.
                if not self.transport.disconnecting:
                    super().sendLine(line)

        await Connected.talk(case, Server(case, "server"), b"one\r\nwrite\r\npause\r\ntw", b"o\r\nend\r\nnever\r\n")

    async def test_only_lines(case):
        await Connected.talk(case, OnlyLines(), b"one\r\ntw", b"o\r\nend\r\nnever\r\n")

    async def test_lines_behind_start_tls_are_secret(case):
        class Server(Lines):
            def on_secure(self):
                self.sendLine(b"go ahead")
                self.transport.startTLS(SERVER.options())

        class Client(Lines):
            def connectionMade(self):
                self.transport.write(b"one\r\nsecure\r\n")

            def lineReceived(self, line):
                self.case.say(self.party, "line", line)
                if line == b"go ahead":
                    self.transport.startTLS(trusting())
                    self.sendLine(b"two")
                elif line == b"to two":
                    self.transport.loseConnection()

        server, client = await pair(case, Server(case, "server"), Client(case, "client"))
        await ended(server, client)

    async def test_an_error_in_the_middle_of_a_chunk_ends_the_connection(case):
        class Server(Lines):
            def sendLine(self, line):
                """Sends nothing, because the model drops the output of this turn."""

            def on_fail(self):
                raise Oops("line")

        await Connected.talk(case, Server(case, "server"), b"one\r\nfail\r\nnever\r\n")

"""Programs that must behave under the subject as they do under the model.

An `async` test of `Cases`, or one with `@beside(MODEL)`, is such a program. A separate process runs it under each of
the two reactors, until the program ends or calls `Case.finish`. The notes (`Case.say`) and logged errors must be the
same.
Two reactors may serve the sides of a connection in different order, so the notes of each party are compared
separately. Each process is `python -m kit.cases FILE CLASS.METHOD REACTOR`.
"""

import faulthandler
import functools
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
import unittest

from kit import reactors

# Seconds until a program that hangs is killed, after its stacks are printed.
HANG = float(os.environ.get("COUPLET_TEST_SECONDS", 300))
SUBJECT = os.environ.get("COUPLET_SUBJECT", reactors.SUBJECT)


def made_of(program, test):
    """The test with the name and docstring of its program, which it keeps as an attribute for the process."""
    functools.update_wrapper(test, program)
    # The test is not a coroutine function, unlike the program.
    del test.__wrapped__
    test.program = program
    return test


def beside(model, subject=SUBJECT):
    """Makes tests of programs that take a `Case`: they must behave under the subject as under the model."""

    def test_of(program):
        def test(self):
            file, name = inspect.getfile(program), program.__qualname__
            expected = outcome(file, name, model)
            self.assertTrue(expected.endswith("done\n"), f"the program fails under {model}:\n{expected}")
            self.assertMultiLineEqual(expected, outcome(file, name, subject), f"{model} (-), {subject} (+)")

        return made_of(program, test)

    return test_of


case = beside(reactors.MODEL)


def only_subject(program):
    """Makes a test of a program that checks itself and runs only under the subject."""

    def test(self):
        said = outcome(inspect.getfile(program), program.__qualname__, SUBJECT)
        self.assertTrue(said.endswith("done\n"), said)

    return made_of(program, test)


def outcome(file, name, reactor):
    """A program's output under a reactor. If the program fails, its status and standard error follow."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kit.cases", file, name, reactor]
        ended = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG * 2
        )
    if ended.returncode == 0 and ended.stdout.endswith("done\n"):
        return "".join(line for line in ended.stdout.splitlines(True) if not printed(line))
    return f"{ended.stdout}status {ended.returncode}\n{ended.stderr}"


def printed(note):
    """Prints a note of the party `measured`, whose numbers differ between runs. Returns whether it is one."""
    if note.startswith("measured: "):
        print(note.removeprefix("measured: ").rstrip(), end=" ... ", flush=True)
        return True
    return False


class Cases(unittest.TestCase):
    """A test case whose `async` tests without a decorator are programs: `by` makes tests of them."""

    maxDiff = None

    def __init_subclass__(cls, by=case):
        for name, program in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(program):
                setattr(cls, name, by(program))


class Case:
    """A running program: its notes, and methods to listen and connect on the loopback interface."""

    def __init__(self, reactor):
        self.reactor = reactor
        self.notes = {}
        self.failed = None
        self.ports = []

    def say(self, party, *words):
        """Notes an event of a party."""
        self.notes.setdefault(party, []).append(" ".join(map(str, words)))

    def attempt(self, party, call, *args, **more):
        """Makes a call, whose exception or result is noted."""
        try:
            self.say(party, call(*args, **more))
        except Exception as raised:
            self.say(party, type(raised).__name__, raised)

    def finish(self, _=None):
        """Ends the program."""
        if self.reactor.running and not self.reactor._stopped:
            self.reactor.stop()

    def sleep(self, seconds=0):
        """A Deferred that fires after the time."""
        from twisted.internet import task

        return task.deferLater(self.reactor, seconds, lambda: None)

    def listen(self, build, tls=None):
        """Listens on a free port; `build` makes the protocols. Returns the port's number."""
        from twisted.internet import protocol

        factory = protocol.Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: build()
        listen = self.reactor.listenTCP if tls is None else self.reactor.listenSSL
        arguments = (0, factory) if tls is None else (0, factory, tls)
        port = listen(*arguments, interface="127.0.0.1")
        self.ports.append(port)
        return port.getHost().port

    def connect(self, port, made):
        """Connects the protocol. Returns a Deferred that fires with it."""
        from twisted.internet import endpoints

        return endpoints.connectProtocol(endpoints.TCP4ClientEndpoint(self.reactor, "127.0.0.1", port), made)

    def observe(self, event):
        """Notes logged errors: their reason, type and text."""
        if not event.get("isError"):
            return
        failure = event.get("failure")
        text = f"{failure.type.__name__}: {failure.getErrorMessage()}" if failure else event.get("message")
        self.say("log", event.get("why") or "-", text)

    def start(self, program):
        """Starts the program; its end stops the reactor."""
        from twisted.internet import defer

        defer.ensureDeferred(program(self)).addErrback(self.fail).addCallback(self.finish)

    def fail(self, failure):
        self.failed = failure.getTraceback()

    def run(self, program):
        """Runs the program to its end."""
        from twisted.python import log

        log.addObserver(self.observe)
        self.reactor.callWhenRunning(self.start, program)
        self.reactor.run()
        self.say("run", "returned")
        for party in sorted(self.notes):
            for note in self.notes[party]:
                print(f"{party}: {note}")
        print(self.failed or "done")
        sys.stdout.flush()


def main():
    file, name, reactor = sys.argv[1:]
    faulthandler.dump_traceback_later(HANG, exit=True)
    sys.path.insert(0, str(pathlib.Path(file).parent))
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    case = Case(reactors.install(reactor))
    spec.loader.exec_module(module)
    kind, method = name.split(".")
    try:
        case.run(getattr(getattr(module, kind), method).program)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.exit(1)


if __name__ == "__main__":
    main()

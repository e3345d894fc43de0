"""Runs Twisted's own tests and records their outcomes: `python -m kit.suite REACTOR SELECTION RECORD [WORD...]`.

SELECTION is one of these; those from `whole` on install the reactor:

  builder        the tests that Twisted makes for each reactor
  uses           the same tests; also records which parts of Couplet each one uses
  encrypted      the tests for each reactor that use TLS, by rustls if the reactor is Couplet's
  whole          all tests; a word such as `1/2` selects the first of two shards of their classes
  named          the tests with these ids
  packages       all tests of these packages, without packages, modules or classes `-NAME`
  buildbot       the same, of Buildbot
  pytest         the tests of these modules, by pytest
  scrapy         the same, with Scrapy's settings for the reactor
  receivers      the tests of protocols that use the receivers of `twisted.protocols.basic`
  own-receivers  the same tests, with `couplet_twisted.basic` in place of those receivers

A line of JSON is appended to RECORD when a test starts and when it ends. Tests that already have a line are left
out, so a run can be continued after a test that ended its process. A test that hangs ends the process; the stacks of
its threads are written to RECORD.stacks.
"""

import faulthandler
import json
import os
import pkgutil
import sys

import twisted
from twisted.trial import util

# Seconds until a test fails, and until its process is killed.
PATIENCE = 120
HANG = 300
# Set before other modules copy it.
util.DEFAULT_TIMEOUT_DURATION = float(PATIENCE)

from twisted.trial import reporter, runner, unittest  # noqa: E402

from kit import encrypted, reactors, uses  # noqa: E402


class Recorder(reporter.Reporter):
    """Writes outcomes to the record. A test may have several; readers keep the worst."""

    def __init__(self, *rest):
        super().__init__(*rest)
        self.record = open(sys.argv[3], "a")
        self.stacks = open(sys.argv[3] + ".stacks", "w")

    def note(self, **line):
        self.record.write(json.dumps(line) + "\n")
        self.record.flush()

    def startTest(self, test):
        super().startTest(test)
        uses.used.clear()
        self.note(id=name(test), outcome="start", reason="")
        faulthandler.dump_traceback_later(HANG, exit=True, file=self.stacks)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self.note(id=name(test), outcome="stop", reason="", uses=sorted(uses.used))

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(id=name(test), outcome="ok", reason="")

    def addError(self, test, error):
        super().addError(test, error)
        self.note(id=name(test), outcome="error", reason=self._getFailure(error).getTraceback())

    def addFailure(self, test, failure):
        super().addFailure(test, failure)
        self.note(id=name(test), outcome="fail", reason=self._getFailure(failure).getTraceback())

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(id=name(test), outcome="skip", reason=str(reason))

    def addExpectedFailure(self, test, failure, todo=None):
        super().addExpectedFailure(test, failure, todo)
        self.note(id=name(test), outcome="todo", reason=str(todo))

    def addUnexpectedSuccess(self, test, todo=None):
        super().addUnexpectedSuccess(test, todo)
        self.note(id=name(test), outcome="unexpected", reason=str(todo))


def name(test):
    """A test's id, without the name of the reactor for which it was made in this run."""
    return test.id().replace(ENDING, "")


def modules():
    """The test modules of Twisted that make classes for each reactor, recognized by their source."""
    folder = os.path.dirname(twisted.__file__)
    for module in pkgutil.walk_packages([folder], "twisted.", onerror=lambda name: None):
        if ".test.test_" not in module.name:
            continue
        path = os.path.join(os.path.dirname(folder), module.name.replace(".", "/") + ".py")
        if os.path.exists(path) and ".makeTestCaseClasses()" in open(path).read():
            yield module.name


def builder_tests(path):
    """The tests that Twisted makes for the reactor at this path."""
    from twisted.internet.test import reactormixins

    reactormixins.ReactorBuilder._reactors = [path]
    loader = runner.TestLoader()
    for module in modules():
        __import__(module)
        for key, kind in sorted(vars(sys.modules[module]).items()):
            if key.endswith(ENDING) and issubclass(kind, reactormixins.ReactorBuilder):
                yield from runner._iterateTests(loader.loadClass(kind))


# The packages and modules whose protocols are receivers, or whose tests use receivers.
RECEIVERS = """
    conch.test.test_telnet internet.test.test_endpoints mail names positioning protocols runner spread
    test.test_amp test.test_application test.test_finger test.test_ftp test.test_ident test.test_loopback
    test.test_memcache test.test_postfix test.test_protocols test.test_sip test.test_ssl test.test_stateful
    web.test.test_http web.test.test_newclient web.test.test_webclient words
""".split()


def put_own_receivers():
    """Replaces Twisted's receivers by ours, for modules that are imported later."""
    from couplet_twisted import basic as own
    from twisted.protocols import basic

    for kind in own.__all__:
        setattr(basic, kind, getattr(own, kind))
    from twisted.protocols import amp
    from twisted.web import http

    for user in (amp.BinaryBoxProtocol, http.HTTPChannel):
        if not issubclass(user, own.Framing):
            raise RuntimeError(f"{user} was imported before")


def all_of(names, shard="1/1"):
    """The tests with these names; a shard `1/2` takes every second class."""
    this, of = map(int, shard.split("/"))
    classes = {}
    for test in runner._iterateTests(runner.TestLoader().loadByNames(names, recurse=True)):
        kind = test.id().rpartition(".")[0]
        if classes.setdefault(kind, len(classes)) % of == this - 1:
            yield test


def except_for(words):
    """The tests of packages, except those that begin with `-`."""
    left_out = tuple(word[1:] for word in words if word.startswith("-"))
    tests = all_of([word for word in words if not word.startswith("-")])
    return (test for test in tests if not f"{test.id()}.".startswith(tuple(f"{name}." for name in left_out)))


def named(identities):
    """The tests with these ids."""
    for identity in identities:
        yield from runner._iterateTests(runner.TestLoader().loadByName(identity))


def chosen(selection, words):
    """The tests of a selection that installs the reactor."""
    if selection == "named":
        return named(words)
    if selection == "buildbot":
        # Imported early: the import warns, and Buildbot's tests treat warnings as errors.
        import buildbot.util.ssl  # noqa: F401
    if selection in ("packages", "buildbot"):
        return except_for(words)
    if selection == "whole":
        return all_of(["twisted"], *words)
    if selection == "own-receivers":
        put_own_receivers()
    return all_of(["twisted." + name for name in RECEIVERS])


def trial(subject, selection, record, words, done):
    """Runs the tests of a selection by trial, except those in `done`."""
    global ENDING
    if selection in ("builder", "uses", "encrypted"):
        ENDING = "_%sTests" % reactors.REACTORS[subject][1].rpartition(".")[2]
        if selection == "uses":
            uses.install()
        tests = builder_tests(reactors.REACTORS[subject][1])
        if selection == "encrypted":
            tests = [test for test in tests if ".test_tls." in test.id() or ".test_newtls." in test.id()]
            if subject == reactors.SUBJECT:
                encrypted.install()
    else:
        # The tests for each reactor keep the names of Twisted's reactors.
        ENDING = "\0"
        reactors.install(subject)
        tests = chosen(selection, words)
    tests = unittest.TestSuite([test for test in tests if name(test) not in done])
    runner.TrialRunner(Recorder, workingDirectory=record + ".trial", stream=sys.stdout).run(tests)


def main():
    subject, selection, record, *words = sys.argv[1:]
    done = set()
    if os.path.exists(record):
        done = {json.loads(line)["id"] for line in open(record)}
    if selection in ("pytest", "scrapy"):
        from kit import pytests

        pytests.run(subject, selection, record, words, done, HANG)
    else:
        trial(subject, selection, record, words, done)
    # The status is 0 even if tests fail.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

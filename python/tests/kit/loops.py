"""Runs CPython's tests of asyncio and records their outcomes: `python -m kit.loops LOOP MODULE RECORD`.

LOOP is `asyncio`, or `couplet`: then Couplet's event loop takes the place of asyncio's own. The record has the format
of `kit.suite`.
"""

import faulthandler
import json
import os
import sys
import unittest

# Seconds until a test that hangs ends the process.
HANG = 300


class Recorder(unittest.TestResult):
    """Writes outcomes to the record. A test may have several; readers keep the worst."""

    def __init__(self, path):
        super().__init__()
        self.record = open(path, "a")
        self.stacks = open(path + ".stacks", "w")

    def note(self, test, outcome, reason=""):
        self.record.write(json.dumps({"id": test.id(), "outcome": outcome, "reason": reason}) + "\n")
        self.record.flush()

    def startTest(self, test):
        super().startTest(test)
        self.note(test, "start")
        faulthandler.dump_traceback_later(HANG, exit=True, file=self.stacks)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self.note(test, "stop")

    def addSuccess(self, test):
        self.note(test, "ok")

    def addError(self, test, error):
        self.note(test, "error", self._exc_info_to_string(error, test))

    def addFailure(self, test, error):
        self.note(test, "fail", self._exc_info_to_string(error, test))

    def addSkip(self, test, reason):
        self.note(test, "skip", reason)

    def addExpectedFailure(self, test, error):
        self.note(test, "todo")

    def addUnexpectedSuccess(self, test):
        self.note(test, "unexpected")

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.note(test, "fail", f"{subtest}: {self._exc_info_to_string(error, test)}")


def install():
    """Puts Couplet's event loop in the place of asyncio's."""
    import asyncio
    from asyncio import unix_events

    from couplet_twisted import EventLoop as Ours

    class EventLoop(Ours):
        def __init__(self, selector=None):
            super().__init__()
            if selector is not None:
                selector.close()

    asyncio.SelectorEventLoop = unix_events.SelectorEventLoop = EventLoop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = unix_events.EventLoop = EventLoop
    asyncio.DefaultEventLoopPolicy._loop_factory = EventLoop


def flat(suite):
    """The tests of a suite."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test


def main():
    loop, module, record = sys.argv[1:]
    if loop == "couplet":
        install()
    from test import support

    # Some tests are skipped without the resource `network`; they need only this machine.
    support.use_resources = ["network"]
    done = {json.loads(line)["id"] for line in open(record)} if os.path.exists(record) else set()
    suite = unittest.TestLoader().loadTestsFromName(f"test.test_asyncio.{module}")
    unittest.TestSuite(test for test in flat(suite) if test.id() not in done).run(Recorder(record))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

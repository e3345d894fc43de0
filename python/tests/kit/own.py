"""Runs our tests: `python -m kit.own SUBJECT COUNTS FOLDER PATTERN [WORD...]`. The numbers of tests that passed,
failed and were skipped are written to COUNTS. With words, only tests whose id contains one of them run. A test that
takes longer than three times COUPLET_TEST_SECONDS ends the run, and a traceback shows where it hangs; a test may run
two programs, each of which gets COUPLET_TEST_SECONDS."""

import faulthandler
import os
import pathlib
import signal
import sys
import unittest


class Limited(unittest.TextTestResult):
    """Ends the process if a test takes too long."""

    limit = 3 * float(os.environ["COUPLET_TEST_SECONDS"])

    def startTest(self, test):
        faulthandler.dump_traceback_later(self.limit, exit=True)
        super().startTest(test)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()


def chosen(suite, words):
    """The tests of a suite, flat."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from chosen(test, words)
        elif not words or any(word in test.id() for word in words):
            yield test


def main():
    subject, counts, folder, pattern, *words = sys.argv[1:]
    os.environ["COUPLET_SUBJECT"] = subject
    # Child programs must react to SIGINT, even if this process was started with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = unittest.TestLoader().discover(folder, pattern, folder)
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Limited)
    result = runner.run(unittest.TestSuite(chosen(found, words)))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    skipped = len(result.skipped)
    # A module or class that fails as a whole is a failure, but no test ran.
    passed = max(0, result.testsRun - failed - skipped)
    pathlib.Path(counts).write_text(f"{passed} {failed} {skipped}")


if __name__ == "__main__":
    main()

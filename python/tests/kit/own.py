"""Runs our tests: `python -m kit.own SUBJECT COUNTS FOLDER PATTERN [WORD...]`. COUNTS gets the numbers of
tests that passed, failed and were skipped; with words, tests whose id has one of them are run."""

import os
import pathlib
import sys
import unittest


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
    found = unittest.TestLoader().discover(folder, pattern, folder)
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(unittest.TestSuite(chosen(found, words)))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    skipped = len(result.skipped)
    # A failure of a whole module or class is no test that ran.
    passed = max(0, result.testsRun - failed - skipped)
    pathlib.Path(counts).write_text(f"{passed} {failed} {skipped}")


if __name__ == "__main__":
    main()

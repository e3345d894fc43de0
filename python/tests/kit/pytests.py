"""Runs Scrapy's tests by pytest, and writes a record like `kit.suite`."""

import faulthandler
import json

import pytest
from scrapy.settings import default_settings

from kit import reactors


class Recorder:
    """A pytest plugin that writes outcomes to the record."""

    def __init__(self, record, done, patience):
        self.done, self.patience = done, patience
        self.record = open(record, "a")
        self.stacks = open(f"{record}.stacks", "w")

    def note(self, identity, outcome, reason=""):
        self.record.write(json.dumps({"id": identity, "outcome": outcome, "reason": reason}) + "\n")
        self.record.flush()

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid not in self.done]

    def pytest_runtest_logstart(self, nodeid):
        self.note(nodeid, "start")
        faulthandler.dump_traceback_later(self.patience, exit=True, file=self.stacks)

    def pytest_runtest_logreport(self, report):
        if report.passed and report.when != "call":
            return
        failed = "fail" if report.when == "call" else "error"
        outcome = {"passed": "ok", "skipped": "skip"}.get(report.outcome, failed)
        self.note(report.nodeid, outcome, "" if report.passed else report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid):
        faulthandler.cancel_dump_traceback_later()
        self.note(nodeid, "stop")


def run(subject, record, words, done, patience):
    """Runs the tests of the modules in `words`, except those in `done`.

    Scrapy accepts only the reactor that its settings name, so they are changed. Tests that need the internet are
    left out.
    """
    reactors.install(subject)
    default_settings.TWISTED_REACTOR = reactors.REACTORS[subject][1]
    options = ["-q", "-m", "not requires_internet", "--reactor=asyncio", "-p", "no:cacheprovider"]
    pytest.main([*options, *words], plugins=[Recorder(record, done, patience)])

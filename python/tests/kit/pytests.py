"""Runs tests by pytest, and writes a record like `kit.suite`."""

import faulthandler
import functools
import importlib.util
import json
import pathlib

import pytest

from kit import flaky, reactors


class Recorder:
    """A pytest plugin that writes outcomes to the record."""

    def __init__(self, record, done, left_out, patience):
        self.done, self.left_out, self.patience = done, left_out, patience
        self.record = open(record, "a")
        self.stacks = open(f"{record}.stacks", "w")

    def note(self, identity, outcome, reason=""):
        self.record.write(json.dumps({"id": identity, "outcome": outcome, "reason": reason}) + "\n")
        self.record.flush()

    def pytest_collection_modifyitems(self, items):
        names = [item.nodeid for item in items]
        left_out = {name for name in names if flaky.module(name).startswith(self.left_out)}
        items[:] = [item for item in items if item.nodeid not in self.done | left_out]

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


def run(subject, selection, record, words, done, patience):
    """Runs the tests of the packages or modules in `words`, except those in `done` and those that need the internet.
    A word `-NAME` leaves out the modules that begin with the name.
    """
    reactors.install(subject)
    package = importlib.util.find_spec(words[0].partition(".")[0])
    root = pathlib.Path(package.origin).parent.parent
    options = ["-q", "-m", "not requires_internet", "-p", "no:cacheprovider", "--pyargs", f"--rootdir={root}"]
    if selection == "scrapy":
        # Scrapy accepts only the reactor that its settings name.
        from scrapy.settings import default_settings

        default_settings.TWISTED_REACTOR = reactors.REACTORS[subject][1]
        options.append("--reactor=asyncio")
    else:
        # The plugin accepts only Twisted's default. Scrapy's settings forbid its import here.
        import pytest_twisted

        install = functools.partial(pytest_twisted._install_reactor, int, object)
        pytest_twisted.reactor_installers["default"] = install
    left_out = tuple(word[1:] for word in words if word.startswith("-"))
    words = [word for word in words if not word.startswith("-")]
    pytest.main([*options, *words], plugins=[Recorder(record, done, left_out, patience)])

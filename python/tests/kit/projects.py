"""The test suites of third-party projects, under the model and the subject."""

import concurrent.futures
import os
import pathlib
import typing

from kit import environment, flaky, outcomes, reactors
from kit.environment import TESTS, WORK, say

LIMIT = 2400
HEAD = "| program | version | tests | same outcome | another | flaky |\n| --- | --- |" + " ---: |" * 4


class Project(typing.NamedTuple):
    """A package of the environment `suites`, and its tests."""

    # Packages or modules for `kit.suite`, as the selection requires. A word `-NAME` leaves out tests by their names.
    words: list[str]
    # If its wheel lacks the tests: the folder of its source distribution that has them.
    source: str | None = None
    # If no release has them: a variable that names a folder of a checkout. Without it the suite is skipped.
    checkout: str | None = None
    selection: str = "packages"
    model: str = reactors.MODEL
    subject: str = reactors.SUBJECT
    # Makes its environment, if that is not `suites`.
    separate: typing.Callable | None = None
    # Whether both reactors run at the same time. Fixed ports forbid it.
    together: bool = True


PROJECTS = {
    "treq": Project(["treq"]),
    "klein": Project(["klein"]),
    "crochet": Project(["crochet"]),
    "foolscap": Project(["foolscap"]),
    "autobahn": Project(["autobahn.twisted"]),
    "crossbar": Project(["crossbar"], separate=environment.crossbar),
    "txtorcon": Project(["test"], source="test"),
    # Clean-ups of these tests add further ones: they never end, under either reactor.
    "ldaptor": Project(["ldaptor", "-ldaptor.test.test_config.TestLDAPConfig"]),
    "magic-wormhole": Project(["wormhole"], selection="pytest"),
    "magic-wormhole-mailbox-server": Project(["wormhole_mailbox_server"]),
    "magic-wormhole-transit-relay": Project(["wormhole_transit_relay"], together=False),
    "carbon": Project(["carbon"], checkout="COUPLET_TWISTED_CARBON"),
    "tahoe-lafs": Project(["allmydata"]),
    "buildbot": Project(["buildbot.test"], source=".", selection="buildbot"),
    "buildbot-worker": Project(["buildbot_worker.test"], source="."),
    # Left out: 3693 tests, which need gigabytes; nearly all use a fake reactor.
    "matrix-synapse": Project(["tests", "-tests.rest", "-tests.handlers", "-tests.storage"], source="tests"),
    # Scrapy's default is Twisted's asyncio reactor. Left out: tests of programs, which use the default.
    "scrapy": Project(
        ["tests", "-tests.test_cmdline", "-tests.test_command", "-tests.test_crawler_subprocess"],
        source=".",
        selection="scrapy",
        model="asyncio",
        subject="couplet-asyncio",
    ),
}


def judge(python, options, prefix):
    """Runs the suites that `options` selects. Returns the numbers of tests that pass, fail and don't count."""
    is_subject = options.subject == reactors.SUBJECT
    allowed = outcomes.excuses(TESTS / "differences-suites.txt") if is_subject else {}
    total, rows = [(0, 0, 0)], []
    for name, project in PROJECTS.items():
        if options.k and not any(word in name for word in options.k):
            continue
        if project.checkout and not os.environ.get(project.checkout):
            say(f"SKIPPED: no release of {name} has its tests; {project.checkout} may name a folder that has them")
            total.append((0, 0, 1))
            continue
        subject = project.subject if is_subject else options.subject
        own = project.separate() if project.separate else python
        if project.separate and is_subject:
            environment.install(own, environment.built())
        counts, row = compared(own, name, project._replace(subject=subject), prefix, allowed)
        say("%s: %d passed, %d failed, %d skipped" % (name, *counts))
        total.append(counts)
        rows.append(row)
    say("\n".join([HEAD, *rows]))
    return tuple(map(sum, zip(*total)))


def compared(python, name, project, prefix, allowed):
    """Runs a suite under the model and the subject, and compares the outcomes. Returns the numbers of tests that pass,
    fail and don't count, and the suite's row of the printed table.
    """
    folder = where(python, name, project)

    def run(reactor, words, record):
        record = WORK / record
        outcomes.run(python, reactor, project.selection, record, LIMIT, words, prefix, folder)
        return outcomes.read(record)[0]

    with concurrent.futures.ThreadPoolExecutor(2 if project.together else 1) as pool:
        pair = project.model, project.subject
        model, found = pool.map(lambda each: run(each, project.words, f"suites-{name}-{each}.jsonl"), pair)
    known = {identity: reason for identity, reason in allowed.items() if identity in model}

    def again(reactor, number, modules):
        left_out = [word for word in project.words if word.startswith("-")]
        return run(reactor, modules + left_out, f"suites-{name}-{reactor}-again-{number}.jsonl")

    tests = len(model)
    unsteady = flaky.take(again, model, found, known, *pair)
    same = sum(outcome == found.get(identity, ("missing",))[0] for identity, (outcome, _) in model.items())
    row = [name, environment.version(name), tests, same, tests - same - unsteady, unsteady]
    passed, failed, aside = outcomes.compare(model, found, project.subject, known)
    return (passed, failed, aside + unsteady), f"| {' | '.join(map(str, row))} |"


def where(python, name, project):
    """The folder from which a suite's tests are imported; None if they are installed."""
    if project.checkout:
        return pathlib.Path(os.environ[project.checkout]).resolve()
    return environment.source(python, name, project.source) if project.source else None

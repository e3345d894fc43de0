"""Flaky tests among the differing ones: their modules are run again under both reactors."""

import collections

from kit import outcomes, reactors
from kit.environment import say

# How many times the modules of differing tests are run again.
RERUNS = 3


def module(identity):
    """The module of a test of trial or pytest."""
    path, colons, _ = identity.partition("::")
    return path.removesuffix(".py").replace("/", ".") if colons else identity.rsplit(".", 2)[0]


def take(again, model, found, allowed, model_name=reactors.MODEL, name=reactors.SUBJECT):
    """Removes flaky tests from the outcomes under the model and under the subject, and prints them. Returns their
    number.

    `again(reactor, number, modules)` runs modules for the nth time and returns the outcomes. A test is flaky if the
    reruns of its module have fewer than `RERUNS` failures under the model, and no more than that under the subject.
    """
    # The modules are rerun as a whole: a fault may show in a later test than the one that causes it.
    differing = outcomes.differing(model, found) | outcomes.failing(model) & outcomes.passing(found)
    differing -= allowed.keys()
    modules = {identity: module(identity) for identity in differing}
    if not modules:
        return 0
    ignored = allowed.keys() | model.keys() - outcomes.passing(model) - differing
    counts = [failures(again, reactor, modules, ignored) for reactor in (model_name, name)]
    before, now = ({identity: count[modules[identity]] for identity in modules} for count in counts)
    unsteady = [identity for identity in sorted(modules) if now[identity] <= before[identity] < RERUNS]
    for identity in unsteady:
        first = f"{model.pop(identity)[0]} under {model_name}, {found.pop(identity, ('missing', ''))[0]} under {name}"
        failed = f"{before[identity]} failures under {model_name}, {now[identity]} under {name}"
        say(f"flaky    {identity}: {first}; {RERUNS} further runs of its module: {failed}")
    return len(unsteady)


def failures(again, reactor, modules, ignored):
    """How often tests of each module fail when the modules are run again, except those in `ignored`; `modules` maps a
    test to its module.
    """
    counts = collections.Counter()
    for number in range(1, RERUNS + 1):
        found = again(reactor, number, sorted(set(modules.values())))
        for identity in (outcomes.failing(found) | modules.keys() - found.keys()) - ignored:
            counts[module(identity)] += 1
    return counts

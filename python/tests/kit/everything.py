"""Runs all of Twisted's tests under the model and the subject, and finds flaky ones."""

import collections
import concurrent.futures
import hashlib
import subprocess

from kit import environment, outcomes, reactors
from kit.environment import TESTS, WORK, say

LIMIT = 3600
# How many times the modules of differing tests are run again.
RERUNS = 3


def judge(python, subject, processes, allowed):
    """Compares the subject with the model. Returns the numbers of tests that pass, fail and don't count."""
    model = kept_model(python, processes)
    record = WORK / f"whole-{subject}.jsonl"
    record.write_text(run(python, subject, processes))
    found = outcomes.read(record)[0]
    unsteady = flaky(python, subject, outcomes.differing(model, found), allowed)
    for identity, (under_model, ours) in sorted(unsteady.items()):
        del model[identity]
        outcome = found.pop(identity, ("missing", ""))[0]
        failures = f"{under_model} failures under {reactors.MODEL}, {ours} under {subject}"
        say(f"flaky    {identity}: {outcome} under {subject}; {RERUNS} further runs of its module: {failures}")
    passed, failed, aside = outcomes.compare(model, found, subject, allowed)
    return passed, failed, aside + len(unsteady)


def kept_model(python, processes):
    """The outcomes under the model. They are kept until the installed packages or the modules of `kit` change."""
    packages = subprocess.run([python, "-m", "pip", "freeze"], stdout=subprocess.PIPE, check=True).stdout
    # The model's run does not use our package.
    kept = sorted(line for line in packages.splitlines() if not line.startswith(b"couplet"))
    kept += [hashlib.sha256(file.read_bytes()).hexdigest().encode() for file in sorted((TESTS / "kit").glob("*.py"))]
    version = next(line for line in kept if line.lower().startswith(b"twisted==")).decode().split("==")[1]
    model, stamp = WORK / f"whole-model-{version}.jsonl", WORK / f"whole-model-{version}.packages"
    if not stamp.exists() or stamp.read_bytes() != b"\n".join(kept):
        stamp.unlink(missing_ok=True)
        model.write_text(run(python, reactors.MODEL, processes))
        stamp.write_bytes(b"\n".join(kept))
    return outcomes.read(model)[0]


def run(python, reactor, shards):
    """Runs all tests under a reactor, in one process per shard. Returns the record."""
    prefix = environment.unprivileged()
    records = [WORK / f"whole-{reactor}-{shard}.jsonl" for shard in range(1, shards + 1)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(outcomes.run, python, reactor, "whole", record, LIMIT, [f"{number}/{shards}"], prefix)
            for number, record in enumerate(records, 1)
        ]
        for each in runs:
            each.result()
    return "".join(record.read_text() for record in records)


def flaky(python, subject, differing, allowed):
    """The flaky tests among the differing ones, with the failures of their modules under each reactor.

    A test is flaky if the reruns of its module have fewer than `RERUNS` failures under the model, and no more than
    that under the subject.
    """
    # The modules are rerun as a whole: a fault may show in a later test than the one that causes it.
    modules = {identity: identity.rsplit(".", 2)[0] for identity in differing if identity not in allowed}
    if not modules:
        return {}
    model, ours = (failures(python, reactor, modules, allowed) for reactor in (reactors.MODEL, subject))
    counts = {identity: (model[module], ours[module]) for identity, module in modules.items()}
    return {identity: (before, now) for identity, (before, now) in counts.items() if now <= before < RERUNS}


def failures(python, reactor, modules, allowed):
    """How often tests of each module fail when the modules are run again; `modules` maps a test to its module."""
    prefix = environment.unprivileged()
    counts = collections.Counter()
    for number in range(1, RERUNS + 1):
        record = WORK / f"whole-{reactor}-again-{number}.jsonl"
        outcomes.run(python, reactor, "named", record, LIMIT, sorted(set(modules.values())), prefix)
        found = outcomes.read(record)[0]
        failed = [identity for identity, (outcome, _) in found.items() if outcome not in ("ok", "skip", "todo")]
        missing = [identity for identity in modules if identity not in found]
        for identity in set(failed + missing) - set(allowed):
            counts[identity.rsplit(".", 2)[0]] += 1
    return counts

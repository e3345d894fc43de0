"""Runs all of Twisted's tests under the model and the subject."""

import concurrent.futures
import hashlib
import subprocess

from kit import environment, flaky, outcomes, reactors
from kit.environment import TESTS, WORK

LIMIT = 3600


def judge(python, subject, processes, allowed):
    """Compares the subject with the model. Returns the numbers of tests that pass, fail and don't count."""
    model = kept_model(python, processes)
    record = WORK / f"whole-{subject}.jsonl"
    record.write_text(run(python, subject, processes))
    found = outcomes.read(record)[0]

    def again(reactor, number, modules):
        record = WORK / f"whole-{reactor}-again-{number}.jsonl"
        outcomes.run(python, reactor, "named", record, LIMIT, modules, environment.unprivileged())
        return outcomes.read(record)[0]

    unsteady = flaky.take(again, model, found, allowed, name=subject)
    passed, failed, aside = outcomes.compare(model, found, subject, allowed)
    return passed, failed, aside + unsteady


def kept_model(python, processes):
    """The outcomes under the model, kept until the installed packages or the modules of `kit` change."""
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

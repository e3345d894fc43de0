"""Outcomes of tests under two reactors, and their differences."""

import json
import shutil
import subprocess
import time

from kit import environment

# From best to worst; the worst outcome of a test counts.
ORDER = ["ok", "todo", "unexpected", "skip", "fail", "error", "hang", "died", "missing"]
# A run continues after a test that ended its process, but at most this many times.
DEATHS = 25


def read(record):
    """The outcomes in a record, id to (outcome, reason), and the id of a test that started and did not end."""
    outcomes, running = {}, None
    for line in record.read_text().splitlines():
        line = json.loads(line)
        identity, outcome = line["id"], line["outcome"]
        if outcome == "start":
            running = identity
        elif outcome == "stop":
            running = None
        else:
            before = outcomes.get(identity, ("ok", ""))
            reason = "\n".join(filter(None, [before[1], line["reason"]]))
            worst = max(before[0], outcome, key=ORDER.index)
            outcomes[identity] = (worst, reason)
    return outcomes, running


def run(python, reactor, selection, record, limit, words=(), prefix=(), folder=None, module="kit.suite"):
    """Runs tests and records their outcomes. A test that ends its process is recorded as `hang` or `died`.

    The tests run in `folder`, if given, and can import its modules.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    record.touch()
    stacks = record.with_name(record.name + ".stacks")
    output = record.with_name(record.name + ".output")
    command = [*prefix, python, "-m", module, reactor, selection, record, *words]
    variables = environment.variables()
    if folder is not None:
        variables["PYTHONPATH"] += f":{folder}"
    until = time.monotonic() + limit
    for _ in range(DEATHS):
        with output.open("w") as to:
            child = subprocess.Popen(
                command, env=variables, cwd=folder or record.parent, stdout=to, stderr=to, stdin=subprocess.DEVNULL
            )
            try:
                status = child.wait(max(1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                status = None
        if status == 0:
            shutil.rmtree(record.with_name(record.name + ".trial"), ignore_errors=True)
            return
        _, running = read(record)
        if running is None:
            raise environment.Broken(f"{reactor}: no test ran; the end of {output}:\n{tail(output)}")
        said = stacks.read_text() if stacks.exists() else ""
        outcome = ("hang", said) if said or status is None else ("died", f"status {status}\n{tail(output)}")
        with record.open("a") as to:
            for word, reason in [outcome, ("stop", "")]:
                to.write(json.dumps({"id": running, "outcome": word, "reason": reason}) + "\n")
        if status is None:
            raise environment.Broken(f"{reactor}: not ended after {limit} s, in {running}")
    raise environment.Broken(f"{reactor}: {DEATHS} tests ended their process; see {record}")


def tail(path, lines=30):
    """The last lines of a file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def excuses(path):
    """The differences that a file allows, in lines `test id | reason`. Empty lines and comments are skipped."""
    allowed = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            identity, bar, reason = line.partition("|")
            if not bar or not reason.strip():
                raise environment.Broken(f"{path}:{number}: not `test id | reason`")
            allowed[identity.strip()] = reason.strip()
    return allowed


def passing(found):
    """The tests that pass."""
    return {identity for identity, (outcome, _) in found.items() if outcome == "ok"}


def failing(found):
    """The tests that fail, hang or end their process."""
    return {identity for identity, (outcome, _) in found.items() if outcome not in ("ok", "skip", "todo")}


def differing(model, subject):
    """The tests that pass under the model but not under the subject."""
    return passing(model) - passing(subject)


def compare(model, subject, name, allowed):
    """Prints the differences. Returns the numbers of tests that pass, fail and don't count."""
    differ = differing(model, subject)
    for identity in sorted(differ):
        outcome, reason = subject.get(identity, ("missing", "not among the subject's tests"))
        if identity in allowed:
            environment.say(f"known    {identity}: {outcome}: {allowed[identity]}")
        else:
            environment.say(f"DIFFERS  {identity}: {outcome} under {name}\n{indented(reason)}")
    unused = allowed.keys() - differ
    for identity in sorted(unused):
        environment.say(f"UNUSED   {identity} is among the known differences and does not differ")
    known = differ & allowed.keys()
    passed = len(passing(model) - differ)
    failed = len(differ - known) + len(unused)
    return passed, failed, aside(model, subject, name) + len(known)


def aside(model, subject, name):
    """Lists the tests that don't count, with both outcomes. Returns their number."""
    others = sorted(model.keys() - passing(model))
    for identity in others:
        outcome, reason = model[identity]
        there = subject.get(identity, ("missing", ""))[0]
        if outcome != "skip" or there != "skip":
            environment.say(f"aside    {identity}: {outcome} under the model, {there} under {name}: {first(reason)}")
    for identity in sorted(set(subject) - set(model)):
        environment.say(f"aside    {identity}: only under {name}: {subject[identity][0]}")
    return len(others)


def first(reason):
    """A reason in one line: the last line of a traceback."""
    return (reason.strip().splitlines() or [""])[-1][:150]


def indented(text):
    return "\n".join("    " + line for line in text.strip().splitlines())

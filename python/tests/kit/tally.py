"""The table of reactors.md: Twisted's tests for each reactor, by class, with their outcomes and the parts of Couplet
that they use."""

import json
import re

from kit import environment, outcomes, reactors

DOCUMENT = environment.TESTS / "reactors.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
VERSION = "Of Twisted {}:\n\n"
COLUMNS = ["tests", "same outcome", "another", "Couplet's connections", "Twisted's, watched", "only the loop"]


def uses(record):
    """The parts of Couplet that each test used, by id."""
    found = {}
    for line in record.read_text().splitlines():
        line = json.loads(line)
        if line["outcome"] == "stop":
            found[line["id"]] = line.get("uses", [])
    return found


def column(used):
    """The number of a test's column: Couplet's connections and ports, Twisted's watched descriptors, or neither."""
    return 0 if "stream" in used else 1 if "watch" in used else 2


def rows(model, subject, used, known):
    """The lines of the table; `known` has the description of each class."""
    classes = {}
    for identity, (outcome, _) in sorted(model.items()):
        kind = identity.removeprefix("twisted.internet.test.").rpartition(".")[0]
        counts = classes.setdefault(kind, [0] * len(COLUMNS))
        counts[0] += 1
        counts[1 if outcome == subject.get(identity, ("missing",))[0] else 2] += 1
        # A skipped test uses nothing.
        if outcome != "skip":
            counts[3 + column(used.get(identity, []))] += 1
    total = [sum(counts) for counts in zip(*classes.values())]
    head = f"| class | {' | '.join(COLUMNS)} | exercises |"
    lines = [head, "| --- |" + " ---: |" * len(COLUMNS) + " --- |"]
    for kind, counts in [*classes.items(), ("all", total)]:
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} | {known.get(kind, '')} |")
    return lines


def described(text):
    """The descriptions of classes in a document."""
    return dict(re.findall(r"^\| (\S+) \|(?: \d+ \|){6} (.+) \|$", text, re.MULTILINE))


def is_about(version):
    """Whether the document's table is for this version of Twisted."""
    return VERSION.format(version) in DOCUMENT.read_text()


def table(python, version, limit):
    """The document with its table made from the records of `builder` and of a run of `uses`."""
    found = []
    for name in (reactors.MODEL, reactors.SUBJECT):
        record = environment.WORK / f"builder-{name}.jsonl"
        if not record.exists():
            raise environment.Broken(f"there is no {record}: run the stage `builder` first")
        found.append(outcomes.read(record)[0])
    record = environment.WORK / "uses.jsonl"
    outcomes.run(python, reactors.SUBJECT, "uses", record, limit)
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = rows(*found, uses(record), described(text))
    return "".join([before, BEGIN, VERSION.format(version), *(line + "\n" for line in lines), END, after])

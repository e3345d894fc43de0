#!/usr/bin/env python3
"""Compares the server's processor time per message between reactors.

Server and load are separate processes on separate cores. Only the server's processor time is counted, user and
system, from /proc. The reactors' rounds alternate. For each reactor it prints the best round, and the ratio to
epoll: the median of the rounds (least–most). `raw` is a plain loop over Python's epoll. `couplet*` is couplet with
its own LineReceiver. Needs an interpreter with twisted, and with couplet-twisted to compare it:
bench/compare.py --python VENV/bin/python.
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
REACTORS = ["epoll", "asyncio", "couplet", "raw"]
# Name: (the server's role, the load's kind, connections, messages, the unit of the result, units per message).
ROWS = {
    "echo-50": ("echo", "echo", 50, 60_000, "µs/message", 1),
    "echo-500": ("echo", "echo", 500, 60_000, "µs/message", 1),
    "line": ("line", "line", 50, 4_000, "µs/line", 16),
    "short": ("short", "short", 0, 8_000, "µs/connection", 1),
    "connect": ("connect", "answer", 1, 8_000, "µs/connection", 1),
    "endpoint": ("endpoint", "answer", 1, 8_000, "µs/connection", 1),
    "udp": ("udp", "udp", 50, 60_000, "µs/datagram", 1),
    "unix-udp": ("unix-udp", "unix-udp", 50, 60_000, "µs/datagram", 1),
    "bulk": ("bulk", "bulk", 1, 1_500, "µs/MiB", 1),
    "web": ("web", "web", 50, 6_000, "µs/request", 1),
    "idle": ("echo", "idle", 10_000, 0, "KiB/connection", 1),
    "timers": ("timers", None, 0, 100_000, "µs/timer", 1),
    "spawn": ("spawn", None, 0, 500, "µs/process", 1),
    "pipe": ("pipe", None, 0, 40_000, "µs/message", 1),
    "serial": ("serial", None, 0, 40_000, "µs/message", 1),
}


class Failed(Exception):
    """A server or a load failed."""


def command(python, core, *arguments):
    """Starts a Python process on a core."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "tests")}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [python, *map(str, arguments)],
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def processor_time(pid):
    """Processor time of a process and its threads in seconds, user and system; by the scheduler's clock if possible."""
    try:
        # /proc/PID/schedstat counts only the first thread.
        threads = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    except (OSError, ValueError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


def resident(pid):
    """Resident memory of a process in KiB."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def measured(row, reactor, options):
    """Runs one round of a row; returns the cost of one message."""
    role, kind, connections, count, _, each = ROWS[row]
    count = max(1, int(count * options.scale))
    if reactor == "couplet*":
        reactor, role = "couplet", "line-own"
    # All servers run on the same core.
    own, other = options.cores
    if kind is None:
        server = command(options.python, own, HERE / "servers.py", reactor, role, count)
        said, error = server.communicate(timeout=120)
        if server.returncode:
            raise Failed(error.strip())
        return float(said) / count * 1e6
    server = command(options.python, own, HERE / "servers.py", reactor, role)
    load = None
    try:
        port = server.stderr.readline().strip()
        if not port.isdigit():
            raise Failed(port + server.stderr.read())
        empty = resident(server.pid)
        load = command(options.python, other, HERE / "load.py", kind, port, connections, count)
        # All its connections are open.
        expect(load, "ready")
        if kind == "idle":
            settle(server.pid, connections)
            return (resident(server.pid) - empty) / connections
        before = processor_time(server.pid)
        tell(load)
        expect(load, "done")
        return (processor_time(server.pid) - before) / (count * each) * 1e6
    finally:
        for process in filter(None, [load, server]):
            process.kill()
            process.communicate()


def settle(pid, connections):
    """Waits until the server has a descriptor for each connection."""
    while len(os.listdir(f"/proc/{pid}/fd")) < connections:
        os.sched_yield()


def tell(load):
    load.stdin.write("\n")
    load.stdin.flush()


def expect(load, word):
    if load.stdout.readline().strip() != word:
        raise Failed(f"the load ended: {load.stderr.read().strip()}")


def contestants(row, options):
    """The reactors of a row. Prints which one is skipped."""
    names = [name for name in REACTORS if name in options.reactors]
    if row in ("web", "connect", "endpoint", "timers", "spawn", "pipe", "serial", "unix-udp") and "raw" in names:
        names.remove("raw")
    if row == "timers" and "asyncio" in names:
        # These calls would take minutes, and the ratio would depend on their number.
        print(f"{row:9} asyncio   skipped: its cost of one call grows with their number")
        names.remove("asyncio")
    if row == "line" and "couplet" in names and importable(options.python, "couplet_twisted.basic"):
        names.append("couplet*")
    return names


def importable(python, module):
    return subprocess.run([python, "-P", "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode == 0


def compare(row, options):
    """Runs and prints one row."""
    rounds = {name: [] for name in contestants(row, options)}
    for number in range(options.rounds):
        # Each round begins with another reactor.
        names = list(rounds)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rounds[name].append(measured(row, name, options))
    for name, costs in rounds.items():
        line = f"{row:9} {name:9} {min(costs):9.2f} {ROWS[row][4]:15}"
        if "epoll" in rounds:
            ratios = [cost / model for cost, model in zip(costs, rounds["epoll"])]
            line += f" {statistics.median(ratios):6.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        print(line, flush=True)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"rows whose name has it: {', '.join(ROWS)}")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for all processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of messages")
    parser.add_argument("--reactors", default=",".join(REACTORS), help="separated by commas")
    options = parser.parse_args()
    options.reactors = options.reactors.split(",")
    for name in options.reactors:
        if name not in REACTORS:
            parser.error(f"no reactor {name!r}; there are {', '.join(REACTORS)}")
    options.rows = [row for row in ROWS if not options.words or any(word in row for word in options.words)]
    if not options.rows:
        parser.error(f"no row named so; there are {', '.join(ROWS)}")
    return options


def main():
    options = parsed()
    if not importable(options.python, "twisted"):
        sys.exit(f"compare.py: {options.python} has no twisted; name another with --python")
    if "couplet" in options.reactors and not importable(options.python, "couplet_twisted"):
        print("couplet: skipped: couplet_twisted is not installed")
        options.reactors.remove("couplet")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("server and load share the only core")
    options.cores = cores[0], cores[-1]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{'row':9} {'reactor':9} {'best':>9} {'':15} ratio to epoll: median (least–most) of {options.rounds}")
    for row in options.rows:
        needed = ROWS[row][2] + 100
        if hard != resource.RLIM_INFINITY and hard < needed:
            print(f"{row:9} skipped: needs {needed} descriptors, the limit is {hard}")
            continue
        compare(row, options)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"compare.py: {failed}")

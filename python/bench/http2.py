#!/usr/bin/env python3
"""Compares the server's processor time per request over HTTP/2 with that over HTTP/1.1, with h2load as the client.

The same hello of a `Site` is asked for over clear text and over TLS; servers of one round alternate. Server and load
have a core each. Only the server's processor time is counted, user and system, from /proc; the requests a second are
h2load's. It prints the best round of each, and the ratio to the first row: the median of the rounds (least–most).
Needs h2load, and an interpreter with twisted[http2,tls] and couplet-twisted: bench/http2.py --python VENV/bin/python.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys

from compare import Failed, HERE, command, processor_time

# Name: (the reactor, the server's role, h2load's arguments).
H1, H2 = ["--h1", "-c50"], ["-c10", "-m100"]
ROWS = {
    "HTTP/1.1": ("couplet", "web", H1),
    "HTTP/2": ("couplet", "web-http2", H2),
    "HTTP/2 of Twisted": ("couplet-plain", "web-http2", H2),
    "TLS, HTTP/1.1": ("couplet", "web-tls", H1),
    "TLS, HTTP/2": ("couplet", "web-tls", H2),
    "TLS, HTTP/2 of Twisted": ("couplet-plain", "web-tls", H2),
}


def measured(row, options):
    """Runs one round of a row. Returns the server's time for a request in µs, and the requests a second."""
    reactor, role, arguments = ROWS[row]
    own, other = options.cores
    server = command(options.python, own, HERE / "servers.py", reactor, role)
    try:
        port = server.stderr.readline().strip()
        if not port.isdigit():
            raise Failed(port + server.stderr.read())
        url = f"{'https' if role == 'web-tls' else 'http'}://127.0.0.1:{port}/"
        count = options.requests // 10 if "Twisted" in row else options.requests
        # The server does its one-time work.
        load(other, 1000, arguments, url)
        before = processor_time(server.pid)
        rate = load(other, count, arguments, url)
        return (processor_time(server.pid) - before) / count * 1e6, rate
    finally:
        server.kill()
        server.communicate()


def load(core, count, arguments, url):
    """Makes requests; returns how many were answered in a second."""
    run = subprocess.run(
        ["h2load", "-n", str(count), *arguments, url],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if f" {count} succeeded" not in run.stdout:
        raise Failed(run.stdout + run.stderr)
    return float(re.search(r"([0-9.]+) req/s", run.stdout).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"rows whose name has it: {', '.join(ROWS)}")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the servers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    options.cores = cores[0], cores[-1]
    rounds = {row: [] for row in ROWS if not options.words or any(word in row for word in options.words)}
    for _ in range(options.rounds):
        for row in rounds:
            rounds[row].append(measured(row, options))
    first = [cost for cost, _ in next(iter(rounds.values()))]
    for row, results in rounds.items():
        ratios = [cost / model for (cost, _), model in zip(results, first)]
        cost, rate = min(cost for cost, _ in results), max(rate for _, rate in results)
        spread = f"{statistics.median(ratios):6.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        print(f"{row:24} {cost:7.2f} µs/request {spread} {rate:8.0f} requests/s")


if __name__ == "__main__":
    try:
        main()
    except (Failed, FileNotFoundError) as failed:
        sys.exit(f"http2.py: {failed}")

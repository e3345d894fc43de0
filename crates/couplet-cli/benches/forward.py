#!/usr/bin/env python3
"""A thousand connections through `couplet forward`, beside socat and haproxy, in one run.

    cargo build --release -p couplet-cli
    crates/couplet-cli/benches/forward.py [--connections 1000] [--rounds 30] [--size 1024] [--runs 3]

Needs socat and haproxy (apt-get install socat haproxy), Linux, and a limit on descriptors of 9000, which
haproxy wants (ulimit -n 9000). In each run every forwarder in turn stands between this client and
a `couplet echo`: it accepts all connections, then carries `rounds` messages of `size` bytes to and
fro on each of them, all at once. Told are, for each forwarder and as ratios of ours to the others:

- CPU: the time that its processes ran, user and system (/proc/PID/schedstat), for the connects and
  for the messages; the median of the runs;
- memory: the proportional set size of its processes with all connections open (smaps_rollup), so
  that what socat's processes share counts once.

haproxy runs with one thread. The connections' own end is not in the figures, because the time of a
process that has ended cannot be read exactly.
"""

import argparse
import glob
import os
import select
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
COUPLET = os.path.join(TARGET, "release", "couplet")
HOST = "127.0.0.1"


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_listening(port):
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.01)
    raise SystemExit(f"nothing listens on {port}")


def start_couplet(port, upstream, _folder):
    return [COUPLET, "forward", str(port), f"{HOST}:{upstream}"]


def start_socat(port, upstream, _folder):
    listen = f"TCP-LISTEN:{port},bind={HOST},fork,reuseaddr,backlog=1024"
    return ["socat", listen, f"TCP:{HOST}:{upstream}"]


def start_haproxy(port, upstream, folder):
    path = os.path.join(folder, "haproxy.cfg")
    with open(path, "w") as config:
        config.write(
            f"""global
    nbthread 1
    maxconn 4096
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen all
    bind {HOST}:{port} backlog 1024
    server one {HOST}:{upstream}
"""
        )
    return ["haproxy", "-db", "-q", "-f", path]


FORWARDERS = {"couplet": start_couplet, "socat": start_socat, "haproxy": start_haproxy}


def processes(root):
    """A process and all its descendants."""
    children = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as stat:
                pid, rest = stat.read().split(" ", 1)
            children.setdefault(int(rest.rsplit(")", 1)[1].split()[1]), []).append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu(pids):
    """Milliseconds on a processor."""
    total = 0
    for pid in pids:
        for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with open(path) as stat:
                total += int(stat.read().split()[0])
    return total / 1e6


def memory(pids):
    """KiB, proportional."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total


def exchange(clients, message, rounds):
    """Each client sends the message and gets it back, `rounds` times, all of them at once."""
    poll = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    left = {number: [rounds, 0] for number in by_number}
    for number, client in by_number.items():
        poll.register(number, select.EPOLLIN)
        client.sendall(message)
    while left:
        for number, _ in poll.poll():
            state, client = left[number], by_number[number]
            state[1] += len(client.recv(65536))
            if state[1] < len(message):
                continue
            state[0], state[1] = state[0] - 1, 0
            if state[0]:
                client.sendall(message)
            else:
                poll.unregister(number)
                del left[number]


def measure(name, options, folder):
    upstream, port = free_port(), free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    echo = subprocess.Popen([COUPLET, "echo", "--listen", str(upstream)], **quiet)
    wait_listening(upstream)
    forwarder = subprocess.Popen(FORWARDERS[name](port, upstream, folder), **quiet)
    clients = []
    try:
        wait_listening(port)
        time.sleep(0.1)
        before = cpu(processes(forwarder.pid))
        for _ in range(options.connections):
            clients.append(socket.create_connection((HOST, port)))
        exchange(clients, b"x", 1)
        pids = processes(forwarder.pid)
        connected = cpu(pids)
        exchange(clients, b"x" * options.size, options.rounds)
        return connected - before, cpu(pids) - connected, memory(pids)
    finally:
        for client in clients:
            client.close()
        for process in (forwarder, echo):
            process.terminate()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    names = [name for name in FORWARDERS if name == "couplet" or shutil.which(name)]
    runs = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for name in names:
                runs[name].append(measure(name, options, folder))
    middle = {name: [statistics.median(each) for each in zip(*runs[name])] for name in names}
    print(f"{options.connections} connections, {options.rounds} messages of {options.size} bytes on each")
    print(f"{'':10}{'connects':>12}{'messages':>12}{'CPU':>12}{'memory':>14}")
    for name, (connects, messages, kib) in middle.items():
        total = connects + messages
        print(f"{name:10}{connects:9.0f} ms{messages:9.0f} ms{total:9.0f} ms{kib / 1024:10.1f} MiB")
    ours = middle["couplet"]
    for name in names[1:]:
        theirs = middle[name]
        ratios = [ours[0] / theirs[0], ours[1] / theirs[1]]
        ratios += [sum(ours[:2]) / sum(theirs[:2]), ours[2] / theirs[2]]
        print(f"{'/ ' + name:10}" + "".join(f"{ratio:12.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()

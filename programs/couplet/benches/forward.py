#!/usr/bin/env python3
"""`couplet forward` beside socat and haproxy: a thousand connections, or a few bulk streams.

    cargo build --profile dist -p couplet-cli
    programs/couplet/benches/forward.py [--connections 1000] [--rounds 30] [--size 1024] [--runs 3]
    programs/couplet/benches/forward.py --bulk 8 [--megabytes 1000] [--pace 0] [--runs 3]

Needs socat and haproxy (apt-get install socat haproxy), Linux, and a limit on descriptors of 9000, which
haproxy wants (ulimit -n 9000). In each run every forwarder in turn stands between this client and
a `couplet echo`: it accepts all connections, then carries `rounds` messages of `size` bytes to and
fro on each of them, all at once. Reported for each forwarder, and as ratios of ours to the others:

- CPU: the time that its processes ran, user and system (/proc/PID/schedstat), for the connects and
  for the messages; the median of the runs;
- memory: the proportional set size of its processes with all connections open (smaps_rollup), so
  that what socat's processes share counts once.

haproxy runs with one thread. The connections' own end is not in the figures, because the time of a
process that has ended cannot be read exactly.

With `--bulk N`, a source sends `megabytes` over N streams to a sink. The report has the medians of the
processor time per megabyte of the forwarder, the source, the sink and all three, because on the
loopback interface each does a part of the others' work; and the rate. The forwarder has a dedicated
processor, and the ends share another. haproxy copies, through buffers of 64 KiB, and in a second row
splices, which shows the gain of splice(2) in one program. With `--pace N` the source sends at most N
megabytes a second.
"""

import argparse
import glob
import multiprocessing
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
COUPLET = os.path.join(TARGET, "dist", "couplet")
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


def start_haproxy(port, upstream, folder, tuning="", option=""):
    path = os.path.join(folder, "haproxy.cfg")
    with open(path, "w") as config:
        config.write(
            f"""global
    nbthread 1
    maxconn 4096
    {tuning}
defaults
    mode tcp
    {option}
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen all
    bind {HOST}:{port} backlog 1024
    server one {HOST}:{upstream}
"""
        )
    return ["haproxy", "-db", "-q", "-f", path]


def start_copying(port, upstream, folder):
    return start_haproxy(port, upstream, folder, tuning="tune.bufsize 65536")


def start_splicing(port, upstream, folder):
    return start_haproxy(port, upstream, folder, option="option splice-request")


FORWARDERS = {"couplet": start_couplet, "socat": start_socat, "haproxy": start_haproxy}
BULK = {"couplet": start_couplet, "haproxy": start_copying, "haproxy, splice": start_splicing}


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


def pour(port, options, go):
    """The source: sends zeros to all streams alike."""
    message, total = memoryview(bytes(65536)), options.megabytes * 1_000_000
    poll, clients, sent = select.epoll(), {}, 0
    for _ in range(options.bulk):
        client = socket.create_connection((HOST, port))
        client.setblocking(False)
        clients[client.fileno()] = client
        poll.register(client, select.EPOLLOUT)
    go.wait()
    began = time.monotonic()
    while sent < total:
        early = options.pace and sent / 1e6 / options.pace - (time.monotonic() - began)
        if early > 0:
            time.sleep(early)
        for number, _ in poll.poll():
            try:
                sent += clients[number].send(message[: total - sent])
            except BlockingIOError:
                pass
    for client in clients.values():
        client.close()


def drain(listener, options):
    """The sink."""
    buffer, left = bytearray(262144), options.megabytes * 1_000_000
    poll, peers = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    while left:
        for number, _ in poll.poll():
            if number == listener.fileno():
                peer, _ = listener.accept()
                peers[peer.fileno()] = peer
                poll.register(peer, select.EPOLLIN)
            elif received := peers[number].recv_into(buffer):
                left -= received
            else:
                poll.unregister(number)


def timed(out, cpus, work, *arguments):
    """Runs `work` on these processors, and sends the microseconds that it took of them."""
    os.sched_setaffinity(0, cpus)
    before = time.process_time_ns()
    work(*arguments)
    out.put((work.__name__, (time.process_time_ns() - before) / 1e3))


def measure_bulk(name, options, folder):
    """Microseconds per megabyte of forwarder, source, sink and all; megabytes per second."""
    first, *others = sorted(os.sched_getaffinity(0))
    times, go, port = multiprocessing.Queue(), multiprocessing.Event(), free_port()
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = BULK[name](port, listener.getsockname()[1], folder)
        forwarder = subprocess.Popen(command, **quiet)
        os.sched_setaffinity(forwarder.pid, {(others or [first])[0]})
        ends = [(drain, listener, options), (pour, port, options, go)]
        ends = [multiprocessing.Process(target=timed, args=(times, {first}, *end)) for end in ends]
        try:
            wait_listening(port)
            for end in ends:
                end.start()
            time.sleep(0.3)
            before, began = cpu([forwarder.pid]), time.monotonic()
            go.set()
            spent = dict(times.get(timeout=120) for _ in ends)
            took, after = time.monotonic() - began, cpu([forwarder.pid])
        finally:
            forwarder.terminate()
            forwarder.wait()
            for end in ends:
                if end.pid:
                    end.terminate()
                    end.join()
    spent = [(after - before) * 1e3, spent["pour"], spent["drain"]]
    spent = [each / options.megabytes for each in (*spent, sum(spent))]
    return *spent, options.megabytes / took


def report_bulk(options, runs):
    pace = f", at most {options.pace} MB/s" if options.pace else ""
    print(f"{options.megabytes} MB over {options.bulk} streams{pace}; CPU in µs/MB")
    columns = "".join(f"{column:>10}" for column in ("source", "sink", "all", "MB/s"))
    print(f"{'':16}{'forwarder':>12}{'(least-most)':>14}{columns}")
    for name, each in runs.items():
        forwarder, *others = (statistics.median(column) for column in zip(*each))
        spread = f"({min(run[0] for run in each):.0f}-{max(run[0] for run in each):.0f})"
        print(f"{name:16}{forwarder:12.0f}{spread:>14}" + "".join(f"{it:10.0f}" for it in others))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--bulk", type=int, default=0, metavar="STREAMS")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--pace", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    forwarders, run = (BULK, measure_bulk) if options.bulk else (FORWARDERS, measure)
    names = [name for name in forwarders if name == "couplet" or shutil.which(name.split(",")[0])]
    runs = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for name in names:
                runs[name].append(run(name, options, folder))
    if options.bulk:
        return report_bulk(options, runs)
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

#!/usr/bin/env python3
"""Compares the processor time of a client of twisted.web per request: with Twisted's steps on its epoll reactor and
on Couplet's, and with Couplet's steps.

The client makes GETs with an Agent, an HTTPConnectionPool and readBody, ten at a time on kept connections. The server,
a plain loop over epoll, runs in another process. Only the client's time counts, user and system. Rounds alternate.
For each client it prints the best round, and the median ratio to the epoll reactor. Needs an interpreter with twisted
and couplet-twisted: VENV/bin/python bench/clients.py.
"""

import argparse
import os
import select
import socket
import statistics
import sys
import time

from compare import Failed, command

CLIENTS = {
    "epoll": "Twisted's steps, epoll reactor",
    "couplet-plain": "Twisted's steps, Couplet's reactor",
    "couplet": "Couplet's steps and reactor",
}
AT_ONCE = 10
FIELDS = (
    b"Server: nginx/1.22.1\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\nContent-Type: text/html; charset=utf-8\r\n"
    b"Connection: keep-alive\r\nLast-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\n"
    b'ETag: "5f1"\r\nVary: Accept-Encoding\r\n'
)


def sized(length):
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (FIELDS, length, b"b" * length)


RESPONSES = {
    "small": sized(13),
    "64 KiB": sized(65536),
    "chunked": b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\nd\r\nhello, world\n\r\n0\r\n\r\n" % FIELDS,
}


def serve(row):
    """Answers requests until the process is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    poll, connections = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    response = RESPONSES[row]
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
            elif not answer(connections[number], response):
                connections.pop(number).close()


def answer(connection, response):
    """Answers a request; returns false at the end of the connection, which may be a reset."""
    try:
        asked = connection.recv(65536)
        connection.sendall(response if asked else b"")
        return asked
    except ConnectionError:
        return b""


def request(name, port, count):
    """Makes requests, and prints the processor time of one in microseconds."""
    from kit import reactors

    reactor = reactors.install(name)
    from twisted.web.client import Agent, HTTPConnectionPool, readBody

    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = AT_ONCE
    agent = Agent(reactor, pool=pool)
    uri = b"http://127.0.0.1:%d/some/path?query=value" % port
    # Until all connections are open and all code has run once.
    warm = 10 * AT_ONCE
    left, started = warm + count, None

    def one(_=None):
        nonlocal left, started
        left -= 1
        if left == count:
            started = time.process_time()
        if left > 0:
            agent.request(b"GET", uri).addCallback(readBody).addCallbacks(one, failed)
        elif left == 0:
            print((time.process_time() - started) / count * 1e6)
            reactor.stop()

    def failed(failure):
        # The end of the reactor cuts the other requests off.
        if left > 0:
            failure.printTraceback(sys.stderr)
            os._exit(1)

    reactor.callWhenRunning(lambda: [one() for _ in range(AT_ONCE)])
    reactor.run()


def compare(row, options, cores):
    """Runs and prints one row."""
    rounds = {name: [] for name in CLIENTS}
    server = command(options.python, cores[-1], __file__, "--serve", row)
    try:
        port = server.stdout.readline().strip()
        for _ in range(options.rounds):
            for name, costs in rounds.items():
                # `readBody` warns for each request.
                words = "-W", "ignore", __file__, "--request", name, port, options.requests
                client = command(options.python, cores[0], *words)
                said, error = client.communicate(timeout=300)
                if client.returncode:
                    raise Failed(f"{name}: {error.strip()}")
                costs.append(float(said))
    finally:
        server.kill()
        server.communicate()
    for name, costs in rounds.items():
        ratio = statistics.median(cost / model for cost, model in zip(costs, rounds["epoll"]))
        print(f"{row:12} {CLIENTS[name]:36} {min(costs):7.1f} µs/request {ratio:6.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter for all processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--request", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.request:
        name, port, count = options.request
        request(name, int(port), int(count))
    else:
        for row in RESPONSES:
            compare(row, options, sorted(os.sched_getaffinity(0)))


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"clients.py: {failed}")

#!/usr/bin/env python3
"""Compares the processor time that servers of twisted.web take for a request.

Server and load (wrk, or h2load) on separate cores, alternating rounds; for each server the requests in a second and
the processor time of a request in its best round, and the ratio to epoll: the median of the rounds (least–most), above
1 if it takes less time. `uvicorn` serves the same hello on uvloop, by httptools. `raw` is a plain loop over Python's
epoll, which sends the same answer to all that arrives: most of its time is the kernel's. Needs wrk, for HTTP/2 h2load,
and an interpreter with couplet-twisted, perhaps klein and uvicorn: bench/web.py --python VENV/bin/python.
"""

import argparse
import os
import pathlib
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

from compare import Failed, command, importable, processor_time

KINDS = ["epoll", "couplet", "uvicorn", "raw"]
# Servers of only these rows.
SPECIAL = {"uvicorn": ["hello"], "raw": ["hello", "256k"]}
# Name: the module that it needs besides twisted.
ROWS = {"hello": None, "static": None, "256k": None, "post": None, "klein": "klein", "tls": None, "h2": "h2"}
POST = 'wrk.method = "POST"\nwrk.body = string.rep("x", 65536)\nwrk.headers["Content-Type"] = "application/octet-stream"\n'
HELLO = b"hello, world\n"
LARGE = b"x" * 262_144


def root_of(row, folder):
    """The resource of a row."""
    from twisted.web import resource, static

    class Hello(resource.Resource):
        isLeaf = True

        def render_GET(self, request):
            return HELLO

    class Large(resource.Resource):
        isLeaf = True

        def render_GET(self, request):
            return LARGE

    class Post(resource.Resource):
        isLeaf = True

        def render_POST(self, request):
            return b"%d\n" % len(request.content.read())

    if row == "static":
        return static.File(folder)
    if row == "klein":
        import klein

        app = klein.Klein()
        app.route("/")(lambda request: HELLO)
        return app.resource()
    return {"256k": Large, "post": Post}.get(row, Hello)()


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": HELLO})


def raw(ours, body):
    """Answers all that arrives, without looking at it."""
    head = "HTTP/1.1 200 OK\r\nServer: raw\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: text/html\r\n"
    answer = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    ours.setblocking(False)
    poll = select.epoll()
    poll.register(ours, select.EPOLLIN)
    connections, unsent = {}, {}
    while True:
        for number, event in poll.poll():
            if number == ours.fileno():
                connection = ours.accept()[0]
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = connections[number]
            rest = unsent.pop(number, None)
            try:
                if rest is None and not connection.recv(65536):
                    raise ConnectionResetError
                sent = connection.send(rest or answer)
            except BlockingIOError:
                sent = 0
            except ConnectionError:
                connections.pop(number).close()
                continue
            rest = memoryview(rest or answer)[sent:]
            if rest:
                unsent[number] = rest
            if bool(rest) != (event == select.EPOLLOUT):
                poll.modify(connection, select.EPOLLOUT if rest else select.EPOLLIN)


def serve(kind, row, folder):
    """Serves, and prints the port on standard error."""
    if kind in SPECIAL:
        skt = socket.create_server(("127.0.0.1", 0), backlog=1024)
        os.write(2, b"%d\n" % skt.getsockname()[1])
        if kind == "raw":
            raw(skt, LARGE if row == "256k" else HELLO)
        import uvicorn

        config = uvicorn.Config(hello, lifespan="off", http="httptools", loop="uvloop", access_log=False)
        uvicorn.Server(config).run(sockets=[skt])
        return
    from kit import reactors

    reactor = reactors.install(kind)
    from twisted.internet import ssl
    from twisted.web import server

    site = server.Site(root_of(row, folder))
    site.noisy = False
    # Requests are not logged.
    site.log = lambda request: None
    if row in ("tls", "h2"):
        pem = pathlib.Path(folder, "server.pem").read_bytes()
        context = ssl.PrivateCertificate.loadPEM(pem).options()
        port = reactor.listenSSL(0, site, context, backlog=1024, interface="127.0.0.1")
    else:
        port = reactor.listenTCP(0, site, backlog=1024, interface="127.0.0.1")
    os.write(2, b"%d\n" % port.getHost().port)
    reactor.run()


def load_of(row, port, folder, options):
    """The command of a row's load."""
    scheme = "https" if row in ("tls", "h2") else "http"
    url = f"{scheme}://127.0.0.1:{port}/" + ("small.html" if row == "static" else "")
    if row == "h2":
        return ["h2load", "-t1", "-c10", "-m100", "-D", str(options.seconds), url]
    script = ["-s", f"{folder}/post.lua"] if row == "post" else []
    return ["wrk", "-t1", "-c50", f"-d{options.seconds}", *script, url]


def measured(row, kind, folder, options):
    """Runs one round of a row. Returns the requests in a second, and the processor time of a request in µs."""
    own, other = options.cores
    server = command(options.python, own, __file__, "serve", kind, row, folder)
    try:
        port = server.stderr.readline().strip()
        if not port.isdigit():
            raise Failed(port + server.stderr.read())
        before = processor_time(server.pid)
        load = ["taskset", "-c", str(other), *load_of(row, port, folder, options)]
        ended = subprocess.run(load, capture_output=True, text=True, timeout=options.seconds + 60)
        took = processor_time(server.pid) - before
        told = re.search(r"(\d+) requests in|requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded", ended.stdout)
        if ended.returncode or not told or re.search("Non-2xx|Socket errors|[1-9]\\d* [45]xx", ended.stdout):
            raise Failed(f"{row} on {kind}: {ended.stdout}{ended.stderr}")
        count = int(told[1] or told[2])
        return count / options.seconds, took / count * 1e6
    finally:
        server.kill()
        server.communicate()


def compare(row, folder, options):
    """Runs and prints one row."""
    rounds = {kind: [] for kind in options.kinds if row in SPECIAL.get(kind, ROWS)}
    for _ in range(options.rounds):
        for kind in rounds:
            rounds[kind].append(measured(row, kind, folder, options))
    for kind, results in rounds.items():
        rate, cost = max(results)[0], min(cost for _, cost in results)
        line = f"{row:7} {kind:8} {rate:8.0f}/s {cost:8.2f} µs"
        if "epoll" in rounds:
            ratios = [model / cost for (_, cost), (_, model) in zip(results, rounds["epoll"])]
            line += f" {statistics.median(ratios):6.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        print(line, flush=True)


def prepare(folder):
    """Makes the files of servers and loads."""
    path = pathlib.Path(folder)
    (path / "small.html").write_text("<p>small</p>\n" * 20)
    (path / "post.lua").write_text(POST)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        + ["-subj", "/CN=localhost", "-keyout", path / "key", "-out", path / "certificate"],
        check=True,
        capture_output=True,
    )
    (path / "server.pem").write_text((path / "key").read_text() + (path / "certificate").read_text())


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"rows whose name has it: {', '.join(ROWS)}")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for the servers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="the length of a round")
    options = parser.parse_args()
    options.rows = [row for row in ROWS if not options.words or any(word in row for word in options.words)]
    if not options.rows:
        parser.error(f"no row named so; there are {', '.join(ROWS)}")
    return options


def main():
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
        return
    options = parsed()
    for program in ("wrk", "openssl", "taskset"):
        if not shutil.which(program):
            sys.exit(f"web.py: {program} is not installed")
    needed = {"epoll": "twisted", "couplet": "couplet_twisted", "uvicorn": "uvicorn", "raw": "select"}
    options.kinds = [kind for kind in KINDS if importable(options.python, needed[kind])]
    cores = sorted(os.sched_getaffinity(0))
    options.cores = cores[0], cores[-1]
    print(f"{'row':7} {'server':8} {'best':>10} {'best':>11} ratio to epoll: median (least–most) of {options.rounds}")
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for row in options.rows:
            module = ROWS[row]
            if module and not importable(options.python, module) or row == "h2" and not shutil.which("h2load"):
                print(f"{row:7} skipped: {module} or its load is not installed")
                continue
            compare(row, folder, options)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"web.py: {failed}")

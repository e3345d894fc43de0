#!/usr/bin/env python3
"""The processor time that an open page of the inspector costs a server with many connections.

    cargo build --profile dist -p couplet-cli
    programs/couplet/benches/page.py target/dist/couplet [CONNECTIONS] [SECONDS]

Starts `couplet echo` with an inspector, opens the connections (10 000), and measures the processor time
of the process for some seconds (10): without a reader, and with the WebSocket of a page. Three loads:
idle connections, 2000 messages a second, and a message a second on each connection. The cost of the page
is the difference, in percent of one processor.
"""

import base64
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time


def cpu(pid):
    """The seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Page:
    """Reads the messages of the inspector's WebSocket, as a page does, until it is closed."""

    def __init__(self, url):
        host, port, query = re.fullmatch(r"http://(.+):(\d+)/(.*)", url).groups()
        self.socket = socket.create_connection((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        head = (f"GET /live{query} HTTP/1.1\r\nhost: {host}:{port}\r\nupgrade: websocket\r\n"
                f"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n")
        self.socket.sendall(head.encode())
        assert self.socket.recv(12) == b"HTTP/1.1 101", "the inspector refuses the page"
        self.bytes = 0
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while chunk := self.socket.recv(1 << 20):
            self.bytes += len(chunk)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()


def send(clients, rate, seconds):
    """Sends messages at a rate, over all connections in turn, and reads the answers."""
    end, tick, next_one = time.monotonic() + seconds, 0.05, 0
    while (now := time.monotonic()) < end:
        burst = [clients[(next_one + n) % len(clients)] for n in range(int(rate * tick))]
        next_one += len(burst)
        for client in burst:
            client.sendall(b"x" * 64)
        for client in burst:
            client.recv(64)
        time.sleep(max(0, now + tick - time.monotonic()))


def measure(pid, clients, rate, seconds):
    """The processor time a second, in percent."""
    time.sleep(2)
    before, begun = cpu(pid), time.monotonic()
    send(clients, rate, seconds)
    return 100 * (cpu(pid) - before) / (time.monotonic() - begun)


def main():
    program, count, seconds = (sys.argv[1:] + ["10000", "10"][len(sys.argv) - 2:])[:3]
    count, seconds = int(count), float(seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = subprocess.Popen([program, "echo", "--listen", "0", "--inspect", "0"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = server.stderr.readline().split()[-1]
        port = int(server.stdout.readline().rpartition(":")[2])
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        print(f"{count} connections, {seconds:g} s each; percent of one processor")
        print("messages/s  without  with a page  the page costs")
        for rate in (0, 2000, count):
            without = measure(server.pid, clients, rate, seconds)
            page = Page(url)
            with_page = measure(server.pid, clients, rate, seconds)
            page.close()
            print(f"{rate:10}  {without:7.2f}  {with_page:11.2f}  {with_page - without:14.2f}")
    finally:
        server.terminate()
        server.wait()


main()

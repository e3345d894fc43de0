"""Runs an unchanged program: `python -m kit.program REACTOR PLACES FILE [ARG...]`.

The reactor is installed first; twistd runs a .tac file. The program is confined: every name resolves to this
machine, sockets listen on the loopback interface only, and PLACES, such as `1079=40001,/etc/users=users`, replaces
ports and paths of files. For each listening socket, a byte is written to the descriptor COUPLET_LISTENING.
"""

import builtins
import contextlib
import ipaddress
import os
import pathlib
import runpy
import socket
import sys

# An IPv6 socket accepts IPv4 connections too.
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::ffff:127.0.0.1"}


def number(host):
    """The host if it is an IP address, and otherwise the address of this machine."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1"
    return host


class World:
    """Redirects ports, names and files."""

    def __init__(self, places, listening):
        self.places = dict(place.split("=") for place in places.split(",") if place)
        self.listening = listening

    def address(self, address):
        """The address that replaces one of the program's."""
        host, port, *rest = address
        return (LOOPBACK.get(host, host), int(self.places.get(str(port), port)), *rest)

    def open(self, file, *rest, **kw):
        return self.opened(self.places.get(file, file), *rest, **kw)

    def listens(self):
        # A client's sockets have no reader.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.listening, b".")

    def begin(self):
        """Replaces Python's sockets, name lookups and `open`."""
        plain, lookup, self.opened = socket.socket, socket.getaddrinfo, open

        class Socket(plain):
            def bind(skt, address):
                is_ip = skt.family in (socket.AF_INET, socket.AF_INET6)
                plain.bind(skt, self.address(address) if is_ip else address)
                if is_ip and skt.type == socket.SOCK_DGRAM:
                    self.listens()

            def listen(skt, *backlog):
                plain.listen(skt, *backlog)
                self.listens()

            def connect(skt, address):
                return plain.connect(skt, self.address(address))

            def connect_ex(skt, address):
                return plain.connect_ex(skt, self.address(address))

        socket.socket = Socket
        socket.getaddrinfo = lambda host, *rest, **kw: lookup(number(host), *rest, **kw)
        socket.gethostbyname = number
        builtins.open = self.open


def main():
    reactor, places, file, *arguments = sys.argv[1:]
    World(places, int(os.environ.pop("COUPLET_LISTENING"))).begin()
    if file.endswith(".tac"):
        from twisted.scripts import twistd

        # The application runs as the current user, even if it specifies another one.
        sys.argv = ["twistd", f"--reactor={reactor}", "--nodaemon", "--pidfile=", "--no_save"]
        sys.argv += [f"--uid={os.getuid()}", f"--gid={os.getgid()}", "--python", file]
        return twistd.run()
    from kit import reactors

    reactors.install(reactor)
    sys.argv = [file, *arguments]
    sys.path[0] = str(pathlib.Path(file).parent)
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()

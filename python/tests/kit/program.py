"""Runs a program as it is: `python -m kit.program REACTOR PLACES FILE [ARG...]`.

The reactor is installed first; a .tac file is run by twistd. The program is in a small world: every name is
this machine, what listens does so on the loopback interface, and PLACES, such as `1079=40001,/etc/users=users`,
has other numbers for its ports and other paths for its files. A byte goes to the descriptor COUPLET_LISTENING
for each socket that listens.
"""

import builtins
import ipaddress
import os
import pathlib
import runpy
import socket
import sys

# A socket for IPv6 takes IPv4 too.
LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::ffff:127.0.0.1"}


def number(host):
    """The address of a host: its own, if it is one, or that of this machine."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1"
    return host


class World:
    """Where ports and files are."""

    def __init__(self, places, listening):
        self.places = dict(place.split("=") for place in places.split(",") if place)
        self.listening = listening

    def address(self, address):
        """An address of the program's, in this world."""
        host, port, *rest = address
        return (LOOPBACK.get(host, host), int(self.places.get(str(port), port)), *rest)

    def open(self, file, *rest, **kw):
        return self.opened(self.places.get(file, file), *rest, **kw)

    def listens(self):
        os.write(self.listening, b".")

    def begin(self):
        """Has sockets, names and files be those of this world."""
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

        # As the user that starts it: an application may ask for another.
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

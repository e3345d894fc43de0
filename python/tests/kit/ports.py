"""Ports for programs that must be told theirs."""

import pathlib
import random
import socket


def unused(number):
    """So many ports of the loopback interface on which nothing listens.

    Of those below the system's own choice: it gives them to no other socket before the program listens.
    """
    least = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    sockets = []
    while len(sockets) < number:
        try:
            sockets.append(socket.create_server(("127.0.0.1", random.randrange(least // 2, least))))
        except OSError:
            pass
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports

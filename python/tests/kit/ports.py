"""Free ports for programs that can't choose one."""

import pathlib
import random
import socket


def unused(number):
    """Returns `number` free ports of the loopback interface.

    They are below the range of ephemeral ports, so the system assigns them to no other socket meanwhile.
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

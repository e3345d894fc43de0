"""Python's ssl as a peer: `peer.py CASE server|client PORT VERSION`, in a folder with `ca.pem` and
`server.pem`.

A server first prints `listening` and its port. The events of the connection follow, one per line.
"""

import select
import socket
import ssl
import sys

NAME = "couplet.test"
MUCH = 4 * 1024 * 1024
PIECE = 64 * 1024
# Longer than any case takes.
LONG = 60


def say(*words):
    print(*words, flush=True)


def pattern(count):
    """`count` bytes that expose lost or reordered ones."""
    ring = bytes(range(251))
    return (ring * (count // 251 + 1))[:count]


def context(role, version):
    version = {"-tls1_2": ssl.TLSVersion.TLSv1_2, "-tls1_3": ssl.TLSVersion.TLSv1_3}[version]
    if role == "server":
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain("server.pem")
    else:
        made = ssl.create_default_context(cafile="ca.pem")
    made.minimum_version = made.maximum_version = version
    return made


def read_all(tls):
    """Reads to the end of the stream, which must be announced."""
    received = bytearray()
    while data := tls.recv(PIECE):
        received += data
    return bytes(received)


def say_received(received):
    intact = received == pattern(len(received))
    say("received", len(received), "intact" if intact else "spoilt")


def both_ways(tls):
    """Sends and receives much at once, then says goodbye and waits for ours."""
    # In one thread: OpenSSL has no lock for two.
    tls.setblocking(False)
    left, received = memoryview(pattern(MUCH)), bytearray()
    while left or len(received) < MUCH:
        waits = True
        try:
            received += tls.recv(PIECE)
            waits = False
        except ssl.SSLWantReadError:
            pass
        if left:
            try:
                left = left[tls.send(left[:PIECE]) :]
                waits = False
            except ssl.SSLWantWriteError:
                pass
        if waits:
            select.select([tls], [tls] if left else [], [], LONG)
    tls.settimeout(LONG)
    say_received(bytes(received))
    tls.unwrap()
    say("unwrapped")


def answer(tls):
    """Reads to the end of our stream, then answers."""
    say_received(read_all(tls))
    tls.sendall(pattern(MUCH))
    tls.unwrap()
    say("unwrapped")


def cut(tls):
    """Sends a little, and ends the stream without a close_notify."""
    tls.sendall(pattern(100))
    # From here on the socket has no TLS. Unread bytes would turn the end into a reset.
    tls.shutdown(socket.SHUT_WR)
    while tls.recv(PIECE):
        pass
    say("cut")


def over_memory(role, connection, made):
    """A half-close by close_notify. Only ssl's objects over memory can send one and keep reading;
    its objects over sockets cannot."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    name = None if role == "server" else NAME
    tls = made.wrap_bio(incoming, outgoing, role == "server", name)

    def until(step):
        while True:
            try:
                done = step()
                connection.sendall(outgoing.read())
                return done
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                data = connection.recv(PIECE)
                incoming.write(data) if data else incoming.write_eof()

    until(tls.do_handshake)
    tls.write(pattern(100_000))
    try:
        tls.unwrap()
    except ssl.SSLWantReadError:
        connection.sendall(outgoing.read())
    say("half-closed")
    received = bytearray()
    try:
        while data := until(lambda: tls.read(PIECE)):
            received += data
    except ssl.SSLZeroReturnError:
        pass
    say_received(bytes(received))


CASES = {"both-ways": both_ways, "answer": answer, "cut": cut}


def main(case, role, port, version):
    made = context(role, version)
    if role == "server":
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(LONG)
        say("listening", listener.getsockname()[1])
        connection, _ = listener.accept()
    else:
        connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.settimeout(LONG)
    if case == "half-close":
        return over_memory(role, connection, made)
    name = {} if role == "server" else {"server_hostname": NAME}
    with made.wrap_socket(connection, server_side=role == "server", **name) as tls:
        say(tls.version(), tls.cipher()[0])
        CASES[case](tls)


main(*sys.argv[1:])

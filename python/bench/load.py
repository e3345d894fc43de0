"""The load of compare.py, over plain sockets: `load.py KIND PORT CONNECTIONS COUNT`.

Prints `ready` when all connections are open, waits for a line, exchanges COUNT messages in total, prints `done`.
`idle` exchanges nothing. For `answer`, the server connects COUNT times, and this process echoes.
"""

import select
import socket
import sys

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"hello, world\n"
MESSAGE = b"m" * 64
LINES = 16


def opened(kind, port, count):
    """Connected sockets. UNIX datagrams are answered to names that the kernel assigns."""
    if kind == "unix-udp":
        family, to = socket.AF_UNIX, f"\0couplet-bench-{port}"
    else:
        family, to = socket.AF_INET, ("127.0.0.1", port)
    type_ = socket.SOCK_DGRAM if kind.endswith("udp") else socket.SOCK_STREAM
    sockets = [socket.socket(family, type_) for _ in range(count)]
    for each in sockets:
        if family == socket.AF_UNIX:
            each.bind("")
        each.connect(to)
    return sockets


def said(text):
    print(text, flush=True)
    sys.stdin.readline()


def exchange(sockets, count, message, answered):
    """Sends the message on each socket, and again after each complete answer, `count` times in total."""
    poll = select.epoll()
    by_number = {each.fileno(): each for each in sockets}
    for number, each in by_number.items():
        poll.register(number, select.EPOLLIN)
    waiting = {number: b"" for number in by_number}
    started = len(sockets)
    for each in sockets:
        each.sendall(message)
    left = count
    while left:
        for number, _ in poll.poll():
            data = by_number[number].recv(65536)
            if not data:
                raise SystemExit("the server closed a connection")
            waiting[number] += data
            if not answered(waiting[number]):
                continue
            waiting[number] = b""
            left -= 1
            if started < count:
                started += 1
                by_number[number].sendall(message)


def short(port, count):
    """Connections of one message each."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as each:
            each.sendall(MESSAGE)
            if not each.recv(64):
                raise SystemExit("no answer")


def answer(control, count):
    """Has the server connect `count` times, and echoes the message of each connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    poll, connections = select.epoll(), {}
    poll.register(listener, select.EPOLLIN)
    control.sendall(b"%d %d" % (listener.getsockname()[1], count))
    while count:
        for number, _ in poll.poll():
            if number == listener.fileno():
                accepted, _ = listener.accept()
                connections[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
            elif data := connections[number].recv(65536):
                connections[number].send(data)
            else:
                connections.pop(number).close()
                count -= 1


def main():
    kind, port, connections, count = sys.argv[1], *map(int, sys.argv[2:5])
    sockets = opened(kind, port, connections)
    if kind == "answer":
        # The server does its one-time work.
        answer(sockets[0], 100)
    elif kind not in ("short", "idle", "bulk"):
        # The server accepts all connections, and does its one-time work.
        exchange(sockets, connections, *shape(kind))
    said("ready")
    if kind == "short":
        short(port, count)
    elif kind == "answer":
        answer(sockets[0], count)
    elif kind == "bulk":
        block = bytes(1 << 20)
        for _ in range(count):
            sockets[0].sendall(block)
        sockets[0].shutdown(socket.SHUT_WR)
        # The server closes once it has read everything.
        sockets[0].recv(1)
    elif kind != "idle":
        exchange(sockets, count, *shape(kind))
    said("done")


def shape(kind):
    """A kind's message, and a function that recognizes a complete answer."""
    if kind == "web":
        return REQUEST, lambda data: data.endswith(BODY)
    if kind == "line":
        lines = (b"l" * 62 + b"\r\n") * LINES
        return lines, lambda data: len(data) == len(lines)
    return MESSAGE, lambda data: len(data) == len(MESSAGE)


if __name__ == "__main__":
    main()

"""A resolver that knows one name, and takes its time with the IPv6 address of it (RFC 1035)."""

import socket
import sys
import threading

ANSWERS = {
    1: (0.0, socket.inet_pton(socket.AF_INET, "192.0.2.1")),
    28: (0.7, socket.inet_pton(socket.AF_INET6, "2001:db8::1")),
}

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("the resolver listens", file=sys.stderr)
while True:
    query, peer = server.recvfrom(512)
    end = query.index(0, 12) + 5
    kind = int.from_bytes(query[end - 4 : end - 2], "big")
    delay, address = ANSWERS[kind]
    header = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
    record = b"\xc0\x0c" + query[end - 4 : end] + b"\0\0\0\x3c" + len(address).to_bytes(2, "big")
    answer = header + query[12:end] + record + address
    threading.Timer(delay, server.sendto, (answer, peer)).start()

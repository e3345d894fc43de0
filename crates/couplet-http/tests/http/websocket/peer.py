"""peer.py client URL | peer.py server: Python's websockets as the peer. Prints its observations."""
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve


def say(*words):
    """Prints a line by one write, so that lines of two threads do not mix."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def client(url):
    with connect(url, subprotocols=["other", "echo"]) as socket:
        say("subprotocol", socket.subprotocol)
        say("extensions", socket.response.headers.get("Sec-WebSocket-Extensions"))
        for message in ["", "héllo", b"\0\1", "x" * 1_000_000, bytes(range(256)) * 4096]:
            socket.send(message)
            assert socket.recv() == message
        socket.send(["in ", "three ", "pieces"])
        say("pieces", socket.recv())
        say("pong", socket.ping("a").wait(10))
        socket.close(4000, "enough")
        say("closed", socket.close_code, socket.close_reason)
    with connect(url) as socket:
        socket.send("close me")
        try:
            socket.recv()
        except ConnectionClosed as closed:
            say("closed", closed.rcvd.code, closed.rcvd.reason)


def handle(socket):
    say("path", socket.request.path, socket.request.headers["X-Token"], socket.subprotocol)
    try:
        while True:
            message = socket.recv()
            if message == "ping me":
                say("pong", socket.ping("a").wait(10))
            if message == "close me":
                socket.close(4001, "as you wish")
            # A list is sent in fragments.
            socket.send([message[:1], message[1:]] if len(message) < 100 else message)
    except ConnectionClosed as closed:
        say("closed", closed.rcvd.code, closed.rcvd.reason)


def server():
    with serve(handle, "127.0.0.1", 0, subprotocols=["echo"]) as listening:
        say(listening.socket.getsockname()[1])
        listening.serve_forever()


if sys.argv[1] == "client":
    client(sys.argv[2])
else:
    server()

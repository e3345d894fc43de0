"""Third-party programs, unchanged, under the reactor. Each must also work under the model."""

import io
import json
import pathlib
import socket
import ssl as peers_ssl
import subprocess
import sys
import tempfile

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import defer, protocol, ssl

from kit import certificates, pages, reactors
from kit.cases import SUBJECT, Cases
from kit.running import PATIENCE, Running, unused


class Clients(Cases):
    """Libraries that run in our process."""

    async def test_treq_beside_klein(case):
        import treq
        from klein import Klein

        app = Klein()

        @app.route("/hello/<name>")
        def hello(request, name):
            return f"hello {name}"

        @app.route("/echo", methods=["POST"])
        def echo(request):
            return request.content.read()

        @app.route("/later")
        async def later(request):
            await case.sleep(0.01)
            return "later"

        port = case.reactor.listenTCP(0, pages.site(app.resource()), interface="127.0.0.1")
        at = f"http://127.0.0.1:{port.getHost().port}"
        gets = [treq.get(f"{at}/hello/{number}").addCallback(treq.content) for number in range(30)]
        case.say("get", await defer.gatherResults(gets))
        answer = await treq.post(f"{at}/echo", b"e" * 500_000)
        case.say("post", answer.code, len(await answer.content()))
        case.say("later", await (await treq.get(f"{at}/later")).text())
        case.say("none", (await treq.get(f"{at}/none")).code)

    async def test_treq_over_http2(case):
        import couplet_twisted
        import treq.client
        from twisted.web import client

        def answer(request):
            if request.method == b"POST":
                return b"%d" % len(request.content.read())
            if request.path == b"/from":
                request.redirect(b"/to")
                return b""
            return b"g" * 70_000

        made = certificates.made("server", "localhost")
        port = case.reactor.listenSSL(0, pages.site(answer), made.options(), interface="127.0.0.1")
        at = f"https://localhost:{port.getHost().port}"
        pool = couplet_twisted.HTTP2ConnectionPool(case.reactor)
        policy = client.BrowserLikePolicyForHTTPS(made.trust())
        http = treq.client.HTTPClient(client.Agent(case.reactor, policy, pool=pool))
        response = await http.get(f"{at}/from")
        case.say("get", response.version, len(await response.content()), len(response.history()))
        response = await http.post(at, data=b"d" * 200_000)
        case.say("post", await response.text())
        response = await http.post(at, files={"f": ("f", io.BytesIO(b"d" * 99))})
        case.say("files", response.code, len(await response.text()))
        slow = http.get(at, unbuffered=True)
        case.say("unbuffered", len(await treq.content(await slow)))
        await pool.closeCachedConnections()

    async def test_autobahn_echoes_web_sockets(case):
        await Clients.autobahn(case, "ws", case.reactor.listenTCP, case.reactor.connectTCP)

    async def test_autobahn_echoes_web_sockets_over_tls(case):
        made = certificates.made("localhost", "localhost")
        theirs = ssl.optionsForClientTLS("localhost", made.trust())

        def listen(port, factory, **more):
            return case.reactor.listenSSL(port, factory, made.options(), **more)

        def connect(host, port, factory):
            case.reactor.connectSSL(host, port, factory, theirs)

        await Clients.autobahn(case, "wss", listen, connect)

    async def autobahn(case, scheme, listen, connect):
        from autobahn.twisted import websocket

        class Server(websocket.WebSocketServerProtocol):
            def onMessage(self, payload, binary):
                self.sendMessage(payload, binary)

        closed = defer.Deferred()

        class Client(websocket.WebSocketClientProtocol):
            sizes = [0, 1, 125, 126, 65535, 65536, 1_000_000]

            def onOpen(self):
                self.left = list(self.sizes)
                self.following()

            def following(self):
                if self.left:
                    self.sendMessage(b"w" * self.left.pop(0), True)
                else:
                    self.sendClose(1000)

            def onMessage(self, payload, binary):
                case.say("client", len(payload), binary)
                self.following()

            def onClose(self, clean, code, reason):
                case.say("client", "closed", clean, code)
                closed.callback(None)

        serving = websocket.WebSocketServerFactory()
        serving.protocol = Server
        port = listen(0, serving, interface="127.0.0.1").getHost().port
        factory = websocket.WebSocketClientFactory(f"{scheme}://127.0.0.1:{port}")
        factory.protocol = Client
        connect("127.0.0.1", port, factory)
        await closed

    async def test_names_over_both_transports(case):
        from twisted.names import client, dns, server

        class Zone:
            def query(self, query, timeout=None):
                record = dns.RRHeader(query.name.name, payload=dns.Record_A("192.0.2.7", 60))
                return defer.succeed(([record], [], []))

        factory = server.DNSServerFactory(clients=[Zone()])
        tcp = case.reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        udp = case.reactor.listenUDP(tcp, dns.DNSDatagramProtocol(factory), interface="127.0.0.1")
        resolver = client.Resolver(servers=[("127.0.0.1", tcp)], reactor=case.reactor)
        for number in range(20):
            answers, _, _ = await resolver.lookupAddress(f"host{number}.test")
            case.say("udp", answers[0].payload.dottedQuad())
        answers, _, _ = await resolver.queryTCP([dns.Query("tcp.test")]).addCallback(lambda m: (m.answers, 0, 0))
        case.say("tcp", answers[0].payload.dottedQuad())
        await udp.stopListening()

    async def test_mail_is_sent_and_received(case):
        from twisted.mail import smtp
        from zope.interface import implementer

        received = []

        @implementer(smtp.IMessage)
        class Message:
            def __init__(self):
                self.lines = []

            def lineReceived(self, line):
                self.lines.append(line)

            def eomReceived(self):
                received.append(b"\n".join(self.lines))
                return defer.succeed(None)

            def connectionLost(self):
                pass

        class Server(smtp.SMTP):
            def receivedHeader(self, helo, origin, recipients):
                return b"Received: by test"

            def validateFrom(self, helo, origin):
                return origin

            def validateTo(self, user):
                return Message

        server = protocol.ServerFactory.forProtocol(Server)
        port = case.reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port
        case.say("sent", await smtp.sendmail("127.0.0.1", "a@test", ["b@test"], b"Subject: s\n\nbody\n", port=port))
        case.say("received", received[0].splitlines()[-1])


SPIDER = """
import scrapy

class Spider(scrapy.Spider):
    name = "site"

    async def start(self):
        yield scrapy.Request(self.at)

    def parse(self, response):
        yield {"page": response.url.rsplit("/", 1)[1], "title": response.css("title::text").get()}
        for link in response.css("a::attr(href)").getall():
            yield response.follow(link, self.parse)
"""

SITE = """
import http.server, os, signal

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = int(self.path.strip("/") or 0)
        links = "".join(f'<a href="/{n}">n</a>' for n in (2 * number + 1, 2 * number + 2) if n < 100)
        page = f"<html><title>page {number}</title>{links}</html>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *rest):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_address[1], flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server.serve_forever()
"""


class Programs(Cases):
    """Programs that run in separate processes."""

    def test_scrapy_crawls_a_site(self):
        at = f"http://127.0.0.1:{Running(self, [sys.executable, '-c', SITE]).port('port ')}/0"
        for name in dict.fromkeys((reactors.MODEL, SUBJECT)):
            with tempfile.TemporaryDirectory() as folder:
                pathlib.Path(folder, "spider.py").write_text(SPIDER)
                path = reactors.REACTORS[name][1]
                command = [sys.executable, "-m", "scrapy", "runspider", "spider.py", "-a", f"at={at}", "-O", "out.json"]
                command += ["-s", f"TWISTED_REACTOR={path}", "-s", "ROBOTSTXT_OBEY=False"]
                ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
                self.assertEqual(ended.returncode, 0, ended.stderr)
                self.assertIn(f"Using reactor: {path}", ended.stderr)
                if name == "couplet":
                    # Scrapy's default reactor also has an asyncio event loop.
                    self.assertIn("Using asyncio event loop: couplet_twisted.eventloop.EventLoop", ended.stderr)
                pages = json.loads(pathlib.Path(folder, "out.json").read_text())
                titles = {page["title"] for page in pages}
                self.assertEqual(titles, {f"page {number}" for number in range(100)}, ended.stderr)

    def test_magic_wormhole_sends_a_text(self):
        for name in dict.fromkeys((reactors.MODEL, SUBJECT)):
            with tempfile.TemporaryDirectory() as folder:
                self.wormhole(name, folder)

    def wormhole(self, name, folder):
        """Sends a text through a mailbox server. Both clients and the server run under the reactor."""
        (port,) = unused(1)
        # `twist --reactor` would fail: a plugin here imports the default reactor first.
        install = "import sys; from kit import reactors; reactors.install(sys.argv.pop(1))\n"
        twist = install + "from twisted.application.twist._twist import Twist; Twist.main()"
        command = [sys.executable, "-c", twist, name, "wormhole-mailbox", f"--port=tcp:{port}:interface=127.0.0.1"]
        Running(self, command, folder=folder).until(f"starting on {port}")
        client = install + "from wormhole.cli import cli; cli.wormhole()"
        start = [sys.executable, "-c", client, name, f"--relay-url=ws://127.0.0.1:{port}/v1", "--transit-helper="]
        code = "7-guitarist-revenge"
        sender = Running(self, [*start, "send", "--text=through the hole", f"--code={code}"], folder=folder)
        receiver = Running(self, [*start, "receive", code], folder=folder, output="got")
        complaint, status = receiver.ended()
        self.assertEqual(status, 0, complaint)
        self.assertEqual(pathlib.Path(folder, "got").read_text().strip(), "through the hole", complaint)
        said, status = sender.ended()
        self.assertEqual(status, 0, said)

    def test_daphne_serves_http_and_web_sockets_over_tls(self):
        # Daphne needs a reactor with an asyncio event loop.
        self.assertEqual(self.daphne("asyncio"), self.daphne("couplet-asyncio" if SUBJECT == "couplet" else SUBJECT))

    def daphne(self, name):
        """What clients of Daphne see, over TLS."""
        made = certificates.made("localhost", "localhost")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "application.py").write_text(APPLICATION)
            key = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            pathlib.Path(folder, "made.pem").write_bytes(made.certificate.public_bytes(Encoding.PEM) + key)
            endpoint = "ssl:0:interface=127.0.0.1:privateKey=made.pem:certKey=made.pem"
            running = Running(self, [sys.executable, "-c", DAPHNE, name, endpoint], folder=folder)
            port = int(running.port("Listening on TCP address 127.0.0.1:"))
            context = peers_ssl.create_default_context(cadata=made.certificate.public_bytes(Encoding.PEM).decode())

            def client():
                plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
                return context.wrap_socket(plain, server_hostname="localhost")

            # Twice: the first connection may differ from the next ones.
            return [[asked(client), echoed(client)] for _ in range(2)]


DAPHNE = """
import sys
from kit import reactors
name, endpoint = sys.argv[1:]
reactors.install(name)
from daphne.cli import CommandLineInterface
sys.path.insert(0, "")
CommandLineInterface().run(["-e", endpoint, "application:application"])
"""

# Answers with the scheme, method, path and length of a request, and echoes the messages of a web socket.
APPLICATION = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event["body"], event["more_body"]
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        said = f"{scope['scheme']} {scope['method']} {scope['path']} {len(body)} "
        await send({"type": "http.response.body", "body": said.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"g" * 300_000})
        return
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": scope["path"]})
        else:
            await send({**event, "type": "websocket.send"})
"""


def asked(client):
    """The answer of a server to a POST, and how the connection ends."""
    with client() as skt:
        skt.sendall(b"POST /path HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\nConnection: close\r\n\r\n" + b"p" * 200_000)
        answer = b""
        while data := skt.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.splitlines()[0], b"https POST /path 200000 " in body, body.count(b"g")


def echoed(client):
    """A server's answers to frames of a web socket."""
    with client() as skt, skt.makefile("rb") as reads:
        key = b"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n"
        skt.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n")
        head = []
        while (line := reads.readline()) not in (b"\r\n", b""):
            head.append(line)
        frames = [head[0], frame(reads)]
        for size in (1, 125, 126, 65535, 65536, 300_000):
            skt.sendall(masked(2, b"w" * size))
            opcode, payload = frame(reads)
            frames.append((opcode, len(payload), payload.count(b"w")))
        skt.sendall(masked(8, (1000).to_bytes(2, "big")))
        return [*frames, frame(reads), reads.read()]


def masked(opcode, payload):
    """A client's frame, with a mask of zeros."""
    size = len(payload)
    short, more = (size, b"") if size < 126 else (126, size.to_bytes(2, "big")) if size < 65536 else (127, size.to_bytes(8, "big"))
    return bytes([0x80 | opcode, 0x80 | short]) + more + bytes(4) + payload


def frame(reads):
    """The opcode and the payload of a server's frame."""
    first, size = reads.read(2)
    if size > 125:
        size = int.from_bytes(reads.read(2 if size == 126 else 8), "big")
    return first & 15, reads.read(size)

"""The servers of compare.py: `servers.py REACTOR ROLE`.

Prints its port on standard error, and exits at the end of standard input. `servers.py REACTOR ROLE COUNT`, for the
roles `timers`, `spawn` and `pipe`, prints its processor time instead.
"""

import functools
import os
import sys
import time


def raw_datagrams():
    """Echoes datagrams without a reactor."""
    import select
    import socket

    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(("127.0.0.1", 0))
    ours.setblocking(False)
    poll = select.epoll()
    poll.register(ours, select.EPOLLIN)
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    os.write(2, b"%d\n" % ours.getsockname()[1])
    while True:
        for number, _ in poll.poll():
            if number == 0:
                return
            try:
                while True:
                    ours.sendto(*ours.recvfrom(8192))
            except BlockingIOError:
                pass


def raw(role):
    """A minimal loop over epoll: the lower bound of a role's cost in Python."""
    import select
    import socket

    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    os.write(2, b"%d\n" % listener.getsockname()[1])
    connections, rest = {}, {}
    while True:
        for number, _ in poll.poll():
            if number == 0:
                return
            if number == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                connections[accepted.fileno()] = accepted
                poll.register(accepted, select.EPOLLIN)
                continue
            data = connections[number].recv(65536)
            if not data:
                rest.pop(number, None)
                connections.pop(number).close()
            elif role in ("echo", "short"):
                connections[number].send(data)
            elif role == "line":
                *lines, rest[number] = (rest.get(number, b"") + data).split(b"\r\n")
                connections[number].send(b"".join(line + b"\r\n" for line in lines))


def protocol_of(role, reactor):
    """The factory of a role."""
    from twisted.internet import protocol
    from twisted.protocols import basic

    if role == "web":
        from twisted.web import resource, server

        class Hello(resource.Resource):
            isLeaf = True

            def render_GET(self, request):
                return b"hello, world\n"

        site = server.Site(Hello())
        site.noisy = False
        # Requests are not logged.
        site.log = lambda request: None
        return site

    class Echo(protocol.Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    class Sink(protocol.Protocol):
        def dataReceived(self, data):
            pass

    if role in ("connect", "endpoint"):
        return protocol.Factory.forProtocol(connecting(role, reactor))

    receiver = basic.LineReceiver
    if role == "line-own":
        from couplet_twisted.basic import LineReceiver as receiver

    class Lines(receiver):
        def lineReceived(self, line):
            self.sendLine(line)

    kinds = {"bulk": Sink, "line": Lines, "line-own": Lines}
    factory = protocol.Factory.forProtocol(kinds.get(role, Echo))
    factory.noisy = False
    return factory


def connecting(role, reactor):
    """The protocol of a control connection: reads a port and a count, and connects to the port that many times."""
    from twisted.internet import endpoints, protocol

    left = 0

    class Once(protocol.Protocol):
        def connectionMade(self):
            self.transport.write(b"m" * 64)

        def dataReceived(self, data):
            self.transport.loseConnection()

        def connectionLost(self, reason):
            again()

    class Client(protocol.ClientFactory):
        noisy = False
        protocol = Once

    def again():
        nonlocal left
        if left:
            left -= 1
            connect()

    class Control(protocol.Protocol):
        def dataReceived(self, data):
            nonlocal left, connect
            number, left = map(int, data.split())
            if role == "connect":
                connect = functools.partial(reactor.connectTCP, "127.0.0.1", number, Client())
            else:
                endpoint = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", number)
                connect = functools.partial(endpoint.connect, Client())
            for _ in range(min(10, left)):
                again()

    connect = None
    return Control


def spawn(reactor, count):
    """Prints the processor time of `count` children that exit at once, without their own."""
    from twisted.internet import protocol

    class Child(protocol.ProcessProtocol):
        def processEnded(self, reason):
            again()

    left, running, before = count, 0, 0.0

    def again():
        nonlocal left, running
        running -= 1
        if left:
            left -= 1
            start()
        elif not running:
            print(time.process_time() - before, flush=True)
            reactor.stop()

    def start():
        nonlocal running
        running += 1
        reactor.spawnProcess(Child(), "/bin/true", ["true"], env={})

    def begin():
        nonlocal before, left
        before = time.process_time()
        left -= 4
        for _ in range(4):
            start()

    reactor.callWhenRunning(begin)
    reactor.run()


def pipe(reactor, count):
    """Prints the processor time of `count` messages that four children echo, one after another in each."""
    from twisted.internet import protocol

    class Child(protocol.ProcessProtocol):
        def connectionMade(self):
            self.transport.write(b"x" * 62)

        def outReceived(self, data):
            nonlocal left
            left -= 1
            if left > 0:
                self.transport.write(data)
            else:
                self.transport.closeStdin()

        def processEnded(self, reason):
            nonlocal running
            running -= 1
            if not running:
                print(time.process_time() - before, flush=True)
                reactor.stop()

    def begin():
        nonlocal before
        before = time.process_time()
        for _ in range(running):
            reactor.spawnProcess(Child(), "/bin/cat", ["cat"], env={})

    left, running, before = count, 4, 0.0
    reactor.callWhenRunning(begin)
    reactor.run()


def serial(reactor, count):
    """Prints the processor time of `count` messages that the other ends of four serial ports echo, one after another.
    """
    from twisted.internet import protocol, serialport

    class Port(protocol.Protocol):
        def dataReceived(self, data):
            nonlocal left
            left -= 1
            if left > 0:
                self.transport.write(data)
            elif not left:
                print(time.process_time() - before, flush=True)
                reactor.stop()

    def begin():
        nonlocal before
        before = time.process_time()
        for port in ports:
            port.write(b"x" * 62)

    left, before, ports = count, 0.0, []
    masters = []
    for _ in range(4):
        master, slave = os.openpty()
        masters.append(master)
        ports.append(serialport.SerialPort(Port(), os.ttyname(slave), reactor))
        os.close(slave)
    if not os.fork():
        echo_terminals(masters)
    for master in masters:
        os.close(master)
    reactor.callWhenRunning(begin)
    reactor.run()


def echo_terminals(masters):
    """Echoes in a child process until the terminals hang up."""
    import select

    # The parent's, its ports among them: a terminal hangs up when its last port is closed.
    for number in range(3, 256):
        if number not in masters:
            os.closerange(number, number + 1)
    poll = select.epoll()
    for master in masters:
        poll.register(master, select.EPOLLIN)
    try:
        while True:
            for number, _ in poll.poll():
                os.write(number, os.read(number, 8192))
    except OSError:
        os._exit(0)


def timers(reactor, count):
    """Prints the processor time of `count` cancelled calls, half of them moved before, and of `count` that are made."""

    def fire():
        pass

    def end():
        print(time.process_time() - before, flush=True)
        reactor.stop()

    def begin():
        nonlocal before
        before = time.process_time()
        calls = [reactor.callLater(60 + number * 0.0001, fire) for number in range(count)]
        for call in calls[::2]:
            call.reset(30)
        for call in calls:
            call.cancel()
        for _ in range(count):
            reactor.callLater(0, fire)
        reactor.callLater(0.01, end)

    before = 0.0
    reactor.callWhenRunning(begin)
    reactor.run()


def main():
    name, role = sys.argv[1:3]
    if name == "raw":
        raw_datagrams() if role == "udp" else raw(role)
        return
    from kit import reactors

    reactor = reactors.install(name)
    if role in ("timers", "spawn", "pipe", "serial"):
        {"timers": timers, "spawn": spawn, "pipe": pipe, "serial": serial}[role](reactor, int(sys.argv[3]))
        return
    from twisted.internet import protocol, stdio

    class End(protocol.Protocol):
        def connectionLost(self, reason):
            os._exit(0)

    class Answer(protocol.DatagramProtocol):
        def datagramReceived(self, data, address):
            self.transport.write(data, address)

    if role == "udp":
        port = reactor.listenUDP(0, Answer(), interface="127.0.0.1")
    elif role == "unix-udp":
        reactor.listenUNIXDatagram(f"\0couplet-bench-{os.getpid()}", Answer())
    else:
        port = reactor.listenTCP(0, protocol_of(role, reactor), backlog=4096, interface="127.0.0.1")
    stdio.StandardIO(End())
    os.write(2, b"%d\n" % (os.getpid() if role == "unix-udp" else port.getHost().port))
    reactor.run()


if __name__ == "__main__":
    main()

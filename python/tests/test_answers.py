"""UDP: the answers to a batch of datagrams leave together, and senders cannot tell."""

import os
import socket
import time

from twisted.internet import defer, protocol

from kit.cases import Cases, only_subject


class Answering(protocol.DatagramProtocol):
    """Calls `act` for each of the datagrams 0, 1 and 2, which arrive together."""

    def __init__(self, case, act):
        self.case, self.act, self.left, self.all = case, act, 3, defer.Deferred()
        self.other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.other.setblocking(False)
        port = case.reactor.listenUDP(0, self, interface="127.0.0.1")
        port.stopReading()
        for number in range(self.left):
            self.other.sendto(b"%d" % number, ("127.0.0.1", port.getHost().port))
        port.startReading()

    def datagramReceived(self, data, address):
        self.left -= 1
        if not self.left:
            # Fires after the turn.
            self.case.reactor.callLater(0, self.all.callback, None)
        self.act(self, data, address)

    def arrived(self):
        """The answers that have arrived at the sender."""
        found = []
        try:
            while True:
                found.append(self.other.recv(9000)[:20])
        except BlockingIOError:
            return found

    def say(self, *words):
        self.case.say("server", *words)


async def run(case, act):
    """Has `act` answer; notes the answers that are left."""
    answering = Answering(case, act)
    await answering.all
    case.say("sender", answering.arrived())
    answering.other.close()


class TheAnswers(Cases):
    """Of a port on the loopback interface."""

    async def test_keep_their_order(case):
        def act(self, data, address):
            self.say(self.transport.write(b"first " + data, address))
            self.say(self.transport.write(b"copied " + data, (address[0], address[1])))
            self.say(self.transport.write(b"again " + data, address))
            self.say(self.transport.write(b"long" * 400, address))
            self.transport.writeSequence([b"in ", b"pieces"], address)
            self.transport.getHandle().sendto(b"by the socket", address)
            self.transport.write(b"last " + data, address)

        await run(case, act)

    @only_subject
    async def test_are_held_back_while_a_batch_is_delivered_and_few_enough(case):
        found = []

        def act(self, data, address):
            if data == b"0":
                for _ in range(40):
                    self.transport.write(data, address)
                found.append(len(self.arrived()))

        answering = Answering(case, act)
        await answering.all
        found.append(len(answering.arrived()))
        answering.other.close()
        assert found == [32, 8], found

    async def test_do_not_wait_for_a_later_callback_after_a_long_one(case):
        def act(self, data, address):
            self.say(data, self.arrived())
            self.transport.write(data, address)
            # Longer than answers are held back.
            until = time.monotonic() + 0.002
            while time.monotonic() < until:
                pass

        await run(case, act)

    async def test_are_sent_before_the_loop_turns(case):
        def act(self, data, address):
            if data == b"1":
                self.transport.write(b"before", address)
                case.reactor.iterate()
                self.say(self.arrived())

        await run(case, act)

    async def test_are_sent_before_the_port_ends(case):
        def act(self, data, address):
            if data == b"2":
                self.transport.write(b"at last", address)
                self.transport.connectionLost()

        await run(case, act)

    async def test_are_sent_before_the_port_stops(case):
        def act(self, data, address):
            if data == b"2":
                self.transport.write(b"at last", address)
                self.transport.stopListening()
                self.say(self.arrived())

        await run(case, act)

    async def test_are_sent_before_an_exception_is_logged(case):
        def act(self, data, address):
            self.transport.write(data, address)
            raise ValueError("as asked")

        await run(case, act)

    async def test_of_a_parent_are_not_sent_by_a_child_too(case):
        def act(self, data, address):
            self.transport.write(data, address)
            child = os.fork()
            if child == 0:
                self.transport.getHandle()
                os._exit(0)
            os.waitpid(child, 0)

        await run(case, act)

    async def test_that_the_system_refuses_are_logged(case):
        def act(self, data, address):
            if data == b"1":
                try:
                    self.transport.getHandle().shutdown(socket.SHUT_WR)
                except OSError as error:
                    # Not connected; the system shuts it down nevertheless.
                    self.say(type(error).__name__)
            self.transport.write(data, address)

        await run(case, act)

    async def test_to_ipv6_senders_arrive(case):
        class Echo(protocol.DatagramProtocol):
            def datagramReceived(self, data, address):
                self.transport.write(data, address)
                case.reactor.callLater(0, done.callback, None)

        done = defer.Deferred()
        port = case.reactor.listenUDP(0, Echo(), interface="::1")
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
            other.sendto(b"six", ("::1", port.getHost().port))
            await done
            case.say("sender", other.recv(10, socket.MSG_DONTWAIT))

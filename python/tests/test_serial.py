"""Serial ports: Twisted's `SerialPort` behaves on this reactor as under the model. The other end is a terminal."""

import os
import termios
import threading

from twisted.internet import serialport, threads

from kit.cases import Cases
from kit.connections import Noting


def opened(case, **options):
    """A serial port, its protocol, and the descriptor of the other end."""
    master, slave = os.openpty()
    made = Noting(case, "port")
    port = serialport.SerialPort(made, os.ttyname(slave), case.reactor, **options)
    # Only the port's descriptor keeps the terminal open.
    os.close(slave)
    return port, made, master


def read(descriptor, count):
    """Reads `count` bytes from the other end, in a thread."""
    data = b""
    while len(data) < count:
        data += os.read(descriptor, 65536)
    return data


class Serial(Cases):
    """Ports on pseudo-terminals."""

    async def test_bytes_in_both_directions(case):
        port, made, master = opened(case, baudrate=115200)
        case.say("port", port.connected)
        every = bytes(range(256))
        os.write(master, every)
        await made.wanted(256)
        port.write(every)
        port.writeSequence([b"one", b"two"])
        case.say("other", await threads.deferToThread(read, master, 262) == every + b"onetwo")
        port.loseConnection()
        await made.lost
        case.say("port", port.fileno(), port.disconnected)
        os.close(master)

    async def test_more_than_the_terminal_holds_is_sent_before_the_end(case):
        port, made, master = opened(case)
        data = os.urandom(200_000)
        found = []
        reading = threading.Thread(target=lambda: found.append(read(master, len(data))))
        port.write(data)
        port.loseConnection()
        # The terminal is full until now.
        await case.sleep(0.02)
        case.say("port", "disconnecting", port.disconnecting, port.disconnected)
        reading.start()
        await made.lost
        await threads.deferToThread(reading.join)
        case.say("other", found[0] == data)
        os.close(master)

    async def test_a_hang_up(case):
        port, made, master = opened(case)
        os.write(master, b"last")
        await made.wanted(4)
        os.close(master)
        await made.lost
        case.say("port", port.disconnected, port in case.reactor.getReaders())
        port.write(b"lost")
        port.loseConnection()

    async def test_pauses(case):
        port, made, master = opened(case)
        port.pauseProducing()
        os.write(master, b"late")
        await case.sleep(0.02)
        case.say("port", made.size, port in case.reactor.getReaders())
        port.resumeProducing()
        await made.wanted(4)
        port.loseConnection()
        await made.lost
        os.close(master)

    async def test_a_producer_is_paused_while_the_terminal_is_full(case):
        port, made, master = opened(case)
        events = []

        class Producer:
            def pauseProducing(self):
                events.append("pause")

            def resumeProducing(self):
                events.append("resume")
                port.unregisterProducer()
                port.loseConnection()

            def stopProducing(self):
                events.append("stop")

        port.registerProducer(Producer(), True)
        port.write(bytes(100_000))
        case.say("other", await threads.deferToThread(read, master, 100_000) == bytes(100_000))
        await made.lost
        case.say("producer", events)
        os.close(master)

    async def test_settings_and_the_queues_of_the_terminal(case):
        port, made, master = opened(case, baudrate=9600, timeout=0)
        port._serial.baudrate = 57600
        case.say("port", termios.tcgetattr(port.fileno())[4] == termios.B57600)
        port.stopReading()
        os.write(master, b"waiting")
        while port.inWaiting() < 7:
            await case.sleep(0.001)
        port.flushInput()
        case.say("port", port.inWaiting())
        port.flushOutput()
        port.sendBreak()
        port.startReading()
        os.write(master, b"after")
        await made.wanted(5)
        port.loseConnection()
        await made.lost
        os.close(master)

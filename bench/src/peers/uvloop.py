"""asyncio on uvloop as a server; the argument is its role."""

import asyncio
import ctypes
import signal
import sys

import uvloop

role = sys.argv[1]
connections = set()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        if role == "echo-one":
            self.transport.close()

    # A slow reader is read slowly.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class FanOut(asyncio.Protocol):
    def connection_made(self, transport):
        connections.add(transport)
        self.transport = transport

    def data_received(self, data):
        for transport in connections:
            transport.write(data)

    def connection_lost(self, reason):
        connections.discard(self.transport)


async def echo_lines(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    if role == "lines":
        server = await asyncio.start_server(echo_lines, "127.0.0.1", 0, backlog=1024)
    else:
        loop = asyncio.get_running_loop()
        protocol = FanOut if role == "fan-out" else Echo
        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


# The benchmark ends its servers; this is for the case that it was killed.
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
uvloop.run(main())

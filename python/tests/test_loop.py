"""Couplet's event loop for asyncio: programs behave as with asyncio's own."""

import asyncio
import contextvars
import functools
import gc
import os
import re
import signal
import socket
import tempfile
import threading
import unittest
import weakref

import couplet_twisted
from kit.cases import Cases
from kit.connections import reset
from kit.running import descriptors, ended

LOCAL = "127.0.0.1"


def run(program, loop, debug=False):
    """Runs an async program; returns its notes, and the messages of the exception handler."""
    notes = []
    with asyncio.Runner(loop_factory=loop, debug=debug) as runner:
        handled = lambda _, context: notes.append((context["message"].split(" at ")[0], repr(context.get("exception"))))
        runner.get_loop().set_exception_handler(handled)
        runner.run(asyncio.wait_for(program(notes.append), 300))
    return notes


def both(program):
    """Makes a test of an async program that notes its events: asyncio's loop and ours must give the same notes."""

    @functools.wraps(program)
    def test(self):
        expected = run(functools.partial(program, self), asyncio.SelectorEventLoop)
        self.assertTrue(expected)
        self.assertEqual(run(functools.partial(program, self), couplet_twisted.EventLoop), expected)

    # The test is not a coroutine function, unlike the program.
    del test.__wrapped__
    return test


class Noting(asyncio.Protocol):
    """Notes its events. `ended` fires with the loss."""

    def __init__(self, note):
        self.note = note
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.note(data)

    def eof_received(self):
        self.note("eof")

    def pause_writing(self):
        self.note("pause")

    def resume_writing(self):
        self.note("resume")

    def connection_lost(self, error):
        self.note(repr(error))
        self.ended.set_result(None)


async def pair(note, kind=Noting):
    """A protocol that notes, and a blocking socket at the other end."""
    with socket.create_server((LOCAL, 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(lambda: kind(note), ours)
    return protocol, theirs


async def finished(note, protocol, theirs):
    """Notes all that the other end receives, closes it, and waits for the loss."""
    note(await in_thread(received, theirs))
    theirs.close()
    await protocol.ended


def in_thread(function, *args):
    return asyncio.get_running_loop().run_in_executor(None, function, *args)


def received(sock):
    """Everything that a socket receives, and how that ended."""
    data = bytearray()
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except OSError as error:
        return len(data), type(error).__name__
    return len(data), "eof"


class Callbacks(Cases, by=both):
    """Handles, timers and contexts."""

    async def test_callbacks_come_in_order(self, note):
        loop = asyncio.get_running_loop()
        loop.call_soon(note, "first")
        loop.call_later(0, note, "timed")
        loop.call_at(loop.time() - 1, note, "late")
        loop.call_soon(loop.call_soon, note, "nested")
        loop.call_soon(callback=functools.partial(note, "named"))
        cancelled = loop.call_soon(note, "cancelled")
        cancelled.cancel()
        note((cancelled.cancelled(), repr(cancelled)))
        for _ in range(5):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    async def test_a_failing_callback_is_reported_and_the_next_one_is_called(self, note):
        loop = asyncio.get_running_loop()

        def fail():
            raise ValueError("no")

        loop.call_soon(fail)
        loop.call_later(0, fail)
        loop.call_soon(note, "next")
        await asyncio.sleep(0.01)

    async def test_contexts(self, note):
        variable = contextvars.ContextVar("variable", default="unset")
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()

        class Changing(Noting):
            def connection_made(self, transport):
                variable.set("made")
                transport.write(b"greeting")

            def data_received(self, data):
                note((data, variable.get()))
                variable.set(data)

        variable.set("server")
        server = await loop.create_server(lambda: Changing(note), LOCAL, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.readexactly(8)
        variable.set("changed later")
        for data in (b"1", b"2"):
            writer.write(data)
            await asyncio.sleep(0.05)
        loop.call_soon(lambda: note(variable.get()), context=context)
        loop.call_soon(lambda: note(variable.get()))
        await asyncio.sleep(0)
        writer.close()
        server.close()

    async def test_cancelled_timers_are_freed(self, note):
        class Callback:
            def __call__(self):
                pass

        loop, references = asyncio.get_running_loop(), []
        for _ in range(1000):
            callback = Callback()
            references.append(weakref.ref(callback))
            loop.call_later(3600, callback).cancel()
            del callback
        await asyncio.sleep(0.01)
        note(sum(reference() is not None for reference in references))

    async def test_slow_callbacks_are_logged_in_debug_mode(self, note):
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        with self.assertLogs("asyncio", "WARNING") as logs:
            loop.call_soon(len, ())
            loop.call_later(0, len, ())
            await asyncio.sleep(0.01)
        loop.set_debug(False)
        note([sum(word in line for line in logs.output) for word in ("<Handle", "<TimerHandle")] >= [1, 1])

    async def test_slow_events_are_logged_in_debug_mode(self, note):
        class Slow(Noting):
            def data_received(self, data):
                self.transport.close()

        loop = asyncio.get_running_loop()
        slow, theirs = await pair(note, Slow)
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        with self.assertLogs("asyncio", "WARNING") as logs:
            theirs.sendall(b"x")
            await slow.ended
        loop.set_debug(False)
        theirs.close()
        # The handle of asyncio's transport, or the transport itself.
        note(any(re.search(r"SocketTransport(\._read_ready|.* fd=).* took", line) for line in logs.output))

    def test_a_subclass_may_replace_call_soon(self):
        calls = []

        class Loop(couplet_twisted.EventLoop):
            def call_soon(self, callback, *args, context=None):
                calls.append(callback)
                return super().call_soon(callback, *args, context=context)

        run(lambda note: asyncio.sleep(0), Loop)
        self.assertTrue(calls)

    def test_an_interrupt_ends_the_run_and_the_loop_continues(self):
        loop, notes = couplet_twisted.EventLoop(), []
        self.addCleanup(loop.close)

        def interrupt():
            raise KeyboardInterrupt

        loop.call_soon(interrupt)
        loop.call_soon(notes.append, "after")
        with self.assertRaises(KeyboardInterrupt):
            loop.run_forever()
        self.assertEqual(notes, [])
        loop.run_until_complete(asyncio.sleep(0))
        self.assertEqual(notes, ["after"])

    def test_a_signal_ends_a_wait(self):
        async def program(note):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)

        with self.assertRaises(KeyboardInterrupt):
            run(program, couplet_twisted.EventLoop)


class Streams(Cases, by=both):
    """Transports of TCP and UNIX sockets."""

    async def test_data_and_end_in_order(self, note):
        protocol, theirs = await pair(note)
        theirs.sendall(b"hello")
        await asyncio.sleep(0.05)
        theirs.close()
        await protocol.ended

    async def test_a_call_that_data_requests_comes_before_the_end(self, note):
        class Requesting(Noting):
            def data_received(self, data):
                asyncio.get_running_loop().call_soon(note, "requested")

        protocol, theirs = await pair(note, Requesting)
        protocol.transport.pause_reading()
        theirs.sendall(b"x")
        theirs.close()
        protocol.transport.resume_reading()
        await protocol.ended

    async def test_a_reset_is_an_error(self, note):
        protocol, theirs = await pair(note)
        reset(theirs)
        await protocol.ended

    async def test_much_output_pauses_and_is_sent_before_the_close(self, note):
        protocol, theirs = await pair(note)
        protocol.transport.write(bytes(8 << 20))
        note(protocol.transport.get_write_buffer_size() > 0)
        protocol.transport.close()
        note(protocol.transport.is_closing())
        await finished(note, protocol, theirs)

    async def test_output_that_the_system_takes_pauses_nothing(self, note):
        protocol, theirs = await pair(note)
        protocol.transport.set_write_buffer_limits(high=10)
        protocol.transport.write(b"m" * 100)
        note(protocol.transport.get_write_buffer_limits())
        protocol.transport.write_eof()
        await finished(note, protocol, theirs)

    async def test_a_resumed_protocol_writes_on_a_closing_transport(self, note):
        class Continuing(Noting):
            def resume_writing(self):
                self.transport.write(b"more")

        protocol, theirs = await pair(note, Continuing)
        protocol.transport.write(bytes(8 << 20))
        protocol.transport.close()
        await finished(note, protocol, theirs)

    async def test_a_paused_protocol_is_resumed_even_if_all_is_sent_before_the_close(self, note):
        class Continuing(Noting):
            def resume_writing(self):
                self.transport.write(b"more")

        protocol, theirs = await pair(lambda said: None, Continuing)
        protocol.transport.set_write_buffer_limits(high=0)
        while not protocol.transport.get_write_buffer_size():
            protocol.transport.write(bytes(4096))
        theirs.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while theirs.recv(65536):
                pass
        theirs.setblocking(True)
        # The iteration that makes the call also finds the socket writable.
        asyncio.get_running_loop().call_soon(protocol.transport.close)
        data = b""
        while chunk := await in_thread(theirs.recv, 65536):
            data += chunk
        note(data[-8:])
        await protocol.ended
        theirs.close()

    async def test_addresses_outlive_the_connection(self, note):
        protocol, theirs = await pair(note)
        theirs.close()
        await protocol.ended
        note([len(protocol.transport.get_extra_info(name)) for name in ("sockname", "peername")])
        note(protocol.transport.get_write_buffer_size())

    async def test_bytes_written_before_an_abort_are_sent(self, note):
        protocol, theirs = await pair(note)
        protocol.transport.write(b"alert")
        protocol.transport.abort()
        await finished(note, protocol, theirs)

    async def test_a_paused_transport_keeps_its_data(self, note):
        protocol, theirs = await pair(note)
        protocol.transport.pause_reading()
        theirs.sendall(b"kept")
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        note("resumed")
        protocol.transport.resume_reading()
        await protocol.ended
        theirs.close()

    async def test_a_failing_protocol_loses_its_connection(self, note):
        class Failing(Noting):
            def data_received(self, data):
                raise ValueError(data)

        protocol, theirs = await pair(note, Failing)
        theirs.sendall(b"x")
        await protocol.ended
        note(received(theirs))
        theirs.close()

    async def test_buffered_protocols(self, note):
        class Buffered(asyncio.BufferedProtocol):
            def __init__(self):
                self.buffer, self.data = bytearray(3), b""

            def get_buffer(self, hint):
                return self.buffer

            def buffer_updated(self, count):
                self.data += self.buffer[:count]

            def connection_lost(self, error):
                note((self.data, error))
                self.ended.set_result(None)

        protocol, theirs = await pair(note)
        protocol.transport.set_protocol(buffered := Buffered())
        buffered.ended = protocol.ended
        theirs.sendall(b"0123456789")
        theirs.close()
        await protocol.ended

    async def test_data_of_the_wrong_type_is_refused(self, note):
        protocol, theirs = await pair(note)
        for data in ("text", None, [b"list"]):
            try:
                protocol.transport.write(data)
            except TypeError as error:
                note(str(error))
        for data in (b"a", bytearray(b"b"), memoryview(b"c"), memoryview(b"1234").cast("I"), b""):
            protocol.transport.write(data)
        protocol.transport.writelines([b"d", memoryview(b"e")])
        protocol.transport.write_eof()
        note(await in_thread(received, theirs))
        try:
            protocol.transport.write(b"f")
        except RuntimeError as error:
            note(str(error))
        theirs.close()
        await protocol.ended

    def test_answers_of_tasks_wake_the_loop_by_no_system_call(self):
        def written():
            with open(f"/proc/self/task/{threading.get_native_id()}/io") as counts:
                return next(int(line.split()[1]) for line in counts if line.startswith("syscw"))

        async def serve(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        def ask(name):
            with socket.create_connection(name) as theirs:
                for _ in range(100):
                    theirs.sendall(b"x")
                    theirs.recv(1)

        async def program(note):
            server = await asyncio.start_server(serve, LOCAL, 0)
            before = written()
            await in_thread(ask, server.sockets[0].getsockname())
            note(written() - before)
            server.close()

        # Transports send by another call. The executor wakes the loop.
        self.assertLess(run(program, couplet_twisted.EventLoop)[0], 10)

    async def test_a_server_refuses_once_it_is_closed(self, note):
        server = await asyncio.start_server(lambda reader, writer: writer.close(), LOCAL, 0)
        name = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*name)
        note(await reader.read())
        writer.close()
        server.close()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(name)

    async def test_a_failing_factory_closes_only_its_connection(self, note):
        count = 0

        def factory():
            nonlocal count
            count += 1
            if count == 1:
                raise ValueError("no")
            return Noting(note)

        server = await asyncio.get_running_loop().create_server(factory, LOCAL, 0)
        for number in range(2):
            with socket.create_connection(server.sockets[0].getsockname()) as theirs:
                note(number or await in_thread(received, theirs))
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        server.close()

    async def test_unix_sockets_and_extra_info(self, note):
        with tempfile.TemporaryDirectory() as folder:
            path, seen = os.path.join(folder, "socket"), []

            async def serve(reader, writer):
                seen.append([writer.get_extra_info(name) for name in ("sockname", "peername", "nothing")])
                seen.append(writer.get_extra_info("socket").family)
                writer.close()

            server = await asyncio.start_unix_server(serve, path)
            reader, writer = await asyncio.open_unix_connection(path)
            seen.append(writer.get_extra_info("peername"))
            note(await reader.read())
            writer.close()
            server.close()
            note(sorted(repr(each).replace(folder, "") for each in seen))


EXHAUSTED = """
import asyncio, logging, os, resource, socket, sys
from couplet_twisted import EventLoop

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s")

async def program():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    theirs = socket.socket()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    theirs.connect(server.sockets[0].getsockname())
    await asyncio.sleep(0.1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 1))

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(program())
"""


class Loops(unittest.TestCase):
    """The life of an event loop."""

    def test_importing_the_package_imports_neither_asyncio_nor_twisted(self):
        program = "import sys, couplet_twisted; print({'asyncio', 'twisted'} & set(sys.modules))"
        self.assertEqual(ended("-c", program), (0, "set()\n"))
        program = "import sys; from couplet_twisted import EventLoop; print('twisted' in sys.modules)"
        self.assertEqual(ended("-c", program), (0, "False\n"))

    def test_a_server_without_descriptors_logs_it_and_continues(self):
        said = ended("-c", EXHAUSTED)[1].splitlines()
        self.assertTrue(said[:-1] and all(line.startswith("couplet ") for line in said[:-1]), said)
        self.assertEqual(said[-1], "b''")

    def test_closed_loops_leave_no_descriptors(self):
        async def program(note):
            protocol, theirs = await pair(note)
            protocol.transport.get_extra_info("socket")
            theirs.close()
            await protocol.ended

        run(program, couplet_twisted.EventLoop)
        before = descriptors()
        for _ in range(5):
            run(program, couplet_twisted.EventLoop)
        self.assertEqual(descriptors(), before)

    def test_an_open_loop_is_collected(self):
        loop = couplet_twisted.EventLoop()
        loop.call_later(3600, loop.stop)
        loop.call_soon(loop.stop)
        loop.run_forever()
        weak = weakref.ref(loop)
        with self.assertWarns(ResourceWarning):
            del loop
            gc.collect()
        self.assertIsNone(weak())

    def test_a_lost_transport_is_collected(self):
        async def program(note):
            protocol, theirs = await pair(note)
            weak = weakref.ref(protocol.transport)
            theirs.close()
            await protocol.ended
            del protocol
            await asyncio.sleep(0.01)
            gc.collect()
            self.assertIsNone(weak())

        run(program, couplet_twisted.EventLoop)

    def test_connections_keep_the_loop_in_its_thread(self):
        loop = couplet_twisted.EventLoop()
        self.addCleanup(loop.close)
        server = loop.run_until_complete(loop.create_server(asyncio.Protocol, LOCAL, 0))
        raised = []

        def elsewhere():
            try:
                loop.run_forever()
            except RuntimeError as error:
                raised.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        self.assertIn("another thread", raised[0])
        server.close()
        loop.run_until_complete(server.wait_closed())

    def test_another_thread_may_run_the_loop_and_wake_it(self):
        loop = couplet_twisted.EventLoop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.call_soon(list)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        self.assertEqual(asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01, "slept"), loop).result(30), "slept")
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        with self.assertRaises(RuntimeError):
            loop.call_soon(list)
        loop.close()

    def test_a_loop_that_a_thread_ran_leaves_no_descriptors(self):
        before = descriptors()
        loop = couplet_twisted.EventLoop()
        for _ in range(2):
            thread = threading.Thread(target=loop.run_until_complete, args=[asyncio.sleep(0)])
            thread.start()
            thread.join()
        loop.close()
        self.assertEqual(descriptors(), before)

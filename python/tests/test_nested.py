"""Synchronous wrappers of asyncio libraries: `get_event_loop().run_until_complete(...)` works in every callback of the
reactor, as under the model, and before and after its run."""

import asyncio
import contextlib
import functools
import threading

from twisted.internet import defer, error, threads

from kit.cases import Cases
from kit.connections import Echo, close, pair


async def sleeps():
    await asyncio.sleep(0.01)
    return "slept"


async def fails():
    await asyncio.sleep(0)
    raise ValueError("no")


async def gathers():
    return await asyncio.gather(sleeps(), sleeps(), asyncio.sleep(0.02, "third"))


async def times_out():
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    except asyncio.TimeoutError:
        return "timed out"


async def is_cancelled():
    waiting = asyncio.ensure_future(asyncio.Event().wait())
    await asyncio.sleep(0)
    waiting.cancel()
    return await asyncio.gather(waiting, return_exceptions=True)


async def uses_a_thread():
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: threading.current_thread() is not threading.main_thread())


async def uses_streams():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return answer


async def runs():
    loop = asyncio.get_running_loop()
    try:
        waits = asyncio.sleep(0)
        loop.run_until_complete(waits)
    except RuntimeError as error:
        waits.close()
        return str(error)


WORK = [sleeps, fails, gathers, times_out, is_cancelled, uses_a_thread, uses_streams, runs]


def attempt(case, when, work):
    loop = asyncio.get_event_loop()
    try:
        result = loop.run_until_complete(work())
    except Exception as problem:
        result = f"{type(problem).__name__}: {problem}"
    case.say(when, work.__name__, result)


def attempt_all(case, when):
    for work in WORK:
        attempt(case, when, work)
    asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        case.say(when, "an event loop counts as running")


class Nested(Cases):
    """Blocking uses of asyncio in the reactor's callbacks."""

    async def test_in_timed_calls_and_calls_from_threads(case):
        for name, call in (
            ("timed call", functools.partial(case.reactor.callLater, 0)),
            ("call from a thread", functools.partial(case.reactor.callInThread, case.reactor.callFromThread)),
        ):
            called = defer.Deferred()
            call(lambda: called.callback(attempt_all(case, name)))
            await called
        await threads.deferToThread(lambda: None)
        attempt_all(case, "result of a thread")

    async def test_in_callbacks_of_connections(case):
        class Nesting(Echo):
            def connectionMade(self):
                super().connectionMade()
                attempt_all(case, "made")

            def dataReceived(self, data):
                attempt_all(case, "data")
                super().dataReceived(data)

            def connectionLost(self, reason):
                attempt_all(case, "lost")
                super().connectionLost(reason)

        server, client = await pair(case, Nesting(case, "server"))
        client.transport.write(b"some")
        await client.wanted(4)
        await close(client, server)

    async def test_a_future_and_a_task(case):
        await case.sleep()
        loop = asyncio.get_event_loop()
        future = loop.create_future()
        loop.call_later(0.01, future.set_result, "later")
        case.say("future", loop.run_until_complete(future))
        case.say("done", loop.run_until_complete(future))
        done = loop.create_future()
        threading.Timer(0.05, loop.call_soon_threadsafe, [done.set_result, "by a thread"]).start()
        case.say("thread", loop.run_until_complete(done))
        task = loop.create_task(sleeps())
        case.say("task", loop.run_until_complete(task))
        cancelled = loop.create_future()
        loop.call_later(0.01, cancelled.cancel)
        try:
            loop.run_until_complete(cancelled)
        except asyncio.CancelledError:
            case.say("future", "is cancelled")

    async def test_a_run_inside_a_run(case):
        await case.sleep()
        case.reactor.callLater(0, attempt, case, "inside", sleeps)
        attempt(case, "outside", sleeps)
        await case.sleep(0.1)

    async def test_a_stop_of_the_reactor_after_a_run_ends_the_program(case):
        await case.sleep()

        async def stops():
            case.reactor.callLater(0, lambda: None)
            await asyncio.sleep(0.05)
            return "returns"

        attempt(case, "before", stops)
        case.reactor.callLater(0, case.say, "timed call", "made")
        await case.sleep(0.01)
        case.reactor.stop()
        with contextlib.suppress(error.ReactorNotRunning):
            case.reactor.stop()

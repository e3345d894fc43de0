"""Rust futures as Deferreds and Deferreds in Rust futures, by the extension module of examples/futures."""

import contextlib
import contextvars
import os
import threading
import time
import unittest
import weakref

from twisted.internet import defer, task, threads
from twisted.internet.testing import MemoryReactorClock

from kit import environment, reactors, running
from kit.cases import SUBJECT, Cases
import test_memory

# In the processes of the programs: `setUpModule` builds it.
with contextlib.suppress(ImportError):
    from rust_futures import each, end_runtime, mean, sleep

PROGRAM = """
import os, sys, time
from kit import reactors
reactor = reactors.install(sys.argv[1])
from twisted.internet import defer, task
from rust_futures import each, end_runtime, mean, sleep
"""

# Whether the future runs on tokio, outside the reactor's thread.
PLACES = {"tokio": True, "reactor": False}

variable = contextvars.ContextVar("variable", default="unset")


def setUpModule():
    before = os.environ["PYTHONPATH"]
    unittest.addModuleCleanup(os.environ.__setitem__, "PYTHONPATH", before)
    os.environ["PYTHONPATH"] = f"{before}{os.pathsep}{environment.extension('futures')}"


class Thing:
    """An object that can be seen to be freed."""


def expect(found, expected):
    """Both reactors run the same Rust code, so it is not enough that they agree."""
    assert found == expected, f"{found!r}, not {expected!r}"


async def outcome(deferred):
    """The result of a Deferred, or the name and text of its exception."""
    try:
        return await deferred
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def ended():
    """Ends all futures on tokio, and waits until their effects have arrived."""
    end_runtime()
    # Calls to the reactor's thread are made in order.
    await sleep(0, None)


DROPPED = "RuntimeError: a Rust future was dropped before it ended"
CANCELLED = "CancelledError: "


class Outcomes(Cases):
    """A Deferred fires with the output of its future."""

    async def test_values_and_errors(case):
        expect(await outcome(sleep(0, "slept")), "slept")
        expect(await outcome(mean("1 2 6")), 3)
        expect(await outcome(mean("1 x")), "ValueError: invalid digit found in string")
        expect(await outcome(mean("")), "RuntimeError: a Rust future panicked: attempt to divide by zero")

    async def test_a_second_result_is_logged(case):
        first = sleep(1000, "ours")
        first.callback("the program's")
        expect(await first, "the program's")
        await ended()
        expect(case.notes, {"log": ["- AlreadyCalledError: "]})

    async def test_deferreds_and_coroutines_in_a_future(case):
        async def coroutine(value):
            return await sleep(0, value)

        functions = [
            lambda value: value,
            lambda value: sleep(0, value),
            lambda value: task.deferLater(case.reactor, 0, lambda: value),
            coroutine,
        ]
        failing = [
            lambda value: 1 // (value - 2),
            lambda value: task.deferLater(case.reactor, 0, lambda: 1 // (value - 2)),
        ]
        for is_beside in PLACES.values():
            for function in functions:
                expect(await outcome(each(function, [1, 2, 3], is_beside)), [1, 2, 3])
            for function in failing:
                found = await outcome(each(function, [1, 2, 3], is_beside))
                expect(found, "ZeroDivisionError: integer division or modulo by zero")

    async def test_functions_are_called_in_the_reactors_thread(case):
        for is_beside in PLACES.values():
            expect(await each(lambda _: threading.get_ident(), [None], is_beside), [threading.get_ident()])

    async def test_a_turn_inside_of_a_call(case):
        def turns(value):
            inner = sleep(0, value)
            while not inner.called:
                case.reactor.iterate(0.01)
            return inner

        for is_beside in PLACES.values():
            expect(await each(turns, [1, 2], is_beside), [1, 2])

    async def test_another_thread_may_not_make_a_future_of_the_reactors(case):
        made = await threads.deferToThread(lambda: [each(lambda value: value, [1], False)])
        found = await outcome(made[0])
        expect(found, "RuntimeError: cannot poll a Rust future: it was made in another thread than the reactor's")

    async def test_the_end_of_the_runtime_fails_its_deferreds(case):
        pending = [sleep(1000, None), each(lambda _: defer.Deferred(), [None], True)]
        end_runtime()
        for deferred in pending:
            expect(await outcome(deferred), DROPPED)
        expect(await outcome(sleep(0, "slept")), "slept")

    async def test_the_end_of_the_runtime_inside_of_a_call(case):
        def end(value):
            end_runtime()
            while not deferred.called:
                # This function has entered the context that the Deferred is to fire in.
                case.reactor.iterate(0.01)

        deferred = each(end, [None], True)
        expect(await outcome(deferred), DROPPED)
        expect(case.notes, {})

    async def test_another_reactor(case):
        called = threading.Event()

        class Fake(MemoryReactorClock):
            def callFromThread(self, function, *args):
                self.calls = [(function, args)]
                called.set()

        fake = Fake()
        deferred = sleep(0, "slept", fake)
        called.wait()
        expect(deferred.called, False)
        for function, args in fake.calls:
            function(*args)
        expect(deferred.result, "slept")


class Cancellation(Cases):
    """A cancelled Deferred drops its future, and a dropped future cancels the Deferred it awaits."""

    async def test_a_cancelled_deferred_fails_immediately_and_frees_its_future(case):
        freed = defer.Deferred()
        thing = Thing()
        reference = weakref.ref(thing, lambda _: case.reactor.callFromThread(freed.callback, None))
        deferred = sleep(1000, thing)
        del thing
        deferred.cancel()
        expect(deferred.called, True)
        expect(await outcome(deferred), CANCELLED)
        await freed
        expect(reference(), None)

    async def test_a_dropped_future_cancels_its_deferred(case):
        for is_beside in PLACES.values():
            asked, cancelled = defer.Deferred(), defer.Deferred()
            inner = defer.Deferred(lambda _: cancelled.callback("cancelled"))

            def ask(_):
                asked.callback(None)
                return inner

            outer = each(ask, [None, None], is_beside)
            await asked
            # The future awaits it from the next turn on.
            await case.sleep()
            outer.cancel()
            if not is_beside:
                expect(cancelled.called, True)
            expect(await outcome(outer), CANCELLED)
            expect(await cancelled, "cancelled")

    async def test_a_cancelled_future_calls_nothing(case):
        cancelled = each(lambda _: case.say("cancelled", "called"), [None], True)
        # Time for its first poll, and for other futures to occupy both threads: it is dropped late.
        time.sleep(0.01)
        long = [mean("1 " * 2_000_000) for _ in range(2)]
        time.sleep(0.01)
        cancelled.cancel()
        expect(await outcome(cancelled), CANCELLED)
        await defer.gatherResults(long)
        await ended()
        expect(case.notes, {})

    async def test_a_future_cancels_its_own_deferred(case):
        def cancel(value):
            if value == 1:
                return sleep(0, None)
            deferred.cancel()
            return defer.Deferred(lambda _: cancelled.callback("cancelled"))

        for is_beside in PLACES.values():
            cancelled = defer.Deferred()
            # The second function is called in a poll of the future.
            deferred = each(cancel, [1, 2], is_beside)
            expect(await outcome(deferred), CANCELLED)
            expect(await cancelled, "cancelled")

    async def test_the_end_of_the_awaited_deferred_ends_the_future(case):
        for is_beside in PLACES.values():
            inner = defer.Deferred()
            outer = each(lambda _: inner, [None], is_beside)
            inner.cancel()
            expect(await outcome(outer), CANCELLED)


class Contexts(Cases):
    """A Deferred keeps the context in which it is made."""

    async def test_functions_and_callbacks_have_the_context_of_the_call(case):
        async def coroutine(function, values):
            return [await defer.maybeDeferred(function, value) for value in values]

        def note(value):
            case.say(place, "function", value, variable.get())
            variable.set(f"set by {value}")
            return note_later(value)

        async def note_later(value):
            await sleep(0, None)
            case.say(place, "coroutine", value, variable.get())
            variable.set("lost")

        makers = {place: lambda *args, beside=beside: each(*args, beside) for place, beside in PLACES.items()}
        makers["coroutine"] = lambda *args: defer.ensureDeferred(coroutine(*args))
        for place, make in makers.items():
            variable.set("the call's")
            deferred = make(note, [1, 2])
            variable.set("a later one")
            deferred.addCallback(lambda _: case.say(place, "callback", variable.get()))
            await deferred
            case.say(place, "after", variable.get())
        for party in PLACES:
            assert case.notes[party] == case.notes["coroutine"], case.notes


class Bursts(Cases):
    """Many futures."""

    async def test_each_of_many_deferreds_gets_its_result(case):
        values = list(range(10_000))
        expect(await defer.gatherResults([sleep(0.001, value) for value in values]), values)
        pending = [each(lambda value: sleep(0, value), [value], False) for value in values]
        expect(await defer.gatherResults(pending), [[value] for value in values])

    async def test_results_that_have_gathered_cost_one_wakeup(case):
        def counting(*args):
            callers.append(threading.current_thread() is threading.main_thread())
            call(*args)

        pending = [sleep(1000, None) for _ in range(10_000)]
        callers, call = [], case.reactor.callFromThread
        case.reactor.callFromThread = counting
        # All Deferreds fail during this call.
        end_runtime()
        await defer.DeferredList(pending, consumeErrors=True)
        expect(callers.count(False), 1)
        # The reactor's thread calls 256 functions in a turn.
        expect(callers.count(True), 10_000 // 256)
        del case.reactor.callFromThread

    async def test_ended_and_cancelled_futures_leave_nothing(case):
        async def round_(count):
            for _ in range(count // 100):
                cancelled = [sleep(1000, None) for _ in range(25)]
                cancelled += [each(lambda _: defer.Deferred(), [None], beside) for beside in PLACES.values()]
                ended = [sleep(0, None) for _ in range(25)]
                ended += [each(lambda _: sleep(0, None), [None], False) for _ in range(25)]
                await defer.gatherResults(ended)
                for deferred in cancelled:
                    deferred.addErrback(lambda failure: failure.trap(defer.CancelledError))
                    deferred.cancel()

        await test_memory.Steady.measure(case, round_, 20_000)


class Ends(unittest.TestCase):
    """The end of the reactor, of the interpreter, and forks, with pending futures."""

    maxDiff = None

    def ends(self, text, expected):
        """Checks the output of a program, which exits with status 0, under the model and the subject."""
        for name in (reactors.MODEL, SUBJECT):
            # Later releases of Python warn of forks in processes that have threads.
            options = ["-X", "dev", "-W", "ignore:This process"]
            status, said = running.ended(*options, "-c", PROGRAM + text, name)
            self.assertMultiLineEqual(f"{expected}status 0", f"{said}status {status}", name)

    def test_of_the_reactor(self):
        self.ends(
            """
pending = [sleep(1000, None), each(lambda _: defer.Deferred(), [None], True)]
pending += [each(lambda _: defer.Deferred(lambda _: print("cancelled")), [None], False)]
sleep(0.01, None).addCallback(lambda _: reactor.stop())
reactor.run()
print("ended", [deferred.called for deferred in pending])
pending[0].cancel()
pending[0].addErrback(lambda failure: print(failure.type.__name__))
""",
            "ended [False, False, False]\nCancelledError\n",
        )

    def test_of_the_interpreter_while_futures_end(self):
        # Some end before the interpreter does, some while it does, and some would later.
        self.ends(
            """
pending = [sleep(number / 20_000, None) for number in range(2000)]
pending += [each(lambda _: sleep(0, None), range(1000), beside) for beside in [True, False] * 10]
pending[200].addCallback(lambda _: reactor.stop())
reactor.run()
print("ended")
""",
            "ended\n",
        )

    def test_of_futures_while_the_interpreter_is_finalized(self):
        self.ends(
            """
class Late:
    def __del__(self, end_runtime=end_runtime, wait=time.sleep, write=os.write):
        # Has results announced, and lets other threads run.
        end_runtime()
        wait(0.1)
        write(1, b"deleted\\n")
late = Late()
pending = [sleep(1000, None)]
reactor.callLater(0, reactor.stop)
reactor.run()
""",
            "deleted\n",
        )

    def test_of_the_interpreter_without_a_run(self):
        self.ends(
            """
pending = [sleep(0, None), each(lambda _: None, [None], False), each(lambda _: None, [None], True)]
print("ended")
""",
            "ended\n",
        )

    def test_of_both_processes_of_a_fork(self):
        self.ends(
            """
early = each(lambda _: "early", [None], False)
child = os.fork()
async def program():
    # The child makes its own Deferreds: the parent's never fire in it.
    print(await early if child else "child", await sleep(0.01, "slept"), flush=True)
    end_runtime()
    reactor.stop()
if child:
    print("child's status", os.waitpid(child, 0)[1], flush=True)
defer.ensureDeferred(program())
reactor.run()
""",
            "child slept\nchild's status 0\n['early'] slept\n",
        )

"""
The inspector of a Twisted program: see L{couplet_twisted.inspect}.

When a reader of the page needs them, this module makes the rows of timed calls and of pending Deferreds, in the
reactor's thread. Functions are named by their code, and nothing of the program's is called.
"""

import atexit
import faulthandler
import functools
import os
import signal
import sys
import types
from itertools import count
from os.path import basename, dirname
from time import time
from weakref import ref

import twisted
from twisted.internet.defer import Deferred, DeferredList, _CONTINUE, _gotResultInlineCallbacks, passthru
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from couplet_twisted import _couplet

_log = Logger(namespace="couplet")

# Files whose frames are no places of the program's.
_LIBRARIES = (dirname(twisted.__file__) + os.sep, dirname(__file__) + os.sep)

# The file whose frames call the program.
_REACTOR = dirname(__file__) + os.sep + "reactor.py"

# The most frames and coroutines that are looked into.
_DEPTH = 16

# The most waiters that a row names.
_WAITERS = 3


def _place(frame=None):
    """
    The place in the program that makes a call, and the time. Code of Twisted's is skipped, if code of the program
    called it.

    @return: A code object, the number of a line, and the time.
    """
    innermost = frame = frame or sys._getframe(1)
    for _ in range(_DEPTH):
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARIES):
            return frame.f_code, frame.f_lineno, time()
        frame = frame.f_back
        if frame is None or file == _REACTOR:
            break
    return innermost.f_code, innermost.f_lineno, time()


def _shown(code, line):
    """
    A place, as text.
    """
    return f"{code.co_filename}:{line} in {code.co_name}"


def _named(module, name):
    return name if module in (None, "__main__", "builtins") else f"{module}.{name}"


def _described(function):
    """
    The name of a function.
    """
    for _ in range(_DEPTH):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, LoopingCall):
            return f"LoopingCall of {_described(function.f)}"
        elif isinstance(function, types.MethodType) and isinstance(function.__self__, LoopingCall):
            function = function.__self__
        else:
            break
    if isinstance(function, types.MethodType):
        owner = function.__self__
        owner = owner if isinstance(owner, type) else type(owner)
        name = getattr(function, "__name__", "__call__")
        return f"{_named(owner.__module__, owner.__qualname__)}.{name}"
    if isinstance(function, (types.FunctionType, types.BuiltinFunctionType, type)):
        return _named(function.__module__, function.__qualname__)
    return _named(type(function).__module__, type(function).__qualname__)


def _function(function):
    """
    The name of a function and the place of its code.
    """
    named = _described(function)
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        return named
    code = function.__code__
    return f"{named} ({code.co_filename}:{code.co_firstlineno})"


def _suspended(waiter):
    """
    The line at which a coroutine or a generator is suspended: of the innermost one that it awaits.
    """
    outer = getattr(waiter, "__qualname__", type(waiter).__qualname__)
    for _ in range(_DEPTH):
        inner = getattr(waiter, "cr_await", None) or getattr(waiter, "gi_yieldfrom", None)
        if isinstance(inner, types.CoroutineType):
            code = inner.cr_code
        elif isinstance(inner, types.GeneratorType):
            code = inner.gi_code
        else:
            break
        # The innermost one belongs to Deferred.__await__.
        if code.co_filename.startswith(_LIBRARIES):
            break
        waiter = inner
    frame = getattr(waiter, "cr_frame", None) or getattr(waiter, "gi_frame", None)
    if frame is None:
        return outer
    place = _shown(frame.f_code, frame.f_lineno)
    return place if getattr(waiter, "__qualname__", outer) == outer else f"{place}, for {outer}"


class _Deferreds:
    """
    The Deferreds that exist. L{Deferred.__init__} is wrapped while they are watched.

    @ivar _places: Weak references to Deferreds, with the numbers and the places of the Deferreds, in the order of
        their creation. Law 9: one for each Deferred that exists.
    """

    def __init__(self):
        self._places = places = {}
        numbers, forget, plain = count(1), places.pop, Deferred.__init__

        def __init__(self, canceller=None):
            plain(self, canceller)
            try:
                places[ref(self, forget)] = next(numbers), _place(sys._getframe(1))
            except TypeError:
                # A subclass whose instances have no hash.
                pass

        Deferred.__init__ = functools.wraps(plain)(__init__)

    def rows(self, most):
        """
        The rows of the oldest pending Deferreds.

        @param most: How many there may be.
        """
        pending, numbers, awaited = [], {}, {}
        for each, (number, place) in self._places.copy().items():
            deferred = each()
            if deferred is None or (deferred.called and deferred._chainedTo is None):
                continue
            numbers[id(deferred)] = number
            for callback in deferred._callbacks:
                function, args = callback[0][0], callback[0][1]
                if function is _gotResultInlineCallbacks:
                    # The Deferred of the coroutine waits for this one.
                    awaited[id(args[2].deferred)] = deferred, args[1]
            pending.append((deferred, number, place))
            if len(pending) == most:
                break
        return [self._row(each, numbers, awaited) for each in pending]

    def _row(self, pending, numbers, awaited):
        deferred, number, (code, line, since) = pending
        waiters = [_waiter(callback, numbers) for callback in deferred._callbacks[:_WAITERS]]
        more = len(deferred._callbacks) - _WAITERS
        if more > 0:
            waiters.append(f"{more} more")
        below = deferred._chainedTo
        state = "pending" if below is None else "chained"
        if below is not None:
            why = f"waits for Deferred {_numbered(below, numbers)}, which a callback returned"
        elif id(deferred) in awaited:
            inner, waiter = awaited[id(deferred)]
            why = f"waits for Deferred {_numbered(inner, numbers)} at {_suspended(waiter)}"
        elif isinstance(deferred, DeferredList):
            left = len(deferred.resultList) - deferred.finishedCount
            why = f"waits for {left} of {len(deferred.resultList)} Deferreds"
        else:
            why = f"has not been fired for {{since:{since:.3f}}}"
        return (
            f"d{number}",
            _shown(code, line),
            f"{since:.3f}",
            state,
            str(len(deferred._callbacks)),
            "; ".join(waiters),
            why,
        )


def _numbered(deferred, numbers):
    """
    The name of a Deferred's row, if it has one.
    """
    number = numbers.get(id(deferred))
    return "(not shown)" if number is None else f"d{number}"


def _waiter(callback, numbers):
    """
    The waiter to which a pair of callbacks of a Deferred belongs.
    """
    (function, args, _), (errback, *_) = callback[0], callback[1]
    if function is _CONTINUE:
        return f"Deferred {_numbered(args[0], numbers)}"
    if function is _gotResultInlineCallbacks:
        return _suspended(args[1])
    if isinstance(function, types.MethodType) and isinstance(function.__self__, DeferredList):
        return f"Deferred {_numbered(function.__self__, numbers)}, a DeferredList"
    if function is passthru:
        function = errback
    return _function(function)


def _calls(reactor, most):
    """
    The rows of the timed calls that are due next.

    @param most: How many there may be.
    """
    rows = []
    for call in sorted(reactor.getDelayedCalls(), key=lambda call: call.getTime())[:most]:
        try:
            function = call.func
        except AttributeError:
            # Another thread has cancelled it.
            continue
        place, due = call._place, call.getTime()
        where, since = ("", "") if place is None else (_shown(*place[:2]), f"{place[2]:.3f}")
        why = f"due in {{until:{due:.3f}}}"
        rows.append((f"c{call._number}", "timed call", _described(function), where, since, f"{due:.3f}", why))
    return rows


def _stacks():
    """
    Have a signal make a thread write its stack to a pipe, without the interpreter's lock.

    @return: The number of the signal, and the other end of the pipe; L{None} if every signal is taken.
    """
    for number in range(signal.SIGRTMAX, signal.SIGRTMIN, -1):
        if signal.getsignal(number) == signal.SIG_DFL:
            break
    else:
        return 0, None
    stacks, to = os.pipe()
    # A full pipe must not stop the thread.
    os.set_blocking(to, False)
    faulthandler.register(number, file=to, all_threads=False)
    return number, stacks


class Inspection:
    """
    The inspector of a reactor.

    @ivar _isAnnounced: Whether the URL was logged.
    """

    _isAnnounced = False

    def __init__(self, reactor, endpoint, name, token, allow_any_interface, deferreds, rows, ring_size):
        if rows < 1:
            raise ValueError(f"inspect: rows is {rows}, but it must be positive")
        watched = _Deferreds() if deferreds else None

        def present():
            return _calls(reactor, rows), watched.rows(rows) if watched else []

        number, stacks = _stacks()
        self._native = _couplet.Inspection(
            str(endpoint),
            name=name or basename(sys.argv[0]) or "python",
            token=token,
            is_public=allow_any_interface,
            ring_size=ring_size,
            rows=present,
            place=_place,
            describe=_described,
            signal=number,
            stacks=stacks,
        )
        reactor._loop.inspect(self._native)
        reactor._inspection = self
        # The file of a UNIX socket is removed.
        atexit.register(self._native.close)

    def announce(self):
        """
        Print the URL on standard error once the inspector is open, log it, and return it. Programs may have no log.
        """
        url = self._native.url
        if url is not None and not self._isAnnounced:
            self._isAnnounced = True
            _log.info("inspector: {url}", url=url)
            try:
                print(f"inspector: {url}", file=sys.stderr, flush=True)
            except (AttributeError, OSError, ValueError):
                # A daemon may have closed it.
                pass
        return url


def begin(reactor, endpoint, name=None, token=None, allow_any_interface=False, deferreds=True, rows=1000, ring_size=None):
    """
    Have a reactor inspected once it starts: see L{couplet_twisted.inspect}.
    """
    from couplet_twisted.reactor import CoupletReactor

    if not isinstance(reactor, CoupletReactor):
        raise RuntimeError("inspect: the installed reactor is not Couplet's; call couplet_twisted.install() first")
    if reactor._inspection is not None:
        raise RuntimeError("inspect: the reactor is inspected already")
    if reactor._loop.is_taken:
        raise RuntimeError("inspect: the reactor has begun to run; call inspect() before")
    return Inspection(reactor, endpoint, name, token, allow_any_interface, deferreds, rows, ring_size)


__all__ = ["Inspection", "begin"]

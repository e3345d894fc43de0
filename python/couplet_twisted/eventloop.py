"""
asyncio beside Twisted: the event loop of a reactor, which runs in the reactor's loop.

Contract: 106a.
"""

import os
import select
import selectors
import sys
import weakref
from asyncio import events, futures, tasks

from couplet_twisted import loop


class _Selector(selectors.DefaultSelector):
    """
    asyncio's selector, which Couplet's loop watches.

    @ivar isWrapped: Whether the program has replaced the poller, as Synapse does to measure turns. The replacement
        then polls once a turn, for everything that the reactor waits for.

    @ivar poller: The poller without the program's replacement.

    @ivar waited: The descriptor of Couplet's loop, if this selector waits for the loop.
    """

    isWrapped = False
    waited = None
    _poller = None

    def __init__(self, interrupt):
        super().__init__()
        self.poller = self._poller
        self._interrupt = interrupt

    @property
    def _selector(self):
        return self._poller

    @_selector.setter
    def _selector(self, poller):
        self.isWrapped = self._poller is not None
        self._poller = poller
        if self.isWrapped:
            self._interrupt()

    def poll(self, timeout):
        """
        Wait with the program's poller.

        @return: Whether one of asyncio's descriptors is ready.
        """
        return any(number != self.waited for number, _ in self._poller.poll(timeout, len(self.get_map()) + 1))

    def renew(self):
        """
        Replace the epoll descriptor that a fork shared, keeping its number.
        """
        with select.epoll() as fresh:
            os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
        self.waited = None
        for key in self.get_map().values():
            read = select.EPOLLIN if key.events & selectors.EVENT_READ else 0
            write = select.EPOLLOUT if key.events & selectors.EVENT_WRITE else 0
            self.poller.register(key.fd, read | write)


class EventLoop(loop.EventLoop):
    """
    The asyncio event loop of a reactor.

    @ivar _hooks: asyncio's hooks for asynchronous generators, which are set whenever it counts as running.
    """

    _hooks = (None, None)

    def __init__(self, reactor, isEverywhere):
        self._reactor = reactor
        # Code that refuses to run inside asyncio, such as Django's ORM, queries the running loop.
        super().__init__(_Selector(reactor._loop.interrupt), None if isEverywhere else loop._weakly(self, "_count"))
        self._isEverywhere = isEverywhere

    def _open(self):
        self._native = self._reactor._loop
        self._watch = self._native.watch(self._selector.fileno(), "r", loop._weakly(self, "_selected"))

    def _take(self):
        self._native.take()

    def _leave(self):
        # The reactor stays in its thread.
        pass

    def _count(self, isRunning):
        """
        Have this event loop count as running, or none.
        """
        events._set_running_loop(self if isRunning else None)
        sys.set_asyncgen_hooks(*(self._hooks if isRunning else (None, None)))

    def run_until_complete(self, future):
        """
        Run until the future is done, also in a callback of Twisted, where no event loop counts as running: a
        synchronous wrapper of an asyncio library calls this. The loop makes turns in the callback, so that connections
        get their events there, but calls from threads wait.

        @see: C{asyncio.loop.run_until_complete}
        """
        if not self.is_running() or events._get_running_loop() is not None:
            return super().run_until_complete(future)
        isNew = not futures.isfuture(future)
        future = tasks.ensure_future(future, loop=self)
        if isNew:
            # The exception of this call reports it.
            future._log_destroy_pending = False
        try:
            while not future.done():
                if self._stopping:
                    raise RuntimeError("Event loop stopped before Future completed.")
                self._native.iterate(self._ready, None)
        finally:
            # The turn in which this callback runs may have been interrupted too.
            self._native.interrupt()
        return future.result()

    def _run_once(self):
        # The garbage collector does not traverse the type that Python returns.
        self._hooks = tuple(sys.get_asyncgen_hooks())
        if not self._isEverywhere:
            self._count(False)
        try:
            self._reactor._turn(self._ready)
        finally:
            self._count(True)
        self._ready.end()

    def _wait(self, timeout):
        """
        Wait for Couplet's loop and for asyncio's descriptors with the poller of a program that replaced it.

        @param timeout: In seconds; L{None} sets no limit.
        """
        selector = self._selector
        if selector.waited is None:
            # From now on the selector waits for Couplet's loop, instead of the reverse.
            self._watch.stop()
            self._native.turn(0)
            selector.waited = self._native.fileno()
            selector.poller.register(selector.waited, select.EPOLLIN)
        limits = [timeout, self._native.next_turn(), self._ready.next_call()]
        if selector.poll(min((each for each in limits if each is not None), default=None)):
            self._selected(None)

    def forked(self):
        """
        Called in a forked child: stop sharing descriptors with the parent.
        """
        if self._isEverywhere and self.is_running():
            # asyncio forgets it.
            events._set_running_loop(self)
        if not self.is_closed():
            self._watch.stop()
            self._selector.renew()
            self._close_self_pipe()
            self._make_self_pipe()
            self._open()

    def __del__(self):
        # A reactor is never closed, so an open event loop is no mistake: no ResourceWarning.
        if not self.is_closed():
            self.close()


__all__ = ["EventLoop"]

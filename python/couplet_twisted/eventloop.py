"""
asyncio beside Twisted: an event loop that waits in the turns of Couplet's loop.
"""

import asyncio
import os
import select
import selectors
import sys
import weakref
from asyncio import events


class _Selector(selectors.DefaultSelector):
    """
    Waits for asyncio's descriptors, which Couplet's loop watches as one, and for requests that Twisted callbacks
    make of asyncio meanwhile.

    @ivar isAsked: Whether asyncio has work now.

    @ivar isWrapped: Whether the program has replaced the poller, as Synapse does to measure turns. The replacement
        then polls once a turn, for everything that the reactor waits for.

    @ivar _waited: The descriptor of Couplet's loop, if this selector waits for the loop.

    @ivar _isEverywhere: Whether the event loop counts as running in every callback of the reactor.
    """

    isWrapped = False
    _poller = None
    _waited = None

    def __init__(self, reactor, isEverywhere):
        super().__init__()
        self._polling = self._poller
        self._reactor = reactor
        self._isReady = False
        self._isEverywhere = isEverywhere
        self.isAsked = True
        self._watch = reactor._loop.watch(self.fileno(), "r", _ready(self))

    @property
    def _selector(self):
        return self._poller

    @_selector.setter
    def _selector(self, poller):
        self.isWrapped = self._poller is not None
        self._poller = poller

    def close(self):
        self._watch.stop()
        super().close()

    def select(self, timeout=None):
        self.isAsked = self._isReady = False
        hooks = sys.get_asyncgen_hooks()
        if not self._isEverywhere:
            # Code that refuses to run inside asyncio, such as Django's ORM, queries the running loop.
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(None, None)
        try:
            self._reactor._turnUntil(timeout)
        finally:
            self.isAsked = True
            # Needed in a forked child too, where asyncio has reset it.
            events._set_running_loop(self._reactor._asyncioEventloop)
            if not self._isEverywhere:
                sys.set_asyncgen_hooks(*hooks)
        return super().select(0) if self._isReady else []

    def wait(self, timeout):
        """
        Wait for Couplet's loop and for asyncio's descriptors with the program's poller.
        """
        loop = self._reactor._loop
        descriptor = loop.fileno()
        if self._waited is None:
            # From now on this selector waits for Couplet's loop, instead of the reverse.
            self._watch.stop()
            loop.turn(0)
            self._polling.register(descriptor, select.EPOLLIN)
            self._waited = descriptor
        due = loop.next_turn()
        if timeout is None or (due is not None and due < timeout):
            timeout = due
        ready = self._selector.poll(timeout, len(self._fd_to_key) + 1)
        self._isReady = any(number != descriptor for number, _ in ready)
        self.isAsked = self.isAsked or self._isReady

    def renew(self):
        """
        Replace the epoll descriptor that a fork shared, keeping its number.
        """
        with selectors.DefaultSelector() as fresh:
            os.dup2(fresh.fileno(), self.fileno(), inheritable=False)
        self._waited = None
        for key in self.get_map().values():
            read = select.EPOLLIN if key.events & selectors.EVENT_READ else 0
            write = select.EPOLLOUT if key.events & selectors.EVENT_WRITE else 0
            self._polling.register(key.fd, read | write)

    def ask(self):
        """
        Make a L{select} in progress return.
        """
        if not self.isAsked:
            self.isAsked = True
            self._reactor._loop.interrupt()


def _ready(selector):
    """
    The loop's callback for asyncio's descriptors; it holds the selector weakly.
    """
    weak = weakref.ref(selector)

    def ready(_):
        selector = weak()
        if selector is not None:
            selector._isReady = True
            selector.ask()

    return ready


class EventLoop(asyncio.SelectorEventLoop):
    """
    The asyncio event loop in which a reactor runs.
    """

    def __init__(self, reactor, isEverywhere):
        selector = _Selector(reactor, isEverywhere)
        self._ask = selector.ask
        super().__init__(selector)

    # Twisted callbacks may call these methods while asyncio selects. The queue of call_soon is checked each turn.

    def call_at(self, when, callback, *args, context=None):
        self._ask()
        return super().call_at(when, callback, *args, context=context)

    def stop(self):
        self._ask()
        super().stop()

    def forked(self):
        """
        Called in a forked child: stop sharing descriptors with the parent.
        """
        if not self.is_closed():
            self._selector.renew()
            self._close_self_pipe()
            self._make_self_pipe()

    def __del__(self):
        # A reactor is never closed, so an open event loop is no mistake: no ResourceWarning.
        if not self.is_closed():
            self.close()


__all__ = ["EventLoop"]

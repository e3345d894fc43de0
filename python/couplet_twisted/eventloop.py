"""
asyncio beside Twisted: an event loop that waits in the turns of Couplet's loop.
"""

import asyncio
import selectors
import weakref


class _Selector(selectors.DefaultSelector):
    """
    Waits for asyncio's descriptors, which are one descriptor to Couplet's loop, and for what Twisted's
    side asks of asyncio meanwhile.

    @ivar isAsked: Whether asyncio has something to do now.
    """

    def __init__(self, reactor):
        super().__init__()
        self._reactor = reactor
        self._isReady = False
        self.isAsked = True
        self._watch = reactor._loop.watch(self.fileno(), True, False, _ready(self))

    def close(self):
        self._watch.stop()
        super().close()

    def select(self, timeout=None):
        self.isAsked = self._isReady = False
        try:
            self._reactor._turnUntil(timeout)
        finally:
            self.isAsked = True
        return super().select(0) if self._isReady else []

    def ask(self):
        """
        Return from L{select}, if that is what calls the program now.
        """
        if not self.isAsked:
            self.isAsked = True
            self._reactor._loop.interrupt()


def _ready(selector):
    """
    What the loop calls when a descriptor of asyncio's is ready; it does not keep the selector.
    """
    weak = weakref.ref(selector)

    def ready(readable, writable):
        selector = weak()
        if selector is not None:
            selector._isReady = True
            selector.ask()

    return ready


class EventLoop(asyncio.SelectorEventLoop):
    """
    The event loop of asyncio that a reactor runs in.
    """

    def __init__(self, reactor):
        selector = _Selector(reactor)
        self._ask = selector.ask
        super().__init__(selector)

    # What may be called by Twisted's side while asyncio selects. The queue of call_soon is looked at each turn.

    def call_at(self, when, callback, *args, context=None):
        self._ask()
        return super().call_at(when, callback, *args, context=context)

    def stop(self):
        self._ask()
        super().stop()

    def __del__(self):
        # Reactors are not closed, and so is nobody to blame that this was not.
        if not self.is_closed():
            self.close()


__all__ = ["EventLoop"]

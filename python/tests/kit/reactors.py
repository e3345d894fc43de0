"""The reactors by their `--reactor` names. The model is epoll, Twisted's own reactor for Linux."""

import importlib

MODEL = "epoll"
SUBJECT = "couplet"

# Name: (the module with `install`, the path of the class).
REACTORS = {
    "asyncio": ("twisted.internet.asyncioreactor", "twisted.internet.asyncioreactor.AsyncioSelectorReactor"),
    "couplet": ("couplet_twisted", "couplet_twisted.reactor.CoupletReactor"),
    # asyncio's event loop counts as running everywhere.
    "couplet-asyncio": ("couplet_twisted", "couplet_twisted.reactor.CoupletReactor"),
    # With Twisted's own steps of twisted.web.
    "couplet-plain": ("couplet_twisted", "couplet_twisted.reactor.CoupletReactor"),
    "epoll": ("twisted.internet.epollreactor", "twisted.internet.epollreactor.EPollReactor"),
    "poll": ("twisted.internet.pollreactor", "twisted.internet.pollreactor.PollReactor"),
    "select": ("twisted.internet.selectreactor", "twisted.internet.selectreactor.SelectReactor"),
}


def install(name):
    """Installs the reactor and returns it. Raises an error if another one was installed."""
    module, path = REACTORS[name]
    options = {"couplet-asyncio": {"asyncio": True}, "couplet-plain": {"web": False}}.get(name, {})
    importlib.import_module(module).install(**options)
    from twisted.internet import reactor

    kind = type(reactor)
    if f"{kind.__module__}.{kind.__qualname__}" != path:
        raise RuntimeError(f"{module}.install() installed {kind}, not {path}")
    return reactor

"""
Couplet's loop as a reactor for Twisted.

Install it before anything imports L{twisted.internet.reactor}::

    import couplet_twisted
    couplet_twisted.install()

@raise ImportError: on an interpreter or a system on which this package is untested.
"""

import importlib
import sys
import sysconfig

__all__ = ["EventLoop", "HTTP2ConnectionPool", "inspect", "install"]


def _untried():
    """
    The reason why this interpreter or system is unsupported; L{None} if it is supported.
    """
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name}: it needs CPython"
    if sys.version_info < (3, 11):
        return "Python {}.{}: it needs 3.11 or later".format(*sys.version_info)
    if sys.platform == "win32":
        return "Windows: it needs Linux"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded build of Python: it needs one with the global interpreter lock"
    return None


# Checked first, because loading the native module there would crash.
if _untried():
    raise ImportError(f"couplet_twisted was never tried on {_untried()}", name=__name__)


# Imports nothing of Twisted's.
from couplet_twisted import startup  # noqa: E402


def __getattr__(name):
    # Imported on first use: programs of Twisted need no asyncio here.
    if name == "EventLoop":
        from couplet_twisted.loop import EventLoop

        return EventLoop
    if name == "HTTP2ConnectionPool":
        from couplet_twisted._webpool2 import HTTP2ConnectionPool

        return HTTP2ConnectionPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def install(asyncio=False, web=None, tls=None, inspect=None):
    """
    Install Couplet's reactor in this process.

    @param asyncio: Whether asyncio's event loop counts as running in every callback of the reactor, as with
        Twisted's asyncio reactor. Otherwise it counts as running only in asyncio's own callbacks.

    @param web: Whether the most frequent steps of C{twisted.web}'s servers and clients, and klein's step, are
        Couplet's: see C{couplet_twisted._web}, C{couplet_twisted._web2}, C{couplet_twisted._webclient} and
        C{couplet_twisted._webklein}. L{None}: if this release of Twisted was tested with them.

    @param tls: Whether rustls encrypts connections as far as it can: see C{couplet_twisted._tls}. Otherwise
        pyOpenSSL does. L{None}: if this release of Twisted was tested with it.

    @param inspect: The endpoint of an L{inspector<inspect>}, which opens, and logs its URL, when the reactor starts.
        L{None}: the one that C{python -m couplet_twisted --inspect} or C{twistd --inspect} names, if any.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: if a reactor is already installed.
    """
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is not None:
        from twisted.internet.error import ReactorAlreadyInstalledError

        kind = type(installed)
        raise ReactorAlreadyInstalledError(
            f"{kind.__module__}.{kind.__qualname__} is already installed: "
            "call couplet_twisted.install() once, before anything imports twisted.internet.reactor"
        )
    from couplet_twisted.reactor import install

    reactor = install(asyncio)
    from couplet_twisted.later import once

    if _isTested() if web is None else web:
        once("twisted.web.server", _replacing("._web"))
        once("twisted.web.static", _replacing("._webfiles"))
        once("twisted.web.client", _replacing("._webclient"))
        once("klein._app", _replacing("._webklein"))
    isOurs = _isTested() if tls is None else tls
    once("twisted.protocols.tls", _replacing("._tls") if isOurs else _nameEngine)
    endpoint = startup.inspected if inspect is None else inspect
    if endpoint is not None:
        from couplet_twisted import inspection

        inspection.begin(reactor, endpoint)
    return reactor


def inspect(endpoint="8099", *, name=None, token=None, allow_any_interface=False, deferreds=True, rows=1000, ring_size=None):
    """
    Show the program to a browser, or to C{couplet inspect URL}: its connections, ports, timed calls and pending
    Deferreds, each with the reason why it waits, and the callback that holds the reactor, with its stack.

    The inspector answers in its own thread, without the interpreter's lock. Call this after L{install} and before
    the reactor runs, in the thread that will run it. A process that is forked later has no inspector.

    @param endpoint: The port number on the loopback interface, C{0} for a free one, or an endpoint:
        C{tcp:8099:interface=::1}, or C{unix:/run/app/inspect.sock}, which admits only the user of the process.

    @param name: The name of the program on the page. L{None}: the name of its file.

    @param token: The token that requests must have. L{None}: a random one; none for a UNIX socket.

    @param allow_any_interface: Whether the endpoint may accept connections from other machines. The page and the
        token travel unencrypted.

    @param deferreds: Whether pending Deferreds are shown. Each new Deferred then costs some microseconds, because its
        place is kept.

    @param rows: The most timed calls and the most Deferreds that are shown.

    @param ring_size: The memory for the last events, in bytes. L{None}: 16 MiB, a million events.

    @return: The URL of the page, with its token; for a UNIX socket, its endpoint. The URL is also logged.

    @raise OSError: if the endpoint can't be opened, or other machines could connect to it without
        C{allow_any_interface}.

    @raise RuntimeError: if the reactor is not Couplet's, has begun to run, or is inspected already.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None and startup.isPrepared():
        from twisted.internet import reactor
    from couplet_twisted import inspection

    begun = inspection.begin(reactor, endpoint, name, token, allow_any_interface, deferreds, rows, ring_size)
    reactor._loop.take()
    return begun.announce()


def _nameEngine():
    """
    Have transports name the engine of TLS if it is always pyOpenSSL.
    """
    from twisted.protocols.tls import TLSMemoryBIOProtocol

    TLSMemoryBIOProtocol.tls_engine = "pyOpenSSL"


def _isTested():
    """
    Whether this release of Twisted was tested with Couplet's steps.
    """
    import twisted

    return (twisted.version.major, twisted.version.minor) == (26, 10)


def _replacing(name):
    """
    A function that installs the steps of a module of this package.
    """

    def install():
        importlib.import_module(name, __name__).install()

    return install

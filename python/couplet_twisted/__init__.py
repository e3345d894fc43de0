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

__all__ = ["EventLoop", "HTTP2ConnectionPool", "install"]


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


def __getattr__(name):
    # Imported on first use: programs of Twisted need no asyncio here.
    if name == "EventLoop":
        from couplet_twisted.loop import EventLoop

        return EventLoop
    if name == "HTTP2ConnectionPool":
        from couplet_twisted._webpool2 import HTTP2ConnectionPool

        return HTTP2ConnectionPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def install(asyncio=False, web=None, tls=None):
    """
    Install Couplet's reactor in this process.

    @param asyncio: Whether asyncio's event loop counts as running in every callback of the reactor, as with
        Twisted's asyncio reactor. Otherwise it counts as running only in asyncio's own callbacks.

    @param web: Whether the most frequent steps of C{twisted.web}'s servers and clients are Couplet's: see
        C{couplet_twisted._web}, C{couplet_twisted._web2} and C{couplet_twisted._webclient}. L{None}: if this release
        of Twisted was tested with them.

    @param tls: Whether rustls encrypts connections as far as it can: see C{couplet_twisted._tls}. Otherwise
        pyOpenSSL does. L{None}: if this release of Twisted was tested with it.

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
    isOurs = _isTested() if tls is None else tls
    once("twisted.protocols.tls", _replacing("._tls") if isOurs else _nameEngine)
    return reactor


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

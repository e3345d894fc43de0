"""
Couplet's loop as a reactor for Twisted.

Install it before anything imports L{twisted.internet.reactor}::

    import couplet_twisted
    couplet_twisted.install()

@raise ImportError: on an interpreter or a system that this package was never tried on.
"""

import sys
import sysconfig

__all__ = ["install"]


def _untried():
    """
    What this package was never tried on, of what it is imported on; L{None} where it was.
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


# Before the native module is loaded, whose failure would be a crash.
if _untried():
    raise ImportError(f"couplet_twisted was never tried on {_untried()}", name=__name__)


def install(asyncio=False):
    """
    Make Couplet's the reactor of this process.

    @param asyncio: Whether asyncio's event loop counts as running wherever the reactor calls, as with Twisted's
        reactor for asyncio. Otherwise it does where asyncio calls.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: if there is one already.
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

    return install(asyncio)

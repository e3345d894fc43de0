"""
Hooks for imports of Twisted's modules.

Some programs import L{twisted.internet.reactor} before anything can install a reactor. The import then installs
Couplet's reactor instead of Twisted's default.

Twisted has no way to extend twistd's options: it loads plugins after it has parsed them. The import of
L{twisted.scripts.twistd} then adds the options of L{couplet_twisted.twistd}.
"""

import importlib.util
import os
import sys

from couplet_twisted import later

_REACTOR = "twisted.internet.reactor"
_TWISTD = "twisted.scripts.twistd"

VARIABLE = "TWISTED_REACTOR"

# The endpoint of the inspector that the command line asks for.
inspected = None


class _Installing:
    """
    Finds and loads the reactor's module.

    @ivar _asked: The variable or command that selected Couplet's reactor, for the log.
    """

    def __init__(self, asked):
        self._asked = asked

    def find_spec(self, name, path=None, target=None):
        if name == _REACTOR:
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        # As in Twisted's own module, the reactor takes the module's place.
        del sys.modules[_REACTOR]
        import couplet_twisted

        couplet_twisted.install()
        from twisted.logger import Logger

        Logger(namespace="couplet").info("{asked}: Couplet's reactor is installed", asked=self._asked)


def prepare(asked):
    """
    Make the first import of the reactor install Couplet's, unless the program has installed one by then.

    @param asked: The variable or command that selected it, for the log.
    """
    if not isPrepared():
        sys.meta_path.insert(0, _Installing(asked))


def isPrepared():
    """
    Whether the first import of the reactor installs Couplet's.
    """
    return any(isinstance(finder, _Installing) for finder in sys.meta_path)


def extend():
    """
    Let twistd accept C{--workers} and C{--inspect}. A C{.pth} file of the package calls this if the command line has
    one of these options.
    """
    later.once(_TWISTD, _extend)


def _extend():
    from couplet_twisted import twistd

    twistd.extend(sys.modules[_TWISTD])


def environ():
    """
    Select Couplet's reactor for the Python programs that this one starts.
    """
    os.environ[VARIABLE] = "couplet"


__all__ = ["VARIABLE", "environ", "extend", "isPrepared", "prepare"]

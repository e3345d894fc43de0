"""
Couplet's reactor for programs that import L{twisted.internet.reactor} before anything can install one. The import
installs Couplet's reactor instead of Twisted's default.
"""

import importlib.util
import os
import sys

_REACTOR = "twisted.internet.reactor"

VARIABLE = "TWISTED_REACTOR"


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
    if not any(isinstance(finder, _Installing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Installing(asked))


def environ():
    """
    Select Couplet's reactor for the Python programs that this one starts.
    """
    os.environ[VARIABLE] = "couplet"


__all__ = ["VARIABLE", "environ", "prepare"]

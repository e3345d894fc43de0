"""
Acts once a module is imported.
"""

import importlib.util
import sys

__all__ = ["once"]


class _Waiting:
    """
    Finds a module once, as the other finders do, and acts after it has run.
    """

    def __init__(self, name, act):
        self._name = name
        self._act = act

    def find_spec(self, name, path=None, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                self._act()

            spec.loader.exec_module = exec_module
        return spec


def once(name, act):
    """
    Call a function once the module of this name has been imported: now, if it has.
    """
    if name in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Waiting(name, act))

"""
The parts that Couplet's steps of C{twisted.web} have in common for servers and clients.
"""

import inspect

from twisted.web.http_headers import Headers, _nameEncoder

__all__ = ["Kinds", "Received", "canonicalNames", "has", "originals", "replace", "takeIdle"]

# Twisted's own methods, by their class and name.
originals = {}

# Canonical names of headers, by the names that programs used.
canonicalNames = _nameEncoder._canonicalHeaderCache

# Classes that are remembered: programs have few.
_MOST_KINDS = 1000


class Received(Headers):
    """
    The headers of a message: Python objects once a program looks at them.
    """

    __slots__ = ["_fields"]

    def __init__(self, fields):
        self._fields = fields

    @property
    def _rawHeaders(self):
        if self._fields is not None:
            self._rawHeaders = self._fields.raw()
        return _stored.__get__(self)

    @_rawHeaders.setter
    def _rawHeaders(self, raw):
        _stored.__set__(self, raw)
        self._fields = None

    def copy(self):
        return Headers(self._rawHeaders)


_stored = Headers._rawHeaders
Received.__name__ = Received.__qualname__ = Headers.__name__


class Kinds(dict):
    """
    Facts about classes, each found at the first use of its class.
    """

    def __init__(self, find):
        self.find = find

    def __missing__(self, cls):
        if len(self) >= _MOST_KINDS:
            self.clear()
        found = self[cls] = self.find(cls)
        return found


def takeIdle(pool, key):
    """
    Take an idle connection out of a pool of connections.

    @return: The connection, or L{None}.
    """
    connections = pool._connections.get(key)
    while connections:
        connection = connections.pop(0)
        pool._timeouts.pop(connection).cancel()
        if connection.state == "QUIESCENT":
            return connection
    return None


def has(cls, base, *names):
    """
    Whether a class has these attributes of a base class.
    """
    return issubclass(cls, base) and all(
        inspect.getattr_static(cls, name) is inspect.getattr_static(base, name) for name in names
    )


def replace(cls, name, step):
    """
    Replace a method of Twisted's.

    @return: Twisted's.
    """
    original = originals[cls, name] = cls.__dict__[name]
    step.__name__ = name
    step.__qualname__ = f"{cls.__qualname__}.{name}"
    setattr(cls, name, step)
    return original

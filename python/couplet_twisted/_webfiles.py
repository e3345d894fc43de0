"""
Faster files of C{twisted.web.static}: a small file that a request addresses is read at once.
"""

import os
import re
import stat
from time import monotonic, time_ns

from twisted.web.http import CACHED, OK, RESPONSES
from twisted.web.static import File

from couplet_twisted._web import readers
from couplet_twisted._webcommon import Kinds, has, replace

__all__ = ["install"]

# Files up to this size are read at once. Twisted reads files in pieces of this size.
_SMALL_FILE = 65536

# Cached contents, by path: the status of the file, when it was read, and its bytes.
_contents = {}
_MOST_CONTENTS = 128

# Seconds after which a file is read again even if its status is the same: the status may miss a change through a
# memory mapping.
_FRESH_FOR = 1.0

# A content is cached if the file's last change is more than this many nanoseconds old: the next change then has another
# time, even if the file system's times are coarse.
_SETTLED_AFTER = 2_000_000_000

# Whether a class of files reads them as Twisted's does.
_files = Kinds(
    lambda cls: has(
        cls,
        File,
        *"render render_GET openForReading open getFileSize getsize makeProducer _setContentHeaders restat".split(),
        *"exists isdir basename getModificationTime contentTypes contentEncodings".split(),
    )
)

# Whether a class also makes the files in a folder as Twisted's does.
_folders = Kinds(
    lambda cls: _files[cls]
    and has(cls, File, *"__init__ __new__ __setattr__ getChild child clonePath createSimilarFile splitext".split())
)

# Twisted's own method.
_getChild = None

_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]*").fullmatch


def getChild(self, path, request):
    """
    @see: L{File.getChild}
    """
    if path.__class__ is not bytes or not _folders[self.__class__] or not _PLAIN_NAME(path):
        return _getChild(self, path, request)
    name = path.decode("ascii")
    full = f"{self.path}/{name}"
    try:
        info = os.stat(full)
    except OSError:
        return _getChild(self, path, request)
    if self.processors and self.processors.get(_split(name)[1]):
        return _getChild(self, path, request)
    cls = self.__class__
    file = cls.__new__(cls)
    file.children = {}
    file.path = full
    file.alwaysCreate = False
    file.defaultType = self.defaultType
    file.ignoredExts = list(self.ignoredExts)
    file.registry = self.registry
    file.processors = self.processors
    file.indexNames = self.indexNames[:]
    file.childNotFound = self.childNotFound
    file._couplet_stat = info
    return file


def _split(name):
    """
    The root and the extension of a name, as L{os.path.splitext} gives them.
    """
    if name[:1] == ".":
        return os.path.splitext(name)
    at = name.rfind(".")
    return (name, "") if at < 0 else (name[:at], name[at:])


def _contentOf(path, info):
    """
    Read a small file with this status, unless it was read lately and has not changed.

    @return: L{None} if the file cannot be read, or has another size.
    """
    status = info.st_ctime_ns, info.st_size, info.st_ino, info.st_dev
    now = monotonic()
    kept = _contents.get(path)
    if kept is not None and kept[0] == status and now - kept[1] < _FRESH_FOR:
        return kept[2]
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = os.read(number, info.st_size + 1)
        finally:
            os.close(number)
    except OSError:
        return None
    if len(content) != info.st_size:
        return None
    if time_ns() - info.st_ctime_ns > _SETTLED_AFTER:
        # Contents are of 64 KiB at most.
        if len(_contents) >= _MOST_CONTENTS:
            _contents.clear()
        _contents[path] = status, now, content
    return content


def _read(file, request):
    """
    Read a small file for a request, as L{File.render_GET} does.

    @return: The content; C{b""} if the client has it; L{None} if Twisted is to decide.
    """
    info, file._couplet_stat = file._couplet_stat, None
    if info is None:
        file.restat(False)
        info = file._statinfo
    else:
        file._statinfo = info
    if request.method != b"GET" or info is None or not stat.S_ISREG(info.st_mode) or info.st_size > _SMALL_FILE:
        return None
    if file.alwaysCreate or request.getHeader(b"range") is not None:
        return None
    content = _contentOf(file.path, info)
    if content is None:
        return None
    if file.type is None:
        root, extension = _split(file.path.rpartition("/")[2])
        extension = extension.lower()
        file.encoding = file.contentEncodings.get(extension)
        if file.encoding is not None:
            extension = _split(root)[1].lower()
        file.type = file.contentTypes.get(extension, file.defaultType)
    request.setHeader(b"accept-ranges", b"bytes")
    if request.setLastModified(info.st_mtime) is CACHED:
        return b""
    request.setHeader(b"content-length", b"%d" % len(content))
    for name, value in ((b"content-type", file.type), (b"content-encoding", file.encoding)):
        if value:
            request.setHeader(name, value.encode("ascii") if value.__class__ is str else value)
    if request.code != OK or request.code_message != RESPONSES[OK]:
        request.setResponseCode(OK)
    return content


def install():
    """
    Replace Twisted's steps. A second call changes nothing.
    """
    global _getChild
    if _getChild is None:
        File._couplet_stat = None
        _getChild = replace(File, "getChild", getChild)
        readers.clear()
        readers.find = lambda cls: _read if _files[cls] else None

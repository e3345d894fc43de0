"""
The listening sockets that the parent of L{couplet_twisted.workers} keeps, by the addresses on which workers listen.
"""

import collections
import contextlib
import os
import socket
from time import monotonic

# Seconds until a socket that no new worker has asked for is closed.
_UNCLAIMED = 30


def identity(path):
    """
    The device and the inode of a file. A name may belong to another server by now, or to another root.
    """
    found = os.lstat(path)
    return [found.st_dev, found.st_ino]


class _Kept:
    """
    A socket, and the files of a UNIX socket.

    @ivar unclaimed: Since when no worker has it.
    """

    unclaimed = None

    def __init__(self, skt, path, made):
        self.socket, self._path, self._made = skt, path, made

    def close(self):
        self.socket.close()
        if self._path is None:
            return
        # Only the files that the worker made.
        with contextlib.suppress(OSError):
            if identity(self._path) == self._made:
                os.unlink(self._path)
                lock = self._path + ".lock"
                if os.readlink(lock) == str(os.getpid()):
                    os.unlink(lock)


class Sockets:
    """
    All sockets of the parent.

    @ivar _makers: The worker that makes the socket of an address.

    @ivar _waiting: The workers that wait for the socket of an address.

    @ivar _users: The workers that listen on an address.
    """

    def __init__(self, log):
        self._log = log
        self._kept = {}
        self._makers = {}
        self._waiting = collections.defaultdict(list)
        self._users = collections.defaultdict(set)

    def ask(self, child, address):
        """
        Pass the socket of an address to a worker, or have the worker make it.
        """
        if address in self._kept:
            self._users[address].add(child)
            child.tell("grant", descriptor=self._kept[address].socket.fileno())
        elif address in self._makers:
            self._waiting[address].append(child)
        else:
            self._makers[address] = child
            child.tell("grant")

    def made(self, child, address, path, made, descriptor):
        """
        Keep a socket that a worker made.

        @param path: The file of a UNIX socket.

        @param made: The L{identity} of that file.
        """
        self._kept[address] = _Kept(socket.socket(fileno=descriptor), path, made)
        self._users[address].add(child)
        self._log.info("listening on {address}", address=address)
        self.unmade(child, address)

    def unmade(self, child, address):
        """
        A worker has made a socket, or failed to: the next one gets it, or tries.
        """
        self._makers.pop(address, None)
        for each in self._waiting.pop(address, []):
            self.ask(each, address)

    def release(self, child, address):
        """
        The program of a worker closed its port. The socket is closed with the last one.
        """
        self._users[address].discard(child)
        if address in self._kept and not self._users[address]:
            self._kept.pop(address).close()

    def ended(self, child):
        """
        Note the end of a worker, whose successor will ask for the same sockets.
        """
        for users in self._users.values():
            users.discard(child)
        for waiting in self._waiting.values():
            if child in waiting:
                waiting.remove(child)
        for address in [address for address, maker in self._makers.items() if maker is child]:
            self.unmade(child, address)

    def closeUnclaimed(self):
        """
        Close the sockets that no worker has used for a while, because connections would wait in vain. All workers
        are ready.
        """
        for address, kept in list(self._kept.items()):
            if self._users[address]:
                kept.unclaimed = None
            elif kept.unclaimed is None:
                kept.unclaimed = monotonic()
            elif monotonic() - kept.unclaimed > _UNCLAIMED:
                self._kept.pop(address).close()
                self._log.warn("no worker listens on {address}: it is closed", address=address)

    def close(self):
        """
        Stop listening, in the workers too.
        """
        for kept in self._kept.values():
            with contextlib.suppress(OSError):
                kept.socket.shutdown(socket.SHUT_RDWR)
            kept.close()
        self._kept.clear()

    def forget(self):
        """
        In a forked worker: close the descriptors of the parent.
        """
        for kept in self._kept.values():
            kept.socket.close()


__all__ = ["Sockets", "identity"]

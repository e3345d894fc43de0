"""
Child processes: Twisted's code, with a shorter way to start them, and with Couplet's pipes.
"""

import os
import signal
import sys

from twisted.internet import process
from twisted.python import log

from couplet_twisted import _couplet, pipes

_ORIGINAL = process.Process._trySpawnInsteadOfFork

# Every signal has its default action in a child.
_SIGNALS = tuple(int(number) for number in signal.valid_signals())


class Process(process.Process):
    """
    A child process. Twisted's code looks at each signal and each descriptor of this process before it starts a child.
    """

    def _trySpawnInsteadOfFork(self, path, uid, gid, executable, args, environment, kwargs):
        """
        @see: L{twisted.internet.process.Process._trySpawnInsteadOfFork}
        """
        is_elsewhere = path is not None and os.path.abspath(path) != os.getcwd()
        if is_elsewhere or uid is not None or gid is not None or getattr(self._reactor, "_neverUseSpawn", False):
            return False
        if process.Process._trySpawnInsteadOfFork is not _ORIGINAL or not os.path.isdir("/proc/self/fd"):
            # Twisted's tests replace the method. Without a list of descriptors, Twisted guesses.
            return super()._trySpawnInsteadOfFork(path, uid, gid, executable, args, environment, kwargs)
        if environment is None:
            environment = os.environ
        descriptors = kwargs["fdmap"]
        sys.audit("os.posix_spawn", executable, args, environment)
        named = [(fd, number) for number, fd in descriptors.items()]
        inherited = os.environb if environment is os.environ else environment
        self.pid = _couplet.spawn_process(executable, args, inherited, named)
        if self.pid is None:
            self.pid = os.posix_spawnp(
                executable,
                args,
                environment,
                file_actions=_actions(descriptors, set(_couplet.inheritable())),
                setsigdef=_SIGNALS,
            )
        self.status = -1
        return True

    def childConnectionLost(self, childFD, reason):
        """
        @see: L{twisted.internet.process.Process.childConnectionLost}
        """
        if not isinstance(self.pipes[childFD], pipes.Pipe):
            super().childConnectionLost(childFD, reason)
            return
        # Twisted's code closes the descriptor, which is Couplet's.
        del self.pipes[childFD]
        try:
            self.proto.childConnectionLost(childFD)
        except BaseException:
            log.err()
        self.maybeCallProcessEnded()


pipes.install(Process)


def _actions(descriptors, inheritable):
    """
    The steps after which a child has only its descriptors.

    @param descriptors: The descriptors of this process, by their numbers in the child.

    @param inheritable: The descriptors that a child inherits without such steps.
    """
    sources = set(descriptors.values())
    others = inheritable.difference(descriptors)
    if sources.isdisjoint(descriptors):
        duplicates = [(os.POSIX_SPAWN_DUP2, source, number) for number, source in descriptors.items()]
        return duplicates + [(os.POSIX_SPAWN_CLOSE, number) for number in others]
    # A number is needed before it is free.
    state = [(fd, fd not in inheritable) for fd in sources | others]
    return process._getFileActions(state, descriptors, os.POSIX_SPAWN_CLOSE, os.POSIX_SPAWN_DUP2)


__all__ = ["Process"]

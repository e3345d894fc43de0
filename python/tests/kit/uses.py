"""Records the parts of Couplet that each of Twisted's tests uses: `stream` for connections, pipes and ports,
`watch` for descriptors that the loop watches for Twisted's own code. A test with neither uses the main loop, timers and threads."""

used = set()


def _noting(kind, name, note):
    """Wraps a method, which calls `note` first."""
    plain = getattr(kind, name)

    def noting(self, *args, **kw):
        note(*args)
        return plain(self, *args, **kw)

    setattr(kind, name, noting)


def install():
    """Starts to record uses in `used`."""
    from twisted.internet._signals import _FDWaker, _SocketWaker

    from couplet_twisted import pipes, reactor, tcp, udp, unix

    def stream(*_):
        used.add("stream")

    def watch(selectable, *_):
        # Every reactor watches its wakers.
        if not isinstance(selectable, (_FDWaker, _SocketWaker)):
            used.add("watch")

    # `unix.Server` is a subclass of `tcp.Server`.
    for kind in (tcp.Server, tcp.Client, tcp.Port, unix.Client, unix.Port):
        _noting(kind, "__init__", stream)
    _noting(udp.Receiving, "_bindSocket", stream)
    _noting(pipes.Pipe, "_adopt", stream)
    _noting(reactor.CoupletReactor, "_add", watch)

"""Notes what of Couplet's each of Twisted's tests used: `stream`, connections and ports; `watch`, descriptors
that the loop watches for Twisted's own code. A test with neither used the main loop, timers and threads."""

used = set()


def _noting(kind, name, note):
    """Has the method note before it acts."""
    plain = getattr(kind, name)

    def noting(self, *args, **kw):
        note(*args)
        return plain(self, *args, **kw)

    setattr(kind, name, noting)


def install():
    """From now on, `used` has what was used."""
    from twisted.internet._signals import _FDWaker, _SocketWaker

    from couplet_twisted import reactor, tcp, unix

    def stream(*_):
        used.add("stream")

    def watch(selectable, *_):
        # Each reactor has wakers; clients are watched until they are connected.
        if not isinstance(selectable, (_FDWaker, _SocketWaker, tcp.Dialling)):
            used.add("watch")

    # A server over a UNIX socket is one over TCP as well.
    for kind in (tcp.Server, tcp.Client, tcp.Port, unix.Client, unix.Port):
        _noting(kind, "__init__", stream)
    _noting(reactor.CoupletReactor, "_add", watch)

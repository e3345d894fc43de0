"""
Couplet's loop as a reactor for Twisted.

Install it before anything imports L{twisted.internet.reactor}::

    import couplet_twisted
    couplet_twisted.install()
"""

__all__ = ["install"]


def install():
    """
    Make Couplet's the reactor of this process.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: if there is one already.
    """
    from couplet_twisted.reactor import install

    return install()

"""
Registers Couplet's reactor with C{twist} and C{twistd}: C{twistd --reactor=couplet}.
"""

from twisted.application.reactors import Reactor

couplet = Reactor("couplet", "couplet_twisted", "Couplet's reactor, in Rust.")

__all__ = ["couplet"]

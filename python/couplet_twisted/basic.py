"""
The receivers of L{twisted.protocols.basic}, framed by Couplet: instead of C{from twisted.protocols import basic},
write C{from couplet_twisted import basic}.

A protocol that was written for Twisted's classes runs on these unchanged, on any transport of any reactor. The
other names of Twisted's module are here too.
"""

from twisted.protocols import basic
from twisted.protocols.basic import (
    FileSender,
    IncompleteNetstring,
    # Twisted frames these lines by bytes.split, which is no slower than a call of Couplet from Python.
    LineOnlyReceiver,
    NetstringParseError,
    StatefulStringProtocol,
    StringTooLongError,
)

from couplet_twisted._couplet import Framing

__all__ = [
    "FileSender",
    "IncompleteNetstring",
    "Int16StringReceiver",
    "Int32StringReceiver",
    "Int8StringReceiver",
    "IntNStringReceiver",
    "LineOnlyReceiver",
    "LineReceiver",
    "NetstringParseError",
    "NetstringReceiver",
    "StatefulStringProtocol",
    "StringTooLongError",
]


class LineReceiver(Framing, basic.LineReceiver):
    """
    Lines, or raw bytes in raw mode: L{twisted.protocols.basic.LineReceiver}.
    """

    _buffer = Framing._framing_unread

    def dataReceived(self, data):
        """
        Deliver the lines that C{data} completes, or raw bytes.
        """
        lines = self._framing_lines(data)
        if lines is None:
            return None
        why = None
        try:
            for line in lines:
                why = self.lineReceived(line)
                if why:
                    break
        finally:
            returned = lines.end()
        return why or returned


class NetstringReceiver(Framing, basic.NetstringReceiver):
    """
    Netstrings: L{twisted.protocols.basic.NetstringReceiver}.

    The only private method of Twisted's that is still called is C{_handleParseError}.
    """

    _remainingData = Framing._framing_unread

    def dataReceived(self, data):
        """
        Deliver the strings that C{data} completes.
        """
        for string in self._framing_netstrings(data):
            self.stringReceived(string)


class IntNStringReceiver(Framing, basic.IntNStringReceiver):
    """
    Strings with a length prefix: L{twisted.protocols.basic.IntNStringReceiver}.

    Each string is delivered once. Twisted's class delivers the strings of a chunk again if C{stringReceived} raises
    or calls C{dataReceived}, and after C{lengthLimitExceeded}.
    """

    _unprocessed = recvd = Framing._framing_unread

    def dataReceived(self, data):
        """
        Deliver the strings that C{data} completes.
        """
        for string in self._framing_strings(data):
            self.stringReceived(string)


class Int32StringReceiver(IntNStringReceiver, basic.Int32StringReceiver):
    """
    Strings with a 4-byte length prefix: L{twisted.protocols.basic.Int32StringReceiver}.
    """


class Int16StringReceiver(IntNStringReceiver, basic.Int16StringReceiver):
    """
    Strings with a 2-byte length prefix: L{twisted.protocols.basic.Int16StringReceiver}.
    """


class Int8StringReceiver(IntNStringReceiver, basic.Int8StringReceiver):
    """
    Strings with a 1-byte length prefix: L{twisted.protocols.basic.Int8StringReceiver}.
    """

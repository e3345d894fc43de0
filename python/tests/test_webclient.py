"""Web clients with Couplet's steps of twisted.web send and receive the same as with Twisted's."""

import unittest

from test_web import compare


class Conversations(unittest.TestCase):
    """Thousands of conversations in memory."""

    def test_a_client_sends_the_same_as_under_epoll_and_its_program_sees_the_same(self):
        compare(self, "kit.webclient", 500)

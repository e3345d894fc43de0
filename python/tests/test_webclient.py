"""Web clients with Couplet's steps of twisted.web send and receive the same as with Twisted's."""

import unittest

from test_web import compare, python

CONVERSATIONS = 500


class Conversations(unittest.TestCase):
    """Thousands of conversations in memory."""

    def test_a_client_sends_the_same_as_under_epoll_and_its_program_sees_the_same(self):
        compare(
            self,
            CONVERSATIONS,
            lambda reactor, seed: python("-m", "kit.webclient", reactor, seed, str(CONVERSATIONS)),
        )


class Installs(unittest.TestCase):
    """`install(web=...)`."""

    def steps(self, *lines):
        """The module of a step of twisted.web's clients, after these lines of a program."""
        step = "_newclient.HTTPClientParser.dataReceived"
        program = [*lines, "from twisted.web import _newclient, client", f"print({step}.__module__)"]
        return python("-c", "\n".join(program)).strip()

    def test_steps_are_couplets_unless_the_program_declines(self):
        for arguments, module in [("", "couplet_twisted._webclient"), ("web=False", "twisted.web._newclient")]:
            line = f"import couplet_twisted; couplet_twisted.install({arguments})"
            self.assertEqual(self.steps(line), module, arguments)
            self.assertEqual(self.steps("from twisted.web import client", line), module, arguments)

    def test_a_program_without_a_web_server_does_not_import_one(self):
        line = "import couplet_twisted, sys; couplet_twisted.install(); import twisted.web.client"
        self.assertEqual(python("-c", f"{line}; print('twisted.web.server' in sys.modules)"), "False\n")

"""Servers of klein answer with Couplet's steps as they do with klein's own."""

import unittest

from test_web import compare, python, steps


class Answers(unittest.TestCase):
    """Thousands of requests in memory."""

    def test_a_server_answers_as_under_epoll_and_its_routes_see_the_same(self):
        compare(self, "kit.webklein", 500)


COUNTED = """
import couplet_twisted
couplet_twisted.install()
from klein import Klein
from klein._app import KleinRequest
from klein.interfaces import IKleinRequest
from twisted.internet import defer, task
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

made = []
for cls in (defer.Deferred, KleinRequest):
    def counting(self, *args, cls=cls, init=cls.__init__):
        made.append(cls.__name__)
        init(self, *args)
    cls.__init__ = counting

app = Klein()

@app.route("/<path>")
def show(request, path):
    if path == "looks":
        request.notifyFinish()
        IKleinRequest(request)
    return path

transport = StringTransport()
protocol = Site(app.resource(), reactor=task.Clock()).buildProtocol(None)
protocol.makeConnection(transport)
for path in (b"plain", b"looks"):
    made.clear()
    protocol.dataReceived(b"GET /%s HTTP/1.1\\r\\n\\r\\n" % path)
    print(path in transport.value(), *sorted(set(made)))
"""


class Installs(unittest.TestCase):
    """klein's step is replaced where it is known."""

    def test_another_release_keeps_its_step(self):
        install = "import couplet_twisted; couplet_twisted.install(web=True)"
        for name in ("klein", "werkzeug"):
            lines = [
                "import importlib.metadata as metadata",
                "known = metadata.version",
                f"metadata.version = lambda name: '99.1' if name == {name!r} else known(name)",
            ]
            self.assertEqual(steps(*lines, install)[3], "klein._resource", name)

    def test_a_step_that_another_package_replaced_stays(self):
        lines = [
            "import couplet_twisted, couplet_twisted.later",
            "def replace():",
            "    from klein._resource import KleinResource",
            "    KleinResource.render = lambda self, request: b''",
            "couplet_twisted.later.once('klein._app', replace)",
            "couplet_twisted.install()",
        ]
        self.assertEqual(steps(*lines)[3], "__main__")

    def test_deferreds_and_adapters_are_made_for_programs_that_look(self):
        self.assertEqual(python("-c", COUNTED).splitlines(), ["True", "True Deferred KleinRequest"])

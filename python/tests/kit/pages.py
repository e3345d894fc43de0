"""Resources, sites and peers of `twisted.web` for tests."""

import os
import shutil
import unittest

from twisted.web import resource, server


class Page(resource.Resource):
    """A resource whose requests a function answers."""

    isLeaf = True

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def render(self, request):
        answered = self.answer(request)
        return server.NOT_DONE_YET if answered is None else answered


def site(page, **more):
    """A site of one resource, or of a function's answers."""
    made = server.Site(page if isinstance(page, resource.Resource) else Page(page), **more)
    made.noisy = made.displayTracebacks = False
    return made


def peer(name):
    """Skips a test if its independent peer is not installed; in CI it then fails."""
    return unittest.skipUnless(shutil.which(name) or os.environ.get("CI"), f"there is no {name}")

"""Resources of `twisted.web` for tests."""

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

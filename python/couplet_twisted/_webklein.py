"""
A faster C{klein}: L{install} replaces the step of its resources that serves a request.

klein makes a mapper, an adapter and some Deferreds for each request. Here they are made when the program looks at
them, or when the result of a route is neither text nor bytes. klein serves all other requests: those that no route
matches, that a redirect answers, or whose class overrides one of Twisted's steps.
"""

from importlib.metadata import PackageNotFoundError, version
from types import CellType, CodeType, FunctionType, NoneType

from klein import _resource
from klein._app import KleinRequest
from klein._interfaces import IKleinRequest
from klein._resource import KleinResource, extractURLparts, route_metadata
from twisted.internet.defer import Deferred, maybeDeferred, passthru
from twisted.python import log
from twisted.python.components import globalRegistry
from twisted.python.reflect import qual
from twisted.web.iweb import IRenderable
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as SiteRequest
from werkzeug.routing import Map
from werkzeug.routing.matcher import StateMachineMatcher
from werkzeug.routing.rules import Rule
from zope.interface import implementedBy

from couplet_twisted._web import plainClass
from couplet_twisted._webcommon import Kinds, has, originals, replace

__all__ = ["install"]

# The known release of klein, and the prefix of the known releases of werkzeug.
_KLEIN, _WERKZEUG = "24.8.0", "3.1."

_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")}

# Longer names of hosts are left to werkzeug: it limits their parts to 63 characters.
_LONGEST_NAME = 63

# Attributes that a request gets once a program looks at its Deferreds or adapters.
_SEEN = {"notifications", "_adapterCache", "__provides__"}

# The functions in klein's step, by their names.
_codes = {}

# Whether requests of a class are Twisted's, as far as klein uses them.
_requests = Kinds(
    lambda cls: plainClass(cls) is not None
    and has(cls, SiteRequest, "notifyFinish", "connectionLost", "_cleanup", "getHost", "getHeader", "isSecure")
    and has(cls, SiteRequest, "getRequestHostname", "getComponent", "__conform__", "_adapterCache")
    and globalRegistry.lookup1(implementedBy(cls), IKleinRequest) is KleinRequest
)

# Whether results of a class are sent unchanged.
_results = Kinds(
    lambda cls: cls in (bytes, str, NoneType)
    and not IResource.implementedBy(cls)
    and not IRenderable.implementedBy(cls)
)


class _Route:
    """
    The route of a request, and the parts of the request that klein would have read for its mapper.

    @ivar isFinished: A list, as in klein's step: whether klein was notified of the end of the request.
    """

    __slots__ = [
        "endpoint",
        "values",
        "isFinished",
        "prepath",
        "postpath",
        "_map",
        "_subdomain",
        "_method",
        "_name",
        "_isSecure",
        "_host",
    ]

    def __init__(self, request, map, rule, values, name, method):
        self.endpoint = rule.endpoint
        self.values = values
        self.isFinished = [False]
        self.prepath = request.prepath[:]
        self.postpath = request.postpath
        self._map = map
        self._subdomain = map.default_subdomain
        self._method = method
        self._name = name
        self._isSecure = request.isSecure()
        self._host = request.__dict__.get("host")

    def getRequestHostname(self):
        return self._name

    def isSecure(self):
        return self._isSecure

    def getHost(self):
        return self._host

    def adapters(self, request):
        """
        The adapters of a request: klein's.
        """
        if self._host is None:
            self._host = request._couplet_channel.getHost()
        scheme, server, _, path, script = extractURLparts(self)
        adapter = KleinRequest(request)
        adapter.mapper = self._map.bind(server, script, self._subdomain, scheme, self._method, path)
        return {qual(IKleinRequest): adapter}

    def notifications(self, request):
        """
        The Deferreds that wait for the end of a request: klein's.
        """
        if _isOver(request):
            self.isFinished[0] = True
            return []
        return [Deferred().addBoth(_closure("_finish", {"request_finished": CellType(self.isFinished)}))]


def _find(app, request):
    """
    The route of a request; L{None} if klein is to find it. Nothing has changed then.
    """
    map = app.url_map
    method = _METHODS.get(request.method)
    isOurs = method is not None and _requests[request.__class__] and request._couplet_route is None
    if not isOurs or not _SEEN.isdisjoint(request.__dict__) or map.__class__ is not Map:
        return None
    matcher = map._matcher
    if map.host_matching or matcher.__class__ is not StateMachineMatcher or map.converters != map.default_converters:
        return None
    name = request.getRequestHostname()
    if len(name) > _LONGEST_NAME or not name.isascii() or name[:1] == b"." or b".." in name:
        return None
    try:
        b"/".join(request.prepath).decode()
        path = "/" + b"/".join(request.postpath).decode().lstrip("/") if request.postpath else ""
        map.update()
        rule, values = matcher.match(map.default_subdomain, path, method, False)
        count = route_metadata(app.endpoints[rule.endpoint]).segment_count
    except Exception:
        return None
    if rule.redirect_to is not None or map.redirect_defaults and not _isFirst(map, rule):
        return None
    route = request._couplet_route = _Route(request, map, rule, values, name, method)
    request.prepath.extend(request.postpath[:count])
    request.postpath = request.postpath[count:]
    return route


def _isFirst(map, rule):
    """
    Whether no other rule of the same endpoint has defaults that may stand for the values of this one.
    """
    for other in map._rules_by_endpoint[rule.endpoint]:
        if other is rule:
            return True
        if other.__class__ is not Rule or other.defaults:
            break
    return False


def render(self, request):
    """
    @see: L{KleinResource.render}
    """
    route = _find(self._app, request)
    if route is None:
        return originals[KleinResource, "render"](self, request)
    raised = None
    try:
        result = self._app.execute_endpoint(route.endpoint, request, **route.values)
    except BaseException as error:
        raised = error
    if raised is not None:
        _chain(self, request, route, _failed(raised))
    elif _results[type(result)]:
        _answer(request, result)
    else:
        _chain(self, request, route, maybeDeferred(passthru, result))
    return NOT_DONE_YET


def _failed(error):
    """
    A failed Deferred, as C{maybeDeferred} makes it when it calls a route that raises.
    """

    def again():
        raise error

    # The traceback has no functions of this module, as in klein's step.
    own = error.__traceback__.tb_next
    d = maybeDeferred(again)
    error.__traceback__.tb_next = own
    return d


def _isOver(request):
    """
    Whether a request is finished, or its connection is lost.
    """
    return request.finished or request._disconnected


def _answer(request, result):
    """
    Send the result of a route.
    """
    try:
        if result is not None:
            request.write(result.encode() if type(result) is str else result)
        if not _isOver(request):
            request.finish()
    except BaseException:
        log.err(_why="Unhandled Error writing response")


def _chain(resource, request, route, d):
    """
    Have klein's functions handle the result of a route.
    """
    request.notifyFinish().addErrback(lambda _: d.cancel())
    cells = {"self": CellType(resource), "request": CellType(request), "request_finished": CellType(route.isFinished)}
    cells["process"], cells["processing_failed"] = CellType(), CellType()
    for name in ("process", "processing_failed"):
        cells[name].cell_contents = _closure(name, cells)
    d.addCallback(cells["process"].cell_contents)
    d.addErrback(cells["processing_failed"].cell_contents, resource._app._error_handlers)
    d.addCallback(_closure("write_response", cells))
    d.addErrback(log.err, _why="Unhandled Error writing response")


def _closure(name, cells):
    """
    A function in klein's step, with these variables.
    """
    code = _codes[name]
    return FunctionType(code, vars(_resource), name, None, tuple(cells[free] for free in code.co_freevars))


def _isKnown():
    """
    Whether these releases of klein and werkzeug are known.
    """
    try:
        return version("klein") == _KLEIN and version("werkzeug").startswith(_WERKZEUG)
    except PackageNotFoundError:
        return False


def install():
    """
    Replace klein's step, if it is known. A second call changes nothing.
    """
    step = KleinResource.__dict__.get("render")
    if not isinstance(step, FunctionType) or step.__module__ != _resource.__name__ or not _isKnown():
        return
    _codes.update((code.co_name, code) for code in step.__code__.co_consts if isinstance(code, CodeType))
    replace(KleinResource, "render", render)

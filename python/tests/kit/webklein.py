"""A web server of klein in memory, and the requests that it gets: `webklein.py REACTOR SEED COUNT` prints the
answers and the notes of its routes, a line of JSON for each conversation. The lines are the same under every
reactor."""

import json
import random
import re
import sys
import warnings

from kit import reactors

if __name__ == "__main__":
    # The modules that are imported now find it.
    reactors.install(sys.argv[1])

from klein import Klein, RequestURL, Requirer, Response
from klein.interfaces import IKleinRequest
from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.web import resource, static, template
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import BaseConverter, ValidationError
from zope.interface import Interface

from kit.webserver import VARYING, connected, conversation, ended, overridden, started

PATHS = """/ /text /none /number /list /twice /posted /putted /look /user/a%20b /user/ /n/7 /n/x /n/-1 /f/1.5 /any/two
    /any/six /rest/a/b//c /folder /folder/ /folder// //folder/ /lax /lax/ /page/ /page/1 /page/2 /moved /branch
    /branch/a/b /sub/route /sub /inner/ /inner/a/x /inner/none /resource /element /tag /response /fired /later
    /later?lost /later/fails /fails /fails/known /fails/found /fails/handler /fails/later /fails/text /refused /failure
    /coroutine /coroutine/fails /finished /finished/body /lost /written /written/ends /notified /headers /code/204
    /code/404 /added /new /canceled /required /bound/ /bound/x /mapped /custom/a /custom/b /none/such /%ff /user/%ff
    /user/%2Fx /%2F /a%2Fb /rendered/ /host /replaced /component""".split()
HOSTS = [b"a", b"a", b"A.example:8080", b"a.", b"l" * 63, b"x.y-z." * 9, b"[::1]:80", b"a_b"]
# werkzeug refuses some of these.
ODD_HOSTS = [b"", b"a..b", b".a", b"l" * 64, b"\xff", b"a:b:c"]
METHODS = [b"GET"] * 8 + [b"HEAD", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"BREW"]

# Conversations with each site.
CONVERSATIONS = 10


def requests(random, paths, hosts):
    """The bytes of some requests."""
    return b"".join(request(random, paths, hosts) for _ in range(random.randint(1, 3)))


def request(random, paths, hosts):
    """The bytes of a request."""
    path = random.choice(paths).encode()
    if random.random() < 0.05:
        path = path.replace(b"/", b"//", 1)
    if random.random() < 0.1:
        path += b"/"
    if random.random() < 0.3:
        path += b"&look" if b"?" in path else b"?look"
    method = random.choice(METHODS)
    version = b"HTTP/1.0" if random.random() < 0.1 else b"HTTP/1.1"
    lines = [b" ".join([method, path, version])]
    if random.random() < 0.9:
        lines.append(b"Host: " + random.choice(hosts))
    body = b"body" if method in (b"POST", b"PUT") else b""
    if body:
        lines.append(b"Content-Length: 4")
    return b"\r\n".join([*lines, b"", body])


def lose(request):
    """Loses the connection of a request, unless it is finished."""
    if not request.finished:
        request.loseConnection()


class Known(Exception):
    """An error that has a handler."""


class Second(Exception):
    """An error that has two handlers."""


def noted(failure):
    """A failure as a handler sees it."""
    return [repr(failure.value), failure.getErrorMessage(), [frame[:3] for frame in failure.frames]]


def looking(name, seen):
    """A function that notes a request as its route sees it."""

    def look(request, **values):
        facts = [name, values, request.prepath[:], request.postpath[:], request.code, request.method]
        if b"look" in request.uri:
            adapter = IKleinRequest(request)
            mapper = adapter.mapper
            facts += [adapter.branch_segments, adapter is IKleinRequest(request), len(request.notifications)]
            facts += [mapper.server_name, mapper.script_name, mapper.path_info, mapper.subdomain, mapper.url_scheme]
            facts += [mapper.default_method, mapper.query_args, mapper.websocket, sorted(request._adapterCache)]
            facts += [sorted(vars(adapter)), adapter.url_for("user", {"name": "x y"}, force_external=True)]
        seen.append([repr(fact) for fact in facts])

    return look


def add_plain(app, seen):
    """Adds the routes whose results are sent unchanged, in many kinds of rules."""
    plain = [("/", b"hello, world\n"), ("/text", "caf\xe9\n"), ("/none", None), ("/number", 7), ("/list", [b"x"])]
    plain += [("/user/<name>", "user"), ("/n/<int:number>", "number"), ("/f/<float:number>", b"float")]
    plain += [("/any/<any(one, two):word>", "word"), ("/rest/<path:rest>", "rest"), ("/folder/", "folder")]

    def add(name, rule, result, **options):
        look = looking(name, seen)

        def found(request, **values):
            look(request, **values)
            return result

        app.route(rule, endpoint=name, **options)(found)

    for rule, result in plain:
        add(rule.split("/")[1], rule, result)
    add("twice", "/twice", "one", methods=["GET"])
    add("other", "/twice", "two", methods=["POST", "PUT"])
    add("posted", "/posted", b"posted", methods=["POST"])
    add("putted", "/putted", b"putted", methods=["PUT", "HEAD"])
    add("lax", "/lax", b"lax", strict_slashes=False)
    add("page", "/page/", "first", defaults={"page": 1})
    add("page", "/page/<int:page>", "page")
    add("moved", "/moved", b"", redirect_to="/text")
    add("mapped", "/mapped", b"mapped", host="a")
    add("look", "/look", b"look")
    add("branch", "/branch", b"branch", branch=True)
    with app.subroute("/sub"):
        add("route", "/route", b"route")


def add_resources(app, seen):
    """Adds routes whose results are rendered."""
    inner = Klein()
    look = looking("inner", seen)

    class Page(template.Element):
        loader = template.TagLoader(template.tags.p("an element"))

    @inner.route("/a/<name>")
    @inner.route("/")
    @inner.route("/user/<name>", endpoint="user")
    def inside(request, **values):
        look(request, **values)
        return b"inside"

    app.route("/inner/", branch=True)(lambda request: inner.resource())
    app.route("/resource", endpoint="resource")(lambda request: static.Data(b"data", "text/x"))
    app.route("/element", endpoint="element")(lambda request: Page())
    app.route("/tag", endpoint="tag")(lambda request: template.tags.b("a tag"))
    app.route("/refused", endpoint="refused")(lambda request: Response(200, {"x-one": 7}))
    headers = {"X-Many": ["a", "b"], b"x-one": b"c"}
    app.route("/response", endpoint="response")(lambda request: Response(201, headers, "made"))


def add_late(app, clock, seen):
    """Adds routes whose results are Deferreds or coroutines."""

    def waiting(request, result):
        def canceled(d):
            seen.append("canceled")

        d = Deferred(canceled)
        d.addErrback(lambda failure: seen.append(noted(failure)[0]) or failure)
        clock.callLater(1, lambda: d.called or d.callback(result))
        if b"lost" in request.args:
            clock.callLater(0.5, lose, request)
        return d

    app.route("/fired", endpoint="fired")(lambda request: succeed(b"fired"))
    app.route("/later", endpoint="later")(lambda request: waiting(request, "later"))
    app.route("/later/fails", endpoint="later-fails")(lambda request: waiting(request, Failure(Known("late"))))
    app.route("/fails/later", endpoint="fails-later")(lambda request: fail(ValueError("failed")))
    app.route("/failure", endpoint="failure")(lambda request: Failure(Second("a failure")))
    app.route("/canceled", endpoint="canceled")(lambda request: fail(CancelledError()))

    @app.route("/coroutine", endpoint="coroutine")
    async def coroutine(request):
        return await waiting(request, b"awaited")

    @app.route("/coroutine/fails", endpoint="coroutine-fails")
    async def failing(request):
        await succeed(None)
        raise Known("in a coroutine")


def add_errors(app, seen):
    """Adds routes that raise, and handlers."""

    def raising(error):
        def raise_it(request):
            raise error()

        return raise_it

    app.route("/fails", endpoint="fails")(raising(lambda: ValueError("no")))
    app.route("/fails/known", endpoint="fails-known")(raising(lambda: Known("known")))
    app.route("/fails/found", endpoint="fails-found")(raising(NotFound))
    app.route("/fails/handler", endpoint="fails-handler")(raising(lambda: Second("second")))
    app.route("/fails/text", endpoint="fails-text")(lambda request: "\ud800")

    @app.handle_errors(Known)
    def known(request, failure):
        seen.append(["known", noted(failure), failure.getTraceback()])
        request.setResponseCode(409)
        return b"known"

    @app.handle_errors(Second)
    def second(request, failure):
        seen.append(["second", noted(failure), len(request.notifications)])
        raise Known("again")

    @app.handle_errors(Second, Known)
    def third(request, failure):
        seen.append(["third", noted(failure)])
        return failure

    @app.handle_errors(MethodNotAllowed)
    def refused(request, failure):
        seen.append(["refused", noted(failure), sorted(failure.value.valid_methods)])
        return failure


def add_steps(app, clock, seen):
    """Adds routes that use the steps of their request."""

    def ended(name):
        return lambda result: seen.append([name, repr(result)[:60]])

    def finished(request, body=None):
        request.write(b"finished")
        request.finish()
        return body

    def notified(request):
        seen.append(["waiting", len(request.notifications)])
        request.notifyFinish().addBoth(ended("first"))
        request.notifyFinish().addBoth(ended("second"))
        return b"notified"

    def headers(request):
        request.setHeader(b"content-type", b"text/x")
        request.responseHeaders.addRawHeader("x-a", "b")
        request.addCookie("k", "v")
        request.setHeader("content-length", "7")
        return "headers"

    def code(request, code):
        request.setResponseCode(code)
        return b"body"

    def added(request):
        app.route("/new", endpoint="new")(lambda request: b"new")
        app.url_map.default_subdomain = "sub"
        seen.append(IKleinRequest(request).mapper.subdomain)
        app.url_map.default_subdomain = ""
        return b"added"

    inner = Klein()
    inner.route("/", branch=True)(lambda request: finished(request))

    def rendered(request):
        request.render(inner.resource())
        return succeed(None)

    def lost(request):
        request.connectionLost(Failure(ConnectionLost()))
        return b"lost"

    def written(request, ends=False):
        request.write(b"one,")
        request.write(b"two,")
        if ends:
            clock.callLater(0.5, lose, request)
        return b"three"

    def replaced(request):
        request.write = lambda data: seen.append(["write", repr(data)])
        request.finish = lambda: seen.append(["finish"])
        return "replaced"

    def host(request):
        request.requestHeaders.setRawHeaders("host", ["another"])
        request.setHost(b"third", 1, ssl=True)
        mapper = IKleinRequest(request).mapper
        seen.append([mapper.server_name, mapper.url_scheme, app.urlFor(request, "text", force_external=True)])
        return b"host"

    class Part(Interface):
        pass

    def component(request):
        request.setComponent(Part, "a part")
        seen.append([sorted(request._adapterCache), repr(Part(request))])
        request.unsetComponent(IKleinRequest)
        seen.append(sorted(request._adapterCache))
        return b"component"

    for route in (finished, notified, headers, added, lost, written, replaced, host, component):
        app.route(f"/{route.__name__}", endpoint=route.__name__)(route)
    app.route("/finished/body", endpoint="finished-body")(lambda request: finished(request, b"more"))
    app.route("/code/<int:code>", endpoint="code")(code)
    app.route("/written/ends", endpoint="ends")(lambda request: written(request, True))
    app.route("/rendered/", branch=True, endpoint="rendered")(rendered)


def add_others(app):
    """Adds routes of a bound application and of a requirer."""

    class Bound:
        app = Klein()

        @app.route("/", branch=True)
        def root(self, request):
            return type(self).__name__

        @app.handle_errors
        def failed(self, request, failure):
            return type(self).__name__ + failure.type.__name__

    bound = Bound()
    app.route("/bound/", branch=True, endpoint="bound")(lambda request: bound.app.resource())
    requirer = Requirer()

    @requirer.require(app.route("/required", endpoint="required"), url=RequestURL())
    def required(url):
        return url.to_text()


def add_converter(app, seen):
    """Adds a route with a converter of the program's."""

    class Custom(BaseConverter):
        def to_python(self, value):
            seen.append(["converted", value])
            if value == "b":
                raise ValidationError()
            return value

    app.url_map.converters["custom"] = Custom
    app.route("/custom/<custom:value>", endpoint="custom")(lambda request, value: value)


def site(generator, clock, seen, shows, mount):
    """A site of routes that note their requests, below a path. `shows`: whether its answers show tracebacks."""

    class Mounting(resource.Resource):
        def getChildWithDefault(self, path, request):
            if b"look" in request.uri:
                request.setHost(b"outer", 81)
            return super().getChildWithDefault(path, request)

    app = Klein()
    app.url_map.redirect_defaults = generator.random() < 0.8
    app.url_map.host_matching = generator.random() < 0.06
    add_plain(app, seen)
    add_resources(app, seen)
    add_late(app, clock, seen)
    if generator.random() < 0.7:
        add_errors(app, seen)
    add_steps(app, clock, seen)
    add_others(app)
    if generator.random() < 0.3:
        add_converter(app, seen)
    root = app.resource()
    if mount:
        root = Mounting()
        root.putChild(b"mounted", app.resource())
    return started(root, clock, seen, shows)


def observing(seen):
    """An observer of the log that notes failures."""

    def observe(event):
        failure = event.get("log_failure")
        if failure is not None:
            seen.append(["log", event.get("why"), repr(failure.value)])

    return observe


def conversed(made, pieces, generator, clock):
    """Has the site receive the pieces on a connection, which ends then. Returns the state before, and the output."""
    transport, protocol = connected(made)
    protocol.makeConnection(transport)
    raised = None
    for piece in pieces:
        if transport.disconnecting:
            break
        try:
            protocol.dataReceived(piece)
        except Exception as problem:
            # The transport would end the connection.
            raised = repr(problem)
            break
        if generator.random() < 0.3:
            clock.advance(1)
    for _ in range(6):
        clock.advance(1)
    state, calls, output = ended(transport, clock)
    return [raised, *state, calls], output


def answers(seed, count):
    """The answers of the servers, and the notes of their routes."""
    for number in range(count):
        if number % CONVERSATIONS == 0:
            generator = random.Random(f"{seed} {number}")
            clock, seen = task.Clock(), []
            # Twisted's own frames are only in the tracebacks of requests with odd hosts.
            shows = generator.random() < 0.3
            hosts = HOSTS if shows else HOSTS + ODD_HOSTS
            mount = "/mounted" if generator.random() < 0.1 else ""
            made = site(generator, clock, seen, shows, mount)
            paths = [mount + path for path in PATHS]
            if generator.random() < 0.3:
                overridden(made, generator, seen)
        seen.clear()
        observe = observing(seen)
        globalLogPublisher.addObserver(observe)
        warnings.showwarning = lambda message, *rest: seen.append(["warned", str(message)])
        pieces = conversation(generator, [requests(generator, paths, hosts) for _ in range(8)])
        state, output = conversed(made, pieces, generator, clock)
        globalLogPublisher.removeObserver(observe)
        sent = b"".join(pieces).decode("latin-1")[:2000]
        line = json.dumps([number, sent, state, seen, output], default=repr)
        yield re.sub(r"0x[0-9a-f]{6,}", "-", VARYING.sub("-", line))


def main():
    _, seed, count = sys.argv[1:]
    warnings.simplefilter("always", UserWarning)
    for line in answers(int(seed), int(count)):
        print(line)


if __name__ == "__main__":
    main()

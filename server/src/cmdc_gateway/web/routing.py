"""The route table: every path of the server, described once.

A `RouteGroup` collects the routes of one module of `routes/`. From all of them `RouteTable` builds one matcher, which is
used once per request. Authentication, the request log and the dispatcher read the match from the scope; the OpenAPI
document and the feature list of `GET /v1/capabilities` are derived from the same entries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cmdc_gateway.protocol.wire import AnswerBody, RequestBody
from cmdc_gateway.web.dependencies import NoQuery, QueryModel

Method = Literal["GET", "POST", "DELETE"]
StreamKind = Literal["sse", "websocket"]
Handler = Callable[..., Awaitable[Response]]
HandlerT = TypeVar("HandlerT", bound=Handler)

_MATCH: Final = "cmdc.route_match"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and returns, and how the published contract describes it."""

    summary: str
    answer: type[AnswerBody] | None
    """Model of the success response; None if `more_responses` describes it."""
    status: int = 200
    body: type[RequestBody] | None = None
    body_required: bool = True
    query: type[QueryModel] = NoQuery
    headers: tuple[str, ...] = ()
    """Documented request headers, besides `Idempotency-Key` of every POST."""
    errors: tuple[str, ...] = ()
    """Error codes, besides those that every route of this kind has."""
    public: bool = False
    """Whether the route needs no API key (HTTP-7)."""
    stream: StreamKind | None = None
    """Whether the path serves a stream, which also accepts a ticket (SSE-12, WS-1)."""
    features: tuple[str, ...] = ()
    """Feature strings of `GET /v1/capabilities` that this route provides."""
    examples: tuple[str, ...] = ()
    """Names of the answer's examples that this route can return; empty for all."""
    more_responses: Mapping[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    callbacks: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `path` is a template such as `/v1/sessions/{session_id}`."""

    method: Method
    path: str
    handler: Handler
    operation: Operation
    tag: str = ""
    answers_head: bool = False

    @property
    def features(self) -> frozenset[str]:
        """Feature strings of this route. Every POST accepts an Idempotency-Key (HTTP-11)."""
        return frozenset((*self.operation.features, *(("idempotency",) if self.method == "POST" else ())))


class RouteGroup:
    """The routes of one module. They share a path prefix and a tag of the OpenAPI document."""

    def __init__(self, prefix: str = "", *, tag: str) -> None:
        self._prefix = prefix
        self._tag = tag
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def route(self, method: Method, path: str, operation: Operation) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of a route."""

        def register(handler: HandlerT) -> HandlerT:
            self._routes.append(Route(method, self._prefix + path, handler, operation, self._tag))
            return handler

        return register


@dataclass(slots=True)
class Resource:
    """A path template with its routes by method."""

    template: str
    routes: dict[str, Route] = field(default_factory=dict[str, Route])
    stream: StreamKind | None = None

    @property
    def allowed(self) -> list[str]:
        """The methods of the `Allow` header (HTTP-6)."""
        return sorted({route.method for route in self.routes.values()})


class RouteMatch(NamedTuple):
    """What a request asks for. `route` is None for an unknown path, and for a known path with another method."""

    resource: Resource | None
    route: Route | None
    params: Mapping[str, str]

    @property
    def stream(self) -> StreamKind | None:
        """The kind of stream that the path serves."""
        return self.resource.stream if self.resource is not None else None

    @property
    def public(self) -> bool:
        """Whether the request needs no API key. False for unknown paths: authentication is the default (HTTP-6)."""
        return self.route is not None and self.route.operation.public


_UNKNOWN_PATH: Final = RouteMatch(None, None, {})


@dataclass(slots=True)
class _Node:
    """A position in the tree of path segments. `parameter` names the parameter that `parameter_node` stands for."""

    children: dict[str, _Node] = field(default_factory=dict[str, "_Node"])
    parameter: str = ""
    parameter_node: _Node | None = None
    resource: Resource | None = None

    def child(self, segment: str) -> _Node:
        """Return the node behind a segment of a template, creating it if necessary."""
        if not segment.startswith("{"):
            return self.children.setdefault(segment, _Node())
        name = segment.strip("{}")
        if self.parameter_node is None:
            self.parameter, self.parameter_node = name, _Node()
        assert self.parameter == name, "a position in a path has one parameter"
        return self.parameter_node


class RouteTable:
    """All routes, with a matcher for paths."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.split("/"):
            node = node.child(segment)
        if node.resource is None:
            node.resource = Resource(route.path)
        node.resource.stream = node.resource.stream or route.operation.stream
        methods = (route.method, "HEAD") if route.answers_head else (route.method,)
        for method in methods:
            assert method not in node.resource.routes, f"{method} {route.path} is registered twice"
            node.resource.routes[method] = route

    def match(self, method: str, path: str) -> RouteMatch:
        """Find the route of a request. A parameter matches one segment that is not empty."""
        node = self._root
        params: dict[str, str] = {}
        for segment in path.split("/"):
            if (child := node.children.get(segment)) is not None:
                node = child
            elif node.parameter_node is not None and segment:
                params[node.parameter] = segment
                node = node.parameter_node
            else:
                return _UNKNOWN_PATH
        resource = node.resource
        return _UNKNOWN_PATH if resource is None else RouteMatch(resource, resource.routes.get(method), params)


class RoutingMiddleware:
    """ASGI middleware that matches each request once and stores the match in the scope."""

    def __init__(self, app: ASGIApp, *, table: RouteTable) -> None:
        self.app = app
        self._table = table

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Not a coroutine, because one would stay in memory as long as a stream is open."""
        if scope["type"] in ("http", "websocket"):
            scope[_MATCH] = self._table.match(scope.get("method", "GET"), scope["path"])
        return self.app(scope, receive, send)


def route_match(scope: Scope) -> RouteMatch:
    """Return what this request asks for."""
    match: RouteMatch = scope[_MATCH]  # not a cast, which would be a call for each use
    return match


def features(routes: Iterable[Route]) -> list[str]:
    """Return the feature strings of these routes, in alphabetical order."""
    return sorted({feature for route in routes for feature in route.features})

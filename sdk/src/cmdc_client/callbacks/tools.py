"""Python functions as tools: what a model is told of them, and how its arguments become theirs."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, TypeVar, overload

from cmdc_client.callbacks.annotations import InvalidTool, hints_of, member_of
from cmdc_client.callbacks.docstrings import Docstring
from cmdc_client.callbacks.kinds import Member, Record, Schema
from cmdc_client.callbacks.threads import in_thread
from cmdc_client.signatures import CallbackCall, check_secret

if TYPE_CHECKING:
    from cmdc_client.models import ToolRegistered

F = TypeVar("F", bound=Callable[..., object])

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIMEOUTS: Final = range(1, 300_001)
_RESERVED: Final = "ask_user"


class ToolError(Exception):
    """Raised by a tool to tell the model, in just this sentence, why it has no result."""


@dataclass(frozen=True)
class Tool:
    """A function that the agent may call.

    `timeout_ms`, `requires_approval` and `idempotent` are as in registering a tool.
    """

    name: str
    description: str
    takes: Record = field(repr=False)
    function: Callable[..., object] = field(repr=False)
    signature: inspect.Signature = field(repr=False)
    wants_call: tuple[str, ...] = ()
    timeout_ms: int | None = None
    requires_approval: bool = False
    idempotent: bool = False

    @property
    def parameters(self) -> Schema:
        """The JSON Schema of its arguments."""
        return self.takes.schema

    def bind(self, call: CallbackCall) -> inspect.BoundArguments:
        """The arguments of the function, of the types it declares. Raises Unfit."""
        values: dict[str, Any] = self.takes.read(call.args, "args")
        values.update(dict.fromkeys(self.wants_call, call))
        bound = inspect.BoundArguments(self.signature, OrderedDict(values))
        bound.apply_defaults()  # a positional-only one that is left out has to be filled, or those after it are lost
        return bound

    async def run(self, bound: inspect.BoundArguments) -> object:
        """Call the function: here if it is async, else in a thread. What it raises is raised."""
        if inspect.iscoroutinefunction(self.function):
            return await self.function(*bound.args, **bound.kwargs)
        result = await in_thread(lambda: self.function(*bound.args, **bound.kwargs))
        return await result if inspect.isawaitable(result) else result


class SessionTools(Protocol):
    """What `Session.tools` can do, as far as it is needed here."""

    def register(
        self,
        *,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        callback_url: str,
        timeout_ms: int | None = None,
        requires_approval: bool | None = None,
        idempotent: bool | None = None,
        secret: str | None = None,
    ) -> ToolRegistered: ...


class AsyncSessionTools(Protocol):
    """As `SessionTools`, to be awaited."""

    def register(
        self,
        *,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        callback_url: str,
        timeout_ms: int | None = None,
        requires_approval: bool | None = None,
        idempotent: bool | None = None,
        secret: str | None = None,
    ) -> Awaitable[ToolRegistered]: ...


class HasTools(Protocol):
    """A `Session`."""

    @property
    def tools(self) -> SessionTools: ...


class HasAsyncTools(Protocol):
    """An `AsyncSession`."""

    @property
    def tools(self) -> AsyncSessionTools: ...


class Registration(TypedDict):
    """What a tool is registered with, by the names of `session.tools.register`."""

    name: str
    description: str
    parameters: Schema
    callback_url: str
    timeout_ms: int | None
    requires_approval: bool | None
    idempotent: bool | None
    secret: str


class Tools:
    """Functions that agents may call.

        tools = Tools()

        @tools.tool
        def get_weather(city: Annotated[str, "Its name, in English."], unit: Literal["C", "F"] = "C") -> str:
            '''The weather in a city.'''
            return f"18 °{unit} in {city}"

    To be called they have to be served, by a `CallbackServer` or a `callback_app`, and registered with a session.
    """

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def __repr__(self) -> str:
        return f"<Tools {', '.join(self._tools) or '(none)'}>"

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        """The tool of this name."""
        return self._tools.get(name)

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(
        self,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_ms: int | None = None,
        requires_approval: bool = False,
        idempotent: bool = False,
    ) -> Callable[[F], F]: ...
    def tool(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_ms: int | None = None,
        requires_approval: bool = False,
        idempotent: bool = False,
    ) -> F | Callable[[F], F]:
        """Make a function, async or not, a tool. The function itself stays as it is.

        Without `name` and `description`, the tool has the name of the function and the first paragraph of its docstring.
        The schema of its arguments is made of the annotations; what is said of an argument, in `Annotated` or under
        `Args:` in the docstring, goes into it. A parameter annotated with `CallbackCall` is no argument: it is given
        the call, with the id of its session.

        Functions that are not async are run in threads, several at once if the agent, or several agents, call them so.

        Raises InvalidTool if the function cannot be a tool, or another one has its name.
        """

        def add(function: F) -> F:
            tool = _tool(
                function,
                name=name,
                description=description,
                timeout_ms=timeout_ms,
                requires_approval=requires_approval,
                idempotent=idempotent,
            )
            if tool.name in self._tools:
                raise InvalidTool(f"there is a tool {tool.name!r} already")
            self._tools[tool.name] = tool
            return function

        return add if function is None else add(function)

    @overload
    def register(self, session: HasTools, *, url: str, secret: str) -> None: ...
    @overload
    def register(self, session: HasAsyncTools, *, url: str, secret: str) -> Awaitable[None]: ...
    def register(self, session: HasTools | HasAsyncTools, *, url: str, secret: str) -> Awaitable[None] | None:
        """Give the agent of this session all these tools, called under `url`, where they are served with this secret.

        With an AsyncSession, to be awaited. Raises RegistrationFailed, ValueError.
        """
        check_secret(secret)
        registrations = [_registration(tool, url, secret) for tool in self]
        if not registrations:
            raise ValueError("there is no tool to register")
        return _register(session, registrations)


def _tool(
    function: Callable[..., object],
    *,
    name: str | None,
    description: str | None,
    timeout_ms: int | None,
    requires_approval: bool,
    idempotent: bool,
) -> Tool:
    called = name if name is not None else getattr(function, "__name__", "")
    if not _NAME.fullmatch(called) or called == _RESERVED:
        raise InvalidTool(
            f"{called!r} is no name of a tool: it must be 1 to 64 of A-Z a-z 0-9 _ -, and not {_RESERVED}"
        )
    if timeout_ms is not None and timeout_ms not in _TIMEOUTS:
        raise InvalidTool(f"{called}: timeout_ms must be from 1 to {_TIMEOUTS[-1]}")
    docstring = Docstring.parse(function.__doc__)
    told = description if description is not None else docstring.summary
    if not told:
        raise InvalidTool(f"{called}: the model has to be told what it does; write a docstring, or give a description")
    signature = _signature(function, called)
    wants_call = tuple(n for n, parameter in signature.parameters.items() if parameter.annotation is CallbackCall)
    members = {
        parameter.name: _member(parameter, called, docstring)
        for parameter in signature.parameters.values()
        if parameter.name not in wants_call
    }
    return Tool(
        name=called,
        description=told,
        takes=Record(members),
        function=function,
        signature=signature,
        wants_call=wants_call,
        timeout_ms=timeout_ms,
        requires_approval=requires_approval,
        idempotent=idempotent,
    )


def _signature(function: Callable[..., object], name: str) -> inspect.Signature:
    """The signature, with its annotations as what they mean."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise InvalidTool(f"{name}: it has no signature that could be read") from None
    annotations = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if parameter.annotation is not parameter.empty
    }
    # What it returns is not asked for: that may be known to type checkers alone.
    hints = hints_of(annotations, getattr(inspect.unwrap(function), "__globals__", {}), name)
    known = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.empty))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=known)


def _member(parameter: inspect.Parameter, tool: str, docstring: Docstring) -> Member:
    where = f"{tool}({parameter.name})"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise InvalidTool(f"{where}: the arguments of a tool have names; * and ** cannot be told to a model")
    if parameter.annotation is parameter.empty:
        raise InvalidTool(f"{where}: it has no type")
    return member_of(
        parameter.annotation,
        where,
        default=parameter.default,
        required=parameter.default is parameter.empty,
        text=docstring.arguments.get(parameter.name),
    )


def _registration(tool: Tool, url: str, secret: str) -> Registration:
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "callback_url": f"{url.rstrip('/')}/{tool.name}",
        "timeout_ms": tool.timeout_ms,
        "requires_approval": tool.requires_approval or None,
        "idempotent": tool.idempotent or None,
        "secret": secret,
    }


def _register(session: HasTools | HasAsyncTools, registrations: list[Registration]) -> Awaitable[None] | None:
    first, *rest = registrations
    answer = session.tools.register(**first)
    if inspect.isawaitable(answer):
        return _go_on(answer, session, rest)
    for registration in rest:
        session.tools.register(**registration)
    return None


async def _go_on(first: Awaitable[object], session: HasTools | HasAsyncTools, rest: list[Registration]) -> None:
    await first
    for registration in rest:
        answer = session.tools.register(**registration)
        assert inspect.isawaitable(answer), "the first one was"
        await answer

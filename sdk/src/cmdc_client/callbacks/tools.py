"""Tools made of Python functions: their names, descriptions, schemas and registration."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypedDict, TypeVar, get_type_hints, overload

from cmdc_client.callbacks.arguments import Arguments, InvalidTool, Schema
from cmdc_client.callbacks.docstrings import Docstring
from cmdc_client.callbacks.threads import run_in_thread
from cmdc_client.signatures import CallbackCall, check_secret

if TYPE_CHECKING:
    from cmdc_client.models import ToolRegistered

F = TypeVar("F", bound=Callable[..., object])

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TIMEOUTS: Final = range(1, 300_001)
_RESERVED: Final = "ask_user"


class ToolError(Exception):
    """Raise this in a tool to return an error to the model. The model receives exactly this message."""


@dataclass(frozen=True)
class Tool:
    """A function that agents may call.

    `timeout_ms`, `requires_approval` and `idempotent` are those of `session.tools.register`.
    """

    name: str
    description: str
    arguments: Arguments = field(repr=False)
    function: Callable[..., object] = field(repr=False)
    signature: inspect.Signature = field(repr=False)
    call_parameters: tuple[str, ...] = ()
    """The parameters that receive the `CallbackCall` itself."""
    timeout_ms: int | None = None
    requires_approval: bool = False
    idempotent: bool = False

    @property
    def parameters(self) -> Schema:
        """The JSON Schema of the arguments."""
        return self.arguments.schema

    def bind(self, call: CallbackCall) -> inspect.BoundArguments:
        """Convert the arguments of a call to those of the function. Raises ArgumentError."""
        values = {**self.arguments.parse(call.args), **dict.fromkeys(self.call_parameters, call)}
        return inspect.BoundArguments(self.signature, OrderedDict(values))

    async def run(self, bound: inspect.BoundArguments) -> object:
        """Call the function, in a thread unless it is async, and return its result or raise its exception."""
        if inspect.iscoroutinefunction(self.function):
            return await self.function(*bound.args, **bound.kwargs)
        result = await run_in_thread(lambda: self.function(*bound.args, **bound.kwargs))
        return await result if inspect.isawaitable(result) else result


class SessionTools(Protocol):
    """The part of `Session.tools` that is needed here."""

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
    """The async form of `SessionTools`."""

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
    """The arguments of `session.tools.register`."""

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
        def get_weather(city: Annotated[str, "The English name."], unit: Literal["C", "F"] = "C") -> str:
            '''Get the weather in a city.'''
            return f"18 °{unit} in {city}"

    Serve them with a `CallbackServer` or a `callback_app`, and register them with a session.
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
        """Return the tool with this name, or None."""
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
        """Add a function, async or not, as a tool. As a decorator, it returns the function unchanged.

        The schema of the arguments is generated from the annotations, which may be any type that pydantic supports. An
        argument is described by a string or a pydantic `Field` in `Annotated`, or under `Args:` in the docstring. A
        parameter annotated with `CallbackCall` is not an argument; it receives the call, with the id of its session.

        Functions that are not async run in threads, possibly several at a time.

        Args:
            function: The function.
            name: The name of the tool. By default that of the function.
            description: What the tool does. By default the first paragraph of the docstring.
            timeout_ms: The limit for one call, in ms.
            requires_approval: Whether every call needs approval.
            idempotent: Whether the gateway may repeat a call whose outcome is unknown.

        Raises:
            InvalidTool: The function cannot be used as a tool, or there already is a tool with its name.
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
                raise InvalidTool(f"there already is a tool named {tool.name!r}")
            self._tools[tool.name] = tool
            return function

        return add if function is None else add(function)

    @overload
    def register(self, session: HasTools, *, url: str, secret: str) -> None: ...
    @overload
    def register(self, session: HasAsyncTools, *, url: str, secret: str) -> Awaitable[None]: ...
    def register(self, session: HasTools | HasAsyncTools, *, url: str, secret: str) -> Awaitable[None] | None:
        """Register all tools with a session. With an AsyncSession, await the result.

        `url` is where the tools are served, and `secret` the secret with which they are served. Raises
        RegistrationFailed, and ValueError if the secret is invalid or there are no tools.
        """
        check_secret(secret)
        registrations = [_registration(tool, url, secret) for tool in self]
        if not registrations:
            raise ValueError("there are no tools to register")
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
    tool_name = name if name is not None else getattr(function, "__name__", "")
    if not _NAME.fullmatch(tool_name) or tool_name == _RESERVED:
        raise InvalidTool(
            f"{tool_name!r} is not a valid name of a tool: it must be 1 to 64 of A-Z a-z 0-9 _ -, and not {_RESERVED}"
        )
    if timeout_ms is not None and timeout_ms not in _TIMEOUTS:
        raise InvalidTool(f"{tool_name}: timeout_ms must be from 1 to {_TIMEOUTS[-1]}")
    docstring = Docstring.parse(function.__doc__)
    tool_description = description if description is not None else docstring.summary
    if not tool_description:
        raise InvalidTool(f"{tool_name}: the description is missing; write a docstring, or pass a description")
    signature = _signature(function, tool_name)
    call_parameters = tuple(
        parameter.name for parameter in signature.parameters.values() if parameter.annotation is CallbackCall
    )
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in call_parameters]
    for parameter in parameters:
        _check_parameter(parameter, tool_name)
    return Tool(
        name=tool_name,
        description=tool_description,
        arguments=Arguments(tool_name, parameters, docstring.arguments),
        function=function,
        signature=signature,
        call_parameters=call_parameters,
        timeout_ms=timeout_ms,
        requires_approval=requires_approval,
        idempotent=idempotent,
    )


def _signature(function: Callable[..., object], tool: str) -> inspect.Signature:
    """Return the signature with resolved annotations. Raises InvalidTool."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise InvalidTool(f"{tool}: its signature cannot be determined") from None
    # Without the return annotation, whose type may exist for type checkers only.
    annotations = {
        parameter.name: parameter.annotation
        for parameter in signature.parameters.values()
        if parameter.annotation is not parameter.empty
    }
    hints = _resolved(annotations, getattr(inspect.unwrap(function), "__globals__", {}), tool)
    parameters = [
        parameter.replace(annotation=hints.get(parameter.name, parameter.empty))
        for parameter in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


def _resolved(annotations: Mapping[str, Any], namespace: Mapping[str, Any], tool: str) -> dict[str, Any]:
    """Evaluate annotations that are strings. Raises InvalidTool."""
    holder = type("holder", (), {"__annotations__": dict(annotations)})
    try:
        return get_type_hints(holder, dict(namespace), include_extras=True)
    except NameError as error:
        raise InvalidTool(f"{tool}: {error}; the types of a tool must be defined at module level") from None
    except (TypeError, SyntaxError) as error:
        raise InvalidTool(f"{tool}: its annotations cannot be evaluated: {error}") from None


def _check_parameter(parameter: inspect.Parameter, tool: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise InvalidTool(f"{tool}({parameter.name}): * and ** parameters are not supported")
    if parameter.annotation is parameter.empty:
        raise InvalidTool(f"{tool}({parameter.name}): the type annotation is missing")


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
    result = session.tools.register(**first)
    if inspect.isawaitable(result):
        return _register_async(result, session, rest)
    for registration in rest:
        session.tools.register(**registration)
    return None


async def _register_async(
    first: Awaitable[object], session: HasTools | HasAsyncTools, rest: list[Registration]
) -> None:
    await first
    for registration in rest:
        result = session.tools.register(**registration)
        assert inspect.isawaitable(result), "the first result was awaitable"
        await result

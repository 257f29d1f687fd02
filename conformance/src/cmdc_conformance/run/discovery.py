"""What the suite finds out about a server before the checks run: whether it is a gateway, its features, its model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.findings import Blocked
from cmdc_conformance.run.options import Options
from cmdc_conformance.target import Driver, ServerInfo, Target, TargetError
from cmdc_conformance.wire.http import ApiClient, ApiResponse

_SCRIPTED: Final = "scripted:conformance"


async def discover(http: ApiClient, target: Target, options: Options) -> ServerInfo:
    """Examine the server. Raises TargetError if it cannot be tested."""
    if options.probe:
        await _probe(http, target)
    declared = await _capabilities(http)
    features = frozenset[str]()
    if options.profiles != ("base",):
        extended: list[str] = declared["extended"] if declared else []
        features = frozenset(target.capabilities if target.capabilities is not None else extended)
    driver, model = _model(target, declared)
    return ServerInfo(
        target=target,
        driver=driver,
        model=model,
        features=features,
        declared=declared,
        extended="cursors" in features,
    )


def _model(target: Target, declared: Any) -> tuple[Driver, str]:
    """The model driver and the model's name on the server. Raises TargetError if the server has no usable model."""
    if target.driver != "auto":
        return target.driver, target.model or _SCRIPTED
    available: list[Any] = declared["models"] if declared else []
    if any(str(each).startswith("scripted:") for each in available) and not target.model:
        return "scripted", _SCRIPTED
    if target.model:
        return ("scripted" if target.model.startswith("scripted:") else "model"), target.model
    if declared is None:
        return "scripted", _SCRIPTED
    raise TargetError(
        'the server has no scripted model: map a name to the suite\'s own model (driver = "model", `model` and'
        " `model_listen` in [target])"
    )


async def _probe(http: ApiClient, target: Target) -> None:
    """Verify that the server is a gateway that accepts the keys. Raises TargetError."""
    where = f"{urlsplit(target.url).hostname}:{urlsplit(target.url).port or ''}".rstrip(":")
    try:
        health = await http.get("/healthz", monitored=False)
    except Blocked as failure:
        raise TargetError(
            f"{where} does not respond to GET /healthz: is the server running, and is the URL correct? ({failure})"
        ) from None
    if health.status != 200 or health.body.get("status") != "ok":
        raise TargetError(
            f'the server at {where} is not a gateway: GET /healthz returned {health.status} without "status": "ok"'
        )
    for number, key in enumerate((target.keys.first, target.keys.second)):
        if key is None:
            continue
        option = "--key" if number == 0 else "--second-key"
        try:
            response = await http.with_key(key).get(f"/v1/sessions/cmdc-{token_hex(8)}", monitored=False)
        except Blocked as failure:
            raise TargetError(f"{where} does not respond under /v1/: {failure}") from None
        if response.status in (401, 403):
            raise TargetError(f"{where} rejects the key of {option} ({response.status}): pass a valid key")
        if response.status != 404:
            raise TargetError(
                f"the server at {where} is not a gateway: it returned {response.status} for an unknown session, not 404"
            )


async def _capabilities(http: ApiClient) -> Any:
    """The body of GET /v1/capabilities; None if the server has no usable one."""
    try:
        response = await http.get("/v1/capabilities", monitored=False)
    except Blocked:
        return None
    has_lists = all(isinstance(response.body.get(name), list) for name in ("extended", "models"))
    return response.body if response.status == 200 and has_lists else None


# -- features that the server does not declare -----------------------------------------------------------------------------


async def _abort(ctx: CheckContext) -> ApiResponse:
    async with ctx.session() as session:
        return await ctx.http.post(f"{session.path}/abort", {})


async def _tickets(ctx: CheckContext) -> ApiResponse:
    async with ctx.session() as session:
        return await ctx.http.post(f"{session.path}/tickets", {"scope": "read"})


async def _tool_list(ctx: CheckContext) -> ApiResponse:
    async with ctx.session() as session:
        return await ctx.http.get(f"{session.path}/tools")


async def _event_pages(ctx: CheckContext) -> ApiResponse:
    async with ctx.session() as session:
        return await ctx.http.get(f"{session.path}/events?after=start", headers={"Accept": "application/json"})


async def _list_sessions(ctx: CheckContext) -> ApiResponse:
    return await ctx.http.get("/v1/sessions?limit=1")


async def _usage(ctx: CheckContext) -> ApiResponse:
    return await ctx.http.get("/v1/usage")


async def _metadata(ctx: CheckContext) -> ApiResponse:
    return await ctx.create(metadata={"a": "b"})


async def _budgets(ctx: CheckContext) -> ApiResponse:
    return await ctx.create(budget={"maxTokens": 1000})


async def _approval_timeout(ctx: CheckContext) -> ApiResponse:
    return await ctx.create(approval={"tools": [], "timeoutMs": 1000})


FEATURE_PROBES: Final[Mapping[str, Callable[[CheckContext], Awaitable[ApiResponse]]]] = {
    "abort": _abort,
    "approval_timeout": _approval_timeout,
    "budgets": _budgets,
    "event_pages": _event_pages,
    "list_sessions": _list_sessions,
    "metadata": _metadata,
    "tickets": _tickets,
    "tool_list": _tool_list,
    "usage": _usage,
}
"""A request per feature that succeeds only if the server implements the feature."""

"""What is found out about a server before it is judged: whether it is one, what it declares, and who is its model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from secrets import token_hex
from typing import Any, Final
from urllib.parse import urlsplit

from cmdc_conformance.case import Case
from cmdc_conformance.findings import Blocked
from cmdc_conformance.target import Driver, Target, TargetError
from cmdc_conformance.wire import Answer, Http


def driver_of(target: Target, declared: Any) -> tuple[Driver, str]:
    """Who answers for the model, and under which name. Raises TargetError where nobody does."""
    if target.driver != "auto":
        return target.driver, target.model or "scripted:conformance"
    offered: list[str] = declared["models"] if declared else []
    models = [str(each) for each in offered]
    if any(each.startswith("scripted:") for each in models) and not target.model:
        return "scripted", "scripted:conformance"
    if target.model:
        return ("scripted" if target.model.startswith("scripted:") else "model"), target.model
    if declared is None:
        return "scripted", "scripted:conformance"
    raise TargetError(
        'the server offers no scripted model: map a name to the suite\'s own (driver = "model", `model` and'
        " `model_listen` in [target])"
    )


async def probe(http: Http, target: Target) -> None:
    """Find out whether there is a gateway that knows the key. Raises TargetError."""
    where = f"{urlsplit(target.url).hostname}:{urlsplit(target.url).port or ''}".rstrip(":")
    try:
        health = await http.get("/healthz", judged=False)
    except Blocked as failure:
        raise TargetError(
            f"{where} does not answer GET /healthz: is the server started, and the URL right? ({failure})"
        ) from None
    if health.status != 200 or health.body.get("status") != "ok":
        raise TargetError(
            f'what answers at {where} is no gateway: GET /healthz is {health.status}, without "status": "ok"'
        )
    for number, key in enumerate((target.keys.first, target.keys.second)):
        if key is None:
            continue
        which = "--key" if number == 0 else "--second-key"
        try:
            answer = await http.with_key(key).get(f"/v1/sessions/cmdc-{token_hex(8)}", judged=False)
        except Blocked as failure:
            raise TargetError(f"{where} does not answer under /v1/: {failure}") from None
        if answer.status in (401, 403):
            raise TargetError(f"{where} does not take the key of {which} ({answer.status}): give one that it knows")
        if answer.status != 404:
            raise TargetError(
                f"what answers at {where} is no gateway: an unknown session is answered {answer.status}, not 404"
            )


async def declared_by(http: Http) -> Any:
    """What the server declares, as far as it can be used; None where it declares nothing."""
    try:
        answer = await http.get("/v1/capabilities", judged=False)
    except Blocked:
        return None
    lists = all(isinstance(answer.body.get(name), list) for name in ("extended", "models"))
    return answer.body if answer.status == 200 and lists else None


async def _abort(case: Case) -> Answer:
    async with case.session() as session:
        return await case.http.post(f"{session.path}/abort", {})


async def _tickets(case: Case) -> Answer:
    async with case.session() as session:
        return await case.http.post(f"{session.path}/tickets", {"scope": "read"})


async def _tool_list(case: Case) -> Answer:
    async with case.session() as session:
        return await case.http.get(f"{session.path}/tools")


async def _pages(case: Case) -> Answer:
    async with case.session() as session:
        return await case.http.get(f"{session.path}/events?after=start", headers={"Accept": "application/json"})


async def _list(case: Case) -> Answer:
    return await case.http.get("/v1/sessions?limit=1")


async def _usage(case: Case) -> Answer:
    return await case.http.get("/v1/usage")


async def _metadata(case: Case) -> Answer:
    return await case.create(metadata={"a": "b"})


async def _budget(case: Case) -> Answer:
    return await case.create(budget={"maxTokens": 1000})


async def _expiry(case: Case) -> Answer:
    return await case.create(approval={"tools": [], "timeoutMs": 1000})


# What a server that does not declare a feature has to refuse.
UNDECLARED: Final[Mapping[str, Callable[[Case], Awaitable[Answer]]]] = {
    "abort": _abort,
    "approval_timeout": _expiry,
    "budgets": _budget,
    "event_pages": _pages,
    "list_sessions": _list,
    "metadata": _metadata,
    "tickets": _tickets,
    "tool_list": _tool_list,
    "usage": _usage,
}

"""The server itself: whether it lives, what it can do, and what it publishes."""

from __future__ import annotations

import re
from typing import Any

from cmdc_conformance import schemas
from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import expect, need


@check("EP-healthz")
async def health(case: Case) -> None:
    """GET /healthz says that the server is alive."""
    body = (await case.http.get("/healthz")).must_be(200)
    expect(body.get("status") == "ok", f"status is {body.get('status')!r}")
    stamp = str(body.get("timestamp"))
    expect(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp), f"timestamp is {stamp!r}")
    for name, member in (("sessions", "active"), ("meter", "tracked_keys")):
        value: Any = body.get(name)
        expect(isinstance(value, dict) and isinstance(value.get(member), int), f"{name}.{member} is no integer")  # pyright: ignore[reportUnknownMemberType]
    expect(isinstance(body.get("version"), str), "version is no string")


@check("EP-readyz")
async def readiness(case: Case) -> None:
    """GET /readyz is 200 without a key."""
    (await case.nobody.get("/readyz")).must_be(200)


@check("EP-capabilities.declared")
async def capabilities(case: Case) -> None:
    """What is declared is there and can be used."""
    body = (await case.http.get("/v1/capabilities")).must_be(200)
    expect(body.get("protocol") == "0.1", f"protocol is {body.get('protocol')!r}")
    for name in ("extended", "models", "tools", "plugins", "durability", "limits"):
        expect(name in body, f"there is no {name}")
    tools = [*body["tools"]]
    (await case.create(tools=tools)).must_be(200, 201, why="every tool that is declared is offered")
    (await case.create(plugins=[*body["plugins"]])).must_be(200, 201, why="every plugin that is declared is offered")


@check("EP-capabilities.refused")
async def what_is_not_declared(case: Case) -> None:
    """Names that are not declared are refused; undeclared features are tried before the checks."""
    declared = case.server.declared or {}
    for field, name in (("tools", "no_such_tool"), ("plugins", "no_such_plugin")):
        need(name not in declared.get(field, ()), f"{name} is declared")
        (await case.create(**{field: [name]})).must_be(422, code="create_failed")
    (await case.create()).must_be(201)


@check("DUR-4")
async def durability(case: Case) -> None:
    """The durability has one of three names."""
    named = (await case.http.get("/v1/capabilities")).must_be(200).get("durability")
    expect(named in ("memory", "process", "disk"), f"durability is {named!r}")


@check("EP-documents.schemas")
async def documents(case: Case) -> None:
    """The three documents describe what the contract has."""
    openapi = (await case.nobody.get("/openapi.json")).must_be(200)
    (await case.nobody.get("/asyncapi.json")).must_be(200)
    events = (await case.nobody.get("/events.schema.json")).must_be(200)
    paths: Any = openapi.get("paths", {})
    described = {f"{method.upper()} {path}" for path, each in paths.items() for method in each}
    missing = [
        each
        for each in schemas.routes()
        if re.sub(r"\{\w+\}", "{}", each) not in {re.sub(r"\{\w+\}", "{}", one) for one in described}
    ]
    expect(not missing, f"/openapi.json does not describe {', '.join(missing)}")
    text = str(events)
    missing = [each for each in schemas.EVENTS if f"'{each}'" not in text]
    expect(not missing, f"/events.schema.json does not describe {', '.join(missing)}")


@check("EP-documents.docs")
async def reference(case: Case) -> None:
    """/docs loads nothing from anywhere else."""
    answer = await case.nobody.get("/docs", judged=False)
    answer.must_be(200)
    page = answer.raw.decode("utf-8", "replace")
    foreign = re.search(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//|@import|url\([\"']?https?:", page
    )
    expect(foreign is None, f"it loads something from elsewhere: {foreign and foreign.group()}")

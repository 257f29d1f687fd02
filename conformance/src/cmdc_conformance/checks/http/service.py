"""Health, readiness, capabilities and published documents."""

from __future__ import annotations

import re
from typing import Any

from cmdc_conformance import schemas
from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import check
from cmdc_conformance.findings import expect, require


@check("EP-healthz")
async def health_is_reported(ctx: CheckContext) -> None:
    """GET /healthz reports status, version, counts and a timestamp."""
    body = (await ctx.http.get("/healthz")).expect(200)
    expect(body.get("status") == "ok", f"status is {body.get('status')!r}")
    timestamp = str(body.get("timestamp"))
    expect(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", timestamp), f"timestamp is {timestamp!r}")
    for name, member in (("sessions", "active"), ("meter", "tracked_keys")):
        value: Any = body.get(name)
        expect(isinstance(value, dict) and isinstance(value.get(member), int), f"{name}.{member} is not an integer")  # pyright: ignore[reportUnknownMemberType]
    expect(isinstance(body.get("version"), str), "version is not a string")


@check("EP-readyz")
async def readiness_is_reported(ctx: CheckContext) -> None:
    """GET /readyz returns 200 without a key."""
    (await ctx.anonymous.get("/readyz")).expect(200)


@check("EP-capabilities.declared")
async def capabilities_are_declared(ctx: CheckContext) -> None:
    """The capabilities are complete, and the declared tools and plugins can be used."""
    body = (await ctx.http.get("/v1/capabilities")).expect(200)
    expect(body.get("protocol") == "0.1", f"protocol is {body.get('protocol')!r}")
    for name in ("extended", "models", "tools", "plugins", "durability", "limits"):
        expect(name in body, f"{name} is missing")
    tools = [*body["tools"]]
    (await ctx.create(tools=tools)).expect(200, 201, why="every declared tool is available")
    (await ctx.create(plugins=[*body["plugins"]])).expect(200, 201, why="every declared plugin is available")


@check("EP-capabilities.refused")
async def undeclared_names_are_rejected(ctx: CheckContext) -> None:
    """Undeclared tools and plugins are rejected. The runner tries undeclared features before the checks."""
    declared = ctx.server.declared or {}
    for field, name in (("tools", "no_such_tool"), ("plugins", "no_such_plugin")):
        require(name not in declared.get(field, ()), f"{name} is declared")
        (await ctx.create(**{field: [name]})).expect(422, code="create_failed")
    (await ctx.create()).expect(201)


@check("DUR-4")
async def the_durability_is_declared(ctx: CheckContext) -> None:
    """The declared durability is memory, process or disk."""
    named = (await ctx.http.get("/v1/capabilities")).expect(200).get("durability")
    expect(named in ("memory", "process", "disk"), f"durability is {named!r}")


@check("EP-documents.schemas")
async def the_documents_are_complete(ctx: CheckContext) -> None:
    """The published documents describe every route and every event."""
    openapi = (await ctx.anonymous.get("/openapi.json")).expect(200)
    (await ctx.anonymous.get("/asyncapi.json")).expect(200)
    events = (await ctx.anonymous.get("/events.schema.json")).expect(200)
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
async def the_reference_is_self_contained(ctx: CheckContext) -> None:
    """/docs loads nothing from another host."""
    response = await ctx.anonymous.get("/docs", monitored=False)
    response.expect(200)
    page = response.raw.decode("utf-8", "replace")
    external = re.search(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//|@import|url\([\"']?https?:", page
    )
    expect(external is None, f"the page loads an external resource: {external and external.group()}")

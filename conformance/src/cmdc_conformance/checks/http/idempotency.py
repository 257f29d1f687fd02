"""Idempotency keys."""

from __future__ import annotations

import asyncio

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import check
from cmdc_conformance.drivers.session import wait_for_state
from cmdc_conformance.findings import expect


def _key(ctx: CheckContext) -> dict[str, str]:
    return {"Idempotency-Key": ctx.unique("idem")}


@check("HTTP-11.replay")
async def a_repeated_request_is_replayed(ctx: CheckContext) -> None:
    """A repeated request returns the stored response and has one effect."""
    headers = _key(ctx)
    first = await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)
    first.require(201)
    again = await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)
    again.expect(201)
    expect(again.body == first.body, f"the response was {first.body} and is {again.body}")
    expect(again.headers.get("idempotent-replayed") == "true", "the replayed response has no Idempotent-Replayed: true")
    expect("idempotent-replayed" not in first.headers, "the first response has Idempotent-Replayed")
    async with ctx.session() as session:
        body, headers = {"text": ctx.simple_prompt()}, _key(ctx)
        session.announce(body["text"])
        responses = [await ctx.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(3)]
        ids = {response.expect(202).get("requestId") for response in responses}
        expect(len(ids) == 1, f"one prompt sent three times has {len(ids)} requestIds")
        await wait_for_state(ctx.http, session.path, "idle")
        count = (await session.stats()).require(200).get("promptCount")
        expect(count == 1, f"one prompt sent three times is counted {count} times")


@check("HTTP-11.mismatch")
async def a_different_body_is_rejected(ctx: CheckContext) -> None:
    """A different body with the same key returns 422."""
    headers = _key(ctx)
    (await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)).require(201)
    other = await ctx.http.post("/v1/sessions", ctx.create_body(systemPrompt="other"), headers=headers)
    other.expect(422, code="idempotency_mismatch")
    (await ctx.http.post("/v1/sessions", ctx.create_body(systemPrompt="other"), headers=_key(ctx))).expect(
        201, why="the key is different"
    )


@check("HTTP-11.concurrent")
async def concurrent_requests_have_one_effect(ctx: CheckContext) -> None:
    """Concurrent requests with one key have one effect."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        body, headers = {"text": ctx.simple_prompt()}, _key(ctx)
        session.announce(body["text"])
        responses = await asyncio.gather(
            *(ctx.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(8))
        )
        for response in responses:
            if response.status != 202:
                response.expect(409, code="idempotency_in_progress")
        ids = {response.body["requestId"] for response in responses if response.status == 202}
        expect(len(ids) == 1, f"eight concurrent requests have {len(ids)} requestIds")
        queue = (await session.info()).require(200).get("queue", [])
        expect(len(queue) == 1, f"eight concurrent requests queued {len(queue)} prompts")
        paused.release()


@check("HTTP-11.scope")
async def keys_are_per_route_and_tenant(ctx: CheckContext) -> None:
    """A key on another route or of another tenant is a different key."""
    headers = _key(ctx)
    async with ctx.session() as one, ctx.session() as other:
        body = {"text": ctx.simple_prompt()}
        one.announce(body["text"])
        other.announce(body["text"])
        ids = [
            (await ctx.http.post(f"{each.path}/prompt", body, headers=headers)).expect(202)["requestId"]
            for each in (one, other)
        ]
        expect(ids[0] != ids[1], "a prompt to one session was replayed for another session")
    own = (await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)).expect(201)
    theirs = await ctx.second_tenant.post("/v1/sessions", ctx.create_body(), headers=headers)
    expect(theirs.expect(201) != own, "another tenant received this tenant's stored response")


@check("HTTP-11.bounds")
async def keys_are_validated(ctx: CheckContext) -> None:
    """A key must have 1 to 255 visible ASCII characters."""
    for invalid in ("", "x" * 256, "a b", "a\tb"):
        response = await ctx.http.post("/v1/sessions", ctx.create_body(), headers={"Idempotency-Key": invalid})
        response.expect(400, code="bad_request", why=f"Idempotency-Key {invalid!r:.20}")
    longest = ctx.unique().ljust(255, "~")
    (await ctx.http.post("/v1/sessions", ctx.create_body(), headers={"Idempotency-Key": longest})).expect(
        200, 201, why="255 characters are allowed"
    )


@check("HTTP-11.refusal")
async def errors_are_not_stored(ctx: CheckContext) -> None:
    """A request that was rejected may be corrected under the same key."""
    headers = _key(ctx)
    rejected = await ctx.http.post("/v1/sessions", ctx.create_body(tools=["no_such_tool"]), headers=headers)
    rejected.require(422)
    response = await ctx.http.post("/v1/sessions", ctx.create_body(), headers=headers)
    response.expect(200, 201, why="the first request was rejected")

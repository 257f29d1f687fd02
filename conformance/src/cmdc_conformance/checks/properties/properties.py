"""Property-based checks. Each failure is shrunk and written to the report as a replay file."""

from __future__ import annotations

from typing import Any

from cmdc_conformance import schemas
from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.properties import strategies
from cmdc_conformance.checks.properties.executor import ANY_SESSION, check_rejected, check_script
from cmdc_conformance.checks.properties.machine import random_examples, random_sessions
from cmdc_conformance.checks.registry import ALL_VARIANTS, check
from cmdc_conformance.findings import NotExercised


@check("SSE-6.live")
async def random_sessions_match_the_model(ctx: CheckContext) -> None:
    """Random steps of two tenants' sessions, with reads cut at any byte, match a reference model."""
    if not ctx.has("abort", "approval_timeout", "event_pages", "follow"):
        raise NotExercised("needs the features abort, approval_timeout, event_pages and follow")
    if ctx.server.driver == "live":
        raise NotExercised("a live model follows no script")
    _ = ctx.second_tenant
    await random_sessions(ctx)


@check("EVT-6", variants=ALL_VARIANTS)
async def random_scripts_arrive_unchanged(ctx: CheckContext) -> None:
    """Random texts, split anywhere, with reasoning, parallel calls and failures, arrive unchanged."""
    await random_examples(
        ctx,
        strategies.scripts(),
        lambda replies: check_script(ctx, replies),
        lambda replies: {"op": "script", "replies": replies},
    )


def _schema(name: str) -> dict[str, Any]:
    return dict(schemas.document("openapi")["components"]["schemas"][name])


@check("HTTP-3.wrong-type")
async def random_errors_are_rejected(ctx: CheckContext) -> None:
    """A valid body is accepted, and with one random error it is rejected with 400 naming the field."""
    base = (
        "model",
        "sessionId",
        "systemPrompt",
        "workingDir",
        "tools",
        "plugins",
        "blueprint",
        "maxTurns",
        "maxTokens",
    )
    async with ctx.session() as session:
        hosted = ctx.run_state.callbacks.host()
        bodies: list[tuple[str, str, dict[str, Any], int]] = [
            ("/v1/sessions", "CreateSessionBody", ctx.create_body(maxTurns=5, tools=[]), 201),
            (f"{session.path}/tools", "RegisterToolBody", ctx.tool("get_weather", hosted), 201),
            (f"{session.path}/approve", "ApproveBody", {"approvalId": "apr_never"}, 404),
            (f"{session.path}/respond", "RespondBody", {"ref": "ask_never", "response": "x"}, 404),
        ]
        for path, name, body, status in bodies:
            (await ctx.http.post(path, body, secret=True)).require(status)
            schema = _schema(name)
            # A base server rejects other fields as unknown, whatever their type.
            known = base if not ctx.server.extended else (*base, "metadata", "providerOpts")
            if name == "CreateSessionBody":
                schema["properties"] = {each: schema["properties"][each] for each in known}
            await _requests(ctx, path, session.id, strategies.mutations(schema, body))


async def _requests(ctx: CheckContext, path: str, session: str, mutations: Any) -> None:
    async def execute(drawn: tuple[str, str, dict[str, Any]]) -> None:
        part, field, wrong = drawn
        if (part, field) != ("missing-field", "model"):  # a blueprint may set the model
            await check_rejected(ctx, path, wrong, part, field)

    def as_step(drawn: tuple[str, str, dict[str, Any]]) -> Any:
        part, field, wrong = drawn
        return {
            "op": "request",
            "path": path.replace(session, ANY_SESSION),
            "part": part,
            "field": field,
            "body": wrong,
        }

    await random_examples(ctx, mutations, execute, as_step)

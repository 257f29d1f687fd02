"""What is drawn at random. Seeds are told, failures are made small, and what is left can be played again."""

from __future__ import annotations

from typing import Any

from cmdc_conformance import schemas, strategies
from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, check
from cmdc_conformance.findings import NotExercised
from cmdc_conformance.machine import random_examples, random_sessions
from cmdc_conformance.player import ANY_SESSION, request_is_refused, script_keeps


@check("SSE-6.live")
async def sessions_at_random(case: Case) -> None:
    """Sessions of two tenants, prompted, decided, stopped, read from anywhere and cut at any byte, beside a model."""
    if not case.has("abort", "approval_timeout", "event_pages", "follow"):
        raise NotExercised("needs abort, approvals, pages and follow")
    if case.server.driver == "live":
        raise NotExercised("a live model follows no script")
    _ = case.second
    await random_sessions(case)


@check("EVT-6", faces=EVERY)
async def scripts_at_random(case: Case) -> None:
    """Random texts, cut anywhere, with reasoning, parallel calls and failures, arrive as they were said."""
    await random_examples(
        case,
        strategies.scripts(),
        lambda replies: script_keeps(case, replies),
        lambda replies: {"op": "script", "replies": replies},
    )


def _schema(name: str) -> dict[str, Any]:
    return dict(schemas.document("openapi")["components"]["schemas"][name])


@check("HTTP-3.wrong-type")
async def requests_at_random(case: Case) -> None:
    """Bodies of the contract with one thing wrong are 400 naming it; each without it is taken."""
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
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        bodies: list[tuple[str, str, dict[str, Any], int]] = [
            ("/v1/sessions", "CreateSessionBody", case.fields(maxTurns=5, tools=[]), 201),
            (f"{session.path}/tools", "RegisterToolBody", case.tool("get_weather", hosted), 201),
            (f"{session.path}/approve", "ApproveBody", {"approvalId": "apr_never"}, 404),
            (f"{session.path}/respond", "RespondBody", {"ref": "ask_never", "response": "x"}, 404),
        ]
        for path, name, body, status in bodies:
            (await case.http.post(path, body, secret=True)).needed(status)
            schema = _schema(name)
            # What a base server does not have is refused as unknown: that is another requirement's part.
            known = base if not case.server.extended else (*base, "metadata", "providerOpts")
            if name == "CreateSessionBody":
                schema["properties"] = {each: schema["properties"][each] for each in known}
            await _requests(case, path, session.id, strategies.mutations(schema, body))


async def _requests(case: Case, path: str, session: str, mutations: Any) -> None:
    async def play(drawn: tuple[str, str, dict[str, Any]]) -> None:
        part, field, wrong = drawn
        if (part, field) != ("missing-field", "model"):  # a blueprint may give it
            await request_is_refused(case, path, wrong, part, field)

    def shown(drawn: tuple[str, str, dict[str, Any]]) -> Any:
        part, field, wrong = drawn
        return {
            "op": "request",
            "path": path.replace(session, ANY_SESSION),
            "part": part,
            "field": field,
            "body": wrong,
        }

    await random_examples(case, mutations, play, shown)

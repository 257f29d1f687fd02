"""What is drawn at random. Seeds are told, failures are made small, and what is left can be played again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmdc_conformance import schemas, strategies
from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, check
from cmdc_conformance.drivers.script import Reply
from cmdc_conformance.findings import Failed, NotExercised, owed
from cmdc_conformance.machine import random_examples, random_sessions
from cmdc_conformance.monitors import run_flaws
from cmdc_conformance.scenarios.runs import text_of_last_step


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

    async def play(replies: Sequence[Reply]) -> None:
        async with case.session() as session:
            await case.register(session)
            with owed("a random script"):
                events = await session.ran(case.script(*replies))
            for requirement, message in run_flaws(events):
                raise Failed(message, requirement)
            fails = replies[-1].get("fail", {}).get("attempts") == 0
            ends = "agent_abort" if fails or replies[-1].get("cut") else "agent_end"
            if events[-1].name != ends:
                raise Failed(f"the run ended with {events[-1]}, and should with {ends}", "EVT-2.failure")
            shown = [reply for reply in replies if not fails or reply is not replies[-1]]
            for name, member in (("message_delta", "text"), ("thinking_delta", "thinking")):
                came = "".join(event.data["delta"] for event in events if event.name == name)
                said = "".join(piece for reply in shown for piece in reply.get(member, ()))
                if came != said:
                    raise Failed(f"the model said {said!r}, and as {name} there came {came!r}")
            if ends == "agent_end":
                said = text_of_last_step(events)
                last: Any = events[-1].data["lastMessage"]
                if last is None or last.get("content") != said:
                    raise Failed(f"the last step was {said!r}, and lastMessage is {last}", "EVT-3")
                total = sum(sum(reply["usage"].values()) for reply in replies)
                told = events[-1].data["tokenUsage"]["totalTokens"]
                if told != total:
                    raise Failed(f"{total} tokens were used, and agent_end tells {told}", "MTR-1.counted")

    await random_examples(case, strategies.scripts(), play, lambda replies: {"op": "script", "replies": replies})


def _schema(name: str) -> Mapping[str, Any]:
    return schemas.document("openapi")["components"]["schemas"][name]


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
            schema = dict(_schema(name))
            if name == "CreateSessionBody":
                known = base if not case.server.extended else (*base, "metadata", "providerOpts")
                schema["properties"] = {each: schema["properties"][each] for each in known}

            async def play(drawn: tuple[str, str, dict[str, Any]], path: str = path) -> None:
                part, field, wrong = drawn
                if part == "missing-field" and field == "model":
                    return
                answer = await case.http.post(path, wrong, secret=True)
                if answer.status != 400 or answer.code != "bad_request":
                    raise Failed(
                        f"{path} with {wrong}: {part} {field} is answered {answer.status} {answer.code}",
                        f"HTTP-3.{part}",
                    )
                if field not in answer.message and field not in str(answer.body.get("details")):
                    raise Failed(f"{path}: the message does not name {field}: {answer.message!r}", f"HTTP-3.{part}")

            def shown(drawn: Any, path: str = path) -> Any:
                return {"op": "request", "path": path, "body": drawn[2]}

            await random_examples(case, strategies.mutations(schema, body), play, shown)

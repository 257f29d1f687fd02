"""The same request again."""

from __future__ import annotations

import asyncio

from cmdc_conformance.case import Case
from cmdc_conformance.check import check
from cmdc_conformance.findings import expect
from cmdc_conformance.session import until_state


def _key(case: Case) -> dict[str, str]:
    return {"Idempotency-Key": case.fresh("idem")}


@check("HTTP-11.replay")
async def an_answer_again(case: Case) -> None:
    """The same request again has the same answer, and happens once."""
    headers = _key(case)
    first = await case.http.post("/v1/sessions", case.fields(), headers=headers)
    first.needed(201)
    again = await case.http.post("/v1/sessions", case.fields(), headers=headers)
    again.must_be(201)
    expect(again.body == first.body, f"the answer was {first.body}, and is {again.body}")
    expect(again.headers.get("idempotent-replayed") == "true", "it is not marked Idempotent-Replayed: true")
    expect("idempotent-replayed" not in first.headers, "the first answer is marked as a replay")
    async with case.session() as session:
        body, headers = {"text": case.plain()}, _key(case)
        session.noted(body["text"])
        answers = [await case.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(3)]
        ids = {answer.must_be(202).get("requestId") for answer in answers}
        expect(len(ids) == 1, f"one prompt sent three times is {len(ids)} requests")
        await until_state(case.http, session.path, "idle")
        count = (await session.stats()).needed(200).get("promptCount")
        expect(count == 1, f"one prompt sent three times is counted {count} times")


@check("HTTP-11.mismatch")
async def another_body(case: Case) -> None:
    """Another body under the same key is refused."""
    headers = _key(case)
    (await case.http.post("/v1/sessions", case.fields(), headers=headers)).needed(201)
    other = await case.http.post("/v1/sessions", case.fields(systemPrompt="other"), headers=headers)
    other.must_be(422, code="idempotency_mismatch")
    (await case.http.post("/v1/sessions", case.fields(systemPrompt="other"), headers=_key(case))).must_be(
        201, why="another key"
    )


@check("HTTP-11.concurrent")
async def at_the_same_time(case: Case) -> None:
    """Of requests at the same time one has an effect."""
    async with case.session() as session, case.held(session) as held:
        body, headers = {"text": case.plain()}, _key(case)
        session.noted(body["text"])
        answers = await asyncio.gather(
            *(case.http.post(f"{session.path}/prompt", body, headers=headers) for _ in range(8))
        )
        for answer in answers:
            if answer.status != 202:
                answer.must_be(409, code="idempotency_in_progress")
        ids = {answer.body["requestId"] for answer in answers if answer.status == 202}
        expect(len(ids) == 1, f"eight at the same time are {len(ids)} requests")
        queue = (await session.info()).needed(200).get("queue", [])
        expect(len(queue) == 1, f"eight at the same time leave {len(queue)} prompts in the queue")
        held.release()


@check("HTTP-11.scope")
async def one_route_and_one_tenant(case: Case) -> None:
    """Another route and another tenant have keys of their own."""
    headers = _key(case)
    async with case.session() as one, case.session() as other:
        body = {"text": case.plain()}
        one.noted(body["text"])
        other.noted(body["text"])
        ids = [
            (await case.http.post(f"{each.path}/prompt", body, headers=headers)).must_be(202)["requestId"]
            for each in (one, other)
        ]
        expect(ids[0] != ids[1], "the key of one session's prompt replays it for another session")
    mine = (await case.http.post("/v1/sessions", case.fields(), headers=headers)).must_be(201)
    theirs = await case.second.post("/v1/sessions", case.fields(), headers=headers)
    expect(theirs.must_be(201) != mine, "another tenant gets this tenant's stored answer")


@check("HTTP-11.bounds")
async def what_a_key_is(case: Case) -> None:
    """1 to 255 visible ASCII characters."""
    for wrong in ("", "x" * 256, "a b", "a\tb"):
        answer = await case.http.post("/v1/sessions", case.fields(), headers={"Idempotency-Key": wrong})
        answer.must_be(400, code="bad_request", why=f"Idempotency-Key {wrong!r:.20}")
    right = case.fresh().ljust(255, "~")
    (await case.http.post("/v1/sessions", case.fields(), headers={"Idempotency-Key": right})).must_be(
        200, 201, why="255 are allowed"
    )


@check("HTTP-11.refusal")
async def refusals_are_forgotten(case: Case) -> None:
    """A refused request may be put right under the same key."""
    headers = _key(case)
    wrong = await case.http.post("/v1/sessions", case.fields(tools=["no_such_tool"]), headers=headers)
    wrong.needed(422)
    answer = await case.http.post("/v1/sessions", case.fields(), headers=headers)
    answer.must_be(200, 201, why="the first had no effect")

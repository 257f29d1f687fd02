"""WebSockets: who is let in, what comes, and what each action is acknowledged with."""

from __future__ import annotations

import asyncio
import json

from cmdc_conformance.case import Case
from cmdc_conformance.check import WS, check
from cmdc_conformance.findings import expect, owed
from cmdc_conformance.scenarios.tickets import ticket_of
from cmdc_conformance.socket import opened, refusal


@check("WS-1.header", faces=WS)
async def by_header(case: Case) -> None:
    """Both headers open a WebSocket."""
    async with case.session() as session:
        for headers in ({"X-API-Key": case.target.keys.first}, {"Authorization": f"Bearer {case.target.keys.first}"}):
            (await refusal(case.nobody, session.id, headers=headers)).must_be(101, why=", ".join(headers))


@check("WS-1.api-key", faces=WS)
async def by_parameter(case: Case) -> None:
    """?api_key= opens a WebSocket."""
    async with case.session() as session:
        (await refusal(case.nobody, session.id, api_key=case.target.keys.first)).must_be(101)
        (await refusal(case.nobody, session.id, api_key="wrong")).must_be(401, code="unauthorized")


@check("WS-1.ticket", faces=WS)
async def by_ticket(case: Case) -> None:
    """A ticket opens a WebSocket once, and cmdc.v1 is the subprotocol that is spoken."""
    async with case.session() as session:
        ticket = await ticket_of(case, session.path, "control")
        protocols = ("cmdc.v1", f"cmdc.ticket.{ticket}")
        with owed("with a ticket"):
            async with opened(case.nobody, session.id, session.key, subprotocols=protocols) as socket:
                spoken = socket.connection.subprotocol
                expect(spoken == "cmdc.v1", f"the subprotocol is {spoken!r}")
                text = case.plain()
                session.noted(text)
                (await socket.act("prompt", text=text)).must_be(202, why="the ticket's scope is control")
        again = await refusal(case.nobody, session.id, subprotocols=protocols)
        again.must_be(401, code="unauthorized", why="the ticket was used")


@check("WS-1.unauthorized", faces=WS)
async def without_credentials(case: Case) -> None:
    """No key and a wrong one are 401 before the upgrade."""
    async with case.session() as session:
        (await refusal(case.nobody, session.id)).must_be(401, code="unauthorized")
        (await refusal(case.http.with_key("wrong"), session.id)).must_be(401, code="unauthorized")
        (await refusal(case.http, session.id)).must_be(101, why="with the key")


@check("WS-1.unknown", faces=WS)
async def no_such_session(case: Case) -> None:
    """An unknown session is 404 before the upgrade."""
    answer = await refusal(case.http, case.fresh("never"))
    answer.must_be(404, code="not_found")
    async with case.session() as session:
        (await refusal(case.http, session.id)).needed(101)


@check("WS-1.plain", faces=WS)
async def a_plain_request(case: Case) -> None:
    """A GET that asks for no upgrade is 426."""
    async with case.session() as session:
        (await case.http.get(f"{session.path}/ws")).must_be(426, code="upgrade_required")


@check("WS-1.origin", faces=WS)
async def a_foreign_origin(case: Case) -> None:
    """An origin that is not listed is 403; one that is, is not. With `*` none is foreign."""
    async with case.session() as session:
        if case.target.origin is None:
            (await refusal(case.http, session.id, origin="https://foreign.example")).must_be(101, 403)
            return
        answer = await refusal(case.http, session.id, origin="https://foreign.example")
        answer.must_be(403, code="forbidden", why=f"{case.target.origin} alone is listed")
        (await refusal(case.http, session.id, origin=case.target.origin)).must_be(101, why="this origin is listed")


@check("WS-2.events", faces=WS)
async def everything_comes(case: Case) -> None:
    """Two runs that were prompted over HTTP come in order, from the moment of connecting."""
    async with case.session() as session:
        before = case.plain("Before.")
        session.noted(before)
        (await case.http.post(f"{session.path}/prompt", {"text": before})).needed(202)
        await session.state("idle")
        async with opened(case.http, session.id, session.key) as socket:
            texts = [case.plain("One."), case.plain("Two.")]
            for text in texts:
                session.noted(text)
                (await case.http.post(f"{session.path}/prompt", {"text": text})).needed(202)
            with owed("two runs on the WebSocket"):
                await socket.wait(
                    lambda: sum(event.is_terminal for event in socket.events) >= 2, "two runs did not end"
                )
            received = [event.data["text"] for event in socket.events if event.name == "prompt_received"]
            expect(received == texts, f"the runs that came are {received}")
            expect(not socket.ended, "the connection ended after a run")


@check("WS-2.after", faces=WS)
async def after(case: Case) -> None:
    """?after= brings what comes after that event, and start everything."""
    async with case.session() as session, opened(case.http, session.id, session.key) as first:
        text = case.plain("One ", "two.")
        session.noted(text)
        (await first.act("prompt", text=text)).needed(202)
        events = await first.end()
        for cursor, wanted in ((str(events[2].id), events[3:]), ("start", events)):
            async with opened(case.http, session.id, session.key, after=cursor) as socket:
                with owed(f"after={cursor}"):
                    came = await socket.end()
            expect([*map(str, came)] == [*map(str, wanted)], f"after={cursor} came {[event.id for event in came]}")
        answer = await refusal(case.http, session.id, after="x")
        answer.must_be(400, code="invalid_cursor", why="after=x")
        answer = await refusal(case.http, session.id, after="0000000000.1")
        answer.must_be(410, code="cursor_expired", why="it is of another log")


@check("WS-3.prompt", faces=WS)
async def the_action_prompt(case: Case) -> None:
    """It begins a run, which the routes see too."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        text = case.plain()
        session.noted(text)
        with owed():
            answer = await socket.act("prompt", text=text)
        body = answer.must_be(202)
        expect(body.get("sessionId") == session.id and isinstance(body.get("requestId"), str), f"the answer is {body}")
        expect(body.get("queued") is False, f"queued is {body.get('queued')!r}")
        with owed("after the action prompt"):
            await socket.end()
        said = [each["content"] for each in (await case.http.get(f"{session.path}/messages")).needed(200)["messages"]]
        expect(said[:1] == [text], f"the history is {said}")


@check("WS-3.decisions", faces=WS)
async def the_actions_that_decide(case: Case) -> None:
    """approve, reject and respond over the WebSocket are the decision."""
    for action, status in (("approve", "approved"), ("reject", "rejected")):
        async with case.waiting_call() as waiting:
            with owed():
                answer = await waiting.session.decide(action, waiting.approval)  # pyright: ignore[reportArgumentType]
            body = answer.must_be(200)
            wanted = {"ok": True, "action": action, "approvalId": waiting.approval}
            expect({name: body.get(name) for name in wanted} == wanted, f"the acknowledgement is {body}")
            with owed(f"after the action {action}"):
                events = await waiting.run.end()
            resolved = [event.data["status"] for event in events if event.name == "approval_resolved"]
            expect(resolved == [status], f"after {action} the approval is {resolved}")
    async with case.question() as (session, run, asked):
        with owed():
            answer = await session.respond(str(asked.data["ref"]), "blue")
        body = answer.must_be(200)
        expect(body.get("action") == "respond" and body.get("ok") is True, f"the acknowledgement is {body}")
        with owed("after the action respond"):
            await run.end()


@check("WS-3.abort", faces=WS)
async def the_action_abort(case: Case) -> None:
    """It stops the run."""
    async with case.session() as session, case.held(session) as held:
        with owed():
            answer = await session.abort()
        expect(answer.must_be(202).get("ok") is True, f"the acknowledgement is {answer.body}")
        with owed("after the action abort"):
            end = (await held.run.end())[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "aborted", f"the run ended with {end}")


@check("WS-3.refusals", faces=WS)
async def refused_actions(case: Case) -> None:
    """An action is refused with the error of its route."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        (await socket.act("prompt", text="")).must_be(400, code="bad_request", why="no text")
        (await socket.act("approve", approvalId="never")).must_be(404, code="not_found")
        (await socket.act("respond", ref="never", response="x")).must_be(404, code="not_found")
        text = case.plain()
        session.noted(text)
        (await socket.act("prompt", text=text)).needed(202)


@check("WS-3.read-ticket", faces=WS)
async def only_to_look(case: Case) -> None:
    """With a read ticket events come, and every action is forbidden."""
    async with case.session() as session:
        protocols = ("cmdc.v1", f"cmdc.ticket.{await ticket_of(case, session.path)}")
        async with opened(case.nobody, session.id, session.key, subprotocols=protocols) as socket:
            text = case.plain()
            session.noted(text)
            for action, members in (("prompt", {"text": text}), ("abort", {}), ("approve", {"approvalId": "x"})):
                (await socket.act(action, **members)).must_be(403, code="forbidden", why="the ticket is for reading")
            (await case.http.post(f"{session.path}/prompt", {"text": text})).needed(202)
            with owed("the run, on a WebSocket opened by a read ticket"):
                await socket.end()


@check("WS-3.idempotency", faces=WS)
async def the_same_action_again(case: Case) -> None:
    """The same idempotencyKey is the same action, over HTTP too."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        key, text = case.fresh("idem"), case.plain()
        session.noted(text)
        first = (await socket.act("prompt", text=text, idempotencyKey=key)).must_be(202)
        await socket.end()
        again = (await socket.act("prompt", text=text, idempotencyKey=key)).must_be(202)
        expect(again.get("requestId") == first.get("requestId"), "the same action twice is two requests")
        other = await socket.act("prompt", text=case.plain("Other."), idempotencyKey=key)
        other.must_be(422, code="idempotency_mismatch")
        over_http = await case.http.post(f"{session.path}/prompt", {"text": text}, headers={"Idempotency-Key": key})
        expect(over_http.must_be(202).get("requestId") == first.get("requestId"), "over HTTP it is another request")


@check("WS-4.one", faces=WS)
async def one_acknowledgement_each(case: Case) -> None:
    """Three actions have three acknowledgements, without an event."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        texts = [case.plain() for _ in range(3)]
        for text in texts:
            session.noted(text)
            with owed():
                body = (await socket.act("prompt", text=text)).must_be(202)
            expect("event" not in body, "an acknowledgement has the member event")
        await socket.wait(lambda: sum(event.is_terminal for event in socket.events) == 3, "three runs did not end")
        # A fence: whatever else was to come has come before the answer to this.
        await socket.send(json.dumps({"action": "no_such_action"}))
        await socket.wait(lambda: "error" in socket.acks[-1], "an unknown action was not refused")
        expect(len(socket.acks) == 4, f"four frames have {len(socket.acks)} acknowledgements")


@check("WS-4.before", faces=WS)
async def acknowledged_before(case: Case) -> None:
    """The acknowledgement comes before the first event of what was asked for."""
    for _ in range(3):
        async with case.session() as session, opened(case.http, session.id, session.key) as socket:
            text = case.plain()
            session.noted(text)
            (await socket.act("prompt", text=text)).needed(202)
            await socket.end()
            expect(
                socket.order[0][0] == "ack", f"the first that came was {socket.order[0][1]}, before the acknowledgement"
            )
    async with case.question() as (session, run, asked):
        socket = run.reader
        (await session.respond(str(asked.data["ref"]), "blue")).needed(200)
        await run.end()
        order = getattr(socket, "order", [])
        last_ack = max(index for index, (kind, _) in enumerate(order) if kind == "ack")
        ended = next(index for index, (_, name) in enumerate(order) if name == "tool_execution_end")
        expect(last_ack < ended, "respond was acknowledged after the event that it caused")


@check("WS-4.action-id", faces=WS)
async def actions_have_names(case: Case) -> None:
    """An actionId comes back, in errors too."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        text = case.plain()
        session.noted(text)
        for action, members in (
            ("prompt", {"text": text}),
            ("prompt", {"text": ""}),
            ("approve", {"approvalId": "x"}),
            ("fly", {}),
        ):
            body = (await socket.act(action, actionId="a-1", **members)).body
            expect(body.get("actionId") == "a-1", f"{action} is acknowledged with {body}")
        (await socket.act("prompt", text=text, actionId="x" * 65)).must_be(
            400, code="bad_request", why="over 64 characters"
        )
        body = (await socket.act("prompt", text=text)).needed(202)
        expect("actionId" not in body, f"without an actionId the acknowledgement is {body}")


@check("WS-5.bad-frames", faces=WS)
async def bad_frames(case: Case) -> None:
    """Each bad frame has an error, and the next good one works."""
    async with case.session() as session, opened(case.http, session.id, session.key) as socket:
        bad: list[str | bytes] = [
            *("not json", "[]", '"prompt"', "{}", '{"action": "fly"}', '{"action": 1}', '{"action": "prompt"}'),
            *('{"action": "prompt", "text": 1}', b'{"action": "prompt", "text": "Hi"}', ""),
        ]
        for frame in bad:
            with owed(f"the frame {frame!r}"):
                (await socket.send(frame)).must_be(400, code="bad_request", why=f"the frame {frame!r}")
        text = case.plain()
        session.noted(text)
        with owed("after bad frames"):
            (await socket.act("prompt", text=text)).must_be(202, why="the connection stays open")
            await socket.end()


@check("WS-5.too-big", faces=WS)
async def a_message_that_is_too_big(case: Case) -> None:
    """A message over the limit closes with 1009; one below is read."""
    most = int(case.server.limit("wsMessageBytes", case.target.limits.ws_message_bytes))
    async with case.session() as session:
        async with opened(case.http, session.id, session.key) as socket:
            await socket.raw(json.dumps({"action": "prompt", "text": "x" * most}))
            with owed("after a message that is too big"):
                await socket.closed()
            expect(socket.close_code == 1009, f"the close code is {socket.close_code}")
        async with opened(case.http, session.id, session.key) as socket:
            (await socket.act("fly", padding="x" * (most // 2))).must_be(
                400, code="bad_request", why="it is half as big"
            )


@check("WS-7", faces=WS)
async def too_many_messages(case: Case) -> None:
    """Of eighty at once some are rate_limited; later ones are not, and another connection is not."""
    async with (
        case.session() as session,
        case.session() as other,
        opened(case.http, session.id, session.key) as socket,
        opened(case.http, other.id, other.key) as beside,
    ):
        for _ in range(80):
            await socket.raw('{"action": "fly"}')
        with owed("eighty frames"):
            await socket.wait(lambda: len(socket.acks) >= 80, "not every frame was acknowledged")
        codes = [ack.get("error") for ack in socket.acks]
        expect("rate_limited" in codes, f"80 frames at once were answered {set(codes)}")
        expect(codes.count("bad_request") >= 10, f"only {codes.count('bad_request')} of 80 frames were taken")
        answer = await beside.send('{"action": "fly"}')
        answer.must_be(400, code="bad_request", why="another connection has a rate of its own")
        expect(not socket.ended, "the connection was closed")
        await asyncio.sleep(1.2)
        await socket.raw('{"action": "fly"}')
        await socket.wait(lambda: len(socket.acks) >= 81, "the frame after a pause was not acknowledged")
        expect(socket.acks[80].get("error") == "bad_request", f"after a pause a frame is answered {socket.acks[80]}")

"""WebSockets: authentication, events, actions and their acknowledgements."""

from __future__ import annotations

import asyncio
import json

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import RAW_WS, check
from cmdc_conformance.findings import expect, fails_if_blocked
from cmdc_conformance.wire.websocket import connect_websocket, handshake_response


@check("WS-1.header", variants=RAW_WS)
async def the_key_headers_authenticate(ctx: CheckContext) -> None:
    """Both key headers open a WebSocket."""
    async with ctx.session() as session:
        for headers in ({"X-API-Key": ctx.target.keys.first}, {"Authorization": f"Bearer {ctx.target.keys.first}"}):
            (await handshake_response(ctx.anonymous, session.id, headers=headers)).expect(101, why=", ".join(headers))


@check("WS-1.api-key", variants=RAW_WS)
async def the_api_key_parameter_authenticates(ctx: CheckContext) -> None:
    """?api_key= opens a WebSocket."""
    async with ctx.session() as session:
        (await handshake_response(ctx.anonymous, session.id, api_key=ctx.target.keys.first)).expect(101)
        (await handshake_response(ctx.anonymous, session.id, api_key="wrong")).expect(401, code="unauthorized")


@check("WS-1.ticket", variants=RAW_WS)
async def a_ticket_authenticates_once(ctx: CheckContext) -> None:
    """A ticket opens one WebSocket, with the subprotocol cmdc.v1."""
    async with ctx.session() as session:
        ticket = await ctx.ticket(session.path, "control")
        protocols = ("cmdc.v1", f"cmdc.ticket.{ticket}")
        with fails_if_blocked("with a ticket"):
            async with connect_websocket(ctx.anonymous, session.id, session.key, subprotocols=protocols) as socket:
                spoken = socket.connection.subprotocol
                expect(spoken == "cmdc.v1", f"the subprotocol is {spoken!r}")
                text = ctx.simple_prompt()
                session.announce(text)
                (await socket.act("prompt", text=text)).expect(202, why="the ticket's scope is control")
        again = await handshake_response(ctx.anonymous, session.id, subprotocols=protocols)
        again.expect(401, code="unauthorized", why="the ticket was used before")


@check("WS-1.unauthorized", variants=RAW_WS)
async def bad_credentials_are_rejected(ctx: CheckContext) -> None:
    """A missing or wrong key returns 401 before the upgrade."""
    async with ctx.session() as session:
        (await handshake_response(ctx.anonymous, session.id)).expect(401, code="unauthorized")
        (await handshake_response(ctx.http.with_key("wrong"), session.id)).expect(401, code="unauthorized")
        (await handshake_response(ctx.http, session.id)).expect(101, why="with the key")


@check("WS-1.unknown", variants=RAW_WS)
async def an_unknown_session_is_rejected(ctx: CheckContext) -> None:
    """An unknown session returns 404 before the upgrade."""
    response = await handshake_response(ctx.http, ctx.unique("never"))
    response.expect(404, code="not_found")
    async with ctx.session() as session:
        (await handshake_response(ctx.http, session.id)).require(101)


@check("WS-1.plain", variants=RAW_WS)
async def a_plain_request_is_rejected(ctx: CheckContext) -> None:
    """A GET without an upgrade returns 426."""
    async with ctx.session() as session:
        (await ctx.http.get(f"{session.path}/ws")).expect(426, code="upgrade_required")


@check("WS-1.origin", variants=RAW_WS)
async def a_foreign_origin_is_rejected(ctx: CheckContext) -> None:
    """An origin that is not allowed returns 403. If the target names no origin, the server may allow all."""
    async with ctx.session() as session:
        if ctx.target.origin is None:
            (await handshake_response(ctx.http, session.id, origin="https://foreign.example")).expect(101, 403)
            return
        response = await handshake_response(ctx.http, session.id, origin="https://foreign.example")
        response.expect(403, code="forbidden", why=f"only {ctx.target.origin} is allowed")
        (await handshake_response(ctx.http, session.id, origin=ctx.target.origin)).expect(
            101, why="this origin is allowed"
        )


@check("WS-2.events", variants=RAW_WS)
async def all_events_are_delivered(ctx: CheckContext) -> None:
    """A WebSocket delivers all events after it was opened: those of two runs, in order, and none of an earlier run."""
    async with ctx.session() as session:
        before = ctx.simple_prompt("Before.")
        session.announce(before)
        (await ctx.http.post(f"{session.path}/prompt", {"text": before})).require(202)
        await session.wait_for_state("idle")
        async with connect_websocket(ctx.http, session.id, session.key) as socket:
            texts = [ctx.simple_prompt("One."), ctx.simple_prompt("Two.")]
            for text in texts:
                session.announce(text)
                (await ctx.http.post(f"{session.path}/prompt", {"text": text})).require(202)
            with fails_if_blocked("two runs on the WebSocket"):
                await socket.wait(
                    lambda: sum(event.is_terminal for event in socket.events) >= 2, "two runs did not end"
                )
            received = [event.data["text"] for event in socket.events if event.name == "prompt_received"]
            expect(received == texts, f"the runs received are {received}")
            expect(not socket.ended, "the connection ended after a run")


@check("WS-2.after", variants=RAW_WS)
async def the_after_parameter_resumes(ctx: CheckContext) -> None:
    """?after= resumes right after that event, and after=start delivers everything."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as first:
        text = ctx.simple_prompt("One ", "two.")
        session.announce(text)
        (await first.act("prompt", text=text)).require(202)
        events = await first.wait_for_end()
        for cursor, wanted in ((str(events[2].id), events[3:]), ("start", events)):
            async with connect_websocket(ctx.http, session.id, session.key, after=cursor) as socket:
                with fails_if_blocked(f"after={cursor}"):
                    received = await socket.wait_for_end()
            expect(
                [*map(str, received)] == [*map(str, wanted)],
                f"a WebSocket with after={cursor} has {[event.id for event in received]}",
            )
        response = await handshake_response(ctx.http, session.id, after="x")
        response.expect(400, code="invalid_cursor", why="after=x")
        response = await handshake_response(ctx.http, session.id, after="0000000000.1")
        response.expect(410, code="cursor_expired", why="the cursor belongs to another log")


@check("WS-3.prompt", variants=RAW_WS)
async def the_action_prompt_starts_a_run(ctx: CheckContext) -> None:
    """The action prompt starts a run, which is visible over HTTP too."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        text = ctx.simple_prompt()
        session.announce(text)
        with fails_if_blocked():
            response = await socket.act("prompt", text=text)
        body = response.expect(202)
        expect(body.get("sessionId") == session.id and isinstance(body.get("requestId"), str), f"the answer is {body}")
        expect(body.get("queued") is False, f"queued is {body.get('queued')!r}")
        with fails_if_blocked("after the action prompt"):
            await socket.wait_for_end()
        texts_in_history = [
            each["content"] for each in (await ctx.http.get(f"{session.path}/messages")).require(200)["messages"]
        ]
        expect(texts_in_history[:1] == [text], f"the history is {texts_in_history}")


@check("WS-3.decisions", variants=RAW_WS)
async def the_decision_actions_work(ctx: CheckContext) -> None:
    """The actions approve, reject and respond have the effect of their routes."""
    for action, status in (("approve", "approved"), ("reject", "rejected")):
        async with ctx.pending_approval() as approval:
            with fails_if_blocked():
                response = await approval.session.decide(action, approval.id)  # pyright: ignore[reportArgumentType]
            body = response.expect(200)
            wanted = {"ok": True, "action": action, "approvalId": approval.id}
            expect({name: body.get(name) for name in wanted} == wanted, f"the acknowledgement is {body}")
            with fails_if_blocked(f"after the action {action}"):
                events = await approval.run.wait_for_end()
            resolved = [event.data["status"] for event in events if event.name == "approval_resolved"]
            expect(resolved == [status], f"after {action}, the approval was resolved as {resolved}")
    async with ctx.pending_question() as (session, run, asked):
        with fails_if_blocked():
            response = await session.respond(str(asked.data["ref"]), "blue")
        body = response.expect(200)
        expect(body.get("action") == "respond" and body.get("ok") is True, f"the acknowledgement is {body}")
        with fails_if_blocked("after the action respond"):
            await run.wait_for_end()


@check("WS-3.abort", variants=RAW_WS)
async def the_action_abort_ends_the_run(ctx: CheckContext) -> None:
    """The action abort ends the active run."""
    async with ctx.session() as session, ctx.paused_run(session) as paused:
        with fails_if_blocked():
            response = await session.abort()
        expect(response.expect(202).get("ok") is True, f"the acknowledgement is {response.body}")
        with fails_if_blocked("after the action abort"):
            end = (await paused.run.wait_for_end())[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "aborted", f"the run ended with {end}")


@check("WS-3.refusals", variants=RAW_WS)
async def rejected_actions_have_the_error_of_the_route(ctx: CheckContext) -> None:
    """A rejected action has the error of its route."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        (await socket.act("prompt", text="")).expect(400, code="bad_request", why="no text")
        (await socket.act("approve", approvalId="never")).expect(404, code="not_found")
        (await socket.act("respond", ref="never", response="x")).expect(404, code="not_found")
        text = ctx.simple_prompt()
        session.announce(text)
        (await socket.act("prompt", text=text)).require(202)


@check("WS-3.read-ticket", variants=RAW_WS)
async def a_read_ticket_permits_no_action(ctx: CheckContext) -> None:
    """With a read ticket, events are delivered and every action is forbidden."""
    async with ctx.session() as session:
        protocols = ("cmdc.v1", f"cmdc.ticket.{await ctx.ticket(session.path)}")
        async with connect_websocket(ctx.anonymous, session.id, session.key, subprotocols=protocols) as socket:
            text = ctx.simple_prompt()
            session.announce(text)
            for action, members in (("prompt", {"text": text}), ("abort", {}), ("approve", {"approvalId": "x"})):
                (await socket.act(action, **members)).expect(403, code="forbidden", why="the ticket's scope is read")
            (await ctx.http.post(f"{session.path}/prompt", {"text": text})).require(202)
            with fails_if_blocked("a run on a WebSocket opened with a read ticket"):
                await socket.wait_for_end()


@check("WS-3.idempotency", variants=RAW_WS)
async def an_idempotency_key_works_across_transports(ctx: CheckContext) -> None:
    """Actions with the same idempotencyKey are one request, also across WebSocket and HTTP."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        key, text = ctx.unique("idem"), ctx.simple_prompt()
        session.announce(text)
        first = (await socket.act("prompt", text=text, idempotencyKey=key)).expect(202)
        await socket.wait_for_end()
        again = (await socket.act("prompt", text=text, idempotencyKey=key)).expect(202)
        expect(again.get("requestId") == first.get("requestId"), "the repeated action is a second request")
        other = await socket.act("prompt", text=ctx.simple_prompt("Other."), idempotencyKey=key)
        other.expect(422, code="idempotency_mismatch")
        over_http = await ctx.http.post(f"{session.path}/prompt", {"text": text}, headers={"Idempotency-Key": key})
        expect(
            over_http.expect(202).get("requestId") == first.get("requestId"),
            "the same request over HTTP is a second request",
        )


@check("WS-4.one", variants=RAW_WS)
async def each_action_is_acknowledged_once(ctx: CheckContext) -> None:
    """Three actions have three acknowledgements without a member event."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        texts = [ctx.simple_prompt() for _ in range(3)]
        for text in texts:
            session.announce(text)
            with fails_if_blocked():
                body = (await socket.act("prompt", text=text)).expect(202)
            expect("event" not in body, "an acknowledgement has the member event")
        await socket.wait(lambda: sum(event.is_terminal for event in socket.events) == 3, "three runs did not end")
        # Additional acknowledgements would arrive before that of this message.
        await socket.send(json.dumps({"action": "no_such_action"}))
        await socket.wait(lambda: "error" in socket.acks[-1], "an unknown action was not rejected")
        expect(len(socket.acks) == 4, f"four messages have {len(socket.acks)} acknowledgements")


@check("WS-4.before", variants=RAW_WS)
async def the_acknowledgement_comes_first(ctx: CheckContext) -> None:
    """The acknowledgement arrives before the first event that the action causes."""
    for _ in range(3):
        async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
            text = ctx.simple_prompt()
            session.announce(text)
            (await socket.act("prompt", text=text)).require(202)
            await socket.wait_for_end()
            expect(socket.order[0][0] == "ack", f"{socket.order[0][1]} arrived before the acknowledgement")
    async with ctx.pending_question() as (session, run, asked):
        socket = run.reader
        (await session.respond(str(asked.data["ref"]), "blue")).require(200)
        await run.wait_for_end()
        order = getattr(socket, "order", [])
        last_ack = max(index for index, (kind, _) in enumerate(order) if kind == "ack")
        ended = next(index for index, (_, name) in enumerate(order) if name == "tool_execution_end")
        expect(last_ack < ended, "respond was acknowledged after an event that it caused")


@check("WS-4.action-id", variants=RAW_WS)
async def the_action_id_is_returned(ctx: CheckContext) -> None:
    """An acknowledgement has the actionId of its action, also for errors."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        text = ctx.simple_prompt()
        session.announce(text)
        for action, members in (
            ("prompt", {"text": text}),
            ("prompt", {"text": ""}),
            ("approve", {"approvalId": "x"}),
            ("fly", {}),
        ):
            body = (await socket.act(action, actionId="a-1", **members)).body
            expect(body.get("actionId") == "a-1", f"the acknowledgement of {action} is {body}")
        (await socket.act("prompt", text=text, actionId="x" * 65)).expect(
            400, code="bad_request", why="over 64 characters"
        )
        body = (await socket.act("prompt", text=text)).require(202)
        expect("actionId" not in body, f"the acknowledgement of an action without actionId is {body}")


@check("WS-5.bad-frames", variants=RAW_WS)
async def bad_messages_are_rejected(ctx: CheckContext) -> None:
    """Each bad message has an error, and the connection stays usable."""
    async with ctx.session() as session, connect_websocket(ctx.http, session.id, session.key) as socket:
        bad: list[str | bytes] = [
            *("not json", "[]", '"prompt"', "{}", '{"action": "fly"}', '{"action": 1}', '{"action": "prompt"}'),
            *('{"action": "prompt", "text": 1}', b'{"action": "prompt", "text": "Hi"}', ""),
        ]
        for frame in bad:
            with fails_if_blocked(f"the message {frame!r}"):
                (await socket.send(frame)).expect(400, code="bad_request", why=f"the message {frame!r}")
        text = ctx.simple_prompt()
        session.announce(text)
        with fails_if_blocked("after bad messages"):
            (await socket.act("prompt", text=text)).expect(202, why="the connection stays open")
            await socket.wait_for_end()


@check("WS-5.too-big", variants=RAW_WS)
async def a_message_over_the_limit_closes_the_connection(ctx: CheckContext) -> None:
    """A message over the limit closes the connection with 1009; one below is processed."""
    most = int(ctx.server.limit("wsMessageBytes", ctx.target.limits.ws_message_bytes))
    async with ctx.session() as session:
        async with connect_websocket(ctx.http, session.id, session.key) as socket:
            await socket.send_only(json.dumps({"action": "prompt", "text": "x" * most}))
            with fails_if_blocked("after a message over the limit"):
                await socket.wait_until_closed()
            expect(socket.close_code == 1009, f"the close code is {socket.close_code}")
        async with connect_websocket(ctx.http, session.id, session.key) as socket:
            (await socket.act("fly", padding="x" * (most // 2))).expect(
                400, code="bad_request", why="its size is half the limit"
            )


@check("WS-7", variants=RAW_WS)
async def messages_are_rate_limited(ctx: CheckContext) -> None:
    """Some of 80 messages in a burst are rate_limited; later ones and those of another connection are not."""
    async with (
        ctx.session() as session,
        ctx.session() as other,
        connect_websocket(ctx.http, session.id, session.key) as socket,
        connect_websocket(ctx.http, other.id, other.key) as other_socket,
    ):
        for _ in range(80):
            await socket.send_only('{"action": "fly"}')
        with fails_if_blocked("80 messages"):
            await socket.wait(lambda: len(socket.acks) >= 80, "not every message was acknowledged")
        codes = [ack.get("error") for ack in socket.acks]
        expect("rate_limited" in codes, f"80 messages in a burst have the errors {set(codes)}")
        expect(codes.count("bad_request") >= 10, f"only {codes.count('bad_request')} of 80 messages were processed")
        response = await other_socket.send('{"action": "fly"}')
        response.expect(400, code="bad_request", why="another connection has its own rate limit")
        expect(not socket.ended, "the connection was closed")
        await asyncio.sleep(1.2)
        await socket.send_only('{"action": "fly"}')
        await socket.wait(lambda: len(socket.acks) >= 81, "the message after a pause was not acknowledged")
        expect(socket.acks[80].get("error") == "bad_request", f"the message after a pause has {socket.acks[80]}")

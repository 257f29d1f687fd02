"""The routes one by one: what they answer, and what they do."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

from cmdc_conformance import schemas
from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, ONCE, RAW, VIAS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import Blocked, NotApplicable, NotExercised, expect, need, owed
from cmdc_conformance.session import until_state

# -- the server ----------------------------------------------------------------------------------------------------------


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
    (await case.create(tools=tools)).must_be(201, why="every tool that is declared is offered")
    (await case.create(plugins=[*body["plugins"]])).must_be(201, why="every plugin that is declared is offered")


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


# -- making a session ----------------------------------------------------------------------------------------------------


@check("EP-create.created", faces=VIAS)
async def a_session_is_made(case: Case) -> None:
    """A session is made, and its id told."""
    if case.face.via == "sdk":
        with owed():
            async with case.session() as session:
                expect(session.id, "the session has no id")
        return
    answer = await case.create()
    body = answer.must_be(201)
    expect(isinstance(body.get("sessionId"), str) and body["sessionId"], f"sessionId is {body.get('sessionId')!r}")
    expect(body.get("status") == "created", f"status is {body.get('status')!r}")


@check("EP-create.random-id")
async def ids_are_random(case: Case) -> None:
    """Two sessions get two ids of 32 hex digits."""
    ids = [(await case.create()).needed(201).get("sessionId") for _ in range(2)]
    expect(all(re.fullmatch(r"[0-9a-f]{32}", str(each)) for each in ids), f"an id is {ids[0]!r}")
    expect(ids[0] != ids[1], "two sessions have the same id")


@check("EP-create.chosen-id")
async def ids_can_be_chosen(case: Case) -> None:
    """The id that was asked for is the session's, up to 128 characters of the alphabet."""
    for wanted in (case.fresh("A_z-9"), case.fresh().ljust(128, "x")):
        body = (await case.create(sessionId=wanted)).must_be(201)
        expect(body.get("sessionId") == wanted, f"asked for {wanted}, and got {body.get('sessionId')!r}")
        (await case.http.get(f"/v1/sessions/{wanted}")).must_be(200)


@check("EP-create.exists")
async def an_id_is_taken_once(case: Case) -> None:
    """The second of an id is refused, and the first is as it was."""
    taken = case.fresh()
    (await case.create(sessionId=taken, systemPrompt="the first")).needed(201)
    (await case.create(sessionId=taken, systemPrompt="the second")).must_be(409, code="session_exists")
    (await case.create(sessionId=case.fresh(), systemPrompt="the second")).must_be(201, why="only the id differs")
    messages = (await case.http.get(f"/v1/sessions/{taken}/messages")).needed(200).get("messages")
    expect(messages == [{"role": "system", "content": "the first"}], f"the first session has become {messages}")


@check("EP-create.names")
async def names_have_to_be_offered(case: Case) -> None:
    """What the server does not offer is refused, and the message lists what it does."""
    (await case.create()).needed(201)
    unknown: dict[str, Any] = {
        "model": "nobody:no-such-model",
        "tools": ["no_such_tool"],
        "plugins": ["no_such_plugin"],
        "blueprint": "no-such-blueprint",
        "providerOpts": {"no_such_option": 1},
    }
    for field, value in unknown.items():
        answer = await case.create(**{field: value})
        answer.must_be(422, code="create_failed", why=f"{field} {value!r} is not offered")
        offered = (case.server.declared or {}).get(field, ()) if field in ("tools", "plugins") else ()
        missing = [name for name in offered if name not in answer.message]
        expect(not missing, f"the message about {field} does not list {', '.join(missing)}: {answer.message}")


@check("EP-create.working-dir")
async def the_workspace_is_not_left(case: Case) -> None:
    """A folder outside the workspace is refused; the workspace itself is not."""
    for outside in ("..", "../elsewhere", "/etc", "a/../../b"):
        (await case.create(workingDir=outside)).must_be(422, code="create_failed", why=f"workingDir {outside!r}")
    (await case.create(workingDir=".")).must_be(201, why="this is inside")


@check("EP-create.credentials")
async def addresses_are_the_operators(case: Case) -> None:
    """Addresses and credentials are refused in providerOpts; an option is not."""
    for name in ("api_base", "api_key", "base_url", "headers"):
        value: Any = {"X": "y"} if name == "headers" else "http://127.0.0.1:9/"
        (await case.create(providerOpts={name: value})).must_be(422, code="create_failed", why=f"providerOpts.{name}")
    (await case.create(providerOpts={"temperature": 0.5})).must_be(201, why="this is an option")


@check("EP-create.aliases")
async def module_names_are_understood(case: Case) -> None:
    """The original's module names are names of tools and plugins."""
    for names, alias in (
        ({"tools": ["read_file"]}, {"tools": ["CMDC.Tool.ReadFile"]}),
        ({"tools": ["ask_user"]}, {"tools": ["CMDC.Tool.AskUser"]}),
        ({"plugins": ["human_approval"]}, {"plugins": ["CMDC.Plugin.Builtin.HumanApproval"]}),
    ):
        if (await case.create(**names)).status != 201:
            raise NotApplicable(f"the server does not offer {names}")
        (await case.create(**alias)).must_be(201, why=f"{alias} is {names}")


@check("EP-create.max-turns", faces=EVERY)
async def turns_are_limited(case: Case) -> None:
    """With maxTurns 2 a run that wants three steps is stopped."""
    call = reply(calls=[("get_weather", {"city": "Oslo"})])
    async with case.session(maxTurns=2) as session:
        hosted = await case.register(session)
        events = await session.ran(case.script(call, call, call, reply("Never said.")))
        last = events[-1]
        expect(
            last.name == "agent_abort" and last.data.get("reason") == "max_turns_exceeded",
            f"the run ended with {last.name}, reason {last.data.get('reason')!r}",
        )
        expect(len(hosted.calls) <= 2, f"the tool was called {len(hosted.calls)} times")
    async with case.session(maxTurns=3) as session:
        await case.register(session)
        events = await session.ran(case.script(call, call, reply("Said.")))
        expect(events[-1].name == "agent_end", f"with maxTurns 3, three steps end with {events[-1].name}")


@check("EP-create.system-prompt")
async def the_system_prompt_comes_first(case: Case) -> None:
    """A systemPrompt is the history's first message."""
    async with case.session(systemPrompt="You are brief.") as session:
        history = await session.history()
        expect(
            history[:1] == [{"role": "system", "content": "You are brief."}], f"the history begins with {history[:1]}"
        )
    async with case.session() as session:
        expect(await session.history() == [], "without one, the history of a new session is not empty")


@check("EP-create.metadata")
async def metadata_comes_back(case: Case) -> None:
    """What metadata says is given back as it was."""
    metadata = {"user": "42", "note": "ä €"}
    async with case.session(metadata=metadata) as session:
        info = (await session.info()).needed(200)
        expect(info.get("metadata") == metadata, f"metadata is {info.get('metadata')}")
    many = {str(number): "x" for number in range(17)}
    (await case.create(metadata=many)).must_be(400, why="more than 16")
    del many["16"]
    (await case.create(metadata=many)).must_be(201, why="16 are allowed")


# -- looking at it -------------------------------------------------------------------------------------------------------


@check("EP-session.get", faces=VIAS)
async def a_session_tells_of_itself(case: Case) -> None:
    """A new session is idle and has done nothing."""
    async with case.session() as session:
        body = (await session.info()).must_be(200)
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("state") == "idle", f"state is {body.get('state')!r}")
        figures = {name: body.get(name) for name in ("turns", "toolCalls", "totalTokens")}
        expect(all(value == 0 for value in figures.values()), f"a new session has {figures}")
        uptime = body.get("uptimeMs")
        expect(isinstance(uptime, int) and 0 <= uptime < 600_000, f"uptimeMs is {uptime!r}")


def session_routes(case: Case, session: str) -> list[tuple[str, str, Any]]:
    """Every route of a session, with a body that is right in itself."""
    path = f"/v1/sessions/{session}"
    base: list[tuple[str, str, Any]] = [
        ("GET", path, None),
        ("POST", f"{path}/prompt", {"text": "Hi"}),
        ("POST", f"{path}/approve", {"approvalId": "apr_1"}),
        ("POST", f"{path}/reject", {"approvalId": "apr_1"}),
        ("POST", f"{path}/respond", {"ref": "ask_1", "response": "x"}),
        ("POST", f"{path}/tools", case.tool("get_weather", "http://127.0.0.1:9/x")),
        ("GET", f"{path}/messages", None),
        ("GET", f"{path}/stats", None),
        ("GET", f"{path}/events", None),
    ]
    more: dict[str, list[tuple[str, str, Any]]] = {
        "abort": [("POST", f"{path}/abort", {})],
        "tickets": [("POST", f"{path}/tickets", {"scope": "read"})],
        "tool_list": [("GET", f"{path}/tools", None), ("DELETE", f"{path}/tools/get_weather", None)],
    }
    base += [each for feature, those in more.items() if case.has(feature) for each in those]
    return [*base, ("DELETE", path, None)]


@check("EP-session.unknown")
async def an_unknown_session(case: Case) -> None:
    """An id that was never used is 404 on every route, and the message names it."""
    unknown = case.fresh("never")
    for method, path, body in session_routes(case, unknown):
        if path.endswith("/events"):
            answer = await case.http.refused(path)
        else:
            answer = await case.http.request(method, path, body)
        answer.must_be(404, code="not_found")
        expect(unknown in answer.message, f"{method} {path}: the message does not name the id: {answer.message!r}")
    (await case.create(sessionId=unknown)).needed(201)
    (await case.http.get(f"/v1/sessions/{unknown}")).must_be(200, why="now it is there")


@check("EP-session.counts", faces=EVERY)
async def turns_and_calls_are_counted(case: Case) -> None:
    """Two steps with one call are turns 2, toolCalls 1."""
    async with case.session() as session:
        await case.register(session)
        call = [("get_weather", {"city": "Oslo"})]
        await session.ran(case.script(reply(calls=call, usage=(5, 3)), reply("It snows.", usage=(7, 2))))
        info = (await session.info()).needed(200)
        expect(info.get("turns") == 2, f"after two model calls turns is {info.get('turns')}")
        expect(info.get("toolCalls") == 1, f"after one tool call toolCalls is {info.get('toolCalls')}")
        expect(info.get("totalTokens") == 17, f"after 17 tokens totalTokens is {info.get('totalTokens')}")


@check("EP-session.state", faces=RAW)
async def the_state_is_told(case: Case) -> None:
    """While a run is active the state is working, and after it idle."""
    async with case.session() as session, case.held(session) as held:
        state = (await session.info()).needed(200).get("state")
        expect(state == "working", f"while a tool runs the state is {state!r}")
        held.release()
        await held.run.end()
        with owed("after the run"):
            await session.state("idle")


@check("EP-session.queue")
async def the_queue_is_told(case: Case) -> None:
    """Prompts that wait are listed in order."""
    async with case.session() as session, case.held(session) as held:
        texts = [case.plain("One."), case.plain("Two.")]
        for text in texts:
            session.noted(text)
        accepted = [(await session.prompt(text)).needed(202) for text in texts]
        wanted = [{"requestId": each["requestId"], "text": text} for each, text in zip(accepted, texts, strict=True)]
        queue = (await session.info()).needed(200).get("queue")
        expect(queue == wanted, f"queue is {queue}, and should be {wanted}")
        held.release()


@check("EP-session.cursor")
async def the_end_of_the_log_is_told(case: Case) -> None:
    """The cursor is the id of the last event."""
    async with case.session() as session:
        events = await session.ran(case.plain())
        cursor = (await session.info()).needed(200).get("cursor")
        expect(cursor == events[-1].id, f"cursor is {cursor!r}, and the last event was {events[-1].id}")


@check("EP-session.pending", faces=RAW)
async def what_waits_is_told(case: Case) -> None:
    """Both pendingApprovals and pendingQuestions have the data of the events."""
    async with case.waiting_call() as waiting:
        info = (await waiting.session.info()).needed(200)
        pending = info.get("pendingApprovals")
        expect(
            pending == [waiting.required.data],
            f"pendingApprovals is {pending}, and the event was {waiting.required.data}",
        )
    async with case.question() as (session, _, asked):
        pending = (await session.info()).needed(200).get("pendingQuestions")
        expect(pending == [asked.data], f"pendingQuestions is {pending}, and the event was {asked.data}")


# -- lists ---------------------------------------------------------------------------------------------------------------


async def _several(case: Case, number: int) -> list[str]:
    ids: list[str] = []
    for _ in range(number):
        ids.append(case.fresh("listed"))
        (await case.create(sessionId=ids[-1])).needed(201)
        await asyncio.sleep(0.005)  # times are told in ms
    return ids


async def _listed(case: Case, *, limit: int, until: set[str]) -> list[str]:
    """The ids of the list, page by page, until those that are looked for have come."""
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(500):
        page = (
            await case.http.get(f"/v1/sessions?limit={limit}{f'&cursor={quote(cursor)}' if cursor else ''}")
        ).must_be(200)
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(len(ids) <= limit, f"a page of {limit} has {len(ids)}")
        seen += ids
        cursor = page["nextCursor"]
        if cursor is None or until <= set(seen):
            break
    return seen


@check("EP-list.newest-first")
async def the_newest_are_first(case: Case) -> None:
    """Sessions are listed from the newest on."""
    ids = await _several(case, 3)
    seen = [each for each in await _listed(case, limit=200, until=set(ids)) if each in ids]
    expect(seen == ids[::-1], f"made in the order {ids}, and listed as {seen}")


@check("EP-list.pages")
async def pages_of_sessions(case: Case) -> None:
    """Small pages have every session once."""
    ids = await _several(case, 5)
    seen = await _listed(case, limit=2, until=set(ids))
    expect(set(ids) <= set(seen), f"the pages lack {set(ids) - set(seen)}")
    expect(len(seen) == len(set(seen)), "the pages have a session twice")


@check("EP-list.state")
async def sessions_in_one_state(case: Case) -> None:
    """?state= lists those in this state."""
    async with case.session() as idle, case.question() as (asking, _, _):
        await asking.state("waiting_input")
        page = (await case.http.get("/v1/sessions?state=waiting_input&limit=1000")).must_be(200)
        ids = [each["sessionId"] for each in page["sessions"]]
        expect(asking.id in ids, "a session that waits for an answer is not listed as waiting_input")
        expect(idle.id not in ids, "an idle session is listed as waiting_input")
    (await case.http.get("/v1/sessions?state=asleep")).must_be(400, why="there is no such state")


# -- deleting ------------------------------------------------------------------------------------------------------------


@check("EP-delete.deleted", faces=VIAS)
async def a_session_is_deleted(case: Case) -> None:
    """Deleted is gone, on every route."""
    async with case.session() as session:
        body = (await case.http.delete(session.path)).must_be(200)
        expect(body == {"sessionId": session.id, "status": "deleted"}, f"the answer is {body}")
        for path in ("", "/messages", "/stats"):
            (await case.http.get(session.path + path)).must_be(404, code="not_found")


@check("EP-delete.again")
async def a_session_is_deleted_once(case: Case) -> None:
    """Deleting again is 404."""
    async with case.session() as session:
        (await case.http.delete(session.path)).needed(200)
        (await case.http.delete(session.path)).must_be(404, code="not_found")


@check("EP-delete.readers", faces=RAW)
async def readers_are_told(case: Case) -> None:
    """Readers get agent_abort, reason session_deleted, and then the end."""
    async with case.session() as session, case.held(session) as held:
        (await case.http.delete(session.path)).needed(200)
        with owed("after the session was deleted"):
            events = await held.run.end()
            expect(
                events[-1].name == "agent_abort" and events[-1].data.get("reason") == "session_deleted",
                f"the run ended with {events[-1].name}, reason {events[-1].data.get('reason')!r}",
            )
            await held.run.reader.closed()


@check("EP-delete.forgets")
async def nothing_is_left(case: Case) -> None:
    """A new session of the same id begins with nothing."""
    same = case.fresh()
    async with case.session(sessionId=same) as session:
        await case.register(session)
        await session.ran(case.plain())
    case.watch.monitors.forget(session.key)
    async with case.session(sessionId=same) as session:
        info = (await session.info()).needed(200)
        expect(info.get("turns") == 0, f"a new session of the same id has turns {info.get('turns')}")
        expect(await session.history() == [], "a new session of the same id has the old history")
        if case.has("tool_list"):
            tools = (await case.http.get(f"{session.path}/tools")).needed(200).get("tools")
            expect(tools == [], f"a new session of the same id has the tools {tools}")
        text = case.plain()
        events = await session.ran(text)
        expect(events[0].data.get("text") == text, "a reader of the new session gets the old run")


# -- prompts -------------------------------------------------------------------------------------------------------------


@check("EP-prompt.accepted", faces=EVERY)
async def a_prompt_is_accepted(case: Case) -> None:
    """A prompt is answered with its requestId, and its run begins."""
    async with case.session() as session, session.reading() as reader:
        text = case.plain()
        session.noted(text)
        answer = await session.prompt(text)
        body = answer.must_be(202)
        expect(isinstance(body.get("requestId"), str) and body["requestId"], f"requestId is {body.get('requestId')!r}")
        expect(body.get("sessionId") == session.id, f"sessionId is {body.get('sessionId')!r}")
        expect(body.get("queued") is False, f"queued is {body.get('queued')!r}, and nothing else runs")
        with owed("after the prompt"):
            events = await reader.end()
        expect(events[0].name == "prompt_received", f"the run begins with {events[0].name}")
        expect(events[0].data.get("text") == text, f"the run begins with the text {events[0].data.get('text')!r:.200}")


@check("EP-prompt.empty", faces=VIAS)
async def an_empty_prompt(case: Case) -> None:
    """No text is 400, and no run."""
    async with case.session() as session:
        (await session.prompt("")).must_be(400, code="bad_request")
        (await case.http.post(f"{session.path}/prompt", {})).must_be(400, code="bad_request")
        expect(await session.history() == [], "a refused prompt is in the history")
        (await session.prompt(case.plain())).must_be(202, why="this one has a text")


@check("EP-prompt.queued", faces=RAW)
async def a_prompt_is_queued(case: Case) -> None:
    """While a run is active a prompt is queued."""
    async with case.session() as session, case.held(session) as held:
        text = case.plain()
        session.noted(text)
        queued = (await session.prompt(text)).must_be(202).get("queued")
        expect(queued is True, f"queued is {queued!r} while another run is active")
        held.release()


@check("EP-prompt.fifo", faces=RAW)
async def prompts_are_taken_up_in_order(case: Case) -> None:
    """Four prompts are four runs, one after the other."""
    async with case.session() as session, case.held(session) as held:
        texts = [case.plain(f"{number}.") for number in range(3)]
        for text in texts:
            session.noted(text)
            answer = await session.prompt(text)
            answer.needed(202)
        held.release()
        with owed("after the queue was let go"):
            if case.face.transport == "ws":
                await held.run.reader.wait(
                    lambda: sum(event.is_terminal for event in held.run.reader.events) == 4, "four runs did not end"
                )
                said = [event.data["text"] for event in held.run.reader.events if event.name == "prompt_received"]
            else:
                said = await _user_messages(session.http, session.path, 4)
        expect(said == [held.text, *texts], f"the runs came in the order {[each[:60] for each in said]}")


async def _user_messages(http: Any, path: str, number: int) -> list[str]:
    """What the user said, once so many prompts were taken up and their runs are over."""
    try:
        async with asyncio.timeout(http.deadline):
            while True:
                await until_state(http, path, "idle")
                messages = (await http.get(f"{path}/messages")).needed(200)["messages"]
                said = [each["content"] for each in messages if each["role"] == "user"]
                if len(said) >= number:
                    return said
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise Blocked(f"the history did not come to {number} prompts") from None


@check("EP-prompt.queue-full")
async def the_queue_is_full(case: Case) -> None:
    """One more than may wait is 429 queue_full."""
    most = int(case.server.limit("queuedPrompts", case.target.limits.queued_prompts))
    if most > 1000:
        raise NotExercised(f"{most} prompts may wait: too many to try")
    async with case.session() as session, case.held(session) as held:
        for _ in range(most):
            (await session.prompt("Wait.")).needed(202)
        answer = await case.http.post(f"{session.path}/prompt", {"text": "One too many."}, patient=False)
        answer.must_be(429, code="queue_full", why=f"{most} wait already")
        if case.has("capabilities"):
            queue = (await session.info()).needed(200).get("queue", [])
            expect(len(queue) == most, f"{most} prompts were accepted, and {len(queue)} wait")
        del held


@check("EP-prompt.cursor")
async def the_cursor_of_a_prompt(case: Case) -> None:
    """Reading from the cursor of the answer begins with the run."""
    async with case.session() as session:
        await session.ran(case.plain())
        text = case.plain()
        session.noted(text)
        answer = await session.prompt(text)
        cursor = answer.must_be(202).get("cursor")
        expect(isinstance(cursor, str), f"cursor is {cursor!r}")
        async with case.http.events(session.id, session.key, after=str(cursor)) as reader:
            with owed("after the cursor of the prompt"):
                events = await reader.end()
        expect(events[0].name == "prompt_received" and events[0].data["text"] == text, f"it begins with {events[0]}")


# -- figures -------------------------------------------------------------------------------------------------------------


@check("EP-stats", faces=VIAS)
async def stats(case: Case) -> None:
    """The figures are this session's, and add up."""
    async with case.session() as session:
        body = (await session.stats()).must_be(200)
        expect(body.get("promptCount") == 0 and body.get("totalTokens") == 0, f"a new session has the stats {body}")
        for _ in range(2):
            text = case.script(reply("Hello.", usage=(11, 4)))
            session.noted(text)
            (await session.prompt(text)).needed(202)
        await _user_messages(case.http, session.path, 2)
        body = (await session.stats()).must_be(200)
        usage = {"promptTokens": 22, "completionTokens": 8, "totalTokens": 30}
        expect(body.get("tokenUsage") == usage, f"tokenUsage is {body.get('tokenUsage')}, and should be {usage}")
        expect(body.get("totalTokens") == 30, f"totalTokens is {body.get('totalTokens')}")
        expect(body.get("turns") == 2, f"turns is {body.get('turns')} after two model calls")
        expect(body.get("promptCount") == 2, f"promptCount is {body.get('promptCount')} after two prompts")
        expect(isinstance(body.get("costUsd"), int | float), f"costUsd is {body.get('costUsd')!r}")


@check("EP-usage.figures", when="alone")
async def usage(case: Case) -> None:
    """The tenant's figures and the key's grow by what a run used."""
    before = (await case.http.get("/v1/usage")).must_be(200)
    async with case.session() as session:
        await session.ran(case.script(reply("Hello.", usage=(11, 4))))
    after = (await case.http.get("/v1/usage")).must_be(200)
    grown = {name: after["total"][name] - before["total"][name] for name in ("promptCount", "totalTokens")}
    expect(grown == {"promptCount": 1, "totalTokens": 15}, f"a run of 15 tokens added {grown} to the tenant")
    of_keys = {name: sum(key[name] for key in after["keys"]) for name in ("promptCount", "totalTokens")}
    total = {name: after["total"][name] for name in of_keys}
    expect(of_keys == total, f"the keys add up to {of_keys}, and the total is {total}")


@check("EP-usage.key-id")
async def key_ids(case: Case) -> None:
    """No keyId has a part of a key in it."""
    async with case.session() as session:
        await session.ran(case.plain())
    for key in (await case.http.get("/v1/usage")).must_be(200)["keys"]:
        for secret in case.target.keys.secrets:
            parts = {secret[at : at + 8] for at in range(max(1, len(secret) - 7))} if len(secret) >= 8 else {secret}
            expect(not any(part in key["keyId"] for part in parts), "a keyId holds a part of a key")


# -- history -------------------------------------------------------------------------------------------------------------


@check("EP-messages.history", faces=EVERY)
async def the_history(case: Case) -> None:
    """What was said is there in order."""
    async with case.session() as session:
        texts = [case.script(reply("Hel", "lo.")), case.script(reply("Again."))]
        for text in texts:
            await session.ran(text)
        wanted = [(texts[0], "Hello."), (texts[1], "Again.")]
        history = await session.history()
        said = [(each["role"], each["content"]) for each in history]
        expect(
            said == [pair for ask, answer in wanted for pair in (("user", ask), ("assistant", answer))],
            f"the history is {said}",
        )


@check("EP-messages.tools")
async def calls_in_the_history(case: Case) -> None:
    """A call and its result are both there."""
    async with case.session() as session:
        await case.register(session)
        await session.ran(case.script(reply("Wait. ", calls=[("get_weather", {"city": "Oslo"})]), reply("Sunny.")))
        history = await session.history()
        expect(
            [each["role"] for each in history] == ["user", "assistant", "tool_result", "assistant"],
            f"the history is {history}",
        )
        asked, result = history[1], history[2]
        calls: Any = asked.get("toolCalls")
        need(isinstance(calls, list), f"toolCalls is {calls}")
        expect(len(calls) == 1, f"toolCalls is {calls}")
        expect(
            calls[0].get("name") == "get_weather" and calls[0].get("arguments") == {"city": "Oslo"},
            f"the call is {calls[0]}",
        )
        expect(
            result.get("callId") == calls[0].get("callId"),
            f"the result is of {result.get('callId')}, the call is {calls[0].get('callId')}",
        )
        expect(result.get("content") == "sunny" and result.get("isError") is False, f"the result is {result}")
        expect(result.get("name") == "get_weather", f"the result's name is {result.get('name')!r}")


@check("EP-messages.aborted", faces=RAW)
async def text_that_was_seen_stays(case: Case) -> None:
    """The text of a stopped run is in the history."""
    async with case.session() as session:
        async with session.run(case.script(reply("One ", "two ", "three", delay_ms=400))) as run:
            await run.until("message_delta")
            (await session.abort()).needed(202)
            events = await run.end()
        need(events[-1].name == "agent_abort", f"the run ended with {events[-1].name} before it could be stopped")
        seen = "".join(event.data["delta"] for event in events if event.name == "message_delta")
        last = (await session.history())[-1]
        expect(
            last.get("role") == "assistant" and last.get("content") == seen,
            f"readers saw {seen!r}, and the history ends with {last}",
        )


@check("EP-messages.pages")
async def pages_of_messages(case: Case) -> None:
    """Pages have every message once, in order."""
    async with case.session() as session:
        for _ in range(3):
            await session.ran(case.plain())
        whole = await session.history()
        paged: list[Any] = []
        cursor: str | None = None
        for _ in range(10):
            query = f"?limit=2{f'&cursor={quote(cursor)}' if cursor else ''}"
            page = (await case.http.get(f"{session.path}/messages{query}")).must_be(200)
            expect(len(page["messages"]) <= 2, f"a page of 2 has {len(page['messages'])}")
            paged += page["messages"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        expect(paged == whole, f"the pages add up to {len(paged)} messages, and there are {len(whole)}")
        (await case.http.get(f"{session.path}/messages?limit=0")).must_be(400, why="limit is at least 1")


# -- aborting ------------------------------------------------------------------------------------------------------------


@check("EP-abort.active", faces=EVERY)
async def a_run_is_stopped(case: Case) -> None:
    """An active run ends with agent_abort, reason aborted."""
    async with case.session() as session, case.held(session) as held:
        body = (await session.abort()).must_be(202)
        expect(body.get("ok") is True, f"ok is {body.get('ok')!r}")
        with owed("after the abort"):
            end = (await held.run.end())[-1]
        expect(end.name == "agent_abort" and end.data.get("reason") == "aborted", f"the run ended with {end}")


@check("EP-abort.reason", faces=RAW)
async def a_run_is_stopped_for_a_reason(case: Case) -> None:
    """The reason that was given is the event's."""
    async with case.session() as session, case.held(session) as held:
        (await session.abort(reason="changed my mind")).must_be(202)
        with owed("after the abort"):
            end = (await held.run.end())[-1]
        expect(end.data.get("reason") == "changed my mind", f"the run ended with {end}")


@check("EP-abort.idle", faces=EVERY)
async def nothing_is_stopped(case: Case) -> None:
    """Where nothing is active nothing is stopped."""
    async with case.session() as session:
        answer = await session.abort()
        answer.must_be(200)
        expect(answer.body.get("ok") is False, f"ok is {answer.body.get('ok')!r}")


@check("EP-abort.queue")
async def the_queue_goes_on(case: Case) -> None:
    """The prompt that waited runs after the abort."""
    async with case.session() as session, case.held(session) as held:
        text = case.plain("Next.")
        session.noted(text)
        (await session.prompt(text)).needed(202)
        (await session.abort()).needed(202)
        with owed("after the abort"):
            said = await _user_messages(case.http, session.path, 2)
        expect(said == [held.text, text], f"the prompts were {[each[:60] for each in said]}")
        last = (await session.history())[-1]
        expect(last.get("content") == "Next.", f"the history ends with {last}")


# -- tickets -------------------------------------------------------------------------------------------------------------


@check("EP-tickets.issued", faces=ONCE)
async def tickets(case: Case) -> None:
    """A ticket is random, and good for 30 seconds."""
    import time  # noqa: PLC0415 - the one place that needs the time of day

    async with case.session() as session:
        issued = [
            (await case.http.post(f"{session.path}/tickets", {"scope": "read"}, secret=True)).must_be(201)
            for _ in range(2)
        ]
        expect(issued[0]["ticket"] != issued[1]["ticket"], "two tickets are the same")
        expect(len(str(issued[0]["ticket"])) >= 22, "a ticket is too short to be random")
        left = issued[0]["expiresAt"] - time.time() * 1000
        expect(5_000 < left < 60_000, f"expiresAt is {left / 1000:.0f} s from now")
        (await case.http.post(f"{session.path}/tickets", {"scope": "everything"})).must_be(
            400, why="there is no such scope"
        )


async def ticket_of(case: Case, path: str, scope: str = "read") -> str:
    """A new ticket of a session. Raises Blocked."""
    return str((await case.http.post(f"{path}/tickets", {"scope": scope}, secret=True)).needed(201)["ticket"])


@check("EP-tickets.single-use")
async def a_ticket_is_used_once(case: Case) -> None:
    """The second use is 401."""
    async with case.session() as session:
        path = f"{session.path}/events?ticket={await ticket_of(case, session.path)}"
        async with case.nobody.opened(path) as response:
            need(response.status_code == 200, f"a ticket is answered {response.status_code}")
        (await case.nobody.refused(path)).must_be(401, code="unauthorized", why="the ticket was used")


@check("EP-tickets.one-session")
async def a_ticket_is_of_one_session(case: Case) -> None:
    """A ticket of one session does not open another."""
    async with case.session() as one, case.session() as other:
        ticket = await ticket_of(case, one.path)
        (await case.nobody.refused(f"{other.path}/events?ticket={ticket}")).must_be(
            401, 404, why="it is of another session"
        )
        ticket = await ticket_of(case, one.path)
        async with case.nobody.opened(f"{one.path}/events?ticket={ticket}") as response:
            expect(response.status_code == 200, f"its own session answers {response.status_code}")


# -- tools ---------------------------------------------------------------------------------------------------------------


@check("EP-tools.list")
async def tools_are_listed(case: Case) -> None:
    """A registered tool is listed as it was registered, without its secret."""
    async with case.session() as session:
        hosted = case.suite.callbacks.host()
        secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
        case.watch.evidence.add_secret(secret)
        (await session.register(case.tool("get_weather", hosted, secret=secret))).needed(201)
        tools: Any = (await case.http.get(f"{session.path}/tools")).must_be(200).get("tools")
        need(isinstance(tools, list), f"the tools are {tools}")
        expect(len(tools) == 1, f"the tools are {tools}")
        tool: Any = tools[0]
        expect(tool.get("name") == "get_weather" and tool.get("kind") == "callback", f"the tool is {tool}")
        expect(tool.get("callbackUrl") == hosted.url, f"callbackUrl is {tool.get('callbackUrl')!r}")
        expect("secret" not in tool and secret not in str(tool), "a secret is listed")


@check("EP-tools.remove")
async def a_tool_is_removed(case: Case) -> None:
    """A tool that was removed is not called any more."""
    async with case.session() as session:
        hosted = await case.register(session)
        path = f"{session.path}/tools/get_weather"
        body = (await case.http.delete(path)).must_be(200)
        expect(body == {"name": "get_weather", "status": "removed"}, f"the answer is {body}")
        (await case.http.delete(path)).must_be(404, code="not_found")
        await session.ran(case.script(reply(calls=[("get_weather", {"city": "Oslo"})])))
        expect(not hosted.calls, "a tool that was removed is called")


__all__ = ["session_routes", "ticket_of"]

"""Making sessions."""

from __future__ import annotations

import re
from typing import Any

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, VIAS, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import NotApplicable, expect, owed


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
        body = (await case.create(sessionId=wanted)).must_be(200, 201)
        expect(body.get("sessionId") == wanted, f"asked for {wanted}, and got {body.get('sessionId')!r}")
        (await case.http.get(f"/v1/sessions/{wanted}")).must_be(200)


@check("EP-create.exists")
async def an_id_is_taken_once(case: Case) -> None:
    """The second of an id is refused, and the first is as it was."""
    taken = case.fresh()
    (await case.create(sessionId=taken, systemPrompt="the first")).needed(201)
    (await case.create(sessionId=taken, systemPrompt="the second")).must_be(409, code="session_exists")
    (await case.create(sessionId=case.fresh(), systemPrompt="the second")).needed(201)
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
    (await case.create(workingDir=".")).needed(201)


@check("EP-create.credentials")
async def addresses_are_the_operators(case: Case) -> None:
    """Addresses and credentials are refused in providerOpts; an option is not."""
    for name in ("api_base", "api_key", "base_url", "headers"):
        value: Any = {"X": "y"} if name == "headers" else "http://127.0.0.1:9/"
        (await case.create(providerOpts={name: value})).must_be(422, code="create_failed", why=f"providerOpts.{name}")
    (await case.create(providerOpts={"temperature": 0.5})).needed(201)


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
        (await case.create(**alias)).must_be(200, 201, why=f"{alias} is {names}")


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
    (await case.create(metadata=many)).needed(201)

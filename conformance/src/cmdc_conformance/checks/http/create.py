"""Creating sessions."""

from __future__ import annotations

import re
from typing import Any

from cmdc_conformance.checks.context import CheckContext
from cmdc_conformance.checks.registry import ALL_VARIANTS, RAW_AND_SDK, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import NotApplicable, expect, fails_if_blocked


@check("EP-create.created", variants=RAW_AND_SDK)
async def a_session_is_created(ctx: CheckContext) -> None:
    """POST /v1/sessions returns 201 with the id of the session."""
    if ctx.variant.via == "sdk":
        with fails_if_blocked():
            async with ctx.session() as session:
                expect(session.id, "the session has no id")
        return
    response = await ctx.create()
    body = response.expect(201)
    expect(isinstance(body.get("sessionId"), str) and body["sessionId"], f"sessionId is {body.get('sessionId')!r}")
    expect(body.get("status") == "created", f"status is {body.get('status')!r}")


@check("EP-create.random-id")
async def ids_are_random(ctx: CheckContext) -> None:
    """Two sessions have different ids of 32 hex digits."""
    ids = [(await ctx.create()).require(201).get("sessionId") for _ in range(2)]
    expect(all(re.fullmatch(r"[0-9a-f]{32}", str(each)) for each in ids), f"an id is {ids[0]!r}")
    expect(ids[0] != ids[1], "two sessions have the same id")


@check("EP-create.chosen-id")
async def ids_can_be_chosen(ctx: CheckContext) -> None:
    """A session has the requested id, up to 128 characters."""
    for wanted in (ctx.unique("A_z-9"), ctx.unique().ljust(128, "x")):
        body = (await ctx.create(sessionId=wanted)).expect(200, 201)
        expect(body.get("sessionId") == wanted, f"sessionId is {body.get('sessionId')!r}, requested was {wanted}")
        (await ctx.http.get(f"/v1/sessions/{wanted}")).expect(200)


@check("EP-create.exists")
async def an_existing_id_is_rejected(ctx: CheckContext) -> None:
    """A second session with the same id returns 409, and the first is unchanged."""
    taken = ctx.unique()
    (await ctx.create(sessionId=taken, systemPrompt="the first")).require(201)
    (await ctx.create(sessionId=taken, systemPrompt="the second")).expect(409, code="session_exists")
    (await ctx.create(sessionId=ctx.unique(), systemPrompt="the second")).require(201)
    messages = (await ctx.http.get(f"/v1/sessions/{taken}/messages")).require(200).get("messages")
    expect(
        messages == [{"role": "system", "content": "the first"}], f"the first session now has the messages {messages}"
    )


@check("EP-create.names")
async def unavailable_names_are_rejected(ctx: CheckContext) -> None:
    """An unavailable model, tool, plugin or blueprint returns 422 with a message that lists the available ones."""
    (await ctx.create()).require(201)
    unknown: dict[str, Any] = {
        "model": "nobody:no-such-model",
        "tools": ["no_such_tool"],
        "plugins": ["no_such_plugin"],
        "blueprint": "no-such-blueprint",
        "providerOpts": {"no_such_option": 1},
    }
    for field, value in unknown.items():
        response = await ctx.create(**{field: value})
        response.expect(422, code="create_failed", why=f"{field} {value!r} is not available")
        available = (ctx.server.declared or {}).get(field, ()) if field in ("tools", "plugins") else ()
        missing = [name for name in available if name not in response.message]
        expect(not missing, f"the message about {field} does not list {', '.join(missing)}: {response.message}")


@check("EP-create.working-dir")
async def the_working_directory_is_inside_the_workspace(ctx: CheckContext) -> None:
    """A workingDir outside the workspace returns 422; the workspace itself is accepted."""
    for outside in ("..", "../elsewhere", "/etc", "a/../../b"):
        (await ctx.create(workingDir=outside)).expect(422, code="create_failed", why=f"workingDir {outside!r}")
    (await ctx.create(workingDir=".")).require(201)


@check("EP-create.credentials")
async def credentials_are_rejected(ctx: CheckContext) -> None:
    """Addresses and credentials in providerOpts return 422; a model option is accepted."""
    for name in ("api_base", "api_key", "base_url", "headers"):
        value: Any = {"X": "y"} if name == "headers" else "http://127.0.0.1:9/"
        (await ctx.create(providerOpts={name: value})).expect(422, code="create_failed", why=f"providerOpts.{name}")
    (await ctx.create(providerOpts={"temperature": 0.5})).require(201)


@check("EP-create.aliases")
async def module_names_are_aliases(ctx: CheckContext) -> None:
    """The module names of the original implementation are aliases of tools and plugins."""
    for settings, alias in (
        ({"tools": ["read_file"]}, {"tools": ["CMDC.Tool.ReadFile"]}),
        ({"tools": ["ask_user"]}, {"tools": ["CMDC.Tool.AskUser"]}),
        ({"plugins": ["human_approval"]}, {"plugins": ["CMDC.Plugin.Builtin.HumanApproval"]}),
    ):
        if (await ctx.create(**settings)).status != 201:
            raise NotApplicable(f"the server does not have {settings}")
        (await ctx.create(**alias)).expect(200, 201, why=f"{alias} is an alias of {settings}")


@check("EP-create.max-turns", variants=ALL_VARIANTS)
async def model_calls_are_limited(ctx: CheckContext) -> None:
    """With maxTurns 2, a run that needs three model calls is aborted."""
    call = reply(calls=[("get_weather", {"city": "Oslo"})])
    async with ctx.session(maxTurns=2) as session:
        hosted = await ctx.register(session)
        events = await session.run_to_end(ctx.script(call, call, call, reply("Not reached.")))
        last = events[-1]
        expect(
            last.name == "agent_abort" and last.data.get("reason") == "max_turns_exceeded",
            f"the run ended with {last.name}, reason {last.data.get('reason')!r}",
        )
        expect(len(hosted.calls) <= 2, f"the tool was called {len(hosted.calls)} times")
    async with ctx.session(maxTurns=3) as session:
        await ctx.register(session)
        events = await session.run_to_end(ctx.script(call, call, reply("Reached.")))
        expect(
            events[-1].name == "agent_end", f"with maxTurns 3, a run of three model calls ends with {events[-1].name}"
        )


@check("EP-create.system-prompt")
async def the_system_prompt_comes_first(ctx: CheckContext) -> None:
    """A systemPrompt is the first message of the history."""
    async with ctx.session(systemPrompt="You are brief.") as session:
        history = await session.history()
        expect(
            history[:1] == [{"role": "system", "content": "You are brief."}], f"the history begins with {history[:1]}"
        )
    async with ctx.session() as session:
        expect(await session.history() == [], "without a systemPrompt, the history of a new session is not empty")


@check("EP-create.metadata")
async def metadata_is_returned(ctx: CheckContext) -> None:
    """The metadata is returned unchanged, and may have at most 16 entries."""
    metadata = {"user": "42", "note": "ä €"}
    async with ctx.session(metadata=metadata) as session:
        info = (await session.info()).require(200)
        expect(info.get("metadata") == metadata, f"metadata is {info.get('metadata')}")
    many = {str(number): "x" for number in range(17)}
    (await ctx.create(metadata=many)).expect(400, why="17 entries")
    del many["16"]
    (await ctx.create(metadata=many)).require(201)

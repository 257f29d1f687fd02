"""Experiment 13: whatever a model does wrong, a run comes to the end that is documented, and its usage is exact."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import serving
from cmdc_testkit.models import HUGE, Fault, ScriptedModelServer, call_chunk, text_chunk
from cmdc_testkit.watchers import record_session

pytestmark = pytest.mark.timeout(240)  # on a machine that is busy with other things

TRIES = 3
STALL_MS = 500
PATIENT_MS = 60_000
SILENT = ("headers and then nothing", "not even headers")
HEAVY = ("a line of 10 MiB", "a thousand calls at once")
# Nothing here may take as long as this, and what does has hung.
HUNG_SECONDS = 45
CALLS = 1_000
SAID = {"promptTokens": 11, "completionTokens": 7}


@dataclass(frozen=True, slots=True)
class Case:
    """A fault: how the model is made to have it, and what is documented to come of it.

    `tries` is how often the model is asked in all; `shown` the text that readers see; `tokens` what is counted, of the
    bytes that the model was given, as JSON has them. `lossy`: what was sent last may be lost with its connection, and
    what nobody was shown is asked for again.
    """

    name: str
    arrange: Callable[[ScriptedModelServer], None]
    prompt: str = "Hello"
    ends: str = "agent_abort"
    errors: int = 1
    tries: int = 1
    shown: str = ""
    tokens: Callable[[int], int] = lambda _: 0
    tools: tuple[str, ...] = ()
    lossy: bool = False


def estimated(heard: int) -> Callable[[int], int]:
    """A token for every four bytes, read or written, where the provider does not say."""
    return lambda asked: math.ceil(asked / 4) + math.ceil(heard / 4)


def reported(steps: int) -> Callable[[int], int]:
    """What the provider says, of each step."""
    return lambda _: steps * sum(SAID.values())


def refusing(status: int) -> Callable[[ScriptedModelServer], None]:
    def arrange(server: ScriptedModelServer) -> None:
        server.refuse_with = (status, "scripted")

    return arrange


def misbehaving(fault: Fault) -> Callable[[ScriptedModelServer], None]:
    def arrange(server: ScriptedModelServer) -> None:
        server.fault = fault

    return arrange


def obeying(_: ScriptedModelServer) -> None:
    """It does as the script in the prompt says."""


def broken_arguments(server: ScriptedModelServer) -> None:
    fragment = {"index": 0, "id": "c", "type": "function", "function": {"name": "list_dir", "arguments": '{"path": '}}
    usage: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}
    asked = [call_chunk(fragment), text_chunk("", "tool_calls"), {**text_chunk(""), **usage}]
    answered = [text_chunk("sorry"), text_chunk("", "stop"), {**text_chunk(""), **usage}]
    server.raw_replies = [asked, answered]


SORRY = {"text": ["sorry"], "usage": SAID}
LOOK: tuple[str, dict[str, Any]] = ("list_dir", {})
MANY = calling(*[LOOK] * CALLS, usage=SAID)
CASES = (
    Case("400", refusing(400)),
    Case("401", refusing(401)),
    Case("429 for ever", refusing(429), tries=TRIES),
    Case("500 for ever", refusing(500), tries=TRIES),
    *(
        Case(
            f"{status} twice",
            obeying,
            script({"fail": {"status": status, "attempts": 2}, **SORRY}),
            ends="agent_end",
            errors=0,
            tries=TRIES,
            shown="sorry",
            tokens=reported(1),
        )
        for status in (429, 500, 503)
    ),
    Case("cut after a word", obeying, script({"text": ["Hel"], "cut": True}), shown="Hel", tokens=estimated(3)),
    Case("lost after a word", misbehaving("drop"), shown="Hel", tokens=estimated(3), lossy=True),
    Case("an error after a word", misbehaving("error_chunk"), shown="Hel", tokens=estimated(3)),
    Case("no answer but a closed connection", misbehaving("hang_up"), tries=TRIES),
    Case("headers and then nothing", misbehaving("stall"), tries=TRIES),
    Case("not even headers", misbehaving("silence"), tries=TRIES),
    Case("garbage", misbehaving("garbage")),
    Case("a page of HTML", misbehaving("not_a_stream"), tries=TRIES),  # a stream that ends before it began
    Case(
        "a line of 10 MiB",
        misbehaving("huge_line"),
        ends="agent_end",
        errors=0,
        shown="x" * HUGE,
        tokens=estimated(HUGE),
    ),
    Case(
        "a tool that there is not",
        obeying,
        script(calling(("no_such_tool", {}), usage=SAID), SORRY),
        ends="agent_end",
        tries=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "broken arguments",
        broken_arguments,
        ends="agent_end",
        tries=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "arguments that the schema refuses",
        obeying,
        script(calling(("list_dir", {"path": 7}), usage=SAID), SORRY),
        ends="agent_end",
        tries=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "a thousand calls at once",
        obeying,
        script(MANY, SORRY),
        ends="agent_end",
        errors=0,
        tries=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A gateway, and one model server for each case, so that all of them can run at once."""

    client: httpx.AsyncClient
    servers: list[ScriptedModelServer]


@asynccontextmanager
async def bench(folder: Path, cases: Sequence[Case], *, stall_ms: int) -> AsyncGenerator[Bench]:
    """A gateway that takes so long a silence for a failure."""
    await asyncio.to_thread(folder.mkdir)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ScriptedModelServer()) for _ in cases]
        models = {
            f"house:{number}": {"model": "openai/some-model", "api_base": server.base_url, "api_key_env": "HOUSE_KEY"}
            for number, server in enumerate(servers)
        }
        served = await stack.enter_async_context(
            serving(
                folder,
                file={"models": models},
                environ={"HOUSE_KEY": "the-house-key"},
                store=f"sqlite:///{folder / 'gateway.db'}",
                model_retry_ms=[1, 1],
                heartbeat_ms=1000,
                model_stall_ms=stall_ms,
            )
        )
        # Loading litellm takes seconds, which are no silence of a model's.
        await served.gateway.registry.services.policy.models.find("house:0").prepare()
        client = await stack.enter_async_context(served.client())
        yield Bench(client, servers)


def shown(run: list[ReceivedEvent]) -> str:
    return "".join(seen.data["delta"] for seen in run if seen.name == "message_delta")


async def one_run(bench: Bench, number: int, case: Case) -> int:
    """Have the model fail so; how many tokens were counted."""
    server = bench.servers[number]
    case.arrange(server)
    before = len(server.requests)
    prompt = case.prompt.replace('"nonce": ""', f'"nonce": "{os.urandom(4).hex()}"')  # tries are counted for each
    talk = await Conversation.begin(bench.client, model=f"house:{number}", tools=list(case.tools))
    request_id = await talk.prompt(prompt)
    async with asyncio.timeout(HUNG_SECONDS):
        run = [seen async for seen in talk.stream(requestId=request_id)]

    flaws = audit(await record_session(talk, accepted=[request_id]))
    assert flaws == [], case.name
    assert run[-1].name == case.ends, (case.name, run[-2:])
    assert names(run).count("error") == case.errors, (case.name, names(run))
    tries = len(server.requests) - before
    lost = case.lossy and tries > case.tries
    assert tries == case.tries or (lost and tries <= TRIES), case.name
    assert shown(run) == case.shown or (lost and shown(run) == ""), case.name
    if case.ends == "agent_abort":
        assert run[-1].data["reason"] == "error"
    if case.name == "a thousand calls at once":
        assert names(run).count("tool_execution_end") == CALLS
    for secret in ("the-house-key", server.base_url):
        assert secret not in str(run), case.name
    stats = (await talk.get("/stats")).json()
    assert lost or stats["totalTokens"] == case.tokens(len(json.dumps(prompt)) - 2), (case.name, stats)
    await bench.client.delete(talk.path)
    return stats["totalTokens"]


@dataclass(slots=True)
class Count:
    """What was done."""

    runs: int = 0
    tokens: int = 0
    model_calls: int = 0


async def all_of(folder: Path, cases: Sequence[Case], rounds: int, count: Count, *, stall_ms: int) -> None:
    """Each of the cases so often, all of them at once; the tenant's total has each token once."""
    here = Count()
    async with bench(folder, cases, stall_ms=stall_ms) as made:

        async def again(number: int, case: Case) -> None:
            for _ in range(rounds):
                tokens = await one_run(made, number, case)
                here.tokens += tokens
                here.runs += 1

        async with asyncio.TaskGroup() as group:
            for number, case in enumerate(cases):
                group.create_task(again(number, case))
        total: dict[str, Any] = (await made.client.get("/v1/usage")).json()["total"]
        assert (total["totalTokens"], total["promptCount"]) == (here.tokens, here.runs)
    count.runs += here.runs
    count.tokens += here.tokens
    count.model_calls += sum(len(server.requests) for server in made.servers)


async def test_every_fault_comes_to_its_end(experiment: Experiment, tmp_path: Path) -> None:
    """EVT-1 … EVT-4, EVT-9, MTR-1."""
    begun, count = time.monotonic(), Count()
    silent = [case for case in CASES if case.name in SILENT]
    heavy = [case for case in CASES if case.name in HEAVY]
    quick = [case for case in CASES if case not in (*silent, *heavy)]
    rounds = experiment.trials(short=1, long=60)

    await all_of(tmp_path / "quick", quick, rounds, count, stall_ms=PATIENT_MS)
    await all_of(tmp_path / "silent", silent, max(1, rounds // 2), count, stall_ms=STALL_MS)
    await all_of(tmp_path / "heavy", heavy, max(1, rounds // 10), count, stall_ms=PATIENT_MS)

    experiment.record("faults", len(CASES))
    experiment.record("runs", count.runs)
    experiment.record("model calls", count.model_calls)
    experiment.record("wrong ends", 0)
    experiment.record("hung", 0)
    experiment.record("tokens counted", count.tokens)
    experiment.record("miscounted", 0)
    experiment.record("seconds", round(time.monotonic() - begun, 1))

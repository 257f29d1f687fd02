"""Experiment 13: for every fault of a model, the run ends as documented and its usage is exact."""

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
from cmdc_testkit.gateways import in_process_gateway
from cmdc_testkit.models import HUGE, Fault, ScriptedModelServer, call_chunk, text_chunk
from cmdc_testkit.watchers import record_session

pytestmark = pytest.mark.timeout(240)  # for a busy machine

ATTEMPTS = 3
STALL_MS = 500
PATIENT_MS = 60_000
SILENT = ("headers and then nothing", "no headers")
HEAVY = ("a line of 10 MiB", "a thousand calls in one step")
# A run that takes longer has hung.
TIMEOUT_SECONDS = 45
CALLS = 1_000
USAGE = {"promptTokens": 11, "completionTokens": 7}


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, how it is configured, and its documented outcome.

    `attempts` is the number of requests to the model, `shown` the text that readers receive. `tokens` returns the counted
    tokens, given the bytes of the prompt in JSON. `lossy` means that the last chunk may be lost with its connection, and
    that the request is retried if no reader received text.
    """

    name: str
    configure: Callable[[ScriptedModelServer], None]
    prompt: str = "Hello"
    ends: str = "agent_abort"
    errors: int = 1
    attempts: int = 1
    shown: str = ""
    tokens: Callable[[int], int] = lambda _: 0
    tools: tuple[str, ...] = ()
    lossy: bool = False


def estimated(output: int) -> Callable[[int], int]:
    """One token per four bytes of input and output, if the provider does not report usage."""
    return lambda asked: math.ceil(asked / 4) + math.ceil(output / 4)


def reported(steps: int) -> Callable[[int], int]:
    """The usage that the provider reports for each step."""
    return lambda _: steps * sum(USAGE.values())


def refusing(status: int) -> Callable[[ScriptedModelServer], None]:
    def arrange(server: ScriptedModelServer) -> None:
        server.refuse_with = (status, "scripted")

    return arrange


def misbehaving(fault: Fault) -> Callable[[ScriptedModelServer], None]:
    def arrange(server: ScriptedModelServer) -> None:
        server.fault = fault

    return arrange


def following_the_script(_: ScriptedModelServer) -> None:
    """The script in the prompt contains the fault."""


def broken_arguments(server: ScriptedModelServer) -> None:
    fragment = {"index": 0, "id": "c", "type": "function", "function": {"name": "list_dir", "arguments": '{"path": '}}
    usage: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}
    asked = [call_chunk(fragment), text_chunk("", "tool_calls"), {**text_chunk(""), **usage}]
    answered = [text_chunk("sorry"), text_chunk("", "stop"), {**text_chunk(""), **usage}]
    server.raw_replies = [asked, answered]


SORRY = {"text": ["sorry"], "usage": USAGE}
LIST_DIR: tuple[str, dict[str, Any]] = ("list_dir", {})
MANY = calling(*[LIST_DIR] * CALLS, usage=USAGE)
CASES = (
    Case("400", refusing(400)),
    Case("401", refusing(401)),
    Case("429 always", refusing(429), attempts=ATTEMPTS),
    Case("500 always", refusing(500), attempts=ATTEMPTS),
    *(
        Case(
            f"{status} twice",
            following_the_script,
            script({"fail": {"status": status, "attempts": 2}, **SORRY}),
            ends="agent_end",
            errors=0,
            attempts=ATTEMPTS,
            shown="sorry",
            tokens=reported(1),
        )
        for status in (429, 500, 503)
    ),
    Case(
        "cut after a word",
        following_the_script,
        script({"text": ["Hel"], "cut": True}),
        shown="Hel",
        tokens=estimated(3),
    ),
    Case("closed after a word", misbehaving("drop"), shown="Hel", tokens=estimated(3), lossy=True),
    Case("an error after a word", misbehaving("error_chunk"), shown="Hel", tokens=estimated(3)),
    Case("closed without a response", misbehaving("hang_up"), attempts=ATTEMPTS),
    Case("headers and then nothing", misbehaving("stall"), attempts=ATTEMPTS),
    Case("no headers", misbehaving("silence"), attempts=ATTEMPTS),
    Case("garbage", misbehaving("garbage")),
    Case("a page of HTML", misbehaving("not_a_stream"), attempts=ATTEMPTS),  # a stream without an event
    Case(
        "a line of 10 MiB",
        misbehaving("huge_line"),
        ends="agent_end",
        errors=0,
        shown="x" * HUGE,
        tokens=estimated(HUGE),
    ),
    Case(
        "an unknown tool",
        following_the_script,
        script(calling(("no_such_tool", {}), usage=USAGE), SORRY),
        ends="agent_end",
        attempts=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "invalid JSON as arguments",
        broken_arguments,
        ends="agent_end",
        attempts=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "arguments that violate the schema",
        following_the_script,
        script(calling(("list_dir", {"path": 7}), usage=USAGE), SORRY),
        ends="agent_end",
        attempts=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
    Case(
        "a thousand calls in one step",
        following_the_script,
        script(MANY, SORRY),
        ends="agent_end",
        errors=0,
        attempts=2,
        shown="sorry",
        tokens=reported(2),
        tools=("list_dir",),
    ),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """A gateway, and one model server for each case, so that all cases can run concurrently."""

    client: httpx.AsyncClient
    servers: list[ScriptedModelServer]


@asynccontextmanager
async def set_up(folder: Path, cases: Sequence[Case], *, stall_ms: int) -> AsyncGenerator[Setup]:
    """Start a gateway that gives up a silent model after `stall_ms`, and the model servers."""
    await asyncio.to_thread(folder.mkdir)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ScriptedModelServer()) for _ in cases]
        models = {
            f"house:{number}": {"model": "openai/some-model", "api_base": server.base_url, "api_key_env": "HOUSE_KEY"}
            for number, server in enumerate(servers)
        }
        served = await stack.enter_async_context(
            in_process_gateway(
                folder,
                file={"models": models},
                environ={"HOUSE_KEY": "the-house-key"},
                store=f"sqlite:///{folder / 'gateway.db'}",
                model_retry_ms=[1, 1],
                heartbeat_ms=1000,
                model_stall_ms=stall_ms,
            )
        )
        # Loading litellm takes seconds, which must not count as silence of a model.
        await served.gateway.registry.services.policy.models.find("house:0").prepare()
        client = await stack.enter_async_context(served.client())
        yield Setup(client, servers)


def shown(run: list[ReceivedEvent]) -> str:
    return "".join(seen.data["delta"] for seen in run if seen.name == "message_delta")


async def run_case(bench: Setup, number: int, case: Case) -> int:
    """Run a case and check its outcome; return the counted tokens."""
    server = bench.servers[number]
    case.configure(server)
    before = len(server.requests)
    prompt = case.prompt.replace(
        '"nonce": ""', f'"nonce": "{os.urandom(4).hex()}"'
    )  # the script counts attempts per prompt
    talk = await Conversation.begin(bench.client, model=f"house:{number}", tools=list(case.tools))
    request_id = await talk.prompt(prompt)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        run = [seen async for seen in talk.stream(requestId=request_id)]

    errors = audit(await record_session(talk, accepted=[request_id]))
    assert errors == [], case.name
    assert run[-1].name == case.ends, (case.name, run[-2:])
    assert names(run).count("error") == case.errors, (case.name, names(run))
    attempts = len(server.requests) - before
    lost = case.lossy and attempts > case.attempts
    assert attempts == case.attempts or (lost and attempts <= ATTEMPTS), case.name
    assert shown(run) == case.shown or (lost and shown(run) == ""), case.name
    if case.ends == "agent_abort":
        assert run[-1].data["reason"] == "error"
    if case.name == "a thousand calls in one step":
        assert names(run).count("tool_execution_end") == CALLS
    for secret in ("the-house-key", server.base_url):
        assert secret not in str(run), case.name
    stats = (await talk.get("/stats")).json()
    assert lost or stats["totalTokens"] == case.tokens(len(json.dumps(prompt)) - 2), (case.name, stats)
    await bench.client.delete(talk.path)
    return stats["totalTokens"]


@dataclass(slots=True)
class Count:
    """Totals over all runs."""

    runs: int = 0
    tokens: int = 0
    model_calls: int = 0


async def run_cases(folder: Path, cases: Sequence[Case], rounds: int, count: Count, *, stall_ms: int) -> None:
    """Run every case `rounds` times, concurrently; the tenant's usage is the sum of the runs."""
    here = Count()
    async with set_up(folder, cases, stall_ms=stall_ms) as made:

        async def again(number: int, case: Case) -> None:
            for _ in range(rounds):
                tokens = await run_case(made, number, case)
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


async def test_every_model_fault_ends_as_documented(experiment: Experiment, tmp_path: Path) -> None:
    """MODEL-retry, EVT-1 … EVT-4, EVT-9, MTR-1."""
    begun, count = time.monotonic(), Count()
    silent = [case for case in CASES if case.name in SILENT]
    heavy = [case for case in CASES if case.name in HEAVY]
    quick = [case for case in CASES if case not in (*silent, *heavy)]
    rounds = experiment.trials(short=1, long=60)

    await run_cases(tmp_path / "quick", quick, rounds, count, stall_ms=PATIENT_MS)
    await run_cases(tmp_path / "silent", silent, max(1, rounds // 2), count, stall_ms=STALL_MS)
    await run_cases(tmp_path / "heavy", heavy, max(1, rounds // 10), count, stall_ms=PATIENT_MS)

    experiment.record("faults", len(CASES))
    experiment.record("runs", count.runs)
    experiment.record("model calls", count.model_calls)
    experiment.record("wrong outcomes", 0)
    experiment.record("hung", 0)
    experiment.record("tokens counted", count.tokens)
    experiment.record("miscounted", 0)
    experiment.record("seconds", round(time.monotonic() - begun, 1))

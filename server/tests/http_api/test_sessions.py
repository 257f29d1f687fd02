"""The lifecycle of a session: EP-healthz, EP-session to EP-prompt, EP-messages, EP-abort."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_conformance.wire.event import names
from cmdc_gateway import __version__
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import without_ids
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = script({"text": ["slow"], "delayMs": 60_000})


async def busy(client: httpx.AsyncClient, **settings: Any) -> tuple[Conversation, str]:
    """A session whose run continues until it is stopped, and the run's requestId."""
    talk = await Conversation.begin(client, **settings)
    request_id = await talk.prompt(SLOW)
    await talk.first("agent_start")
    return talk, request_id


def not_found(session_id: str) -> tuple[int, dict[str, Any]]:
    return 404, {"error": "not_found", "message": f"no session {session_id!r}"}


# -- EP-healthz


async def test_health_reports_version_sessions_and_keys(served: InProcessGateway, client: httpx.AsyncClient) -> None:
    """EP-healthz: without a key."""
    talk = await Conversation.begin(client)
    await talk.run("hi")
    before = datetime.now(UTC)
    async with served.client(None) as nobody:
        answer = await nobody.get("/healthz")

    health = answer.json()
    at = datetime.strptime(health.pop("timestamp"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert before <= at <= datetime.now(UTC)
    assert health == {"status": "ok", "version": __version__, "sessions": {"active": 1}, "meter": {"tracked_keys": 1}}


async def test_a_server_that_drains_is_alive_but_not_ready(served: InProcessGateway, client: httpx.AsyncClient) -> None:
    """EP-healthz."""
    served.gateway.ready = False

    ready, alive = await client.get("/readyz"), await client.get("/healthz")

    assert (ready.status_code, ready.json()["error"]) == (503, "unavailable")
    assert int(ready.headers["retry-after"]) >= 1
    assert alive.status_code == 200


async def test_a_stopping_server_accepts_neither_sessions_nor_prompts(
    served: InProcessGateway, client: httpx.AsyncClient
) -> None:
    """EP-readyz; DUR-3."""
    talk = await Conversation.begin(client)
    served.gateway.registry.services.draining = True

    refused = [
        await client.post("/v1/sessions", json={"model": "scripted:x"}),
        await talk.post("prompt", {"text": "x"}),
    ]

    assert [(answer.status_code, answer.json()["error"]) for answer in refused] == [(503, "unavailable")] * 2
    assert all("retry-after" in answer.headers for answer in refused)
    assert (await talk.get()).status_code == 200


# -- EP-session


async def test_a_new_session_is_idle_and_has_done_nothing(client: httpx.AsyncClient) -> None:
    """EP-session."""
    before = time.time_ns() // 1_000_000
    talk = await Conversation.begin(client, sessionId="s", metadata={"a": "b"})

    info = await talk.info()

    created, uptime, cursor = info.pop("createdAt"), info.pop("uptimeMs"), info.pop("cursor")
    assert before <= created <= time.time_ns() // 1_000_000
    assert 0 <= uptime <= time.time_ns() // 1_000_000 - before
    assert re.fullmatch(r"[0-9a-z]{1,32}\.0", cursor)
    assert info == {
        "sessionId": "s",
        "state": "idle",
        "turns": 0,
        "toolCalls": 0,
        "totalTokens": 0,
        "model": "scripted:x",
        "metadata": {"a": "b"},
        "queue": [],
        "pendingApprovals": [],
        "pendingQuestions": [],
    }


async def test_a_session_counts_steps_calls_that_ran_and_tokens(client: httpx.AsyncClient) -> None:
    """EP-session: a rejected call did not run."""
    talk = await Conversation.begin(client, tools=["glob", "shell"])
    usage = {"usage": {"promptTokens": 10, "completionTokens": 5}}
    calls = (("glob", {"pattern": "*"}), ("glob", {"pattern": "?"}), ("shell", {"command": "true"}))
    request_id = await talk.prompt(script(calling(*calls, **usage), {"text": ["done"], **usage}))
    approval = await talk.first("approval_required")
    await talk.post("reject", {"approvalId": approval["approvalId"]})
    run = await talk.events(request_id)

    info = await talk.info()

    assert (info["turns"], info["toolCalls"], info["totalTokens"]) == (2, 2, 30)
    assert info["cursor"] == run[-1].id


async def test_a_session_lists_its_pending_approvals_and_questions(client: httpx.AsyncClient) -> None:
    """EP-session: with the data of their events."""
    talk = await Conversation.begin(client, tools=["shell", "ask_user"])
    calls = (("shell", {"command": "true"}), ("ask_user", {"question": "Which?", "options": ["a", "b"]}))
    await talk.prompt(script(calling(*calls)))
    approval, question = await talk.first("approval_required"), await talk.first("ask_user")

    info = await talk.info()
    assert (info["state"], info["pendingApprovals"], info["pendingQuestions"]) == (
        "waiting_approval",
        [approval],
        [question],
    )

    await talk.post("reject", {"approvalId": approval["approvalId"]})
    info = await talk.info()
    assert (info["state"], info["pendingApprovals"], info["pendingQuestions"]) == ("waiting_input", [], [question])

    await talk.post("respond", {"ref": question["ref"], "response": "b"})
    await talk.first("agent_end")
    info = await talk.info()
    assert (info["state"], info["pendingApprovals"], info["pendingQuestions"]) == ("idle", [], [])


@pytest.mark.parametrize("session_id", ["none", "x" * 300, "with%20space", "Ünknown"])
async def test_an_unknown_session_is_not_found_and_the_message_names_it(
    client: httpx.AsyncClient, session_id: str
) -> None:
    """EP-session."""
    answer = await client.get(f"/v1/sessions/{session_id}")

    assert (answer.status_code, answer.json()) == not_found(session_id.replace("%20", " "))


def damage(file: Path, session_id: str, settings: bytes) -> None:
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE settings SET data = ? WHERE session = (SELECT pk FROM sessions WHERE session_id = ?)",
            (settings, session_id),
        )
    database.close()


@pytest.mark.parametrize("settings", [b"\xff", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "model": "scripted:x"}'])
async def test_a_session_that_cannot_be_loaded_is_dead_and_its_log_stays_readable(
    tmp_path: Path, settings: bytes
) -> None:
    """EP-session: damaged, or written by a newer version."""
    file = tmp_path / "store.db"
    async with in_process_gateway(tmp_path, store=f"sqlite:///{file}") as served, served.client() as client:
        dead, alive = await Conversation.begin(client, sessionId="dead"), await Conversation.begin(client)
        run = await dead.run("remember")
    damage(file, "dead", settings)

    async with in_process_gateway(tmp_path, store=f"sqlite:///{file}") as served, served.client() as client:
        dead, alive = Conversation(client, "dead"), Conversation(client, alive.id)
        refused = [
            await dead.get(),
            await dead.get("/stats"),
            await dead.get("/messages"),
            await dead.get("/tools"),
            await dead.post("prompt", {"text": "x"}),
            await dead.post("abort"),
            await dead.get("/events", requestId=run[0].data["requestId"]),
        ]
        replayed = [seen async for seen in dead.stream(after="start")]
        page = await client.get(f"{dead.path}/events", headers={"Accept": "application/json"})
        listed = (await client.get("/v1/sessions")).json()["sessions"]
        others = names(await alive.run("hi"))[-1]

    assert [(answer.status_code, answer.json()) for answer in refused] == [
        (
            404,
            {
                "error": "session_dead",
                "message": "the stored state of session 'dead' cannot be loaded by this server",
            },
        )
    ] * len(refused)
    assert replayed == run
    assert [entry["id"] for entry in page.json()["events"]] == [seen.id for seen in run]
    assert {session["sessionId"] for session in listed} == {"dead", alive.id}
    assert others == "agent_end"


# -- the list of sessions


async def test_sessions_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    """EP-list."""
    made = [await Conversation.begin(client, metadata={"n": str(number)}) for number in range(3)]
    await made[0].run("hi")

    listed = (await client.get("/v1/sessions")).json()

    assert listed["nextCursor"] is None
    order = [(session["createdAt"], session["sessionId"]) for session in listed["sessions"]]
    assert order == sorted(order, reverse=True)
    [oldest] = [session for session in listed["sessions"] if session["sessionId"] == made[0].id]
    info = await made[0].info()
    kept = ("sessionId", "state", "model", "createdAt", "turns", "toolCalls", "totalTokens", "metadata")
    assert oldest == {name: info[name] for name in kept}


async def test_pages_of_sessions_make_up_the_whole_list(client: httpx.AsyncClient) -> None:
    """EP-list: also while sessions are created and deleted."""
    made = [await Conversation.begin(client) for _ in range(7)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    sizes: list[int] = []
    while True:
        page = (await client.get("/v1/sessions", params=params)).json()
        seen += [session["sessionId"] for session in page["sessions"]]
        sizes.append(len(page["sessions"]))
        if page["nextCursor"] is None:
            break
        params["cursor"] = page["nextCursor"]
        await Conversation.begin(client)
        await client.delete(f"/v1/sessions/{seen[-1]}")

    assert sizes == [3, 3, 1]
    assert sorted(seen) == sorted(talk.id for talk in made)


async def test_sessions_can_be_listed_by_state(client: httpx.AsyncClient) -> None:
    """EP-list."""
    idle = await Conversation.begin(client)
    working, _ = await busy(client)
    waiting = [await Conversation.begin(client, tools=["shell", "ask_user"]) for _ in range(2)]
    await waiting[0].prompt(script(calling(("shell", {"command": "true"}))))
    await waiting[0].first("approval_required")
    await waiting[1].prompt(script(calling(("ask_user", {"question": "?"}))))
    await waiting[1].first("ask_user")

    async def of(state: str) -> list[str]:
        listed = (await client.get("/v1/sessions", params={"state": state})).json()["sessions"]
        return [session["sessionId"] for session in listed]

    assert [await of(state) for state in ("idle", "working", "waiting_approval", "waiting_input")] == [
        [idle.id],
        [working.id],
        [waiting[0].id],
        [waiting[1].id],
    ]


@pytest.mark.parametrize("cursor", ["", "x", "9999", "bm9uZQ", "8J+YgA==", "MTox4pyT", "%00"])
async def test_an_invalid_cursor_of_the_list_is_rejected(client: httpx.AsyncClient, cursor: str) -> None:
    """EP-list."""
    answer = await client.get(f"/v1/sessions?cursor={cursor}")

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_cursor")


# -- EP-delete


async def test_a_deleted_session_is_gone(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """EP-delete: on every route, and for a second DELETE."""
    talk = await Conversation.begin(client, sessionId="s")
    await talk.run("hi")

    deleted = await client.delete(talk.path)
    after = [
        await client.delete(talk.path),
        await talk.get(),
        await talk.get("/messages"),
        await talk.get("/stats"),
        await talk.get("/tools"),
        await talk.get("/events"),
        await talk.post("prompt", {"text": "x"}),
        await talk.post("tickets"),
    ]

    assert (deleted.status_code, deleted.json()) == (200, {"sessionId": "s", "status": "deleted"})
    assert [(answer.status_code, answer.json()) for answer in after] == [not_found("s")] * len(after)
    assert (await client.get("/v1/sessions")).json()["sessions"] == []


async def test_deleting_stops_the_run_and_ends_its_streams(served: InProcessGateway, client: httpx.AsyncClient) -> None:
    """EP-delete: `agent_abort` with reason `session_deleted`, then the end of the stream."""
    talk, _ = await busy(client)
    await talk.prompt("never")

    async def read(**params: str) -> list[tuple[str, dict[str, Any]]]:
        return without_ids([seen async for seen in talk.stream(**params)])

    readers = [asyncio.create_task(read(after="start", follow=follow)) for follow in ("true", "false")]
    async with asyncio.timeout(5):
        while len(served.gateway.connections) < len(readers):  # noqa: ASYNC110 - it tells it no other way
            await asyncio.sleep(0.005)
        await client.delete(talk.path)
        seen = await asyncio.gather(*readers)

    run: list[tuple[str, dict[str, Any]]] = [
        ("prompt_received", {"text": SLOW}),
        ("agent_start", {}),
        ("agent_abort", {"reason": "session_deleted"}),
    ]
    assert seen == [run, run]


async def test_deleting_removes_everything_of_the_session(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """EP-delete: another session of the same id has none of its tools, log and history, and another epoch."""
    talk = await Conversation.begin(client, sessionId="s", systemPrompt="old")
    tool = {"name": "t", "description": "", "parameters": {"type": "object"}, "callbackUrl": receiver.url}
    await talk.post("tools", tool)
    old = await talk.run("hi")
    await client.delete(talk.path)

    talk = await Conversation.begin(client, sessionId="s")
    info = await talk.info()
    gone = await talk.get("/events", after=old[0].id)

    assert (info["turns"], info["totalTokens"], info["cursor"].endswith(".0")) == (0, 0, True)
    assert await talk.messages() == []
    assert (await talk.get("/tools")).json() == {"tools": []}
    assert (await talk.get("/stats")).json()["promptCount"] == 0
    assert (gone.status_code, gone.json()["error"]) == (410, "cursor_expired")


# -- EP-prompt


async def test_an_accepted_prompt_has_the_cursor_before_its_events(client: httpx.AsyncClient) -> None:
    """EP-prompt: reading after it misses nothing."""
    talk = await Conversation.begin(client, sessionId="s")
    await talk.run("first")

    answer = await talk.post("prompt", {"text": "second"})

    accepted = answer.json()
    assert answer.status_code == 202
    assert set(accepted) == {"requestId", "sessionId", "queued", "cursor"}
    assert (accepted["sessionId"], accepted["queued"]) == ("s", False)
    run = [seen async for seen in talk.stream(after=accepted["cursor"])]
    assert run[0].data == {"text": "second", "requestId": accepted["requestId"]}
    assert run[-1].name == "agent_end"


async def test_prompts_are_queued_and_run_one_after_another(client: httpx.AsyncClient) -> None:
    """EP-prompt.fifo: first in, first out; `queued` is true while another run is active."""
    talk, first = await busy(client)
    answers = [await talk.post("prompt", {"text": f"prompt {number}"}) for number in range(3)]
    waiting = [{"requestId": answer.json()["requestId"], "text": f"prompt {n}"} for n, answer in enumerate(answers)]

    assert [answer.json()["queued"] for answer in answers] == [True, True, True]
    assert (await talk.info())["queue"] == waiting
    await talk.post("abort")
    last = await talk.events(waiting[-1]["requestId"])

    assert last[-1].name == "agent_end"
    page = await client.get(f"{talk.path}/events", headers={"Accept": "application/json"})
    log = page.json()["events"]
    runs = [entry["data"]["requestId"] for entry in log]
    order = [first, *(item["requestId"] for item in waiting)]
    assert list(dict.fromkeys(runs)) == order
    assert runs == sorted(runs, key=order.index)
    assert (await talk.info())["queue"] == []


async def test_a_full_queue_rejects_prompts(client: httpx.AsyncClient) -> None:
    """EP-prompt: 100 prompts; rejected ones are not counted."""
    talk, _ = await busy(client)
    taken = await asyncio.gather(*(talk.post("prompt", {"text": "x"}) for _ in range(100)))

    refused = await talk.post("prompt", {"text": "one too many"})

    assert {answer.status_code for answer in taken} == {202}
    assert (refused.status_code, refused.json()) == (
        429,
        {
            "error": "queue_full",
            "message": "the queue of this session is full (100 prompts); retry when a run has ended",
        },
    )
    assert len((await talk.info())["queue"]) == 100
    assert (await talk.get("/stats")).json()["promptCount"] == 101


async def test_the_length_of_the_queue_is_a_setting(tmp_path: Path) -> None:
    """EP-prompt, EP-abort."""
    async with in_process_gateway(tmp_path, queued_prompts=1) as served, served.client() as client:
        talk, _ = await busy(client)
        statuses = [(await talk.post("prompt", {"text": "x"})).status_code for _ in range(2)]
        limit = (await client.get("/v1/capabilities")).json()["limits"]["queuedPrompts"]

    assert (statuses, limit) == ([202, 429], 1)


# -- EP-messages


async def test_the_history_has_every_message_and_call(client: httpx.AsyncClient) -> None:
    """EP-messages."""
    talk = await Conversation.begin(client, systemPrompt="Look around.", tools=["glob"])
    asked = script(calling(("glob", {"pattern": "*.none"}), text=["Let me look. "]), {"text": ["Nothing."]})
    run = await talk.run(asked)
    [call_id] = [seen.data["callId"] for seen in run if seen.name == "tool_execution_start"]
    [result] = [seen.data["result"] for seen in run if seen.name == "tool_execution_end"]

    messages = await talk.messages()

    assert messages == [
        {"role": "system", "content": "Look around."},
        {"role": "user", "content": asked},
        {
            "role": "assistant",
            "content": "Let me look. ",
            "toolCalls": [{"callId": call_id, "name": "glob", "arguments": {"pattern": "*.none"}}],
        },
        {"role": "tool_result", "content": result, "callId": call_id, "name": "glob", "isError": False},
        {"role": "assistant", "content": "Nothing."},
    ]
    assert run[-1].data["messageCount"] == len(messages)
    assert run[-1].data["lastMessage"] == messages[-1]


async def test_text_that_readers_saw_stays_when_the_run_is_aborted(client: httpx.AsyncClient) -> None:
    """EP-messages."""
    talk = await Conversation.begin(client)
    request_id = await talk.prompt(script({"text": ["Once upon"], "cut": True}))
    await talk.events(request_id)

    assert [(message["role"], message["content"]) for message in await talk.messages()][1:] == [
        ("assistant", "Once upon")
    ]


async def test_pages_of_messages_make_up_the_whole_history(client: httpx.AsyncClient) -> None:
    """EP-messages."""
    talk = await Conversation.begin(client, systemPrompt="s")
    for number in range(3):
        await talk.run(str(number))
    whole = (await talk.get("/messages")).json()

    pages: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 3}
    while not pages or pages[-1]["nextCursor"] is not None:
        pages.append((await talk.get("/messages", **params)).json())
        params["cursor"] = pages[-1]["nextCursor"]

    assert set(whole) == {"sessionId", "messages"}
    assert [len(page["messages"]) for page in pages] == [3, 3, 1]
    assert [message for page in pages for message in page["messages"]] == whole["messages"]


@pytest.mark.parametrize("cursor", ["", "-1", "x", "1.0", "9" * 13])
async def test_an_invalid_cursor_of_the_history_is_rejected(client: httpx.AsyncClient, cursor: str) -> None:
    """EP-messages."""
    talk = await Conversation.begin(client)

    answer = await talk.get("/messages", cursor=cursor)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_cursor")


# -- EP-abort


async def test_an_abort_ends_the_run_and_keeps_the_queue(client: httpx.AsyncClient) -> None:
    """EP-abort."""
    talk, active = await busy(client)
    queued = await talk.prompt("next")

    answer = await talk.post("abort")

    assert (answer.status_code, answer.json()) == (202, {"ok": True})
    assert without_ids(await talk.events(active))[-1] == ("agent_abort", {"reason": "aborted"})
    assert names(await talk.events(queued))[-1] == "agent_end"


async def test_an_abort_can_have_a_reason(client: httpx.AsyncClient) -> None:
    """EP-abort."""
    talk, active = await busy(client)

    await talk.post("abort", {"reason": "Lunch ☀"})

    assert without_ids(await talk.events(active))[-1] == ("agent_abort", {"reason": "Lunch ☀"})


async def test_without_an_active_run_an_abort_does_nothing(client: httpx.AsyncClient) -> None:
    """EP-abort: 200, and no event."""
    talk = await Conversation.begin(client)

    answer = await talk.post("abort")

    assert (answer.status_code, answer.json()) == (200, {"ok": False})
    assert (await talk.info())["cursor"].endswith(".0")


async def test_an_abort_closes_pending_approvals_and_questions(client: httpx.AsyncClient) -> None:
    """EP-abort, EVT-9."""
    talk = await Conversation.begin(client, tools=["shell", "ask_user"])
    calls = (("shell", {"command": "true"}), ("ask_user", {"question": "?"}))
    request_id = await talk.prompt(script(calling(*calls)))
    approval, question = await talk.first("approval_required"), await talk.first("ask_user")

    await talk.post("abort")

    run = await talk.events(request_id)
    assert names(run)[-3:] == ["approval_resolved", "tool_execution_end", "agent_abort"]
    assert (run[-3].data["status"], run[-2].data["status"]) == ("cancelled", "error")
    late = [
        await talk.post("approve", {"approvalId": approval["approvalId"]}),
        await talk.post("respond", {"ref": question["ref"], "response": "x"}),
    ]
    assert [(answer.status_code, answer.json()["error"], answer.json()["status"]) for answer in late] == [
        (409, "already_resolved", "cancelled")
    ] * 2


@pytest.mark.parametrize("body", [{}, {"scope": "read"}, {"scope": "control"}])
async def test_a_ticket_opens_one_stream_of_its_session_once(
    served: InProcessGateway, client: httpx.AsyncClient, body: dict[str, str]
) -> None:
    """EP-tickets, SSE-12."""
    talk, other = await Conversation.begin(client), await Conversation.begin(client)
    await talk.run("hi")
    before = time.time_ns() // 1_000_000
    issued = await talk.post("tickets", body)
    wrong = (await talk.post("tickets", body)).json()["ticket"]
    ticket, expires_at = issued.json()["ticket"], issued.json()["expiresAt"]

    async with served.client(None) as browser:
        seen = [seen async for seen in Conversation(browser, talk.id).stream(ticket=ticket, after="start")]
        refused = [
            await browser.get(f"{talk.path}/events", params={"ticket": ticket}),
            await browser.get(f"{other.path}/events", params={"ticket": wrong}),
            await browser.get(talk.path, params={"ticket": wrong}),
            await browser.post(f"{talk.path}/prompt", params={"ticket": wrong}, json={"text": "x"}),
        ]

    assert issued.status_code == 201
    assert set(issued.json()) == {"ticket", "expiresAt"}
    assert before + 30_000 <= expires_at <= time.time_ns() // 1_000_000 + 30_000
    assert names(seen)[-1] == "agent_end"
    assert [answer.status_code for answer in refused] == [401] * 4


async def test_capabilities_are_true(tmp_path: Path) -> None:
    """EP-capabilities: they match the settings and the behavior."""
    settings: dict[str, Any] = {
        "body_bytes": 2_000_000,
        "header_bytes": 40_000,
        "queued_prompts": 7,
        "ws_message_bytes": 500_000,
        "replay_events": 50,
        "heartbeat_ms": 5_000,
        "grace_ms": 250,
        "rate_limit_rpm": 600,
    }
    file = {
        "models": {"house:small": {"model": "openai/small", "api_base": "http://127.0.0.1:9/v1"}},
        "tools": {"offered": ["read_file", "ask_user"]},
    }
    environ = {"DEEPSEEK_API_KEY": "hush"}
    store = f"sqlite:///{tmp_path / 'store.db'}?durability=disk"
    async with (
        in_process_gateway(tmp_path, store=store, file=file, environ=environ, **settings) as served,
        served.client() as client,
    ):
        answer = await client.get("/v1/capabilities")
        found = answer.json()
        made = [
            await client.post("/v1/sessions", json={"model": model})
            for model in ("scripted:x", "house:small", "deepseek:deepseek-chat")
        ]

    extended = set(found.pop("extended"))
    assert found == {
        "protocol": "0.1",
        "models": ["deepseek:*", "house:small", "scripted:*"],
        "tools": ["read_file", "ask_user"],
        "plugins": ["human_approval"],
        "durability": "disk",
        "limits": {
            "bodyBytes": 2_000_000,
            "headerBytes": 40_000,
            "queuedPrompts": 7,
            "wsMessageBytes": 500_000,
            "replayEvents": 50,
            "heartbeatMs": 5_000,
            "graceMs": 250,
            "rpm": 600,
        },
    }
    assert extended >= {"abort", "cursors", "idempotency", "tickets", "budgets", "signed_callbacks", "approval_digest"}
    assert [answer.status_code for answer in made] == [201] * 3
    assert "hush" not in answer.text


@pytest.mark.parametrize(
    ("address", "durability"),
    [("memory:", "memory"), ("sqlite:///{}/a.db", "process"), ("sqlite:///{}/a.db?durability=disk", "disk")],
)
async def test_the_durability_is_declared(tmp_path: Path, address: str, durability: str) -> None:
    """DUR-4."""
    async with in_process_gateway(tmp_path, store=address.format(tmp_path)) as served, served.client() as client:
        assert (await client.get("/v1/capabilities")).json()["durability"] == durability


async def test_a_session_is_up_to_date_also_between_two_deltas(client: httpx.AsyncClient) -> None:
    talk = await Conversation.begin(client, metadata={"uptimeMs": '"uptimeMs":0,'})
    before = await talk.info()
    await talk.prompt(script({"text": ["word "] * 20, "delayMs": 10}))

    cursors: list[int] = []
    async with asyncio.timeout(30):
        async for seen in talk.stream():
            if seen.name == "message_delta":
                info = await talk.info()
                cursors.append(int(info["cursor"].rpartition(".")[2]))
                assert cursors[-1] >= int(seen.id.rpartition(".")[2])

    after = await talk.info()
    assert cursors == sorted(cursors)
    assert len(cursors) == 20
    assert after["metadata"] == before["metadata"] == {"uptimeMs": '"uptimeMs":0,'}
    assert after["uptimeMs"] > before["uptimeMs"] >= 0

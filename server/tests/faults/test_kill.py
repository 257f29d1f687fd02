"""DUR-1, DUR-2: `kill -9` in every state of a session."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import httpx
from cmdc_testkit.audit import audit
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.watchers import Watcher, record_session, wait_until

PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
COUNT_THRICE: list[tuple[str, dict[str, Any]]] = [("count", {})] * 3


async def register(talk: Conversation, receiver: Receiver, name: str = "count", **more: Any) -> None:
    definition = {"name": name, "description": "Counts.", "parameters": PARAMETERS, "callbackUrl": receiver.url, **more}
    answer = await talk.post("tools", definition)
    assert answer.status_code == 201, answer.text


async def kill_and_restart(gateway: GatewayProcess, *watchers: Watcher) -> None:
    await gateway.kill()
    for watcher in watchers:
        await watcher.wait_until_disconnected()
    await gateway.start()
    for watcher in watchers:
        await watcher.resume()


def executed(receiver: Receiver) -> list[str]:
    return [call.body["callId"] for call in receiver.calls]


async def test_a_run_killed_while_text_streams_is_interrupted_and_its_text_stays(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-1, DUR-2, EP-messages."""
    talk = await Conversation.begin(client)
    endless = script({"text": ["so ", "far ", *["and on "] * 500], "delayMs": 20})
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(endless), await talk.prompt("and then?")]
        await watcher.until("message_delta", 3)

        await kill_and_restart(gateway, watcher)
        async with asyncio.timeout(5):
            aborted = await watcher.until("agent_abort")
        ended = await watcher.until("agent_end")

        record = await record_session(talk, watcher, accepted=accepted)
    assert audit(record) == []
    assert (aborted["requestId"], aborted["reason"]) == (accepted[0], "interrupted")
    assert (ended["requestId"], ended["lastMessage"]["content"]) == (accepted[1], "You said: and then?")
    assert record.messages[1]["content"].startswith("so far and on ")


async def test_a_command_killed_with_the_server_is_closed_with_an_error_and_not_run_again(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-2, EVT-4, EVT-9."""
    talk = await Conversation.begin(client, tools=["shell"])
    command = "echo $$ >> pids.txt; exec sleep 600"
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script(calling(("shell", {"command": command}))))]
        await watcher.until("tool_execution_start")
        pids = gateway.folder / "gateway-workspace" / "pids.txt"
        await wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))

        await kill_and_restart(gateway, watcher)
        async with asyncio.timeout(5):
            end = await watcher.until("tool_execution_end")
            aborted = await watcher.until("agent_abort")

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert (end["status"], aborted["reason"]) == ("error", "interrupted")
    [pid] = pids.read_text().split()
    os.killpg(int(pid), signal.SIGKILL)  # it outlived its server, which could not kill it


async def test_a_callback_that_had_not_answered_is_not_called_again(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-2, EVT-4."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.released.clear()
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script(calling(("count", {})))), await talk.prompt("go on")]
        await receiver.wait_for_calls()

        await kill_and_restart(gateway, watcher)
        end = await watcher.until("tool_execution_end")
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, accepted=accepted, executed=executed(receiver))) == []
    assert end["status"] == "error"
    assert len(receiver.calls) == 1


async def test_a_call_can_be_approved_after_the_restart(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-2, APP-4: the run continues, and the tool is still registered."""
    talk = await Conversation.begin(client)
    await register(talk, receiver, requiresApproval=True)
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script(calling(("count", {})))), await talk.prompt("queued")]
        required = await watcher.until("approval_required")

        await kill_and_restart(gateway, watcher)
        assert (await talk.info())["state"] == "waiting_approval"
        approved = await talk.post("approve", {"approvalId": required["approvalId"], "digest": required["digest"]})
        await watcher.until("agent_end", 2)

        decisions = {required["approvalId"]: "approved"}
        record = await record_session(
            talk, watcher, accepted=accepted, decisions=decisions, executed=executed(receiver)
        )
    assert audit(record) == []
    assert approved.status_code == 200
    assert executed(receiver) == [required["callId"]]


async def test_an_approval_that_is_pending_over_a_restart_still_expires(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-2, APP-1: its timeout continues while no server is running."""
    talk = await Conversation.begin(client, tools=["shell"], approval={"tools": ["shell"], "timeoutMs": 400})
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("shell", {"command": "echo ran > ran.txt"}))))
        required = await watcher.until("approval_required")

        await kill_and_restart(gateway, watcher)
        resolved = await watcher.until("approval_resolved")
        await watcher.until("agent_end")

        late = await talk.post("approve", {"approvalId": required["approvalId"]})
        assert audit(await record_session(talk, watcher)) == []
    assert resolved["status"] == "expired"
    assert (late.status_code, late.json()["status"]) == (409, "expired")
    assert not (gateway.folder / "gateway-workspace" / "ran.txt").exists()


async def test_an_executing_call_ends_its_run_and_cancels_a_pending_approval(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-2, EVT-9: the outcome of the executing call is unknown, so the run is interrupted."""
    talk = await Conversation.begin(client)
    await register(talk, receiver, requiresApproval=True)
    receiver.released.clear()
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(("count", {}), ("count", {}))))
        first = await watcher.until("approval_required")
        second = await watcher.until("approval_required", 2)
        assert (await talk.post("approve", {"approvalId": first["approvalId"]})).status_code == 200
        await receiver.wait_for_calls()

        await kill_and_restart(gateway, watcher)
        aborted = await watcher.until("agent_abort")

        again = await talk.post("approve", {"approvalId": first["approvalId"]})
        late = await talk.post("approve", {"approvalId": second["approvalId"]})
        decisions = {first["approvalId"]: "approved", second["approvalId"]: "cancelled"}
        assert audit(await record_session(talk, watcher, decisions=decisions, executed=executed(receiver))) == []
    assert aborted["reason"] == "interrupted"
    assert again.status_code == 200
    assert (late.status_code, late.json()["status"]) == (409, "cancelled")
    assert executed(receiver) == [first["callId"]]


async def test_two_approvals_stay_pending_after_a_third_was_rejected(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-1, DUR-2."""
    talk = await Conversation.begin(client)
    await register(talk, receiver, requiresApproval=True)
    async with Watcher(talk) as watcher:
        await talk.prompt(script(calling(*COUNT_THRICE)))
        waiting = [(await watcher.until("approval_required", nth))["approvalId"] for nth in (1, 2, 3)]
        assert (await talk.post("reject", {"approvalId": waiting[1], "reason": "no"})).status_code == 200

        await kill_and_restart(gateway, watcher)
        pending = [approval["approvalId"] for approval in (await talk.info())["pendingApprovals"]]
        for approval_id in pending:
            assert (await talk.post("approve", {"approvalId": approval_id})).status_code == 200
        await watcher.until("agent_end")

        decisions = {waiting[0]: "approved", waiting[1]: "rejected", waiting[2]: "approved"}
        assert audit(await record_session(talk, watcher, decisions=decisions, executed=executed(receiver))) == []
    assert pending == [waiting[0], waiting[2]]


async def test_a_question_can_be_answered_after_the_restart(gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    """DUR-2, APP-4, ASK-1."""
    talk = await Conversation.begin(client, tools=["ask_user"])
    asking = calling(("ask_user", {"question": "Which?", "options": ["left", "right"]}))
    async with Watcher(talk) as watcher:
        await talk.prompt(script(asking))
        ref = (await watcher.until("ask_user"))["ref"]

        await kill_and_restart(gateway, watcher)
        state = (await talk.info())["state"]
        wrong = await talk.post("respond", {"ref": ref, "response": "up"})
        right = await talk.post("respond", {"ref": ref, "response": "left"})
        await watcher.until("agent_end")

        assert audit(await record_session(talk, watcher, answers={ref: "left"})) == []
    assert (state, wrong.status_code, right.status_code) == ("waiting_input", 400, 200)


async def test_queued_prompts_run_in_order_after_the_restart(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-1, DUR-2."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script({"text": ["slow"], "delayMs": 600_000}))]
        accepted += [await talk.prompt(f"number {n}") for n in range(5)]
        queue = [waiting["requestId"] for waiting in (await talk.info())["queue"]]

        await kill_and_restart(gateway, watcher)
        last = await watcher.until("agent_end", 5)

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []
    assert queue == accepted[1:]
    assert last["lastMessage"]["content"] == "You said: number 4"


async def test_an_idle_session_is_restored_completely(
    gateway: GatewayProcess, client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """DUR-1, MTR-1, HTTP-11: settings, tools, history, counters and stored responses; nothing is counted twice."""
    body = {"model": "scripted:x", "metadata": {"for": "me"}, "systemPrompt": "Be brief."}
    created = await client.post("/v1/sessions", json=body, headers={"Idempotency-Key": "made"})
    talk = Conversation(client, created.json()["sessionId"])
    await register(talk, receiver)
    first = await talk.post("prompt", {"text": "hello"}, Idempotency_Key="said")
    await talk.events(first.json()["requestId"])
    paths = ("", "/stats", "/messages", "/tools")
    before = [(await talk.get(path)).json() for path in paths]
    usage = (await client.get("/v1/usage")).json()

    await gateway.kill()
    await gateway.start()

    after = [(await talk.get(path)).json() for path in paths]
    for info in (before[0], after[0]):
        info.pop("uptimeMs")
    created_again = await client.post("/v1/sessions", json=body, headers={"Idempotency-Key": "made"})
    first_again = await talk.post("prompt", {"text": "hello"}, Idempotency_Key="said")
    assert after == before
    assert (created_again.json(), created_again.headers["idempotent-replayed"]) == (created.json(), "true")
    assert (first_again.json(), first_again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert (await client.get("/v1/usage")).json() == usage
    assert audit(await record_session(talk, accepted=[first.json()["requestId"]])) == []


async def test_a_crash_during_the_recovery_from_a_crash_loses_nothing(
    gateway: GatewayProcess, client: httpx.AsyncClient
) -> None:
    """DUR-1, DUR-2: three kills in a row. The later ones may also interrupt the second run."""
    talk = await Conversation.begin(client)
    async with Watcher(talk) as watcher:
        accepted = [await talk.prompt(script({"text": ["a"] * 1000, "delayMs": 10})), await talk.prompt("next")]
        await watcher.until("message_delta")
        await gateway.kill()
        for _ in range(2):
            await gateway.start()
            await gateway.kill()

        await watcher.wait_until_disconnected()
        await gateway.start()
        await watcher.resume()
        await watcher.until_run_ends(accepted[1])

        assert audit(await record_session(talk, watcher, accepted=accepted)) == []


async def test_a_stream_resumed_over_a_restart_has_no_gap_and_no_repeat(tmp_path: Path) -> None:
    """DUR-1, SSE-6, EVT-7: it continues byte for byte."""
    async with GatewayProcess(tmp_path, forked=True) as gateway, gateway.client() as client:
        talk = await Conversation.begin(client)
        await talk.run("first")
        async with Watcher(talk) as before, Watcher(talk) as cut:
            await before.until("agent_end")
            await cut.until("agent_end")
            await kill_and_restart(gateway, cut)
            await talk.run("second")
            await cut.until("agent_end", 2)
        async with Watcher(talk) as after:
            await after.until("agent_end", 2)
    raw = [event.raw for event in after.events]
    assert cut.events == after.events
    assert [event.raw for event in cut.events] == raw
    assert [event.raw for event in before.events] == raw[: len(before.events)]

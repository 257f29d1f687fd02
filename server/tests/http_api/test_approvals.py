"""Approvals and questions: APP-1 to APP-5, ASK-1."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import rfc8785
from cmdc_conformance.wire.event import names
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent, without_ids
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

Decision = tuple[str, dict[str, Any]]

PARAMETERS = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "copies": {"type": "integer", "minimum": 1}},
    "required": ["to"],
    "additionalProperties": False,
}


@pytest.fixture
def served(shared: InProcessGateway) -> InProcessGateway:
    return shared


async def guarded(
    client: httpx.AsyncClient, receiver: Receiver, *, args: dict[str, Any] | None = None, **settings: Any
) -> tuple[Conversation, dict[str, Any]]:
    """A session with a pending approval for its tool `send`, and the data of `approval_required`."""
    talk = await Conversation.begin(client, **settings)
    await register(talk, receiver)
    await talk.prompt(script(calling(("send", {"to": "Åse"} if args is None else args)), {"text": ["Sent."]}))
    return talk, await talk.first("approval_required")


async def register(talk: Conversation, receiver: Receiver, **more: Any) -> None:
    tool = {"name": "send", "description": "Send it.", "parameters": PARAMETERS, "callbackUrl": receiver.url}
    answer = await talk.post("tools", {**tool, "requiresApproval": True, **more})
    assert answer.status_code == 201, answer.text


async def finished(talk: Conversation, approval: dict[str, Any]) -> list[ReceivedEvent]:
    return await talk.events(approval["requestId"])


def resolutions(run: list[ReceivedEvent]) -> list[str]:
    return [seen.data["status"] for seen in run if seen.name == "approval_resolved"]


def answered(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    return answer.status_code, answer.json()


# -- APP-1


async def test_an_approved_call_runs_and_the_run_continues(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-1, EVT-5: `approval_required` has everything that a decision needs."""
    talk, approval = await guarded(client, receiver, sessionId="s")
    approval_id, call_id = approval["approvalId"], approval["callId"]
    digest = hashlib.sha256(rfc8785.dumps(["s", call_id, "send", {"to": "Åse"}])).hexdigest()

    assert approval == {
        "approvalId": approval_id,
        "toolName": "send",
        "args": {"to": "Åse"},
        "hint": 'send {"to":"Åse"}',
        "requestedAt": approval["requestedAt"],
        "callId": call_id,
        "digest": digest,
        "expiresAt": None,
        "requestId": approval["requestId"],
    }
    assert receiver.calls == []
    answer = await talk.post("approve", {"approvalId": approval_id})
    run = await finished(talk, approval)

    assert answered(answer) == (200, {"ok": True, "action": "approve", "approvalId": approval_id})
    assert without_ids(run)[4:8] == [
        ("approval_resolved", {"approvalId": approval_id, "status": "approved"}),
        ("tool_execution_start", {"toolName": "send", "callId": call_id, "args": {"to": "Åse"}}),
        ("tool_execution_end", {"toolName": "send", "callId": call_id, "status": "ok", "result": "done"}),
        ("message_start", {}),
    ]
    assert run[-1].data["lastMessage"]["content"] == "Sent."
    assert [call.body["args"] for call in receiver.calls] == [{"to": "Åse"}]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "The user rejected this call."),
        ({"reason": "Not today."}, "The user rejected this call. Reason: Not today."),
    ],
)
async def test_a_rejected_call_never_runs_and_the_model_gets_the_reason(
    client: httpx.AsyncClient, receiver: Receiver, body: dict[str, str], sentence: str
) -> None:
    """APP-1, EVT-4."""
    talk, approval = await guarded(client, receiver)
    approval_id = approval["approvalId"]

    answer = await talk.post("reject", {"approvalId": approval_id, **body})
    run = await finished(talk, approval)

    assert answered(answer) == (200, {"ok": True, "action": "reject", "approvalId": approval_id})
    assert names(run)[3:6] == ["approval_required", "approval_resolved", "message_start"]
    assert resolutions(run) == ["rejected"]
    assert run[-1].name == "agent_end"
    assert receiver.calls == []
    assert (await talk.messages())[2] == {
        "role": "tool_result",
        "content": sentence,
        "callId": approval["callId"],
        "name": "send",
        "isError": True,
    }


async def test_calls_that_need_no_approval_run_while_others_wait(client: httpx.AsyncClient) -> None:
    """APP-1: and the model is called again only when every call has its result."""
    talk = await Conversation.begin(client, tools=["glob", "shell"])
    calls = (("shell", {"command": "echo one"}), ("glob", {"pattern": "*"}), ("shell", {"command": "echo two"}))
    request_id = await talk.prompt(script(calling(*calls), {"text": ["Done."]}))

    await talk.first("tool_execution_end")
    first, second = await talk.first("approval_required"), await talk.first("approval_required", nth=2)
    await talk.post("approve", {"approvalId": second["approvalId"]})
    await talk.first("tool_execution_end", nth=2)
    assert (await talk.info())["state"] == "waiting_approval"
    await talk.post("approve", {"approvalId": first["approvalId"]})
    run = await talk.events(request_id)

    ends = [
        (seen.data["toolName"], seen.data["result"].strip()[:3]) for seen in run if seen.name == "tool_execution_end"
    ]
    assert [name for name, _ in ends] == ["glob", "shell", "shell"]
    assert [result for _, result in ends[1:]] == ["two", "one"]
    results = [message["name"] for message in await talk.messages() if message["role"] == "tool_result"]
    assert sorted(results) == ["glob", "shell", "shell"]


async def test_an_approval_without_a_time_limit_does_not_expire(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-1: `timeoutMs` 0 is no limit."""
    talk, approval = await guarded(client, receiver, approval={"tools": ["send"], "timeoutMs": 0})

    assert approval["expiresAt"] is None
    assert (await talk.info())["state"] == "waiting_approval"


async def test_a_clock_that_was_ahead_for_a_while_does_not_move_a_deadline(
    served: InProcessGateway, client: httpx.AsyncClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """APP-1: events of that time carry its timestamps, the approval its own."""
    services = served.gateway.registry.services
    clock, ahead = services.clock, 86_400_000
    talk = await Conversation.begin(client)
    await register(talk, receiver)

    with monkeypatch.context() as patched:
        patched.setattr(services, "clock", lambda: clock() + ahead)
        await talk.prompt(script(calling(("send", {"to": "Åse"}), text=["a", "b"], delayMs=500)))
        await talk.first("message_delta")
    approval = await talk.first("approval_required")

    assert abs(approval["requestedAt"] - clock()) < ahead / 2


async def test_an_approval_without_a_decision_expires(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-1, APP-2: the call does not run, and a later decision is a conflict."""
    talk, approval = await guarded(client, receiver, approval={"tools": ["send"], "timeoutMs": 50})
    run = await finished(talk, approval)

    late = [await talk.post(action, {"approvalId": approval["approvalId"]}) for action in ("approve", "reject")]

    assert approval["expiresAt"] == approval["requestedAt"] + 50
    assert resolutions(run) == ["expired"]
    assert run[-1].name == "agent_end"
    assert receiver.calls == []
    assert (await talk.messages())[2]["content"] == "This call was not approved in time."
    message = f"approval {approval['approvalId']!r} is already expired"
    assert [answered(answer) for answer in late] == [
        (409, {"error": "already_resolved", "message": message, "status": "expired"})
    ] * 2


# -- APP-2


SAME: list[tuple[Decision, dict[str, Any]]] = [
    (("approve", {}), {}),
    (("approve", {"digest": "…"}), {}),
    (("approve", {}), {"digest": "…"}),
    (("approve", {}), {"args": {"to": "Åse"}}),
    (("approve", {"args": {"to": "Bo", "copies": 2}}), {}),
    (("approve", {"args": {"to": "Bo", "copies": 2}}), {"args": {"copies": 2, "to": "Bo"}, "digest": "…"}),
    (("reject", {}), {}),
    (("reject", {"reason": "No."}), {}),
    (("reject", {"reason": "No."}), {"reason": "No."}),
]


@pytest.mark.parametrize(("first", "again"), SAME)
async def test_repeating_a_decision_succeeds_and_has_no_effect(
    client: httpx.AsyncClient, receiver: Receiver, first: Decision, again: dict[str, Any]
) -> None:
    """APP-2: 200 and the same body, during the run and after it."""
    talk, approval = await guarded(client, receiver)
    action, body = first

    def filled(body: dict[str, Any]) -> dict[str, Any]:
        given = {"digest": approval["digest"]} if "digest" in body else {}
        return {"approvalId": approval["approvalId"], **body, **given}

    receiver.released.clear()
    one = await talk.post(action, filled(body))
    two = await talk.post(action, filled(again))
    receiver.released.set()
    run = await finished(talk, approval)
    three = await talk.post(action, filled(again))

    assert one.status_code == 200
    assert answered(one) == answered(two) == answered(three)
    assert len(resolutions(run)) == 1
    assert names(run).count("tool_execution_start") == len(receiver.calls) == (action == "approve")
    assert (await talk.info())["cursor"] == run[-1].id


OTHER: list[tuple[Decision, Decision]] = [
    (("approve", {}), ("reject", {})),
    (("approve", {}), ("approve", {"args": {"to": "Bo"}})),
    (("approve", {}), ("approve", {"digest": "0" * 64})),
    (("approve", {"args": {"to": "Bo"}}), ("approve", {"args": {"to": "Åse"}})),
    (("reject", {}), ("approve", {})),
    (("reject", {}), ("reject", {"reason": "No."})),
    (("reject", {"reason": "No."}), ("reject", {"reason": "Never."})),
]


@pytest.mark.parametrize(("first", "other"), OTHER)
async def test_a_different_decision_is_a_conflict(
    client: httpx.AsyncClient,
    receiver: Receiver,
    first: Decision,
    other: Decision,
) -> None:
    """APP-2: 409 with the decision that applies."""
    talk, approval = await guarded(client, receiver)
    approval_id = approval["approvalId"]
    await talk.post(first[0], {"approvalId": approval_id, **first[1]})

    late = await talk.post(other[0], {"approvalId": approval_id, **other[1]})
    run = await finished(talk, approval)

    status = {"approve": "approved", "reject": "rejected"}[first[0]]
    message = f"approval {approval_id!r} is already {status}"
    assert answered(late) == (409, {"error": "already_resolved", "message": message, "status": status})
    assert resolutions(run) == [status]


async def test_one_of_concurrent_decisions_wins(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-2."""
    for _ in range(5):
        talk, approval = await guarded(client, receiver)
        body = {"approvalId": approval["approvalId"]}
        edit = {**body, "args": {"to": "Bo"}}
        sent = [("approve", body), ("reject", body), ("approve", edit), ("reject", {**body, "reason": "No."})] * 3

        answers = await asyncio.gather(*(talk.post(*decision) for decision in sent))
        run = await finished(talk, approval)

        [status] = resolutions(run)
        taken = {answer.json()["action"] for answer in answers if answer.status_code == 200}
        assert taken == {{"approved": "approve", "rejected": "reject"}[status]}
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {(answer.status_code, answer.json()["status"]) for answer in refused} == {(409, status)}
        assert names(run).count("tool_execution_start") == (status == "approved")


@pytest.mark.parametrize("approval_id", ["apr_none", "", "apr_", "call_1"])
async def test_an_unknown_approval_is_not_found(
    client: httpx.AsyncClient, receiver: Receiver, approval_id: str
) -> None:
    """APP-2."""
    talk, _ = await guarded(client, receiver)

    for action in ("approve", "reject"):
        assert answered(await talk.post(action, {"approvalId": approval_id})) == (
            404,
            {"error": "not_found", "message": f"no approval {approval_id!r} in this session"},
        )


async def test_an_approval_belongs_to_its_session(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-2: an approval of another session is unknown in this one."""
    talk, approval = await guarded(client, receiver)
    other = await Conversation.begin(client)

    assert (await other.post("approve", {"approvalId": approval["approvalId"]})).status_code == 404
    assert (await talk.info())["state"] == "waiting_approval"


# -- APP-3


async def test_an_approval_with_another_digest_decides_nothing(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-3: the digest must be that of the pending call."""
    talk, approval = await guarded(client, receiver)

    refused = [
        await talk.post("approve", {"approvalId": approval["approvalId"], "digest": digest})
        for digest in ("0" * 64, "", approval["digest"].upper())
    ]
    before = (await talk.info())["state"]
    taken = await talk.post("approve", {"approvalId": approval["approvalId"], "digest": approval["digest"]})

    message = f"the digest does not match the call of approval {approval['approvalId']!r}; nothing was decided"
    assert [answered(answer) for answer in refused] == [(409, {"error": "digest_mismatch", "message": message})] * 3
    assert (before, taken.status_code) == ("waiting_approval", 200)
    assert resolutions(await finished(talk, approval)) == ["approved"]


async def test_a_call_runs_with_the_edited_arguments(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-3: `tool_execution_start.args` are always the arguments of the call."""
    talk, approval = await guarded(client, receiver)
    edited = {"to": "Bo", "copies": 2}

    answer = await talk.post(
        "approve", {"approvalId": approval["approvalId"], "args": edited, "digest": approval["digest"]}
    )
    run = await finished(talk, approval)

    assert answer.status_code == 200
    assert [seen.data["args"] for seen in run if seen.name == "tool_execution_start"] == [edited]
    assert [call.body["args"] for call in receiver.calls] == [edited]


@pytest.mark.parametrize("args", [{}, {"to": 1}, {"to": "Bo", "copies": 0}, {"to": "Bo", "bcc": "x"}])
async def test_invalid_edited_arguments_are_rejected_and_decide_nothing(
    client: httpx.AsyncClient, receiver: Receiver, args: dict[str, Any]
) -> None:
    """APP-3."""
    talk, approval = await guarded(client, receiver)

    answer = await talk.post("approve", {"approvalId": approval["approvalId"], "args": args})

    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
    assert [detail["path"] for detail in answer.json()["details"]] == ["args"]
    assert "the arguments of 'send' do not match its schema" in answer.json()["message"]
    assert (await talk.info())["state"] == "waiting_approval"


async def test_registering_the_tool_again_cancels_its_pending_approvals(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """APP-3: the tool that would run is not the one that was shown."""
    talk, approval = await guarded(client, receiver)

    await register(talk, receiver, description="Something else.")
    run = await finished(talk, approval)
    late = await talk.post("approve", {"approvalId": approval["approvalId"]})

    assert resolutions(run) == ["cancelled"]
    assert run[-1].name == "agent_end"
    assert receiver.calls == []
    assert (late.status_code, late.json()["status"]) == (409, "cancelled")


async def test_deleting_the_tool_cancels_its_pending_approvals(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-3, EP-tools."""
    talk, approval = await guarded(client, receiver)

    await client.delete(f"{talk.path}/tools/send")

    assert resolutions(await finished(talk, approval)) == ["cancelled"]
    assert receiver.calls == []


async def test_registering_another_tool_cancels_nothing(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-3."""
    talk, approval = await guarded(client, receiver)

    await register(talk, receiver, name="other")
    await talk.post("approve", {"approvalId": approval["approvalId"]})

    assert resolutions(await finished(talk, approval)) == ["approved"]


async def test_an_approved_call_goes_to_the_address_of_its_approval(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    """APP-3: also if the tool is registered with another URL before the call starts."""
    talk = await Conversation.begin(client)
    await register(talk, receiver)
    receiver.released.clear()
    many = [("send", {"to": str(number)}) for number in range(9)]  # one more than run at once
    request_id = await talk.prompt(script(calling(*many)))
    for number in range(9):
        approval = await talk.first("approval_required", nth=number + 1)
        await talk.post("approve", {"approvalId": approval["approvalId"]})
    await receiver.wait_for_calls(8)

    async with Receiver() as elsewhere:
        await register(talk, elsewhere)
        receiver.released.set()
        run = await talk.events(request_id)

        assert (len(receiver.calls), elsewhere.calls) == (9, [])
    assert resolutions(run) == ["approved"] * 9


async def test_an_aborted_run_leaves_no_approval_open(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-2, EVT-9."""
    talk, approval = await guarded(client, receiver)
    await talk.post("abort")

    late = await talk.post("approve", {"approvalId": approval["approvalId"]})

    assert (late.status_code, late.json()["status"]) == (409, "cancelled")
    assert resolutions(await finished(talk, approval)) == ["cancelled"]


# -- APP-4


async def test_a_pending_approval_survives_a_restart_and_can_then_be_decided(
    tmp_path: Path, receiver: Receiver
) -> None:
    """APP-4: with the same digest, in the same run."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk, approval = await guarded(client, receiver)
        asking = await Conversation.begin(client, tools=["ask_user"])
        await asking.prompt(script(calling(("ask_user", {"question": "Which?", "options": ["a", "b"]}))))
        question = await asking.first("ask_user")

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk, asking = Conversation(client, talk.id), Conversation(client, asking.id)
        assert (await talk.info())["pendingApprovals"] == [approval]
        assert (await asking.info())["pendingQuestions"] == [question]

        wrong = await asking.post("respond", {"ref": question["ref"], "response": "c"})
        await talk.post("approve", {"approvalId": approval["approvalId"], "digest": approval["digest"]})
        await asking.post("respond", {"ref": question["ref"], "response": "b"})
        run, asked = await finished(talk, approval), await asking.events(question["requestId"])

    assert wrong.status_code == 400
    assert names(run)[:6] == [
        "prompt_received",
        "agent_start",
        "tool_calls",
        "approval_required",
        "approval_resolved",
        "tool_execution_start",
    ]
    assert [call.body["callId"] for call in receiver.calls] == [approval["callId"]]
    assert [seen.data["result"] for seen in asked if seen.name == "tool_execution_end"] == ["b"]
    assert (run[-1].name, asked[-1].name) == ("agent_end", "agent_end")


async def test_an_approval_whose_deadline_passed_while_the_server_was_down_expires(
    tmp_path: Path, receiver: Receiver
) -> None:
    """APP-2, APP-4."""
    address = f"sqlite:///{tmp_path / 'store.db'}"
    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        talk, approval = await guarded(client, receiver, approval={"tools": ["*"], "timeoutMs": 500})

    async with in_process_gateway(tmp_path, store=address) as served, served.client() as client:
        run = await finished(Conversation(client, talk.id), approval)

    assert resolutions(run) == ["expired"]
    assert receiver.calls == []


# -- APP-5


async def test_an_asterisk_means_every_tool_except_ask_user(client: httpx.AsyncClient, receiver: Receiver) -> None:
    """APP-5: including tools that are registered later."""
    talk = await Conversation.begin(client, tools=["glob", "ask_user"], approval={"tools": ["*"]})
    await register(talk, receiver, requiresApproval=False)
    calls = (("glob", {"pattern": "*"}), ("ask_user", {"question": "?"}), ("send", {"to": "Bo"}))
    await talk.prompt(script(calling(*calls)))
    await talk.first("ask_user")

    info = await talk.info()

    assert [waiting["toolName"] for waiting in info["pendingApprovals"]] == ["glob", "send"]
    listed = (await talk.get("/tools")).json()["tools"]
    assert {tool["name"]: tool["requiresApproval"] for tool in listed} == {
        "glob": True,
        "ask_user": False,
        "send": True,
    }


async def test_tools_named_for_approval_wait_and_others_do_not(client: httpx.AsyncClient) -> None:
    """EP-create, approval.tools: by alias too."""
    talk = await Conversation.begin(client, tools=["glob", "list_dir"], approval={"tools": ["CMDC.Tool.ListDir"]})
    await talk.prompt(script(calling(("glob", {"pattern": "*"}), ("list_dir", {}))))
    await talk.first("tool_execution_end")

    assert [waiting["toolName"] for waiting in (await talk.info())["pendingApprovals"]] == ["list_dir"]


# -- ASK-1


async def asked(client: httpx.AsyncClient, **args: Any) -> tuple[Conversation, dict[str, Any]]:
    """A session with a pending question, and the data of `ask_user`."""
    talk = await Conversation.begin(client, tools=["ask_user"])
    await talk.prompt(script(calling(("ask_user", {"question": "Which way?", **args})), {"text": ["Thanks."]}))
    return talk, await talk.first("ask_user")


async def test_an_answer_becomes_the_result_of_the_call(client: httpx.AsyncClient) -> None:
    """ASK-1: any text, also an empty one."""
    for response in ("left", "", "👋\u2028"):
        talk, question = await asked(client)
        ref = question["ref"]
        state = (await talk.info())["state"]

        answer = await talk.post("respond", {"ref": ref, "response": response})
        run = await talk.events(question["requestId"])

        assert state == "waiting_input"
        assert question == {"ref": ref, "question": "Which way?", "options": None, "requestId": question["requestId"]}
        assert answered(answer) == (200, {"ok": True, "action": "respond", "ref": ref})
        assert names(run)[3:6] == ["tool_execution_start", "ask_user", "tool_execution_end"]
        assert [(seen.data["status"], seen.data["result"]) for seen in run[5:6]] == [("ok", response)]
        assert run[-1].data["lastMessage"]["content"] == "Thanks."


async def test_an_answer_must_be_one_of_the_options(client: httpx.AsyncClient) -> None:
    """ASK-1: and an invalid answer leaves the question open."""
    talk, question = await asked(client, options=["left", "right"])

    wrong = [await talk.post("respond", {"ref": question["ref"], "response": text}) for text in ("up", "Left", "")]
    right = await talk.post("respond", {"ref": question["ref"], "response": "right"})

    assert question["options"] == ["left", "right"]
    assert [answered(answer) for answer in wrong] == [
        (
            400,
            {
                "error": "bad_request",
                "message": "response must be one of the options: 'left', 'right'",
                "details": [{"path": "response", "message": "not an option"}],
            },
        )
    ] * 3
    assert right.status_code == 200


async def test_repeating_an_answer_succeeds_and_a_different_one_is_a_conflict(client: httpx.AsyncClient) -> None:
    """ASK-1: also an answer that is not an option."""
    talk, question = await asked(client, options=["left", "right"])
    ref = question["ref"]
    first = await talk.post("respond", {"ref": ref, "response": "left"})
    await talk.events(question["requestId"])

    again = await talk.post("respond", {"ref": ref, "response": "left"})
    others = [await talk.post("respond", {"ref": ref, "response": text}) for text in ("right", "up")]

    assert answered(again) == answered(first)
    message = f"question {ref!r} is already answered"
    assert [answered(answer) for answer in others] == [
        (409, {"error": "already_resolved", "message": message, "status": "answered"})
    ] * 2


async def test_one_of_concurrent_answers_wins(client: httpx.AsyncClient) -> None:
    """ASK-1."""
    talk, question = await asked(client)

    answers = await asyncio.gather(
        *(talk.post("respond", {"ref": question["ref"], "response": str(number % 3)}) for number in range(12))
    )
    run = await talk.events(question["requestId"])

    [result] = [seen.data["result"] for seen in run if seen.name == "tool_execution_end"]
    taken = [number for number, answer in enumerate(answers) if answer.status_code == 200]
    assert taken == [number for number in range(12) if str(number % 3) == result]
    assert {answer.status_code for answer in answers} == {200, 409}


async def test_an_unknown_question_is_not_found(client: httpx.AsyncClient) -> None:
    """ASK-1."""
    talk, _ = await asked(client)

    for ref in ("ask_none", "", "apr_x"):
        assert answered(await talk.post("respond", {"ref": ref, "response": "x"})) == (
            404,
            {"error": "not_found", "message": f"no question {ref!r} in this session"},
        )


@pytest.mark.parametrize("args", [{}, {"question": ""}, {"question": 1}, {"question": "?", "options": "yes"}])
async def test_an_invalid_question_is_not_asked(client: httpx.AsyncClient, args: dict[str, Any]) -> None:
    """ASK-1, EVT-1: the model gets an error and can try again."""
    talk = await Conversation.begin(client, tools=["ask_user"])

    run = await talk.run(script(calling(("ask_user", args)), {"text": ["Never mind."]}))

    assert names(run) == [
        "prompt_received",
        "agent_start",
        "tool_calls",
        "error",
        "message_start",
        "message_delta",
        "agent_end",
    ]

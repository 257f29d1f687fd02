"""`Transcript` and `Reply`: the state of a run, accumulated from its events."""

from typing import Any

from cmdc_client import Event, Reply, Transcript
from cmdc_client.events import AgentEnd, read_event

USAGE = {"promptTokens": 3, "completionTokens": 4, "totalTokens": 7}


def events(*items: tuple[str, dict[str, Any]], request_id: str = "r1") -> list[Event]:
    return [
        read_event(name, {"requestId": request_id, **data}, f"e.{seq}", "here")
        for seq, (name, data) in enumerate(items, start=1)
    ]


def started(call: str, tool: str, **args: Any) -> tuple[str, dict[str, Any]]:
    return "tool_execution_start", {"toolName": tool, "callId": call, "args": args}


def ended(call: str, tool: str, result: str, status: str = "ok") -> tuple[str, dict[str, Any]]:
    return "tool_execution_end", {"toolName": tool, "callId": call, "status": status, "result": result}


def delta(text: str) -> tuple[str, dict[str, Any]]:
    return "message_delta", {"delta": text}


def asked(ref: str, question: str) -> tuple[str, dict[str, Any]]:
    return "ask_user", {"ref": ref, "question": question, "options": None}


def required(approval: str) -> tuple[str, dict[str, Any]]:
    data: dict[str, Any] = {
        "approvalId": approval,
        "toolName": "shell",
        "args": {},
        "hint": "",
        "requestedAt": 1,
        "callId": "c",
    }
    return "approval_required", {**data, "digest": "d", "expiresAt": None}


def test_text_is_that_of_the_last_step_and_earlier_has_the_steps_before() -> None:
    transcript = Transcript.of(
        events(
            ("prompt_received", {"text": "hi"}),
            ("thinking_delta", {"delta": "hm"}),
            delta("Let "),
            delta("me look."),
            ("tool_calls", {"count": 1}),
            started("c1", "shell", command="ls"),
            ended("c1", "shell", "a.txt"),
            ("thinking_delta", {"delta": ", aha"}),
            delta("One file."),
            ("agent_end", {"messageCount": 4, "lastMessage": None, "tokenUsage": USAGE, "costUsd": 0.1}),
        )
    )

    assert (transcript.prompt, transcript.request_id) == ("hi", "r1")
    assert (transcript.earlier, transcript.text) == (("Let me look.",), "One file.")
    assert transcript.thinking == "hm, aha"
    [call] = transcript.tool_calls
    assert (call.name, call.args, call.status, call.result) == ("shell", {"command": "ls"}, "ok", "a.txt")
    assert (transcript.done, transcript.aborted, transcript.cost_usd) == (True, None, 0.1)
    assert transcript.usage is not None
    assert transcript.usage.total_tokens == 7


def test_an_approval_is_open_until_it_is_resolved() -> None:
    transcript = Transcript.of(events(required("a1"), required("a2")))
    assert [*transcript.approvals] == ["a1", "a2"]

    for event in events(("approval_resolved", {"approvalId": "a1", "status": "rejected"})):
        transcript.add(event)

    assert [*transcript.approvals] == ["a2"]


def test_a_question_is_open_until_its_own_call_has_ended() -> None:
    transcript = Transcript.of(
        events(
            started("c1", "ask_user", question="name?"),
            started("c2", "ask_user", question="color?"),
            started("c3", "ask_user", question="color?"),
            asked("q1", "name?"),
            asked("q2", "color?"),
            asked("q3", "color?"),
        )
    )

    for event in events(ended("c2", "ask_user", "red")):
        transcript.add(event)

    assert [*transcript.questions] == ["q1", "q3"]


def test_an_aborted_run_has_a_reason_and_its_errors() -> None:
    transcript = Transcript.of(
        events(delta("par"), ("error", {"reason": "down"}), ("agent_abort", {"reason": "error"}))
    )

    assert (transcript.text, transcript.errors, transcript.aborted, transcript.done) == ("par", ["down"], "error", True)


def test_a_new_prompt_resets_the_transcript() -> None:
    transcript = Transcript.of(
        events(("prompt_received", {"text": "one"}), delta("1"), ("agent_abort", {"reason": "x"}))
    )

    for event in events(("prompt_received", {"text": "two"}), delta("2"), request_id="r2"):
        transcript.add(event)

    assert (transcript.prompt, transcript.request_id, transcript.text) == ("two", "r2", "2")
    assert not transcript.done


def test_the_text_of_a_reply_is_the_last_message() -> None:
    last = {"role": "assistant", "content": "whole"}
    [end] = events(("agent_end", {"messageCount": 4, "lastMessage": last, "tokenUsage": USAGE, "costUsd": 0.1}))
    assert isinstance(end, AgentEnd)

    reply = Reply.of(Transcript(request_id="r1"), end)

    assert (reply.text, reply.cost_usd, reply.usage.prompt_tokens, reply.request_id) == ("whole", 0.1, 3, "r1")


def test_unknown_events_are_ignored() -> None:
    assert Transcript.of(events(("telepathy", {"x": 1}))).text == ""

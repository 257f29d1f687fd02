"""A program that handles every event. `nox -s types` checks this file; it is never run.

Every event is narrowed to its class, and every attribute has a type other than `Any`. If a class is missing here, or is
added to the protocol, the type checker reports it.
"""

# mypy: disallow-any-expr

from typing import Literal, assert_never, assert_type

from cmdc_client import (
    AgentAbort,
    AgentEnd,
    AgentStart,
    ApprovalRequired,
    ApprovalResolved,
    AskUser,
    Client,
    Event,
    LastMessage,
    MessageDelta,
    MessageStart,
    PromptReceived,
    RunError,
    ThinkingDelta,
    ThinkingStart,
    TokenUsage,
    ToolCalls,
    ToolExecutionEnd,
    ToolExecutionStart,
    UnknownEvent,
)


def describe(event: Event) -> str:
    """Describe the event in one line."""
    assert_type(event.id, str)
    assert_type(event.seq, int)
    assert_type(event.request_id, str)
    match event:
        case PromptReceived(text=text):
            return assert_type(text, str)
        case AgentStart() | ThinkingStart() | MessageStart():
            return assert_type(event.event, Literal["agent_start", "thinking_start", "message_start"])
        case ThinkingDelta(delta=delta) | MessageDelta(delta=delta):
            return assert_type(delta, str)
        case ToolCalls(count=count):
            return f"{assert_type(count, int)} calls"
        case ApprovalRequired(approval_id=approval_id, tool_name=tool_name, args=args, expires_at=expires_at):
            assert_type(event, ApprovalRequired)
            assert_type(expires_at, int | None)
            path = args.get("path")
            return f"{approval_id}: {tool_name} {path if isinstance(path, str) else ''}"
        case ApprovalResolved(status=status):
            return assert_type(status, Literal["approved", "rejected", "expired", "cancelled"])
        case ToolExecutionStart(tool_name=tool_name, call_id=call_id):
            return f"{tool_name} ({call_id})"
        case AskUser(question=question, options=options):
            assert_type(options, list[str] | None)
            return question
        case ToolExecutionEnd(status=status, result=result):
            assert_type(status, Literal["ok", "error"])
            return assert_type(result, str)
        case RunError(reason=reason) | AgentAbort(reason=reason):
            return assert_type(reason, str)
        case AgentEnd(last_message=last_message, token_usage=token_usage, cost_usd=cost_usd):
            assert_type(last_message, LastMessage | None)
            assert_type(token_usage, TokenUsage)
            assert_type(cost_usd, float)
            return last_message.content if last_message is not None else ""
        case UnknownEvent(event=name, data=data):
            return f"{name} with {', '.join(data)}"
        case _:
            assert_never(event)


def incomplete_match(event: Event) -> str:
    """Both type checkers must report that `AgentAbort` is missing."""
    match event:
        case (
            PromptReceived()
            | AgentStart()
            | ThinkingStart()
            | ThinkingDelta()
            | MessageStart()
            | MessageDelta()
            | ToolCalls()
            | ApprovalRequired()
            | ApprovalResolved()
            | ToolExecutionStart()
            | AskUser()
            | ToolExecutionEnd()
            | RunError()
            | AgentEnd()
            | UnknownEvent()
        ):
            return event.event
        case _:
            assert_never(event)  # type: ignore[arg-type]


def unknown_attribute(event: MessageDelta) -> str:
    """Both type checkers must report an attribute that the event does not have."""
    return event.text  # type: ignore[attr-defined, no-any-return, misc]


def resolve(client: Client) -> list[str]:
    """The events of a run match the same classes, and approvals and questions have methods."""
    seen: list[str] = []
    for event in client.sessions.create(model="scripted:x").run("Hello!"):
        match event:
            case ApprovalRequired(tool_name="shell"):
                event.approve()
            case ApprovalRequired():
                event.reject(reason="not this one")
            case AskUser(options=[first, *_]):
                event.answer(first)
            case AskUser():
                event.answer("I do not know.")
            case (
                PromptReceived()
                | AgentStart()
                | ThinkingStart()
                | ThinkingDelta()
                | MessageStart()
                | MessageDelta()
                | ToolCalls()
                | ApprovalResolved()
                | ToolExecutionStart()
                | ToolExecutionEnd()
                | RunError()
                | AgentEnd()
                | AgentAbort()
                | UnknownEvent()
            ):
                seen.append(describe(event))
            case _:
                assert_never(event)
    return seen

"""Chat over one WebSocket: prompts, decisions and events share a connection."""

import sys

from cmdc_client import AgentAbort, AgentEnd, ApprovalRequired, AskUser, Client, MessageDelta, Socket
from scripted import MODEL


def listen(socket: Socket) -> None:
    """Print the run until it ends; reject tool calls and answer questions on the same connection."""
    for event in socket:
        match event:
            case MessageDelta(delta=delta):
                print(delta, end="", flush=True)
            case ApprovalRequired(hint=hint):
                print(f"\n  {hint}: rejected")
                event.reject(reason="Not in this chat.")
            case AskUser(question=question):
                print(f"\n  {question}")
                event.answer(sys.stdin.readline().strip())
            case AgentEnd():
                print()
                return
            case AgentAbort(reason=reason):
                raise SystemExit(f"the run was aborted: {reason}")
            case _:
                pass
    raise SystemExit("the gateway closed the connection")


# A WebSocket delivers events of all runs from now on; `connect(after=cursor)` resumes after an earlier event.
with (
    Client() as client,
    client.sessions.create(model=MODEL, tools=["ask_user"]) as session,
    session.connect() as socket,
):
    print("Type a prompt; an empty line quits.\n> ", end="", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        accepted = socket.prompt(line.strip())  # acknowledged: the prompt is committed
        assert accepted.session_id == session.id
        assert not accepted.queued
        listen(socket)
        print("> ", end="", flush=True)

    prompts = [message.content for message in session.messages() if message.role == "user"]
    print(f"\n{len(prompts)} prompts, last event {socket.cursor}")
    assert session.stats().prompt_count == len(prompts)

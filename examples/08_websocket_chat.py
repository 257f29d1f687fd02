"""Chat over one WebSocket: what you type goes out, and events come in, on the same line."""

import sys

from cmdc_client import AgentAbort, AgentEnd, ApprovalRequired, AskUser, Client, MessageDelta, Socket
from scripted import MODEL


def listen(socket: Socket) -> None:
    """Show the run to its end; decide and answer over the same line."""
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
                raise SystemExit(f"the run was stopped: {reason}")
            case _:
                pass
    raise SystemExit("the gateway has closed the line")


# A WebSocket shows the session from now on, across runs; `connect(after=cursor)` begins where you were.
with (
    Client() as client,
    client.sessions.create(model=MODEL, tools=["ask_user"]) as session,
    session.connect() as socket,
):
    print("Say something. An empty line ends it.\n> ", end="", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        accepted = socket.prompt(line.strip())  # acknowledged: it is stored, and will be answered
        assert accepted.session_id == session.id
        assert not accepted.queued
        listen(socket)
        print("> ", end="", flush=True)

    said = [message.content for message in session.messages() if message.role == "user"]
    print(f"\n{len(said)} prompts, the last event was {socket.cursor}")
    assert session.stats().prompt_count == len(said)

"""Read a run event by event: text and reasoning while they are written."""

from cmdc_client import AgentAbort, AgentEnd, Client, MessageDelta, RunError, ThinkingDelta
from scripted import MODEL, scripted

PROMPT = scripted(
    "Write me a haiku.",
    {
        "thinking": ["Five, ", "seven, ", "five."],
        "text": ["An old ", "silent pond\n", "A frog jumps ", "into the pond—\n", "Splash! ", "Silence again."],
        "delayMs": 60,
    },
)

with Client() as client, client.sessions.create(model=MODEL) as session:
    pieces: list[str] = []

    # Each event is a class of its own. Take those you need: there are fifteen, and `UnknownEvent` for what a newer
    # server sends. The loop ends with the run. If the connection is lost, it is taken up again where it was.
    for event in session.run(PROMPT):
        match event:
            case ThinkingDelta(delta=delta):
                print(f"\033[2m{delta}\033[0m", end="", flush=True)  # dim
            case MessageDelta(delta=delta):
                pieces.append(delta)
                print("\n" * (len(pieces) == 1) + delta, end="", flush=True)
            case AgentEnd(token_usage=usage):
                print(f"\n— {usage.completion_tokens} tokens written")
            case RunError(reason=reason) | AgentAbort(reason=reason):
                raise SystemExit(f"the run failed: {reason}")
            case _:
                pass

    assert len(pieces) == 6, "it came in pieces"
    assert session.messages()[-1].content == "".join(pieces)

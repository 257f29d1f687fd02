"""Stream a run event by event: reasoning and answer text as the model produces them."""

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
    chunks: list[str] = []

    # Each of the fifteen event types is a class; an event type that this client does not know is an `UnknownEvent`.
    # The loop ends with the run. If the connection drops, the client reconnects and resumes after the last event.
    for event in session.run(PROMPT):
        match event:
            case ThinkingDelta(delta=delta):
                print(f"\033[2m{delta}\033[0m", end="", flush=True)  # dim
            case MessageDelta(delta=delta):
                chunks.append(delta)
                print("\n" * (len(chunks) == 1) + delta, end="", flush=True)
            case AgentEnd(token_usage=usage):
                print(f"\n— {usage.completion_tokens} output tokens")
            case RunError(reason=reason) | AgentAbort(reason=reason):
                raise SystemExit(f"the run failed: {reason}")
            case _:
                pass

    assert len(chunks) == 6, "the text was streamed in chunks"
    assert session.messages()[-1].content == "".join(chunks)

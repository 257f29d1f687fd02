"""Answer what the agent asks, and look what it is waiting for."""

from cmdc_client import AskUser, BadRequest, Client
from scripted import MODEL, call, scripted

PROMPT = scripted(
    "Paint the fence.",
    {"toolCalls": [call("ask_user", question="In which colour?", options=["red", "blue"])]},
    {"text": ["It is painted."]},
)

with Client() as client, client.sessions.create(model=MODEL, tools=["ask_user"]) as session:
    answers: list[str | None] = []

    with session.run(PROMPT) as run:
        for event in run:
            if isinstance(event, AskUser):
                # While it waits, everybody can see what for, and may answer: session.respond(ref, text).
                info = session.info()
                print(f"the agent is {info.state}: {event.question} {event.options}")
                assert info.state == "waiting_input"

                try:
                    event.answer("green")
                except BadRequest as refused:  # there were options, and this is none of them
                    print(f"green? {refused}")
                event.answer("blue")

    # `transcript` is what the events add up to.
    answers += [tool.result for tool in run.transcript.tool_calls]
    print(f"answered {answers[0]}: {run.transcript.text}")
    assert answers == ["blue"]
    assert run.transcript.text == "It is painted."

    # In short: a function that answers, or "ask" for whoever sits at the terminal.
    assert session.ask(PROMPT, answer=lambda question: (question.options or ["?"])[0]).tool_calls[0].result == "red"

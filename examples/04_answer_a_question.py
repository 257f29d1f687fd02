"""Answer a question from the agent, and see what a session is waiting for."""

from cmdc_client import AskUser, BadRequest, Client
from scripted import MODEL, call, scripted

PROMPT = scripted(
    "Paint the fence.",
    {"toolCalls": [call("ask_user", question="Which color?", options=["red", "blue"])]},
    {"text": ["It is painted."]},
)

with Client() as client, client.sessions.create(model=MODEL, tools=["ask_user"]) as session:
    answers: list[str | None] = []

    with session.run(PROMPT) as run:
        for event in run:
            if isinstance(event, AskUser):
                # While the run waits, any client with access to the session can see the question and answer it with
                # session.respond(ref, text).
                info = session.info()
                print(f"state {info.state}: {event.question} {event.options}")
                assert info.state == "waiting_input"

                try:
                    event.answer("green")
                except BadRequest as error:  # the answer must be one of the options
                    print(f"green? {error}")
                event.answer("blue")

    # `run.transcript` accumulates the events: text, tool calls, usage.
    answers += [tool.result for tool in run.transcript.tool_calls]
    print(f"answered {answers[0]}: {run.transcript.text}")
    assert answers == ["blue"]
    assert run.transcript.text == "It is painted."

    # The short form: `answer` is a function, or "ask" to prompt in the terminal.
    assert session.ask(PROMPT, answer=lambda question: (question.options or ["?"])[0]).tool_calls[0].result == "red"

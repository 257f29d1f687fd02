"""Decide about each command that the agent wants to run."""

from cmdc_client import ApprovalRequired, ApprovalResolved, ApprovalSettings, Client, MessageDelta, ToolExecutionEnd
from scripted import MODEL, call, scripted

PROMPT = scripted(
    "Publish my work.",
    {"text": ["First the tests."], "toolCalls": [call("shell", command="echo 12 passed")]},
    {"text": ["Now I push."], "toolCalls": [call("shell", command="git push --force")]},
    {"text": ["The tests pass. I was not allowed to push."]},
)

approval = ApprovalSettings(tools=["shell"])  # the server may ask for more of them, never for fewer

with Client() as client, client.sessions.create(model=MODEL, tools=["shell"], approval=approval) as session:
    decisions: list[str] = []
    results: list[str] = []
    for event in session.run(PROMPT):
        match event:
            case ApprovalRequired(args=args):
                # The run waits until somebody decides: here, in another program, or tomorrow. What is approved is just
                # this call; `event.approve(args={…})` lets it run with other arguments.
                print(f"\n  {event.hint}")
                if "--force" in str(args["command"]):
                    event.reject(reason="Never with --force.")  # the agent is told, and goes on
                else:
                    event.approve()
            case ApprovalResolved(status=status):
                decisions.append(status)
                print(f"  → {status}")
            case ToolExecutionEnd(result=result):
                results.append(result)
                print(f"  {result!r}")
            case MessageDelta(delta=delta):
                print(delta, end="", flush=True)
            case _:
                pass
    print()

    assert decisions == ["approved", "rejected"]
    assert len(results) == 1, "what was rejected has not run"

    # In short, where a function decides, or "approve", "reject", or "ask" for whoever sits at the terminal:
    reply = session.ask(PROMPT, policy=lambda event: "--force" not in str(event.args["command"]))
    assert [tool.args for tool in reply.tool_calls] == [{"command": "echo 12 passed"}]

"""Approve or reject each command that the agent asks to run."""

from cmdc_client import ApprovalRequired, ApprovalResolved, ApprovalSettings, Client, MessageDelta, ToolExecutionEnd
from scripted import MODEL, call, scripted

PROMPT = scripted(
    "Publish my work.",
    {"text": ["First the tests."], "toolCalls": [call("shell", command="echo 12 passed")]},
    {"text": ["Now I push."], "toolCalls": [call("shell", command="git push --force")]},
    {"text": ["The tests pass. I was not allowed to push."]},
)

approval = ApprovalSettings(tools=["shell"])  # adds to the approvals that the server requires

with Client() as client, client.sessions.create(model=MODEL, tools=["shell"], approval=approval) as session:
    decisions: list[str] = []
    results: list[str] = []
    for event in session.run(PROMPT):
        match event:
            case ApprovalRequired(args=args):
                # The run waits for a decision, which may come from another program or on another day. An approval
                # covers this call only; `event.approve(args={…})` runs it with edited arguments.
                print(f"\n  {event.hint}")
                if "--force" in str(args["command"]):
                    event.reject(reason="Never with --force.")  # the model sees the reason, and the run continues
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
    assert len(results) == 1, "the rejected call did not run"

    # The short form: a policy is a function, "approve", "reject", or "ask" to prompt in the terminal.
    reply = session.ask(PROMPT, policy=lambda event: "--force" not in str(event.args["command"]))
    assert [tool.args for tool in reply.tool_calls] == [{"command": "echo 12 passed"}]

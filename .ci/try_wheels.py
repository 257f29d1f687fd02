"""Run one session between two installed wheels: the gateway, in its own environment, and the client, in this one.

    CLIENT_ENVIRONMENT/bin/python -I .ci/try_wheels.py GATEWAY_ENVIRONMENT/bin/cmdc-gateway

The environment must not contain the other packages. Of this repository, only the launcher of servers is imported.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from cmdc_client import AgentEnd, ApprovalRequired, Client, __version__
from cmdc_client.callbacks import CallbackServer, Tools

sys.path.append(str(Path(__file__).resolve().parents[1] / "testkit" / "src"))

from cmdc_testkit.launcher import gateway_environment, running_server

KEY = "test-key"
PROMPT = '```script\n{"replies": [{"toolCalls": [{"name": "double", "args": {"number": 21}}]}, {"text": ["42"]}]}\n```'
NOT_INSTALLED = ("cmdc_conformance", "cmdc_gateway", "fastapi", "litellm")

tools = Tools()


@tools.tool(requires_approval=True)
def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def main(program: Path) -> None:
    """Run two prompts: one over a stream, with an approval and a callback tool, and one over a WebSocket."""
    assert [name for name in NOT_INSTALLED if find_spec(name)] == []
    with tempfile.TemporaryDirectory() as folder:
        environ = gateway_environment(Path(folder), {KEY: "default"})
        with running_server([program, "serve"], environ) as gateway:
            run_prompts(gateway.url)
        assert gateway.process.returncode == 0, f"the gateway exited with status {gateway.process.returncode}"


def run_prompts(url: str) -> None:
    """Check the tool's result, the history, and the final message."""
    with (
        Client(url, api_key=KEY) as client,
        client.sessions.create(model="scripted:x") as session,
        CallbackServer(tools) as server,
    ):
        server.register(session)
        for event in session.run(PROMPT):
            if isinstance(event, ApprovalRequired):
                event.approve()
        assert [message.content for message in session.messages()][2:] == ["42", "42"]
        with session.connect() as socket:
            socket.prompt("Hello!")
            end = next(event for event in socket if isinstance(event, AgentEnd))
            assert end.last_message is not None
            print(f"cmdc-client {__version__} received: {end.last_message.content}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())

"""Run a conversation between the installed wheels of the client and the gateway.

    CLIENT_ENVIRONMENT/bin/python -I .ci/try_wheels.py GATEWAY_ENVIRONMENT/bin/cmdc-gateway

Each wheel has its own environment. The client's must not contain any other package of this repository.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cmdc_client import AgentEnd, ApprovalRequired, Client, __version__
from cmdc_client.callbacks import CallbackServer, Tools

KEY = "key-of-this-trial"
PROMPT = '```script\n{"replies": [{"toolCalls": [{"name": "double", "args": {"number": 21}}]}, {"text": ["42"]}]}\n```'
NOT_HERE = ("cmdc_conformance", "cmdc_gateway", "fastapi", "litellm")

tools = Tools()


@tools.tool(requires_approval=True)
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@contextmanager
def gateway(program: Path) -> Iterator[str]:
    """Start a gateway on a free port; yield its URL."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            "PATH": os.environ["PATH"],
            "GATEWAY_API_KEYS": KEY,
            "GATEWAY_PORT": "0",
            "GATEWAY_STORE": f"sqlite:///{folder}/gateway.db",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
        }
        with subprocess.Popen(
            [program, "serve"], cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None, "stdout is a pipe"
                line = process.stdout.readline()
                found = re.search(r"http://\S+", line)
                assert found, f"no URL in the first line: {line!r}"
                yield found[0]
            finally:
                process.terminate()
                process.communicate(timeout=30)
        assert process.returncode == 0, f"the gateway exited with status {process.returncode}"


def main(program: Path) -> None:
    """Use a stream and a WebSocket, with an approval and a callback tool."""
    assert [name for name in NOT_HERE if find_spec(name)] == []
    with (
        gateway(program) as url,
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

"""Start a gateway and hold one conversation with it over HTTP.

    python examples/demo.py            uses the scripted model; needs no account and no network
    python examples/demo.py --real     the first reply comes from a real language model on this machine
    python examples/demo.py --serve    keeps the gateway running afterwards, for curl and the other examples

The demo creates a session, sends prompts and prints the text as it streams in. It kills the gateway while a tool call
waits for approval, restarts it and approves the call, answers a question, and prints the usage. It exits with status 0
only if every step succeeded. It uses plain HTTP; the other examples use the client library, which hides most of this.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import real_model
from terminal import Transcript

KEY = "demo-key"
MODEL = "scripted:demo"
REAL_MODEL = "local:smollm2"

TOOL_SCRIPT = {
    "replies": [
        {
            "thinking": ["The user wants a greeting ", "from this machine."],
            "text": ["Let me ", "run a ", "command."],
            "toolCalls": [{"name": "shell", "args": {"command": "echo Hello from the workspace"}}],
            "delayMs": 40,
        },
        {"text": ["It ", "said ", "hello."], "delayMs": 40},
    ]
}
QUESTION_SCRIPT = {
    "replies": [
        {"toolCalls": [{"name": "ask_user", "args": {"question": "Which color?", "options": ["red", "blue"]}}]},
        {"text": ["Blue ", "it ", "is."], "delayMs": 40},
    ]
}

Event = dict[str, Any]


def main() -> int:
    """Run the demo; return the exit status."""
    arguments = _arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmdc-demo-")))
        api_base = stack.enter_context(_real_model()) if arguments.real else None
        gateway = stack.enter_context(Gateway(folder, port=arguments.port if arguments.serve else 0, api_base=api_base))
        with httpx.Client(base_url=gateway.url, headers={"X-API-Key": KEY}, trust_env=False) as client:
            transcript = Transcript()
            _converse(client, gateway, transcript, real=arguments.real)
        if arguments.serve:
            _stay_up(gateway, transcript)
        else:
            url = f"http://127.0.0.1:{arguments.port}"
            transcript.success("All steps succeeded. To keep a gateway running and try it yourself:\n")
            print(f"  python3 -m nox -s demo -- --serve\n\nand then in another terminal:\n\n{_curl(url)}")
            print(f"\nIts API reference is a page to open in a browser: {url}/docs")
    return 0


def _converse(client: httpx.Client, gateway: Gateway, transcript: Transcript, *, real: bool) -> None:
    session = _post(client, "/v1/sessions", {"model": MODEL, "tools": ["shell", "ask_user"]})["sessionId"]
    transcript.say("gateway", f"listening on {gateway.url}, session {session} created")

    if real:
        real_session = _post(client, "/v1/sessions", {"model": REAL_MODEL, "maxTokens": 60})["sessionId"]
        transcript.title("A prompt, answered by a language model on this machine")
        _run(client, transcript, real_session, "Say hello to someone who is trying out a new program.", {})
        transcript.note("The rest uses the scripted model: a model this small does not call tools on its own.")
    else:
        transcript.note("The model is scripted: each prompt carries its replies in a block that is not shown here.")
        transcript.title("A prompt, and its reply as it streams in")
        _run(client, transcript, session, "Hello! Is anyone there?", {})

    def approve(event: Event) -> None:
        transcript.say("approval", f"approval required: {event['hint']}")
        gateway.kill()
        transcript.stream("gateway", "killed (kill -9) … ")
        gateway.start()
        transcript.stream("gateway", "restarted")
        digest = {"approvalId": event["approvalId"], "digest": event["digest"]}
        _post(client, f"/v1/sessions/{session}/approve", digest)
        transcript.say("you", "approved")

    def answer(event: Event) -> None:
        transcript.say("question", f"{event['question']} ({' or '.join(event['options'])})")
        _post(client, f"/v1/sessions/{session}/respond", {"ref": event["ref"], "response": "blue"})
        transcript.say("you", "blue")

    transcript.title("A tool call that needs approval, and a crash while it waits")
    greeting = _scripted("Greet me from the shell.", TOOL_SCRIPT)
    seen = _run(client, transcript, session, greeting, {"approval_required": approve})
    _require("tool_execution_end" in seen, "the tool ran")

    transcript.title("A question from the agent")
    seen = _run(client, transcript, session, _scripted("Paint it.", QUESTION_SCRIPT), {"ask_user": answer})
    _require("ask_user" in seen, "the agent asked a question")

    stats = client.get(f"/v1/sessions/{session}/stats").raise_for_status().json()
    usage = stats["tokenUsage"]
    transcript.title("Usage")
    print(
        f"{stats['promptCount']} prompts, {stats['turns']} model calls, "
        f"{usage['promptTokens']} input tokens, {usage['completionTokens']} output tokens"
    )


def _run(
    client: httpx.Client,
    transcript: Transcript,
    session: str,
    text: str,
    react: dict[str, Callable[[Event], None]],
) -> set[str]:
    """Send a prompt and print its run; return the types of the events received."""
    transcript.say("you", text.splitlines()[0])
    request = _post(client, f"/v1/sessions/{session}/prompt", {"text": text})["requestId"]
    seen: set[str] = set()
    for kind, data in _events(client, transcript, session, request):
        seen.add(kind)
        match kind:
            case "message_delta":
                transcript.stream("agent", data["delta"])
            case "thinking_delta":
                transcript.stream("thinking", data["delta"])
            case "tool_execution_start" if data["toolName"] != "ask_user":
                transcript.say("tool", f"running {data['toolName']}")
            case "tool_execution_end" if data["toolName"] != "ask_user":
                transcript.say("tool", data["result"].rstrip())
            case "error" | "agent_abort":
                raise SystemExit(f"\nthe run failed: {data['reason']}")
            case _:
                pass
        if kind in react:
            react[kind](data)
    _require("agent_end" in seen, "the run ended with agent_end")
    return seen


def _events(client: httpx.Client, transcript: Transcript, session: str, request: str) -> Iterator[tuple[str, Event]]:
    """Yield the events of one run. When the stream breaks, resume after the last event received, twice at most."""
    url = f"/v1/sessions/{session}/events"
    last, kind = "", ""
    for attempt in range(3):
        if kind in ("agent_end", "agent_abort"):
            return
        if attempt:
            transcript.say("you", f"stream lost, resuming after event {last}")
        after = {"Last-Event-ID": last} if last else {}
        with (
            suppress(httpx.TransportError),
            client.stream("GET", url, params={"requestId": request}, headers=after, timeout=60) as stream,
        ):
            _require(stream.status_code == 200, f"GET {url}: {stream.status_code}")
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                match name:
                    case "id":
                        last = value
                    case "event":
                        kind = value
                    case "data":
                        yield kind, json.loads(value)
                    case _:
                        pass


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    _require(response.is_success, f"POST {path}: {response.status_code} {response.text}")
    return response.json()


class Gateway:
    """A gateway process that keeps its store in `folder`."""

    def __init__(self, folder: Path, *, port: int, api_base: str | None) -> None:
        """Port 0 picks a free port, which is kept across restarts."""
        config = folder / "gateway.toml"
        models = f'[models."{REAL_MODEL}"]\nmodel = "{real_model.MODEL}"\napi_base = "{api_base}"\n' if api_base else ""
        config.write_text(f'[tools]\noffered = ["read_file", "list_dir", "shell", "ask_user"]\n{models}')
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
            "GATEWAY_API_KEYS": KEY,
            "GATEWAY_CONFIG": str(config),
            "GATEWAY_STORE": f"sqlite:///{folder / 'demo.db'}",
            "GATEWAY_PORT": str(port),
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
            "GATEWAY_RATE_LIMIT_RPM": "0",  # running the examples in a row must not hit the limit
            "GATEWAY_LOG_LEVEL": "warning",
        }
        self.start()

    def start(self) -> None:
        """Start the process; return when it is listening."""
        command = [sys.executable, "-m", "cmdc_gateway", "serve"]
        self._process = subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None, "stdout is a pipe"
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit("the gateway did not start, see above; to use another port: --serve --port 4001")
        self.url = line.split()[-1]
        self._environ["GATEWAY_PORT"] = self.url.rpartition(":")[2]

    def kill(self) -> None:
        """Kill the process with SIGKILL, without a graceful shutdown."""
        self._process.kill()
        self._end()

    def wait(self) -> int:
        """Wait until the process exits; return its exit status."""
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None, "stdout is a pipe"
        self._process.stdout.close()


@contextmanager
def _real_model() -> Generator[str]:
    print("Starting a language model on this machine …", flush=True)
    with real_model.start() as api_base:
        yield api_base


def _scripted(text: str, script: dict[str, Any]) -> str:
    return f"{text}\n```script\n{json.dumps(script)}\n```"


def _curl(url: str) -> str:
    headers = f"-H 'X-API-Key: {KEY}' -H 'Content-Type: application/json'"
    return (
        f'  curl -s {url}/v1/sessions {headers} -d \'{{"model": "{MODEL}", "sessionId": "mine"}}\'\n'
        f'  curl -s {url}/v1/sessions/mine/prompt {headers} -d \'{{"text": "Hello!"}}\'\n'
        f"  curl -sN {url}/v1/sessions/mine/events -H 'X-API-Key: {KEY}'"
    )


def _stay_up(gateway: Gateway, transcript: Transcript) -> None:
    """Print commands to try, then wait for Ctrl-C or SIGTERM."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        transcript.success(f"All steps succeeded. The gateway keeps running on {gateway.url} until you press Ctrl-C.")
        print(f"Try in another terminal:\n\n{_curl(gateway.url)}")
        print(f"\nor the examples:\n\n  export CMDC_BASE_URL={gateway.url} CMDC_API_KEY={KEY}")
        print("  python3 -m pip install ./sdk\n  python3 examples/01_first_conversation.py")
        print(f"\nor open its API reference in a browser: {gateway.url}/docs", flush=True)
        raise SystemExit(f"the gateway exited with status {gateway.wait()}")
    except KeyboardInterrupt:
        print("\nstopping")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"expected, but not true: {what}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start a CMDC Gateway and hold one conversation with it.")
    parser.add_argument("--serve", action="store_true", help="keep the gateway running afterwards")
    parser.add_argument("--port", type=int, default=4000, help="port for --serve (default 4000)")
    parser.add_argument("--real", action="store_true", help="get the first reply from a local language model")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

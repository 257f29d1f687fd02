"""One conversation with a gateway that is started for it, over the real wire.

    python examples/demo.py            the scripted model: nothing but this machine is needed
    python examples/demo.py --real     the first answer comes from a real language model on this machine
    python examples/demo.py --serve    the gateway stays up afterwards, to be tried with curl

It makes a session, sends prompts, prints the text as it streams in, approves a tool call, answers a question and shows
what was used. It exits 0 only if all of that happened.
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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import real_model

KEY = "demo-key"
MODEL = "scripted:demo"
REAL_MODEL = "local:smollm2"

TOOL_SCRIPT = {
    "replies": [
        {
            "thinking": ["The user wants a greeting ", "from this machine."],
            "text": ["Let me ", "run a ", "command. "],
            "toolCalls": [{"name": "shell", "args": {"command": "echo Hello from the workspace"}}],
            "delayMs": 40,
        },
        {"text": ["It ", "said ", "hello."], "delayMs": 40},
    ]
}
QUESTION_SCRIPT = {
    "replies": [
        {"toolCalls": [{"name": "ask_user", "args": {"question": "Which colour?", "options": ["red", "blue"]}}]},
        {"text": ["Blue ", "it ", "is."], "delayMs": 40},
    ]
}

Event = dict[str, Any]


def main() -> int:
    """Hold the conversation; return the exit status."""
    wanted = _arguments()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmdc-demo-")))
        api_base = stack.enter_context(_real_model()) if wanted.real else None
        url = stack.enter_context(_gateway(folder, port=4000 if wanted.serve else 0, api_base=api_base))
        client = stack.enter_context(httpx.Client(base_url=url, headers={"X-API-Key": KEY}, trust_env=False))
        _converse(client, real=wanted.real)
        print(f"\nEverything worked. The gateway{'' if wanted.serve else ' of this demo'} listened on {url}.")
        if wanted.serve:
            print("It stays up until you press Ctrl-C. Try, in another terminal:\n")
            print(_curl(url))
            _wait_for_ctrl_c()
        else:
            print("To keep one running:\n\n  python3 -m nox -s demo -- --serve\n\nand then, in another terminal:\n")
            print(_curl("http://127.0.0.1:4000"))
    return 0


def _converse(client: httpx.Client, *, real: bool) -> None:
    session = _post(client, "/v1/sessions", {"model": MODEL, "tools": ["shell", "ask_user"]})["sessionId"]
    print(f"session {session} on {client.base_url}")

    if real:
        told = _post(client, "/v1/sessions", {"model": REAL_MODEL, "maxTokens": 60})["sessionId"]
        print("\n— a prompt, answered by a language model on this machine")
        _run(client, told, "Say hello to somebody who tries a new program.", {})
        print("\n(the rest is scripted: so small a model does not choose tools by itself)")
    else:
        print("\n— a prompt, and text as it comes")
        _run(client, session, "Hello! Is anybody there?", {})

    def approve(event: Event) -> None:
        print(f"\n  approval needed: {event['hint']}")
        digest = {"approvalId": event["approvalId"], "digest": event["digest"]}
        _post(client, f"/v1/sessions/{session}/approve", digest)
        print("  approved")

    def answer(event: Event) -> None:
        print(f"  the agent asks: {event['question']} {event['options']}")
        _post(client, f"/v1/sessions/{session}/respond", {"ref": event["ref"], "response": "blue"})
        print("  answered: blue")

    print("\n— a tool call that a person must approve")
    seen = _run(client, session, _scripted("Greet me from the shell.", TOOL_SCRIPT), {"approval_required": approve})
    _require("tool_execution_end" in seen, "the tool ran")

    print("\n— a question")
    seen = _run(client, session, _scripted("Paint it.", QUESTION_SCRIPT), {"ask_user": answer})
    _require("ask_user" in seen, "the question was asked")

    stats = client.get(f"/v1/sessions/{session}/stats").raise_for_status().json()
    usage = stats["tokenUsage"]
    print(
        f"\n— usage: {stats['promptCount']} prompts, {usage['promptTokens']} tokens read, "
        f"{usage['completionTokens']} written, {stats['turns']} model calls"
    )


def _run(client: httpx.Client, session: str, text: str, react: dict[str, Callable[[Event], None]]) -> set[str]:
    """Send a prompt and follow its run to the end; gives the types of the events that came."""
    print(f"> {text.splitlines()[0]}")
    request = _post(client, f"/v1/sessions/{session}/prompt", {"text": text})["requestId"]
    seen: set[str] = set()
    for kind, data in _events(client, session, request):
        seen.add(kind)
        match kind:
            case "message_delta":
                print(data["delta"], end="", flush=True)
            case "thinking_delta":
                print(f"\033[2m{data['delta']}\033[0m" if sys.stdout.isatty() else "", end="", flush=True)
            case "tool_execution_end":
                print(f"  {data['toolName']}: {data['result']!r}")
            case "error" | "agent_abort":
                raise SystemExit(f"\nthe run failed: {data['reason']}")
            case "agent_end":
                print()
            case _:
                pass
        if kind in react:
            react[kind](data)
    _require("agent_end" in seen, "the run came to its end")
    return seen


def _events(client: httpx.Client, session: str, request: str) -> Iterator[tuple[str, Event]]:
    """The events of one run, from its first to its last, however late one comes."""
    url = f"/v1/sessions/{session}/events"
    with client.stream("GET", url, params={"requestId": request}, timeout=60) as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    _require(response.is_success, f"POST {path}: {response.status_code} {response.text}")
    return response.json()


@contextmanager
def _gateway(folder: Path, *, port: int, api_base: str | None) -> Generator[str]:
    """A gateway of our own, with its store in this folder; gives its address."""
    config = folder / "gateway.toml"
    models = f'[models."{REAL_MODEL}"]\nmodel = "{real_model.MODEL}"\napi_base = "{api_base}"\n' if api_base else ""
    config.write_text(f'[tools]\noffered = ["read_file", "list_dir", "shell", "ask_user"]\n{models}')
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
        "GATEWAY_API_KEYS": KEY,
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_STORE": f"sqlite:///{folder / 'demo.db'}",
        "GATEWAY_PORT": str(port),
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
        "GATEWAY_RATE_LIMIT_RPM": "0",  # whoever tries the examples one after the other is no flood
        "GATEWAY_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "cmdc_gateway", "serve"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the gateway did not start; see above")
            yield line.split()[-1]
        finally:
            process.terminate()


@contextmanager
def _real_model() -> Generator[str]:
    print("starting a language model on this machine …", flush=True)
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


def _wait_for_ctrl_c() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("\nstopping")


def _require(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"this should have been so, and was not: {what}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One conversation with a CMDC Gateway that is started for it.")
    parser.add_argument("--serve", action="store_true", help="keep the gateway up afterwards, on port 4000")
    parser.add_argument("--real", action="store_true", help="let a real language model on this machine answer first")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

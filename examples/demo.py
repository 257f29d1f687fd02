"""One conversation with a gateway that is started for it, over the real wire.

    python examples/demo.py            the scripted model: nothing but this machine is needed
    python examples/demo.py --real     the first answer comes from a real language model on this machine
    python examples/demo.py --serve    the gateway stays up afterwards, to be tried with curl and the other examples

It makes a session, sends prompts, prints the text as it streams in, kills the gateway while a tool call waits for an
approval, starts it again and approves, answers a question and shows what was used. It exits 0 only if all of that
happened. What it asks for and reads is plain HTTP; the other examples use the client, which does most of this by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import real_model

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
        gateway = stack.enter_context(Gateway(folder, port=wanted.port if wanted.serve else 0, api_base=api_base))
        with httpx.Client(base_url=gateway.url, headers={"X-API-Key": KEY}, trust_env=False) as client:
            _converse(client, gateway, real=wanted.real)
        if wanted.serve:
            _stay_up(gateway)
        else:
            print("\nEverything worked. To keep a gateway running, and to try it yourself:\n")
            print("  python3 -m nox -s demo -- --serve")
            print(f"\nand then, in another terminal:\n\n{_curl(f'http://127.0.0.1:{wanted.port}')}")
    return 0


def _converse(client: httpx.Client, gateway: Gateway, *, real: bool) -> None:
    session = _post(client, "/v1/sessions", {"model": MODEL, "tools": ["shell", "ask_user"]})["sessionId"]
    print(f"A gateway listens on {gateway.url}, and has made session {session}.")

    if real:
        told = _post(client, "/v1/sessions", {"model": REAL_MODEL, "maxTokens": 60})["sessionId"]
        _title("a prompt, answered by a language model on this machine")
        _run(client, told, "Say hello to somebody who tries a new program.", {})
        print("\nThe rest is scripted: so small a model does not choose tools by itself.")
    else:
        print("Its model is a scripted one: each prompt carries, unseen here, what the model is to say.")
        _title("a prompt, and text as it comes")
        _run(client, session, "Hello! Is anybody there?", {})

    def approve(event: Event) -> None:
        print(f"  approval needed: {event['hint']}")
        gateway.kill()
        print("  the gateway is killed (kill -9) … ", end="", flush=True)
        gateway.start()
        print("and started again")
        digest = {"approvalId": event["approvalId"], "digest": event["digest"]}
        _post(client, f"/v1/sessions/{session}/approve", digest)
        print("  approved")

    def answer(event: Event) -> None:
        print(f"  the agent asks: {event['question']} {' or '.join(event['options'])}?")
        _post(client, f"/v1/sessions/{session}/respond", {"ref": event["ref"], "response": "blue"})
        print("  answered: blue")

    _title("a tool call that a person must approve, and a crash while it waits")
    seen = _run(client, session, _scripted("Greet me from the shell.", TOOL_SCRIPT), {"approval_required": approve})
    _require("tool_execution_end" in seen, "the tool ran")

    _title("a question")
    seen = _run(client, session, _scripted("Paint it.", QUESTION_SCRIPT), {"ask_user": answer})
    _require("ask_user" in seen, "the question was asked")

    stats = client.get(f"/v1/sessions/{session}/stats").raise_for_status().json()
    usage = stats["tokenUsage"]
    _title("what it took")
    print(
        f"{stats['promptCount']} prompts, {usage['promptTokens']} tokens read, "
        f"{usage['completionTokens']} written, {stats['turns']} model calls"
    )


def _run(client: httpx.Client, session: str, text: str, react: dict[str, Callable[[Event], None]]) -> set[str]:
    """Send a prompt and follow its run to the end; gives the types of the events that came."""
    print(f"> {text.splitlines()[0]}")
    request = _post(client, f"/v1/sessions/{session}/prompt", {"text": text})["requestId"]
    seen: set[str] = set()
    previous = ""
    for kind, data in _events(client, session, request):
        if previous in ("thinking_delta", "message_delta") and kind != previous:
            print()
        seen.add(kind)
        match kind:
            case "message_delta":
                print(data["delta"], end="", flush=True)
            case "thinking_delta":
                print(_dim(data["delta"]), end="", flush=True)
            case "tool_execution_start" if data["toolName"] != "ask_user":
                print(f"  {data['toolName']} runs")
            case "tool_execution_end" if data["toolName"] != "ask_user":
                print(textwrap.indent(data["result"], "  | "))
            case "error" | "agent_abort":
                raise SystemExit(f"\nthe run failed: {data['reason']}")
            case _:
                pass
        if kind in react:
            react[kind](data)
        previous = kind
    _require("agent_end" in seen, "the run came to its end")
    return seen


def _events(client: httpx.Client, session: str, request: str) -> Iterator[tuple[str, Event]]:
    """The events of one run, from its first to its last. A stream that breaks is taken up after the last event seen."""
    url = f"/v1/sessions/{session}/events"
    last, kind = "", ""
    for attempt in range(3):
        if kind in ("agent_end", "agent_abort"):
            return
        if attempt:
            print(_dim(f"  the stream broke, and goes on after event {last}"))
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
    """A gateway in a process of its own, with its store in this folder."""

    def __init__(self, folder: Path, *, port: int, api_base: str | None) -> None:
        """`port` 0 takes a free one, which is kept when it is started again."""
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
            "GATEWAY_RATE_LIMIT_RPM": "0",  # whoever tries the examples one after the other is no flood
            "GATEWAY_LOG_LEVEL": "warning",
        }
        self.start()

    def start(self) -> None:
        """Start it; returns once it listens."""
        command = [sys.executable, "-m", "cmdc_gateway", "serve"]
        self._process = subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None, "it is a pipe"
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit("the gateway did not start; see above. `--serve --port 4001` takes another port")
        self.url = line.split()[-1]
        self._environ["GATEWAY_PORT"] = self.url.rpartition(":")[2]

    def kill(self) -> None:
        """`kill -9`: it has no time for a last word."""
        self._process.kill()
        self._end()

    def wait(self) -> int:
        """Wait until it ends by itself; gives its exit status."""
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None, "it is a pipe"
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


def _stay_up(gateway: Gateway) -> None:
    """Until Ctrl-C or SIGTERM; with what there is to try meanwhile."""
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"\nEverything worked. The gateway stays up on {gateway.url} until you press Ctrl-C.")
        print(f"Try, in another terminal:\n\n{_curl(gateway.url)}")
        print(f"\nor the examples:\n\n  export CMDC_BASE_URL={gateway.url} CMDC_API_KEY={KEY}")
        print("  python3 -m pip install ./sdk\n  python3 examples/01_first_conversation.py", flush=True)
        raise SystemExit(f"the gateway has ended with status {gateway.wait()}")
    except KeyboardInterrupt:
        print("\nstopping")


def _title(text: str) -> None:
    print(f"\n— {text}")


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text


def _require(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"this should have been so, and was not: {what}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One conversation with a CMDC Gateway that is started for it.")
    parser.add_argument("--serve", action="store_true", help="keep the gateway up afterwards")
    parser.add_argument("--port", type=int, default=4000, help="where it then listens (4000)")
    parser.add_argument("--real", action="store_true", help="let a real language model on this machine answer first")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

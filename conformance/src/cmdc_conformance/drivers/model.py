"""The suite's own model: an OpenAI-compatible endpoint that follows the script in the last user message.

It records each request, so that checks can inspect what the server sends to a model.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from cmdc_conformance.drivers.http_server import Request, Response
from cmdc_conformance.drivers.script import Reply, script_in

_MAX_REQUESTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request that the model received. `nonce` identifies the script."""

    nonce: str
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


class ScriptedModel:
    """Serves `POST …/chat/completions`."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self._tries: Counter[str] = Counter()

    def requests_for(self, nonce: str) -> list[ModelRequest]:
        """The requests for the script with this nonce, in order."""
        return [each for each in self.requests if each.nonce == nonce]

    async def handle(self, request: Request) -> Response:
        """Respond to one request."""
        body = request.json
        if request.method != "POST" or not request.path.endswith("/chat/completions") or not isinstance(body, dict):
            return _failure(404, "only POST /chat/completions is supported")
        payload = cast("dict[str, Any]", body)
        messages: list[dict[str, Any]] = payload.get("messages", [])
        last = max((index for index, each in enumerate(messages) if each.get("role") == "user"), default=-1)
        text = _text(messages[last].get("content")) if last >= 0 else ""
        step = sum(each.get("role") == "assistant" for each in messages[last + 1 :])
        script = script_in(text)
        nonce = str(script.get("nonce", "")) if script else ""
        options = {name: value for name, value in payload.items() if name not in ("messages", "tools")}
        self.requests.append(ModelRequest(nonce, messages, payload.get("tools") or [], options))
        del self.requests[:-_MAX_REQUESTS]
        reply = _reply(script, step, text)
        status = self._failing(reply, f"{nonce} {step}")
        if status is not None:
            return _failure(status, "the script requests this failure")
        model = str(payload.get("model", ""))
        if not payload.get("stream"):
            return Response.json(_whole(reply, text, model))
        headers = {"Content-Type": "text/event-stream"}
        return Response(headers=headers, chunks=_stream(reply, text, model), cut=bool(reply.get("cut")))

    def _failing(self, reply: Reply, key: str) -> int | None:
        fail = reply.get("fail")
        if not fail:
            return None
        self._tries[key] += 1
        attempts = fail.get("attempts", 0)
        return int(fail["status"]) if attempts == 0 or self._tries[key] <= attempts else None


def _reply(script: Any, step: int, text: str) -> Reply:
    if script is None:
        return {"text": _words(f"You said: {text}")}
    replies: list[Reply] = script["replies"]
    return replies[step] if step < len(replies) else {"text": ["done"]}


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [word if index == len(words) - 1 else f"{word} " for index, word in enumerate(words)]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: list[Any] = cast("list[Any]", content) if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def _deltas(reply: Reply) -> list[dict[str, Any]]:
    calls = [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call.get("args", {}))},
        }
        for index, call in enumerate(reply.get("toolCalls", ()))
    ]
    return [
        *({"reasoning_content": chunk} for chunk in reply.get("thinking", ())),
        *({"content": chunk} for chunk in reply.get("text", ())),
        *({"tool_calls": [call]} for call in calls),
    ]


def _usage(reply: Reply, text: str) -> dict[str, int]:
    used = reply.get("usage") or {"promptTokens": len(text.split()), "completionTokens": len(_deltas(reply))}
    prompt, completion = used["promptTokens"], used["completionTokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _frame(
        {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]}
    )


def _frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def _stream(reply: Reply, text: str, model: str) -> AsyncIterator[bytes]:
    delay = reply.get("delayMs", 0) / 1000
    yield _chunk(model, {"role": "assistant", "content": ""})
    for delta in _deltas(reply):
        if delay:
            await asyncio.sleep(delay)
        yield _chunk(model, delta)
    if reply.get("cut"):
        return
    yield _chunk(model, {}, "tool_calls" if reply.get("toolCalls") else "stop")
    usage: dict[str, Any] = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": model}
    usage["choices"] = []
    yield _frame({**usage, "usage": _usage(reply, text)})
    yield b"data: [DONE]\n\n"


def _whole(reply: Reply, text: str, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.get("text", ()))}
    calls = [each for delta in _deltas(reply) for each in delta.get("tool_calls", ())]
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = _usage(reply, text)
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def _failure(status: int, message: str) -> Response:
    return Response.json({"error": {"message": message, "type": "scripted", "code": status}}, status)

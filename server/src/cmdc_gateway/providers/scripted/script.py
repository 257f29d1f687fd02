"""The replies of the scripted model, as a pure function of the history.

The last user message may contain a script, a fenced block with the info string `script`: `{"nonce", "replies": [...]}`.
The n-th reply answers the n-th model call after that message. Two models follow this module: the provider `scripted`,
and the HTTP server in `cmdc_testkit.models`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from cmdc_gateway.kernel.signals import TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import Message, TokenUsage
from cmdc_gateway.protocol.strict import parse_object
from cmdc_gateway.providers.provider import ModelError

Chunk = ThoughtArrived | TextArrived | ToolRequested

# A fence as in CommonMark: at least three backticks or tildes. The info string after backticks has no backtick.
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_WORD = re.compile(r"\S+\s*|\s+")
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _ScriptPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)


class ScriptedCall(_ScriptPart):
    """A tool call of the model."""

    name: str
    args: dict[str, JsonValue] = {}


class ScriptedUsage(_ScriptPart):
    """The usage that the model reports."""

    prompt_tokens: _Count
    completion_tokens: _Count


class Failure(_ScriptPart):
    """An HTTP status to return for the first `attempts` calls, or for every call if `attempts` is 0."""

    status: Annotated[int, Field(ge=400, le=599)]
    attempts: _Count = 0


class ScriptedReply(_ScriptPart):
    """The reply to one model call, as written in a script."""

    thinking: list[str] = []
    text: list[str] = []
    tool_calls: list[ScriptedCall] = []
    usage: ScriptedUsage | None = None
    delay_ms: _Count = 0
    fail: Failure | None = None
    cut: bool = False


class Script(_ScriptPart):
    """The replies to the model calls after one user message."""

    nonce: str = ""
    replies: list[ScriptedReply]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one model call.

    `delay` is in seconds, before each chunk. `key` identifies the reply: it is the same for every attempt.
    """

    chunks: tuple[Chunk, ...]
    usage: TokenUsage
    delay: float = 0.0
    fail: Failure | None = None
    cut: bool = False
    key: bytes = b""

    @property
    def visible_chunks(self) -> tuple[ThoughtArrived | TextArrived, ...]:
        """The chunks that readers see as they arrive."""
        return tuple(chunk for chunk in self.chunks if not isinstance(chunk, ToolRequested) and chunk.text)


class AttemptCounter:
    """Counts the calls for each reply that fails. Keeps the counts of the last `max_replies` replies."""

    def __init__(self, max_replies: int = 10_000) -> None:
        self._max_replies = max_replies
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def failure_status(self, reply: Reply) -> int | None:
        """Count a call. Returns the HTTP status with which it fails; None if it succeeds."""
        if reply.fail is None:
            return None
        if reply.fail.attempts == 0:
            return reply.fail.status
        count = self._counts.pop(reply.key, 0) + 1
        self._counts[reply.key] = count
        if len(self._counts) > self._max_replies:
            self._counts.popitem(last=False)
        return reply.fail.status if count <= reply.fail.attempts else None


def reply_for(messages: Sequence[Message]) -> Reply:
    """The scripted model's reply to this history.

    Raises:
        ModelError: the last user message contains an invalid script.
    """
    last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    prompt = messages[last_user].content if last_user >= 0 else ""
    previous_calls = sum(message.role == "assistant" for message in messages[last_user + 1 :])
    script = parse_script(prompt)
    if script is None:
        return _words(f"You said: {prompt}", prompt)
    if previous_calls >= len(script.replies):
        return _words("done", prompt)
    return _scripted(script, previous_calls, prompt)


def _scripted(script: Script, position: int, prompt: str) -> Reply:
    reply = script.replies[position]
    chunks: tuple[Chunk, ...] = (
        *(ThoughtArrived(text) for text in reply.thinking),
        *(TextArrived(text) for text in reply.text),
        *(ToolRequested(call.name, call.args) for call in reply.tool_calls),
    )
    return Reply(
        chunks,
        usage=_usage(prompt, chunks) if reply.usage is None else TokenUsage(**dict(reply.usage)),
        delay=reply.delay_ms / 1000,
        fail=reply.fail,
        cut=reply.cut,
        # The text identifies a script without a nonce. It is hashed to bound the size of the key.
        key=hashlib.sha256(f"{position} {script.nonce or prompt}".encode(errors="surrogatepass")).digest(),
    )


def parse_script(text: str) -> Script | None:
    """The script in a user message: the first fenced block whose info string is `script`; None without such a block.

    Raises:
        ModelError: the script is invalid; the message says why.
    """
    block = next((content for info, content in _fenced_blocks(text) if info == "script"), None)
    if block is None:
        return None
    try:
        script = Script.model_validate(json.loads(block, parse_constant=_reject_constant))
        for call in (call for reply in script.replies for call in reply.tool_calls):
            parse_object(dumps(call.args))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))[:100] or "the script"
        raise ModelError(f"invalid script: {path}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ModelError(f"invalid script: {reason}") from None
    return script


def _words(text: str, prompt: str) -> Reply:
    chunks = tuple(TextArrived(word) for word in _WORD.findall(text))
    return Reply(chunks, usage=_usage(prompt, chunks))


def _usage(prompt: str, chunks: Sequence[Chunk]) -> TokenUsage:
    return TokenUsage(prompt_tokens=len(prompt.split()), completion_tokens=len(chunks))


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fenced_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The info string and the content of each fenced block, in order. An unclosed block extends to the end."""
    fence, info = "", ""
    content: list[str] = []
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line.rstrip())
        if not fence:
            if match and not (match["fence"][0] == "`" and "`" in match["info"]):
                fence, info, content = match["fence"], match["info"].strip(), []
        elif match and match["fence"].startswith(fence) and not match["info"]:
            yield info, "\n".join(content)
            fence = ""
        else:
            content.append(line)
    if fence:
        yield info, "\n".join(content)

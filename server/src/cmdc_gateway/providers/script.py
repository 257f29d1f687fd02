"""The scripted model's answers, as a pure function of what the model is told (PROTOCOL §10).

Both drivers obey this module: `scripted.py` inside the server, and the model server of `cmdc_testkit.models` outside it.
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

# A fence as in CommonMark: three or more backticks or tildes; after backticks none may follow on the line.
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_WORD = re.compile(r"\S+\s*|\s+")
_Count = Annotated[int, Field(ge=0, lt=2**53)]


class _ScriptPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)


class ScriptedCall(_ScriptPart):
    """A tool the model asks for."""

    name: str
    args: dict[str, JsonValue] = {}


class ScriptedUsage(_ScriptPart):
    """What the model says it has used."""

    prompt_tokens: _Count
    completion_tokens: _Count


class Failure(_ScriptPart):
    """An HTTP status to answer with: for the first `attempts` tries, or always where that is 0."""

    status: Annotated[int, Field(ge=400, le=599)]
    attempts: _Count = 0


class ScriptedReply(_ScriptPart):
    """What one model call is answered with, as the script has it."""

    thinking: list[str] = []
    text: list[str] = []
    tool_calls: list[ScriptedCall] = []
    usage: ScriptedUsage | None = None
    delay_ms: _Count = 0
    fail: Failure | None = None
    cut: bool = False


class Script(_ScriptPart):
    """The replies to the model calls that follow one user message."""

    nonce: str = ""
    replies: list[ScriptedReply]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answers one call with.

    `delay` is in seconds, before each chunk. `key` names the reply: the same one has the same key on every try.
    """

    chunks: tuple[Chunk, ...]
    usage: TokenUsage
    delay: float = 0.0
    fail: Failure | None = None
    cut: bool = False
    key: bytes = b""

    @property
    def shown(self) -> tuple[ThoughtArrived | TextArrived, ...]:
        """The chunks that readers see as they come."""
        return tuple(chunk for chunk in self.chunks if not isinstance(chunk, ToolRequested) and chunk.text)


class Tries:
    """How often each reply that is to fail has been asked for. Remembers the latest `keep` of them."""

    def __init__(self, keep: int = 10_000) -> None:
        self._keep = keep
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def failed_status(self, reply: Reply) -> int | None:
        """Count one try; the HTTP status to fail it with, or None."""
        if reply.fail is None:
            return None
        if reply.fail.attempts == 0:
            return reply.fail.status
        count = self._counts.pop(reply.key, 0) + 1
        self._counts[reply.key] = count
        if len(self._counts) > self._keep:
            self._counts.popitem(last=False)
        return reply.fail.status if count <= reply.fail.attempts else None


def reply_for(messages: Sequence[Message]) -> Reply:
    """What the scripted model answers to this history.

    Raises:
        ModelError: the last user message holds a script that cannot be obeyed.
    """
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    asked = messages[last].content if last >= 0 else ""
    answered = sum(message.role == "assistant" for message in messages[last + 1 :])
    script = parse_script(asked)
    if script is None:
        return _plain(f"You said: {asked}", asked)
    if answered >= len(script.replies):
        return _plain("done", asked)
    reply = script.replies[answered]
    chunks: tuple[Chunk, ...] = (
        *(ThoughtArrived(text) for text in reply.thinking),
        *(TextArrived(text) for text in reply.text),
        *(ToolRequested(call.name, call.args) for call in reply.tool_calls),
    )
    return Reply(
        chunks,
        usage=_usage(asked, chunks) if reply.usage is None else TokenUsage(**dict(reply.usage)),
        delay=reply.delay_ms / 1000,
        fail=reply.fail,
        cut=reply.cut,
        # Without a nonce a script is known by its text. Digests, because what is remembered must be bounded.
        key=hashlib.sha256(f"{answered} {script.nonce or asked}".encode(errors="surrogatepass")).digest(),
    )


def parse_script(text: str) -> Script | None:
    """The script in a user message: the first fenced block whose info string is `script`. None if there is none.

    Raises:
        ModelError: the block does not hold a script; the sentence says what is wrong.
    """
    block = next((content for info, content in _fenced_blocks(text) if info == "script"), None)
    if block is None:
        return None
    try:
        script = Script.model_validate(json.loads(block, parse_constant=_not_json))
        for call in (call for reply in script.replies for call in reply.tool_calls):
            parse_object(dumps(call.args))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "the script"
        raise ModelError(f"the script cannot be obeyed: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ModelError(f"the script cannot be obeyed: {said}") from None
    return script


def _plain(text: str, asked: str) -> Reply:
    chunks = tuple(TextArrived(word) for word in _WORD.findall(text))
    return Reply(chunks, usage=_usage(asked, chunks))


def _usage(asked: str, chunks: Sequence[Chunk]) -> TokenUsage:
    return TokenUsage(prompt_tokens=len(asked.split()), completion_tokens=len(chunks))


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fenced_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The info string and the content of each fenced block, in order. One that is not closed runs to the end."""
    fence, info = "", ""
    content: list[str] = []
    for line in text.split("\n"):
        found = _FENCE.fullmatch(line.rstrip())
        if not fence:
            if found and not (found["fence"][0] == "`" and "`" in found["info"]):
                fence, info, content = found["fence"], found["info"].strip(), []
        elif found and found["fence"].startswith(fence) and not found["info"]:
            yield info, "\n".join(content)
            fence = ""
        else:
            content.append(line)
    if fence:
        yield info, "\n".join(content)

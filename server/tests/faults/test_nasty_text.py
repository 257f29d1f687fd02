"""Experiment 17: text that parsers, encodings and terminals get wrong, in every place that takes text.

EVT-6: it arrives unchanged on streams, WebSockets and pages, and in the history.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cmdc_testkit.conversations import Conversation, calling, script
from cmdc_testkit.events import ReceivedEvent, text_of
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.streams import event_stream, open_websocket

# Text that some parser misreads: of JSON, event streams, lines, Unicode or terminals.
NASTY = [
    *("\r", "\n", "\r\n", "\n\n", "\t", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"),
    *("\x01", "\x07", "\x08", "\x1b[2J", "\x7f", "\x80", "\x9f"),
    *("data: x\n\n", "\nid: 9.9\n", "event: agent_end\n", ": heartbeat\n", "retry: 1\n", "\ufeff"),
    *('"', "\\", "\\u0000", "\\ud800", '"}', "}{", "</script>", "<!--", "]]>", "%00", "&amp;", "\\n"),
    *(
        "é",
        "e\u0301",
        "\u200d",
        "\u202e",
        "\u2066",
        "\ufffd",
        "\ufffe",
        "\uffff",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    ),
    *(
        "\U00010000",
        "\U0001d11e",
        "\U0010ffff",
        "\U000e0041",
        "\u0e33",
        "ﷺ",
        "ǅ",
        "ß",
        "İ",
        " ",
        "\u00a0",
        "\u3000",
        "x",
    ),
]
NUL = "\x00"
SURROGATES = ["\ud83d", "\ude00", "\ud800", "\udfff"]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with in_process_gateway(tmp_path) as served:
        yield served


def nasty(rng: random.Random, more: list[str] | None = None, *, longest: int = 12) -> str:
    """Return a random string of such text, never empty and sometimes long."""
    pieces = NASTY + (more or [])
    count = 3_000 if rng.random() < 0.002 else rng.randint(1, longest)
    return "".join(rng.choice(pieces) for _ in range(count))


def joined(pieces: list[str]) -> str:
    """Join pieces: surrogate pairs become characters, lone surrogates are replaced (EVT-6)."""
    return "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


async def test_nasty_text_arrives_unchanged(experiment: Experiment, served: InProcessGateway) -> None:
    """EVT-3, EVT-6, EVT-7: reasoning and text split anywhere, arguments and results."""
    strings, rng = experiment.trials(short=400, long=20_000), experiment.random
    sent = 0
    async with served.client() as client, Receiver() as tool, AsyncExitStack() as stack:
        run = NastyRun(await begin(client, tool), rng)
        stream = await stack.enter_async_context(event_stream(served.port, run.talk.id, "?after=start&follow=true"))
        socket = await stack.enter_async_context(open_websocket(served.port, run.talk.id, "?after=start"))
        while sent < strings:
            sent += await run.run(tool)
            async with asyncio.timeout(30):
                seen = await stream.until("agent_end")
                assert await socket.until("agent_end") == seen
            run.check(seen)
            page = await run.talk.client.get(
                f"{run.talk.path}/events",
                params={"after": run.cursor, "limit": "5000"},
                headers={"Accept": "application/json"},
            )
            assert [(one["id"], one["event"], one["data"]) for one in page.json()["events"]] == [
                (one.id, one.name, one.data) for one in seen
            ]
            run.cursor = seen[-1].id
        assert await run.talk.messages() == run.history
    experiment.record("strings", sent)
    experiment.record("changed strings", 0)


async def begin(client: Any, tool: Receiver) -> Conversation:
    """Create a session with a callback tool."""
    talk = await Conversation.begin(client, maxTurns=1000)
    parameters = {"type": "object"}
    made = await talk.post("tools", {"name": "t", "description": "", "parameters": parameters, "callbackUrl": tool.url})
    assert made.status_code == 201, made.text
    return talk


class NastyRun:
    """Runs of one session, and the events and the history that they must have."""

    def __init__(self, talk: Conversation, rng: random.Random) -> None:
        self.talk = talk
        self.rng = rng
        self.cursor = "start"
        self.history: list[dict[str, Any]] = []

    async def run(self, tool: Receiver) -> int:
        """Start a run; return the number of strings in it."""
        rng = self.rng
        self.thinking = [nasty(rng, [NUL, *SURROGATES]) for _ in range(10)]
        self.text = [nasty(rng, [NUL, *SURROGATES]) for _ in range(15)]
        self.args = [{nasty(rng): [nasty(rng)]} for _ in range(4)]
        self.results = [nasty(rng) for _ in range(4)]
        self.last = [nasty(rng, [NUL, *SURROGATES]) for _ in range(3)]
        tool.answers += [("200 OK", json.dumps({"result": result}).encode()) for result in self.results]
        replies = [{"thinking": self.thinking, "text": self.text, **calling(("t", self.args[0]))}]
        replies += [calling(("t", args)) for args in self.args[1:]]
        self.prompt = script(*replies, {"text": self.last}) + "\n" + nasty(rng)
        await self.talk.prompt(self.prompt)
        return len(self.thinking) + len(self.text) + 2 * len(self.args) + len(self.results) + len(self.last) + 1

    def check(self, seen: list[ReceivedEvent]) -> None:
        """The events contain every string unchanged."""
        data = {name: [one.data for one in seen if one.name == name] for name in {one.name for one in seen}}
        assert [one["text"] for one in data["prompt_received"]] == [self.prompt]
        assert "".join(one["delta"] for one in data["thinking_delta"]) == joined(self.thinking)
        assert text_of(seen) == joined(self.text) + joined(self.last)
        assert [one["args"] for one in data["tool_execution_start"]] == self.args
        assert [one["result"] for one in data["tool_execution_end"]] == self.results
        assert data["agent_end"][0]["lastMessage"] == {"role": "assistant", "content": joined(self.last)}
        assert "error" not in data
        self._add_to_history([one["callId"] for one in data["tool_execution_start"]])

    def _add_to_history(self, call_ids: list[str]) -> None:
        self.history.append({"role": "user", "content": self.prompt})
        texts = [joined(self.text), "", "", ""]
        for text, call_id, args, result in zip(texts, call_ids, self.args, self.results, strict=True):
            call = {"callId": call_id, "name": "t", "arguments": args}
            self.history.append({"role": "assistant", "content": text, "toolCalls": [call]})
            message = {"role": "tool_result", "content": result, "callId": call_id, "name": "t", "isError": False}
            self.history.append(message)
        self.history.append({"role": "assistant", "content": joined(self.last)})


async def test_every_character_arrives_unchanged(experiment: Experiment, served: InProcessGateway) -> None:
    """EVT-6: every Unicode character, in its own delta or split in two, on a stream and a WebSocket."""
    characters = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    every = [characters[start : start + 4_096] for start in range(0, len(characters), 4_096)]
    blocks = every[experiment.part.index - 1 :: experiment.part.of] if experiment.long else [*every[:3], every[-1]]
    async with served.client() as client:
        talk = await Conversation.begin(client)
        for block in blocks:
            pieces = [half for code in block for half in _escapes(code)]
            request_id = await talk.prompt(script({"text": pieces}))
            async with (
                asyncio.timeout(60),
                event_stream(served.port, talk.id, f"?requestId={request_id}", buffer=2**20) as stream,
            ):
                seen = await stream.rest()
            async with asyncio.timeout(60), open_websocket(served.port, talk.id, f"?after={_before(seen)}") as socket:
                assert await socket.until("agent_end") == seen
            deltas = [one.data["delta"] for one in seen if one.name == "message_delta"]
            assert deltas == [chr(code) for code in block]
    experiment.record("characters", sum(map(len, blocks)))


def _escapes(code: int) -> list[str]:
    """A character, or the surrogate pair of its JSON escapes."""
    if code < 0x10000:
        return [chr(code)]
    return [chr(0xD800 + ((code - 0x10000) >> 10)), chr(0xDC00 + ((code - 0x10000) & 0x3FF))]


def _before(seen: list[ReceivedEvent]) -> str:
    return f"{seen[0].epoch}.{seen[0].seq - 1}"


async def test_nasty_text_of_clients_arrives_unchanged(experiment: Experiment, served: InProcessGateway) -> None:
    """EVT-6, WS-4: prompts, questions and answers, reasons, metadata and actionIds."""
    rng = experiment.random
    rounds = experiment.trials(short=8, long=200)
    async with served.client() as client:
        for _ in range(rounds):
            question, options = nasty(rng), [nasty(rng), nasty(rng) + "!"]
            metadata = {nasty(rng): nasty(rng)}
            talk = await Conversation.begin(client, tools=["ask_user"], metadata=metadata, systemPrompt=nasty(rng))
            assert (await talk.info())["metadata"] == metadata
            async with asyncio.timeout(30), open_websocket(served.port, talk.id) as socket:
                action_id, text = nasty(rng, longest=3)[:60], nasty(rng)
                acknowledgement = await socket.act("prompt", text=text, actionId=action_id)
                assert acknowledgement["actionId"] == action_id
                assert (await socket.until("agent_end"))[0].data["text"] == text
                asking = script(calling(("ask_user", {"question": question, "options": options})))
                await socket.act("prompt", text=asking)
                asked = (await socket.until("ask_user"))[-1].data
                assert (asked["question"], asked["options"]) == (question, options)
                assert "error" not in await socket.act("respond", ref=asked["ref"], response=options[1])
                assert (await socket.until("tool_execution_end"))[-1].data["result"] == options[1]
                await socket.until("agent_end")
                reason = nasty(rng)[:1000]
                await socket.act("prompt", text=script(calling(("ask_user", {"question": "?"}))))
                await socket.until("ask_user")
                await socket.act("abort", reason=reason)
                assert (await socket.until("agent_abort"))[-1].data["reason"] == reason
    experiment.record("sessions", rounds)


async def test_nasty_ids_are_unknown(experiment: Experiment, served: InProcessGateway) -> None:
    """HTTP-2, HTTP-6, HTTP-8: in every place, they get the response of any unknown id."""
    rng = experiment.random
    tried = experiment.trials(short=40, long=2_000)
    async with served.client() as client:
        talk = await Conversation.begin(client)
        for _ in range(tried):
            name = nasty(rng, [NUL])[:40]
            in_path = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
            asked = [
                await client.get(f"/v1/sessions/{in_path}"),
                await client.delete(f"{talk.path}/tools/{in_path}"),
                await talk.get("/events", requestId=name),
                await talk.post("approve", {"approvalId": name.replace(NUL, "")}),
                await talk.post("respond", {"ref": name.replace(NUL, ""), "response": "x"}),
            ]
            assert [answer.status_code for answer in asked] == [404] * 5, (name, [answer.text for answer in asked])
            assert all(set(answer.json()) == {"error", "message"} for answer in asked)
            cursor = await talk.get("/events", after=name)
            assert (cursor.status_code, cursor.json()["error"]) == (400, "invalid_cursor")
    experiment.record("unknown ids", 6 * tried)

"""Experiment 17: nasty text: what breaks lines, strings, encodings and screens, wherever text can go.

EVT-6: it arrives as it was sent, on streams, WebSockets and pages, and in the history.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cmdc_testkit.conversations import Conversation as Talk
from cmdc_testkit.conversations import calling, script
from cmdc_testkit.events import ReceivedEvent, text_of
from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import Served, serving
from cmdc_testkit.receivers import Receiver
from cmdc_testkit.streams import event_stream, open_websocket

# What some parser on the way takes for something else: of JSON, of event streams, of lines, of Unicode, of terminals.
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
HALVES = ["\ud83d", "\ude00", "\ud800", "\udfff"]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


def nasty(chance: random.Random, more: list[str] | None = None, *, longest: int = 12) -> str:
    """A string of nasty pieces, never empty; now and then a long one."""
    pieces = NASTY + (more or [])
    count = 3_000 if chance.random() < 0.002 else chance.randint(1, longest)
    return "".join(chance.choice(pieces) for _ in range(count))


def whole(pieces: list[str]) -> str:
    """The text that pieces are together: halves of a pair joined, and a half that stays alone replaced (EVT-6)."""
    return "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


async def test_nasty_text_arrives_as_it_was_sent(experiment: Experiment, served: Served) -> None:
    """EVT-3, EVT-6, EVT-7: thoughts and answers cut anywhere, arguments, results, questions, reasons and ids."""
    strings, chance = experiment.trials(short=800, long=20_000), experiment.random
    told = 0
    async with served.client() as client, Receiver() as tool, AsyncExitStack() as stack:
        run = NastyRun(await begin(client, tool), chance)
        stream = await stack.enter_async_context(event_stream(served.port, run.talk.id, "?after=start&follow=true"))
        socket = await stack.enter_async_context(open_websocket(served.port, run.talk.id, "?after=start"))
        while told < strings:
            told += await run.go(tool)
            async with asyncio.timeout(30):
                seen = await stream.until("agent_end")
                assert await socket.until("agent_end") == seen
            run.judge(seen)
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
    experiment.record("strings", told)
    experiment.record("changed on streams, WebSockets, pages or in the history", 0)


async def begin(client: Any, tool: Receiver) -> Talk:
    """A session with a tool that says what it is told to."""
    talk = await Talk.begin(client, maxTurns=1000)
    parameters = {"type": "object"}
    made = await talk.post("tools", {"name": "t", "description": "", "parameters": parameters, "callbackUrl": tool.url})
    assert made.status_code == 201, made.text
    return talk


class NastyRun:
    """Runs of one session, one after another, and what must come of them."""

    def __init__(self, talk: Talk, chance: random.Random) -> None:
        self.talk = talk
        self.chance = chance
        self.cursor = "start"
        self.history: list[dict[str, Any]] = []

    async def go(self, tool: Receiver) -> int:
        """Have one run; how many strings are in it."""
        chance = self.chance
        self.thinking = [nasty(chance, [NUL, *HALVES]) for _ in range(10)]
        self.said = [nasty(chance, [NUL, *HALVES]) for _ in range(15)]
        self.args = [{nasty(chance): [nasty(chance)]} for _ in range(4)]
        self.results = [nasty(chance) for _ in range(4)]
        self.last = [nasty(chance, [NUL, *HALVES]) for _ in range(3)]
        tool.answers += [("200 OK", json.dumps({"result": result}).encode()) for result in self.results]
        replies = [{"thinking": self.thinking, "text": self.said, **calling(("t", self.args[0]))}]
        replies += [calling(("t", args)) for args in self.args[1:]]
        self.prompt = script(*replies, {"text": self.last}) + "\n" + nasty(chance)
        await self.talk.prompt(self.prompt)
        return len(self.thinking) + len(self.said) + 2 * len(self.args) + len(self.results) + len(self.last) + 1

    def judge(self, seen: list[ReceivedEvent]) -> None:
        """Everything is there, in its place, as it was sent."""
        data = {name: [one.data for one in seen if one.name == name] for name in {one.name for one in seen}}
        assert [one["text"] for one in data["prompt_received"]] == [self.prompt]
        assert "".join(one["delta"] for one in data["thinking_delta"]) == whole(self.thinking)
        assert text_of(seen) == whole(self.said) + whole(self.last)
        assert [one["args"] for one in data["tool_execution_start"]] == self.args
        assert [one["result"] for one in data["tool_execution_end"]] == self.results
        assert data["agent_end"][0]["lastMessage"] == {"role": "assistant", "content": whole(self.last)}
        assert "error" not in data
        self._remember([one["callId"] for one in data["tool_execution_start"]])

    def _remember(self, call_ids: list[str]) -> None:
        self.history.append({"role": "user", "content": self.prompt})
        texts = [whole(self.said), "", "", ""]
        for text, call_id, args, result in zip(texts, call_ids, self.args, self.results, strict=True):
            call = {"callId": call_id, "name": "t", "arguments": args}
            self.history.append({"role": "assistant", "content": text, "toolCalls": [call]})
            told = {"role": "tool_result", "content": result, "callId": call_id, "name": "t", "isError": False}
            self.history.append(told)
        self.history.append({"role": "assistant", "content": whole(self.last)})


async def test_every_character_arrives_as_it_was_sent(experiment: Experiment, served: Served) -> None:
    """EVT-6: each of Unicode's, alone in a delta or cut in two, on a stream and a WebSocket."""
    characters = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    every = [characters[start : start + 4_096] for start in range(0, len(characters), 4_096)]
    blocks = every[experiment.part.index - 1 :: experiment.part.of] if experiment.long else [*every[:3], every[-1]]
    async with served.client() as client:
        talk = await Talk.begin(client)
        for block in blocks:
            pieces = [half for code in block for half in _halves(code)]
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


def _halves(code: int) -> list[str]:
    """A character as it stands, or as the two halves that JSON escapes make of it."""
    if code < 0x10000:
        return [chr(code)]
    return [chr(0xD800 + ((code - 0x10000) >> 10)), chr(0xDC00 + ((code - 0x10000) & 0x3FF))]


def _before(seen: list[ReceivedEvent]) -> str:
    return f"{seen[0].epoch}.{seen[0].seq - 1}"


async def test_nasty_text_of_clients_arrives_as_it_was_sent(experiment: Experiment, served: Served) -> None:
    """EVT-6, WS-4: prompts, answers to questions, reasons, metadata and actionIds; over HTTP and WebSockets."""
    chance = experiment.random
    rounds = experiment.trials(short=8, long=200)
    async with served.client() as client:
        for _ in range(rounds):
            question, options = nasty(chance), [nasty(chance), nasty(chance) + "!"]
            metadata = {nasty(chance): nasty(chance)}
            talk = await Talk.begin(client, tools=["ask_user"], metadata=metadata, systemPrompt=nasty(chance))
            assert (await talk.info())["metadata"] == metadata
            async with asyncio.timeout(30), open_websocket(served.port, talk.id) as socket:
                action_id, text = nasty(chance, longest=3)[:60], nasty(chance)
                taken = await socket.act("prompt", text=text, actionId=action_id)
                assert taken["actionId"] == action_id
                assert (await socket.until("agent_end"))[0].data["text"] == text
                asking = script(calling(("ask_user", {"question": question, "options": options})))
                await socket.act("prompt", text=asking)
                asked = (await socket.until("ask_user"))[-1].data
                assert (asked["question"], asked["options"]) == (question, options)
                assert "error" not in await socket.act("respond", ref=asked["ref"], response=options[1])
                assert (await socket.until("tool_execution_end"))[-1].data["result"] == options[1]
                await socket.until("agent_end")
                reason = nasty(chance)[:1000]
                await socket.act("prompt", text=script(calling(("ask_user", {"question": "?"}))))
                await socket.until("ask_user")
                await socket.act("abort", reason=reason)
                assert (await socket.until("agent_abort"))[-1].data["reason"] == reason
    experiment.record("sessions with nasty text of clients", rounds)


async def test_ids_that_are_nasty_name_nothing(experiment: Experiment, served: Served) -> None:
    """HTTP-2, HTTP-6, HTTP-8: in every place where an id can stand, they get the answer that any unknown id gets."""
    chance = experiment.random
    tried = experiment.trials(short=100, long=2_000)
    async with served.client() as client:
        talk = await Talk.begin(client)
        for _ in range(tried):
            name = nasty(chance, [NUL])[:40]
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
    experiment.record("ids that name nothing", 6 * tried)

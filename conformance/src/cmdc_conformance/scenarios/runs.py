"""Runs: their grammar, their end, their text, and what is counted of them."""

from __future__ import annotations

from cmdc_conformance.case import Case
from cmdc_conformance.check import EVERY, check
from cmdc_conformance.drivers.script import reply
from cmdc_conformance.findings import expect
from cmdc_conformance.monitors import Event


def text_of_last_step(events: list[Event]) -> str:
    """What the agent said in the last step."""
    last = max((index for index, event in enumerate(events) if event.name == "tool_calls"), default=-1)
    return "".join(event.data["delta"] for event in events[last + 1 :] if event.name == "message_delta")


@check("EVT-3", faces=EVERY)
async def the_last_step_is_the_last_message(case: Case) -> None:
    """The text of the last step is agent_end's last message, and the history's."""
    text = case.script(reply("Let me look. ", calls=[("get_weather", {"city": "Oslo"})]), reply("It ", "snows."))
    async with case.session() as session:
        await case.register(session)
        events = await session.ran(text)
        said = text_of_last_step(events)
        end = events[-1].data
        expect(events[-1].name == "agent_end", f"the run ended with {events[-1].name}: {end.get('reason')}")
        expect(end["lastMessage"] == {"role": "assistant", "content": said}, f"lastMessage is {end['lastMessage']}, and the text was {said!r}")
        history = await session.history()
        expect(history and history[-1].get("content") == said, f"the history ends with {history[-1:]}, and the text was {said!r}")
        expect(end["messageCount"] == len(history), f"messageCount is {end['messageCount']}, and the history has {len(history)}")

"""Talk to many agents at once, and stop one of them."""

import asyncio

from cmdc_client import AsyncClient, MessageDelta
from scripted import MODEL, scripted

SLOW = scripted("Tell a long story.", {"text": ["Once ", "upon ", "a ", "time "] * 100, "delayMs": 50})


async def ask(client: AsyncClient, number: int) -> str:
    """One agent, from its first word to its last."""
    async with await client.sessions.create(model=MODEL, metadata={"number": str(number)}) as session:
        reply = await session.ask(f"I am number {number}.")
        return reply.text


async def interrupt(client: AsyncClient) -> str:
    """Let an agent begin, and stop it."""
    async with await client.sessions.create(model=MODEL) as session, session.run(SLOW) as run:
        async for event in run:
            if isinstance(event, MessageDelta) and not run.transcript.done:
                await session.abort(reason="enough")
        return f"{run.transcript.text}… ({run.transcript.aborted})"


async def main() -> None:
    """`AsyncClient` has the same names as `Client`, to be awaited."""
    async with AsyncClient() as client:
        # Sessions do not wait for one another; the prompts of one session do. When the gateway says that this key asks
        # too often (429), the client waits as long as it is told, and asks again, up to `max_retries` times.
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(client, number)) for number in range(10)]
            interrupting = group.create_task(interrupt(client))
        for task in (*asking, interrupting):
            print(task.result())
        assert [task.result() for task in asking] == [f"You said: I am number {number}." for number in range(10)]
        assert "enough" in interrupting.result()

        # One after the other: prompts wait in a queue, and each has its own run.
        async with await client.sessions.create(model=MODEL) as session:
            replies = await asyncio.gather(*(session.ask(f"Prompt {number}.") for number in range(3)))
            assert [reply.text for reply in replies] == [f"You said: Prompt {number}." for number in range(3)]


asyncio.run(main())

"""Run many sessions concurrently, and abort one of them."""

import asyncio

from cmdc_client import AsyncClient, MessageDelta
from scripted import MODEL, scripted

SLOW = scripted("Tell a long story.", {"text": ["Once ", "upon ", "a ", "time "] * 100, "delayMs": 50})


async def ask(client: AsyncClient, number: int) -> str:
    """Create a session, send one prompt, and return the reply."""
    async with await client.sessions.create(model=MODEL, metadata={"number": str(number)}) as session:
        reply = await session.ask(f"I am number {number}.")
        return reply.text


async def interrupt(client: AsyncClient) -> str:
    """Start a long run and abort it at the first text."""
    async with await client.sessions.create(model=MODEL) as session, session.run(SLOW) as run:
        async for event in run:
            if isinstance(event, MessageDelta) and not run.transcript.done:
                await session.abort(reason="enough")
        return f"{run.transcript.text}… ({run.transcript.aborted})"


async def main() -> None:
    """`AsyncClient` has the methods of `Client`, as coroutines."""
    async with AsyncClient() as client:
        # Sessions run independently of each other. When the gateway answers 429 `rate_limited`, the client waits for
        # `Retry-After` and retries, up to `max_retries` times.
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(client, number)) for number in range(10)]
            interrupting = group.create_task(interrupt(client))
        for task in (*asking, interrupting):
            print(task.result())
        assert [task.result() for task in asking] == [f"You said: I am number {number}." for number in range(10)]
        assert "enough" in interrupting.result()

        # Within a session, prompts are queued: each has a run of its own, and runs never overlap.
        async with await client.sessions.create(model=MODEL) as session:
            replies = await asyncio.gather(*(session.ask(f"Prompt {number}.") for number in range(3)))
            assert [reply.text for reply in replies] == [f"You said: Prompt {number}." for number in range(3)]


asyncio.run(main())

"""An event loop without a world outside: time passes when nothing else can happen, and chance says who goes first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing can ever happen any more, and somebody still waits."""


class NumberedTask(asyncio.Task[T]):
    """A task whose place in a set depends on when it was made, and not on where in memory. It tells its context."""

    def __init__(self, number: int, *args: Any, context: Context | None = None, **options: Any) -> None:
        self._number = number  # first: the base class puts it into a set
        self.context = context or copy_context()
        super().__init__(*args, context=self.context, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """`time` is the simulation's own, from 0 on. What is ready at the same moment runs in an order of chance.

    `steps` counts what has run. Threads there are none: their work is done at once, and its result comes later.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.steps = 0
        self.unhandled: list[str] = []
        self._chance = chance
        self._now = 0.0
        self._ready: Any  # the base class' queue of what is to run next
        self._selector = self  # where the base class would wait for the world outside
        numbers = count()

        def numbered(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Future[Any]:
            return NumberedTask(next(numbers), work, loop=loop, **options)

        self.set_task_factory(numbered)
        self.set_exception_handler(lambda _, context: self.unhandled.append(f"{context}"))

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass. Raises Stuck."""
        if timeout is None:
            raise Stuck
        self._now += max(0.0, timeout)
        ready = list(self._ready)
        self._chance.shuffle(ready)
        self._ready.clear()
        self._ready.extend(ready)
        self.steps += len(ready)
        return []

    def tasks(self) -> list[NumberedTask[Any]]:
        """The tasks that are not done, in the order in which they were made."""
        return sorted((task for task in asyncio.all_tasks(self) if isinstance(task, NumberedTask)), key=hash)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # noqa: ARG002
        """Do it now; let it be known a little later."""
        done = self.create_future()
        try:
            result = func(*args)
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever waits for it
            self.call_later(self._chance.uniform(0, 0.01), _unless_done, done, done.set_exception, failure)
        else:
            self.call_later(self._chance.uniform(0, 0.01), _unless_done, done, done.set_result, result)
        return done

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...


def _unless_done(future: asyncio.Future[Any], act: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        act(value)


def simulate(chance: random.Random, main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a loop of its own to its end."""
    loop = SimulatedLoop(chance)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))

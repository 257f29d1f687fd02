"""A deterministic event loop without I/O: time advances when nothing is ready, and the seed determines the order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Deadlock: a task waits, but nothing can happen any more."""


class NumberedTask(asyncio.Task[T]):
    """A task that is hashed by creation order, not by address, so that sets iterate deterministically."""

    def __init__(self, number: int, *args: Any, context: Context | None = None, **options: Any) -> None:
        self._number = number  # set first: the base class adds the task to a set
        self.context = context or copy_context()
        super().__init__(*args, context=self.context, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """A loop with simulated time, starting at 0. Callbacks that are ready at the same time run in random order.

    `steps` counts the callbacks. There are no threads: their work runs immediately, and its result arrives later.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.steps = 0
        self.unhandled: list[str] = []
        self._chance = chance
        self._now = 0.0
        self._ready: Any  # the base class's queue of ready callbacks
        self._selector = self  # where the base class would wait for I/O
        numbers = count()

        def numbered(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Future[Any]:
            return NumberedTask(next(numbers), work, loop=loop, **options)

        self.set_task_factory(numbered)
        self.set_exception_handler(lambda _, context: self.unhandled.append(f"{context}"))

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Advance the time. Raises Stuck."""
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
        """The unfinished tasks in order of creation."""
        return sorted((task for task in asyncio.all_tasks(self) if isinstance(task, NumberedTask)), key=hash)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # noqa: ARG002
        """Run the function now, and deliver its result a little later."""
        done = self.create_future()
        try:
            result = func(*args)
        except Exception as failure:  # noqa: BLE001 - raised where the future is awaited
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
    """Run `main` on a new simulated loop."""
    loop = SimulatedLoop(chance)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))

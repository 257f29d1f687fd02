"""An event loop without I/O: time passes when nothing is ready to run, and the order of what is ready is random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

_TICK_SECONDS = 1e-6


class Stuck(Exception):
    """A task is waiting, and nothing is scheduled that could wake it."""


class NumberedTask(asyncio.Task[T]):
    """A task whose hash depends on its number, not on its address, so that sets have a reproducible order."""

    def __init__(self, number: int, *args: Any, context: Context | None = None, **options: Any) -> None:
        self._number = number  # before the base class adds the task to a set
        self.context = context or copy_context()
        super().__init__(*args, context=self.context, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(asyncio.BaseEventLoop):
    """`time` starts at 0 and is simulated. Callbacks that are ready at the same time run in random order.

    `steps` counts the callbacks. There are no threads: an executor's work runs immediately, and its result comes later.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.steps = 0
        self.unhandled: list[str] = []
        self._random = rng
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
        """Let `timeout` seconds pass. Raises Stuck if there is no timeout."""
        if timeout is None:
            raise Stuck
        # Like a real clock, this one never stands still: a timer may be set again for a remainder too small to add.
        self._now += max(_TICK_SECONDS, timeout)
        ready = list(self._ready)
        self._random.shuffle(ready)
        self._ready.clear()
        self._ready.extend(ready)
        self.steps += len(ready)
        return []

    def tasks(self) -> list[NumberedTask[Any]]:
        """The tasks that are not done, in the order of their creation."""
        return sorted((task for task in asyncio.all_tasks(self) if isinstance(task, NumberedTask)), key=hash)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # noqa: ARG002
        """Run the function now and deliver its result a little later."""
        done = self.create_future()
        try:
            result = func(*args)
        except Exception as failure:  # noqa: BLE001 - the caller receives it
            self.call_later(self._random.uniform(0, 0.01), _unless_done, done, done.set_exception, failure)
        else:
            self.call_later(self._random.uniform(0, 0.01), _unless_done, done, done.set_result, result)
        return done

    def _process_events(self, event_list: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...


def _unless_done(future: asyncio.Future[Any], act: Callable[[Any], None], value: Any) -> None:
    if not future.done():
        act(value)


def simulate(rng: random.Random, main: Callable[[SimulatedLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to completion on a new loop."""
    loop = SimulatedLoop(rng)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main(loop))

"""A wrapper that makes any store fail on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.store import Lease, Store
from cmdc_gateway.store.writes import Write

Verdict = Callable[[Sequence[Write]], Exception | None]


@dataclass(slots=True)
class Faults:
    """The faults to inject, until they are changed.

    While `down`, every call fails. `refuse` is called before each commit, and the exception that it returns is raised.
    A commit for which `lose_answer` returns true succeeds, but its caller gets StoreUnavailable. While `open` is not set,
    commits wait, and `waiting` is set as soon as one does. `refused` counts failed commits, `failed` other failed calls.
    """

    down: bool = False
    refuse: Verdict = lambda _: None
    lose_answer: Callable[[Sequence[Write]], bool] = lambda _: False
    open: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    refused: int = 0
    failed: int = 0


def once(which: Callable[[Write], bool], failure: Exception) -> Verdict:
    """Return a function that fails the first commit with such a write."""
    left = [failure]
    return lambda writes: left.pop() if left and any(map(which, writes)) else None


def faulty(store: Store) -> tuple[Store, Faults]:
    """Wrap a store; return the wrapper and its faults."""
    faults = Faults()
    faults.open.set()
    return cast("Store", _FaultyStore(store, faults)), faults


class _FaultyStore:
    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def commit(self, writes: Sequence[Write], lease: Lease | None = None) -> None:
        faults = self._faults
        if not faults.open.is_set():
            faults.waiting.set()
            await faults.open.wait()
        failure = StoreUnavailable("the disk is unavailable") if faults.down else faults.refuse(writes)
        if failure is not None:
            faults.refused += 1
            raise failure
        lost = faults.lose_answer(writes)
        await self._store.commit(writes, lease)
        if lost:
            faults.refused += 1
            raise StoreUnavailable("the connection to the store was lost")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in ("open", "close") or not callable(found):
            return found
        method = cast("Callable[..., Awaitable[Any]]", found)

        async def guarded(*args: Any, **options: Any) -> Any:
            if self._faults.down:
                self._faults.failed += 1
                raise StoreUnavailable("the disk is unavailable")
            return await method(*args, **options)

        return guarded

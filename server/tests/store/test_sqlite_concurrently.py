"""Concurrent calls, rejected commits, failed transactions, lost connections and restarts, compared with a simple model."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.store.errors import LeaseLost, SessionAlreadyExists, StoreUnavailable
from cmdc_gateway.store.rows import SessionKey, SessionRow
from cmdc_gateway.store.sqlite import SqliteStore, journal, packing
from cmdc_gateway.store.sqlite.journal import WritingConnection
from cmdc_gateway.store.sqlite.tables import health
from cmdc_gateway.store.store import Lease
from cmdc_gateway.store.writes import AppendEvents, CreateSession, DeleteSession, PutSession, TrimEvents

KEYS = [SessionKey("acme", f"s{number}") for number in range(4)]
ROUNDS = 1_000

# The calls, with their relative frequencies.
KINDS = {
    "append": 14,
    "unleased": 1,
    "put": 3,
    "rejected": 2,
    "acquire": 2,
    "release": 1,
    "trim": 2,
    "create": 2,
    "delete": 1,
    "recreate": 1,
    "broken": 1,
}


def row(key: SessionKey, epoch: str) -> SessionRow:
    return SessionRow(key, epoch, 1, b"{}")


def log(epoch: str, first: int, number: int) -> tuple[LoggedEvent, ...]:
    return tuple(
        LoggedEvent(epoch, seq, "message_delta", seq, f"{epoch} {seq}".encode()) for seq in range(first, first + number)
    )


@dataclass
class Log:
    """The expected log of a session."""

    epoch: str
    token: int | None = None
    trimmed: int = 0
    events: list[LoggedEvent] = field(default_factory=list[LoggedEvent])


@dataclass
class Call:
    """A call of the store, and its arguments."""

    kind: str
    lease: Lease
    epoch: str
    events: tuple[LoggedEvent, ...]
    before: int = 0

    @property
    def key(self) -> SessionKey:
        return self.lease.key

    def make(self, store: SqliteStore) -> Coroutine[Any, Any, Any]:
        append, new = AppendEvents(self.key, self.events), CreateSession(row(self.key, self.epoch))
        match self.kind:
            case "append":
                return store.commit([append], self.lease)
            case "unleased":
                return store.commit([append])
            case "put":
                return store.commit([PutSession(row(self.key, self.epoch)), append], self.lease)
            case "rejected":
                return store.commit([append, CreateSession(row(self.key, "never"))], self.lease)
            case "acquire":
                return store.acquire(self.key, "me", 0)
            case "release":
                return store.release(self.lease)
            case "trim":
                return store.commit([TrimEvents(self.key, self.before)], self.lease)
            case "create":
                return store.commit([new, append])
            case "delete":
                return store.commit([DeleteSession(self.key)], self.lease)
            case "recreate":
                return store.commit([DeleteSession(self.key), new, append])
            case _:
                return store.ping()


class World:
    """A store, and the model of what it holds."""

    def __init__(self, store: SqliteStore, chance: random.Random) -> None:
        self.store = store
        self.chance = chance
        self.logs: dict[SessionKey, Log] = {}
        self.leases: dict[SessionKey, list[Lease]] = {key: [Lease(key, 0)] for key in KEYS}
        self.epochs = count(1)

    def calls(self) -> list[Call]:
        """Random calls, most of which can succeed."""
        ends = {key: (log.epoch, len(log.events)) for key, log in self.logs.items()}
        calls: list[Call] = []
        for _ in range(self.chance.choice([1, 1, 2, 3, 6, 12])):
            key = self.chance.choice(KEYS)
            (kind,) = self.chance.choices(list(KINDS), list(KINDS.values()))
            lease = self.leases[key][-1] if self.chance.random() < 0.9 else self.chance.choice(self.leases[key])
            epoch, last = ends.get(key, ("none", 0))
            if kind in ("create", "recreate"):
                epoch, last = f"e{next(self.epochs)}", 0
            gap = self.chance.choice([0] * 18 + [-1, 1])
            events = log(epoch, last + 1 + gap, self.chance.choice([0, 1, 1, 1, 2, 9]))
            if kind in ("append", "unleased", "put", "create", "recreate"):
                ends[key] = epoch, last + gap + len(events)
            calls.append(Call(kind, lease, epoch, events, before=self.chance.randint(0, last + 3)))
        return calls

    def apply(self, call: Call) -> type[Exception] | None:
        """Apply a call to the model; return the exception that the store must raise."""
        known = self.logs.get(call.key)
        valid = known is not None and known.token == call.lease.token
        if call.kind == "acquire":
            return None if known else KeyError
        if call.kind == "create":
            return SessionAlreadyExists if known else self._created(call)
        if call.kind == "release":
            if valid and known:
                known.token = None
            return None
        if known is None or not (valid or call.kind in ("unleased", "recreate")):
            return LeaseLost
        if call.kind == "delete":
            del self.logs[call.key]
        elif call.kind == "trim":
            known.trimmed = max(known.trimmed, min(call.before - 1, len(known.events)))
        elif call.kind == "recreate":
            return self._created(call)
        elif list(call.events) != list(log(known.epoch, len(known.events) + 1, len(call.events))):
            return ValueError
        elif call.kind == "rejected":
            return SessionAlreadyExists
        else:
            known.events += call.events
        return None

    def _created(self, call: Call) -> type[Exception] | None:
        if call.events and call.events[0].seq != 1:
            return ValueError
        self.logs[call.key] = Log(call.epoch, events=list(call.events))
        return None

    async def round(self) -> None:
        calls = self.calls()
        reading = asyncio.gather(*(self.read() for _ in range(2)))
        before = {key: Log(log.epoch, log.token, log.trimmed, list(log.events)) for key, log in self.logs.items()}
        outcomes = await asyncio.gather(*(call.make(self.store) for call in calls), return_exceptions=True)
        await reading
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                continue
            expected = self.apply(call)
            assert (type(outcome) if isinstance(outcome, Exception) else None) is expected, (call, outcome, before)
            if isinstance(outcome, Lease):
                self.logs[call.key].token = outcome.token
                self.leases[call.key].append(outcome)

    async def read(self) -> None:
        """A concurrent read returns a part of one log, without a gap."""
        key, after = self.chance.choice(KEYS), self.chance.randint(0, 20)
        found = await self.store.events(
            key, after, self.chance.choice([1, 3, 1000]), self.chance.choice([5, 20, 1 << 20])
        )
        if found:
            assert found == list(log(found[0].epoch, found[0].seq, len(found)))

    async def compare(self) -> None:
        for key in KEYS:
            known = self.logs.get(key)
            after, limit = self.chance.randint(0, 12), self.chance.choice([1, 2, 5, 1000])
            expected = [event for event in known.events if event.seq > max(after, known.trimmed)] if known else []
            assert await self.store.events(key, after, limit) == expected[:limit]
            bounds = (known.epoch, known.trimmed + 1, len(known.events)) if known else None
            assert await self.store.log_bounds(key) == bounds


@pytest.mark.parametrize("seed", range(4))
async def test_concurrent_calls_agree_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """EVT-7, EVT-8, DUR-1, DUR-5."""

    def broken(connection: WritingConnection) -> None:
        connection.journal.flush(connection, KEYS[0])
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(health, "check", broken)
    monkeypatch.setattr(journal, "MAX_ROWS", 5)
    monkeypatch.setattr(journal, "_MIN_LOGS_PER_STEP", 2)
    monkeypatch.setattr(packing, "MAX_EVENTS", 4)
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    world = World(store, random.Random(seed))

    for number in range(1, ROUNDS + 1):
        await world.round()
        await world.compare()
        if number % 50 == 0:
            await store.close()
            await store.open()
            for known in world.logs.values():
                known.token = None
            await world.compare()

    await store.close()

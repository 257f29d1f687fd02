from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Literal

import pytest
from cmdc_gateway.store.sqlite import SqliteStore, journal, packing
from cmdc_gateway.store.store import Store
from cmdc_gateway.testing.stores import StoreContract


class TestSqliteStore(StoreContract):
    @pytest.fixture(params=["process", "disk"])
    def make_store(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Store]:
        durability: Literal["process", "disk"] = request.param
        numbers = count()
        return lambda: SqliteStore(tmp_path / f"{next(numbers)}.db", durability=durability)

    def attach(self, store: Store) -> Store:
        assert isinstance(store, SqliteStore)
        return SqliteStore(store.path)


class TestSqliteStoreWithTinyLimits(TestSqliteStore):
    """The journal is flushed, and rows of events are split, all the time."""

    @pytest.fixture(autouse=True)
    def tiny_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journal, "MAX_ROWS", 2)
        monkeypatch.setattr(journal, "_MIN_LOGS_PER_STEP", 1)
        monkeypatch.setattr(packing, "MAX_EVENTS", 2)
        monkeypatch.setattr(packing, "MAX_BYTES", 40)

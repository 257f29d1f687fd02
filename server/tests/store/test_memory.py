from collections.abc import Callable

import pytest
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Store
from cmdc_gateway.testing.stores import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        return MemoryStore


def test_its_durability_is_memory() -> None:
    assert MemoryStore().durability == "memory"

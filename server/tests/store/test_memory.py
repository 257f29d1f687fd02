from collections.abc import Callable

import pytest
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.store import Store
from cmdc_gateway.testing.stores import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        return MemoryStore


def test_it_says_that_it_is_lost_with_the_process() -> None:
    assert MemoryStore().durability == "memory"

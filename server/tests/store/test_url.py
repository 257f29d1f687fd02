from pathlib import Path

import pytest
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.url import store_from_url


def test_memory_is_a_store_that_forgets() -> None:
    assert isinstance(store_from_url("memory:"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path", "durability"),
    [
        ("sqlite:///gateway.db", "gateway.db", "process"),
        ("sqlite:///data/gateway.db?durability=process", "data/gateway.db", "process"),
        ("sqlite:////var/lib/gateway.db?durability=disk", "/var/lib/gateway.db", "disk"),
        ("sqlite:///my%20data/a%3Fb.db", "my data/a?b.db", "process"),
    ],
)
def test_an_address_names_a_file_and_what_it_survives(url: str, path: str, durability: str) -> None:
    """DUR-4."""
    store = store_from_url(url)

    assert isinstance(store, SqliteStore)
    assert (store.path, store.durability) == (Path(path), durability)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:x",
        "memory:?durability=disk",
        "gateway.db",
        "sqlite:gateway.db",
        "sqlite:/gateway.db",
        "sqlite://gateway.db",
        "sqlite:///",
        "sqlite:///gateway.db#x",
        "sqlite:///gateway.db?durability=memory",
        "sqlite:///gateway.db?durability=disk&durability=disk",
        "sqlite:///gateway.db?mode=ro",
        "postgresql:///gateway",
    ],
)
def test_any_other_address_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a store"):
        store_from_url(url)

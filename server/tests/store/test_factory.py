import sys
from pathlib import Path

import pytest
from cmdc_gateway import extensions
from cmdc_gateway.store.errors import InvalidStoreURL
from cmdc_gateway.store.factory import create_store
from cmdc_gateway.store.memory import MemoryStore
from cmdc_gateway.store.sqlite import SqliteStore


def test_memory_names_the_store_in_memory() -> None:
    assert isinstance(create_store("memory:"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path", "durability"),
    [
        ("sqlite:///gateway.db", "gateway.db", "process"),
        ("sqlite:///data/gateway.db?durability=process", "data/gateway.db", "process"),
        ("sqlite:////var/lib/gateway.db?durability=disk", "/var/lib/gateway.db", "disk"),
        ("sqlite:///my%20data/a%3Fb.db", "my data/a?b.db", "process"),
    ],
)
def test_a_sqlite_url_names_a_file_and_its_durability(url: str, path: str, durability: str) -> None:
    """DUR-4."""
    store = create_store(url)

    assert isinstance(store, SqliteStore)
    assert (store.path, store.durability) == (Path(path), durability)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "it has no scheme; available: memory, sqlite"),
        ("memory", "it has no scheme; available: memory, sqlite"),
        ("gateway.db", "it has no scheme; available: memory, sqlite"),
        ("postgresql:///gateway", "no installed store has this scheme; available: memory, sqlite"),
        ("memory:x", "nothing may follow memory:"),
        ("memory:?durability=disk", "nothing may follow memory:"),
        ("sqlite:gateway.db", "write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:/gateway.db", "write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite://gateway.db", "write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///", "write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///gateway.db#x", "write sqlite:///relative.db or sqlite:////absolute.db"),
        ("sqlite:///gateway.db?durability=memory", "the only parameters are durability=process and durability=disk"),
        (
            "sqlite:///gateway.db?durability=disk&durability=disk",
            "the only parameters are durability=process and durability=disk",
        ),
        ("sqlite:///gateway.db?mode=ro", "the only parameters are durability=process and durability=disk"),
    ],
)
def test_any_other_url_is_rejected_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidStoreURL) as rejected:
        create_store(url)

    assert str(rejected.value) == f"invalid store URL {url!r}: {reason}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:hunter2@db/gateway", "postgresql://***@db/gateway"),
        ("postgresql://ada:hunter2/with@signs@db/gateway", "postgresql://***@db/gateway"),
        ("postgresql://db/gateway?user=ada&password=hunter2&x=1", "postgresql://db/gateway?user=ada&password=***&x=1"),
        ("ada:hunter2@db/gateway", "ada:***@db/gateway"),
        ("hunter2@db/gateway", "***@db/gateway"),
    ],
)
def test_an_error_does_not_repeat_credentials(url: str, shown: str) -> None:
    with pytest.raises(InvalidStoreURL) as rejected:
        create_store(url)

    assert str(rejected.value).startswith(f"invalid store URL {shown!r}: ")


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that registers the stores `shelf` and `broken`."""
    (tmp_path / "shelf.py").write_text(
        "from cmdc_gateway.store.memory import MemoryStore\n\n\n"
        "class ShelfStore(MemoryStore):\n"
        "    def __init__(self, url):\n        super().__init__()\n        self.url = url\n"
    )
    metadata = tmp_path / "shelf-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[cmdc_gateway.stores]\nshelf = shelf:ShelfStore\nbroken = no_such_module:create\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "shelf", raising=False)
    monkeypatch.setattr(extensions, "_entries", vars(extensions)["_entries"].__wrapped__)  # without its cache


@pytest.mark.usefixtures("third_party")
def test_a_store_of_an_installed_package_is_found_by_its_scheme() -> None:
    store = create_store("shelf://top?books=9")

    assert (type(store).__name__, vars(store)["url"]) == ("ShelfStore", "shelf://top?books=9")


@pytest.mark.usefixtures("third_party")
def test_the_schemes_of_installed_packages_are_named() -> None:
    with pytest.raises(InvalidStoreURL, match=r"available: broken, memory, shelf, sqlite$"):
        create_store("postgresql:///gateway")


@pytest.mark.usefixtures("third_party")
def test_a_store_that_cannot_be_imported_is_reported() -> None:
    with pytest.raises(InvalidStoreURL, match="its store cannot be imported: No module named 'no_such_module'"):
        create_store("broken:")

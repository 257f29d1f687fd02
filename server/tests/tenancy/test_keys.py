"""Whose key it is (HTTP-7, HTTP-8)."""

from hashlib import sha256
from hmac import compare_digest

import pytest
from cmdc_gateway.tenancy import keys
from cmdc_gateway.tenancy.keys import KeyRing, Principal, check_keys, key_id, new_key
from hypothesis import given
from hypothesis import strategies as st

STORED = f"sha256:{sha256(b'hashed').hexdigest()}"


def test_a_key_opens_its_tenant_however_it_is_configured() -> None:
    ring = KeyRing({"plain": "acme", STORED: "globex"})

    plain, hashed = ring.principal("plain"), ring.principal("hashed")

    assert plain is not None
    assert hashed is not None
    assert (plain.tenant, hashed.tenant) == ("acme", "globex")
    assert sorted(ring.principals(), key=lambda caller: caller.tenant) == [plain, hashed]


@pytest.mark.parametrize("key", ["", "plai", "plain ", "PLAIN", STORED, "sha256:plain", "clé", "\udcff"])
def test_another_key_opens_nothing(key: str) -> None:
    """HTTP-7: neither does the digest that is configured."""
    assert KeyRing({"plain": "acme", STORED: "globex"}).principal(key) is None


def test_a_server_without_keys_knows_it() -> None:
    assert not KeyRing({})
    assert KeyRing({"plain": "acme"})


def test_two_keys_of_a_tenant_are_told_apart() -> None:
    """MTR-1 counts per key."""
    ring = KeyRing({"one": "acme", "two": "acme"})

    assert len({caller.key_id for caller in ring.principals()}) == 2


@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_key_id_says_nothing_about_its_key(key: str) -> None:
    """§3.8: not even the digest that is configured can be compared with it."""
    caller = KeyRing({key: "acme"}).principal(key)

    assert caller is not None
    assert caller.key_id.startswith("key_")
    assert caller.key_id.removeprefix("key_") not in sha256(key.encode()).hexdigest()
    assert caller == Principal("acme", key_id(sha256(key.encode()).hexdigest()))


def test_a_new_key_opens_what_its_stored_form_is_configured_for() -> None:
    made, other = new_key(), new_key()

    check_keys([made.key, made.stored])
    assert made.key != other.key
    assert made.key not in made.stored
    assert KeyRing({made.stored: "acme"}).principal(made.key) is not None
    assert KeyRing({other.stored: "acme"}).principal(made.key) is None


@pytest.mark.parametrize("key", ["plain", "wrong", "", "x" * 512])
def test_every_key_is_compared_once_and_in_constant_time(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Whether there is such a key or not: a refusal takes the same steps as an admission."""
    compared: list[tuple[str, str]] = []

    def watched(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(keys, "compare_digest", watched)

    assert (KeyRing({"plain": "acme"}).principal(key) is not None) == (key == "plain")
    assert [len(digest) for pair in compared for digest in pair] == [64, 64]


def test_a_ring_holds_no_key() -> None:
    """What a dump of the memory would show is hashes, also of a key that was configured as it is."""
    ring = KeyRing({"plain-as-written": "acme"})

    assert "plain-as-written" not in repr([vars(ring), ring.principals()])


def test_both_keys_of_a_tenant_are_good_while_one_replaces_the_other() -> None:
    old, new = new_key(), new_key()
    ring = KeyRing({old.stored: "acme"})
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({old.stored: "acme", new.stored: "acme"})
    both = [ring.principal(old.key), ring.principal(new.key)]
    ring.replace({new.stored: "acme"})

    assert [caller and caller.tenant for caller in both] == ["acme", "acme"]
    assert (ring.principal(old.key), ring.principal(new.key)) == (None, both[1])
    assert revoked == [{both[0] and both[0].key_id}]


def test_a_key_that_is_given_to_another_tenant_is_taken_away_from_the_first() -> None:
    """HTTP-8: streams that it opened show what is not its own any longer."""
    ring = KeyRing({"key": "acme"})
    (before,) = ring.principals()
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({"key": "globex"})

    assert revoked == [{before.key_id}]
    assert ring.principals() == [Principal("globex", before.key_id)]


def test_replacing_the_keys_tells_which_open_nothing_any_longer() -> None:
    """WS-6: their connections are closed."""
    ring = KeyRing({"old": "acme", "kept": "acme"})
    (old,) = [caller.key_id for caller in ring.principals() if caller == ring.principal("old")]
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({"kept": "acme", "new": "acme"})

    assert revoked == [{old}]
    assert ring.principal("old") is None
    assert ring.principal("new") is not None


def test_adding_keys_revokes_none() -> None:
    ring = KeyRing({"old": "acme"})
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({"old": "acme", "new": "acme"})

    assert revoked == []


@pytest.mark.parametrize("key", ["", "a b", "a\n", "clé", "x" * 513, "sha256:abc", f"{STORED[:-1]}G", f"{STORED}0"])
def test_a_key_that_could_not_be_sent_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="an API key") as caught:
        check_keys(["fine", key])

    assert not key or key not in str(caught.value)


@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=512))
def test_any_visible_ascii_can_be_a_key(key: str) -> None:
    if not key.startswith("sha256:"):
        check_keys([key])

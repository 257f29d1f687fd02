"""API keys and their tenants (HTTP-7, HTTP-8)."""

from hashlib import sha256
from hmac import compare_digest

import pytest
from cmdc_gateway.tenancy import keys
from cmdc_gateway.tenancy.keys import KeyRing, Principal, check_keys, key_id, new_key
from hypothesis import given
from hypothesis import strategies as st

STORED = f"sha256:{sha256(b'hashed').hexdigest()}"


def test_a_key_belongs_to_its_tenant_whether_configured_in_plain_text_or_hashed() -> None:
    ring = KeyRing({"plain": "acme", STORED: "globex"})

    plain, hashed = ring.principal("plain"), ring.principal("hashed")

    assert plain is not None
    assert hashed is not None
    assert (plain.tenant, hashed.tenant) == ("acme", "globex")
    assert sorted(ring.principals(), key=lambda principal: principal.tenant) == [plain, hashed]


@pytest.mark.parametrize("key", ["", "plai", "plain ", "PLAIN", STORED, "sha256:plain", "clé", "\udcff"])
def test_an_unknown_key_has_no_principal(key: str) -> None:
    """HTTP-7: the configured digest is not a key either."""
    assert KeyRing({"plain": "acme", STORED: "globex"}).principal(key) is None


def test_a_key_ring_without_keys_is_false() -> None:
    assert not KeyRing({})
    assert KeyRing({"plain": "acme"})


def test_two_keys_of_a_tenant_have_different_ids() -> None:
    """MTR-1 counts per key."""
    ring = KeyRing({"one": "acme", "two": "acme"})

    assert len({principal.key_id for principal in ring.principals()}) == 2


@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_a_key_id_reveals_nothing_about_its_key(key: str) -> None:
    """EP-usage: it is not part of the configured digest either."""
    principal = KeyRing({key: "acme"}).principal(key)

    assert principal is not None
    assert principal.key_id.startswith("key_")
    assert principal.key_id.removeprefix("key_") not in sha256(key.encode()).hexdigest()
    assert principal == Principal("acme", key_id(sha256(key.encode()).hexdigest()))


def test_a_new_key_matches_its_stored_form() -> None:
    key, other = new_key(), new_key()

    check_keys([key.key, key.stored])
    assert key.key != other.key
    assert key.key not in key.stored
    assert KeyRing({key.stored: "acme"}).principal(key.key) is not None
    assert KeyRing({other.stored: "acme"}).principal(key.key) is None


@pytest.mark.parametrize("key", ["plain", "wrong", "", "x" * 512])
def test_every_key_is_compared_once_and_in_constant_time(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Valid or not: a rejection takes the same steps as an acceptance."""
    compared: list[tuple[str, str]] = []

    def watched(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(keys, "compare_digest", watched)

    assert (KeyRing({"plain": "acme"}).principal(key) is not None) == (key == "plain")
    assert [len(digest) for pair in compared for digest in pair] == [64, 64]


def test_a_key_ring_holds_no_plain_text_key() -> None:
    """Memory holds only digests, also of keys configured in plain text."""
    ring = KeyRing({"plain-as-written": "acme"})

    assert "plain-as-written" not in repr([vars(ring), ring.principals()])


def test_both_keys_are_valid_during_a_rotation() -> None:
    old, new = new_key(), new_key()
    ring = KeyRing({old.stored: "acme"})
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({old.stored: "acme", new.stored: "acme"})
    both = [ring.principal(old.key), ring.principal(new.key)]
    ring.replace({new.stored: "acme"})

    assert [principal and principal.tenant for principal in both] == ["acme", "acme"]
    assert (ring.principal(old.key), ring.principal(new.key)) == (None, both[1])
    assert revoked == [{both[0] and both[0].key_id}]


def test_a_key_that_moves_to_another_tenant_is_revoked_for_the_first() -> None:
    """HTTP-8: streams it opened belong to the first tenant."""
    ring = KeyRing({"key": "acme"})
    (before,) = ring.principals()
    revoked: list[set[str]] = []
    ring.on_revoked(revoked.append)

    ring.replace({"key": "globex"})

    assert revoked == [{before.key_id}]
    assert ring.principals() == [Principal("globex", before.key_id)]


def test_listeners_receive_the_revoked_keys() -> None:
    """WS-6: their connections are closed."""
    ring = KeyRing({"old": "acme", "kept": "acme"})
    (old,) = [principal.key_id for principal in ring.principals() if principal == ring.principal("old")]
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
def test_a_key_that_cannot_be_sent_in_a_header_is_rejected_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="an API key") as caught:
        check_keys(["fine", key])

    assert not key or key not in str(caught.value)


@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=512))
def test_any_visible_ascii_is_a_valid_key(key: str) -> None:
    if not key.startswith("sha256:"):
        check_keys([key])

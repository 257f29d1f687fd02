"""How a store fails."""

from __future__ import annotations

import re

# Everything between the scheme and the last @, so that a password with a slash or an @ in it is hidden too.
_CREDENTIALS = re.compile(r"^([^:@]*:(?://)?)?.*@", re.DOTALL)
_SECRET_PARAMETER = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)


class InvalidStoreURL(ValueError):
    """A URL names no store. The message shows the URL without credentials."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"invalid store URL {without_credentials(url)!r}: {reason}")


class StoreUnavailable(Exception):
    """The store cannot read or write now. Nothing of the call took effect; the same call may succeed later."""


class SessionAlreadyExists(Exception):
    """A session with this key exists."""


class LeaseLost(Exception):
    """The lease is stale: the session was acquired again, released or deleted. Its holder must stop writing."""


class OwnedElsewhere(Exception):
    """Another owner, whose leases have not expired, holds the session."""


class StoredStateDamaged(Exception):
    """The stored rows of a session cannot be decoded."""


def without_credentials(url: str) -> str:
    """The URL with `***` for its user, its password and parameters that may be secret."""
    return _SECRET_PARAMETER.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", url))

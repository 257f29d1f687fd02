"""Who sent a request: set by `AuthenticationMiddleware`, read by everything behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from cmdc_gateway.tenancy.keys import Principal

_KEY: Final = "auth"


@dataclass(frozen=True, slots=True)
class AuthContext:
    """An authenticated request.

    `is_valid` returns whether the key has not been revoked since. `ticket_scope` is set if a ticket was used instead of a
    key.
    """

    principal: Principal
    is_valid: Callable[[], bool]
    ticket_scope: str | None = None


def set_auth(scope: Scope, auth: AuthContext) -> None:
    """Store the result of the authentication."""
    scope.setdefault("state", {})[_KEY] = auth


def auth_of(scope: Scope) -> AuthContext:
    """Return who sent this request. Raises KeyError on a public route."""
    auth: AuthContext = scope["state"][_KEY]
    return auth


def key_id_of(scope: Scope) -> str | None:
    """Return the id of the key that was used, None if there is none."""
    auth: AuthContext | None = scope.get("state", {}).get(_KEY)
    return auth.principal.key_id if auth is not None else None

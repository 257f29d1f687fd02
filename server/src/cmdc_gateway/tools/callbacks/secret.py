"""Secrets that sign callbacks, as in Standard Webhooks (CB-4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from cmdc_gateway.errors import RegistrationFailed

_PREFIX: Final = "whsec_"
_NEW_SIZE: Final = 32
_SIZES: Final = range(24, 65)


def new_secret(randbytes: Callable[[int], bytes]) -> str:
    """A secret for a tool that was registered without one."""
    return _PREFIX + base64.b64encode(randbytes(_NEW_SIZE)).decode()


def check_secret(secret: str) -> None:
    """Validate a secret. Raises `RegistrationFailed`, whose message does not repeat it."""
    try:
        size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if not secret.startswith(_PREFIX) or size not in _SIZES:
        raise RegistrationFailed("secret: it must be whsec_ and the base64 of 24 to 64 bytes")

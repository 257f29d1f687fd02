"""Random ids for requests and runs."""

from __future__ import annotations

import secrets
from collections.abc import Generator

_DIGITS = 16
_BATCH = 128


def random_ids() -> Generator[str]:
    """Yield random ids of 16 hex digits.

    Entropy is read in batches: each read releases the GIL, and losing it to another thread costs far more than an id.
    """
    while True:
        digits = secrets.token_hex(_BATCH * _DIGITS // 2)
        yield from (digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))

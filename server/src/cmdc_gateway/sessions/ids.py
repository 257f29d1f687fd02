"""Names for what has none of its own: requests, runs."""

from __future__ import annotations

import secrets
from collections.abc import Generator

_DIGITS = 16
_SUPPLY = 128


def random_ids() -> Generator[str]:
    """Give random ids of 16 hex digits, without end.

    The system is asked for many at once: asking lets go of the interpreter, and so hands it to any other thread that
    waits for it, which costs many times what an id does.
    """
    while True:
        supply = secrets.token_hex(_SUPPLY * _DIGITS // 2)
        yield from (supply[at : at + _DIGITS] for at in range(0, len(supply), _DIGITS))

"""Ids come from a supply that is renewed, and none comes twice."""

from __future__ import annotations

import re
from itertools import islice

from cmdc_gateway.sessions.ids import random_ids


def test_ids_are_sixteen_hex_digits_and_none_comes_twice_however_many_are_asked_for() -> None:
    ids = list(islice(random_ids(), 1_000))

    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in ids)
    assert len(set(ids)) == len(ids)

"""Random ids are unique, also across batches of entropy."""

from __future__ import annotations

import re
from itertools import islice

from cmdc_gateway.sessions.ids import random_ids


def test_ids_are_sixteen_hex_digits_and_unique() -> None:
    ids = list(islice(random_ids(), 1_000))

    assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in ids)
    assert len(set(ids)) == len(ids)

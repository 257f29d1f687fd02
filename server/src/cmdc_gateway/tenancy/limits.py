"""Rate limits per API key (HTTP-9)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cmdc_gateway.errors import RateLimited
from cmdc_gateway.kernel.bucket import Bucket


@dataclass(frozen=True, slots=True)
class Quota:
    """The remaining quota of a key: `remaining` requests now; all of `limit` again in `reset` seconds."""

    limit: int
    remaining: int
    reset: int


class RateLimit:
    """A token bucket per key. `rpm` is requests per minute, 0 for no limit; `burst` is the bucket size, by default `rpm`."""

    def __init__(self, rpm: int, burst: int | None = None, *, clock: Callable[[], float]) -> None:
        self.rpm = rpm
        self.burst = burst or rpm
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def spend(self, key_id: str) -> Quota | None:
        """Count one request and return the remaining quota, or None if there is no limit.

        Raises:
            RateLimited: the quota is used up; `retry_after` says when the next request is allowed.
        """
        if self.rpm == 0:
            return None
        now = self._clock()
        bucket = self._buckets.get(key_id) or Bucket(self.burst, self.rpm / 60, self.burst, now)
        self._buckets[key_id], wait = bucket.take(now)
        if wait > 0:
            raise RateLimited(max(1, math.ceil(wait)))
        return self._quota(self._buckets[key_id])

    def quota(self, key_id: str) -> Quota | None:
        """The remaining quota, or None if there is no limit. Counts no request."""
        bucket = self._buckets.get(key_id)
        if self.rpm == 0:
            return None
        return self._quota(bucket) if bucket else Quota(self.burst, self.burst, 0)

    def _quota(self, bucket: Bucket) -> Quota:
        missing = bucket.capacity - bucket.tokens
        return Quota(self.burst, int(bucket.tokens), math.ceil(missing / bucket.per_second))

"""A token bucket as a pure value (HTTP-9)."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Tolerance for rounding: a client that waits exactly as long as it was told must get its token.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket. Times are seconds of any monotonic clock."""

    capacity: float
    per_second: float
    tokens: float
    updated_at: float

    def take(self, now: float) -> tuple[Bucket, float]:
        """Take one token. Return the bucket and the seconds to wait: 0.0 if a token was taken."""
        tokens = min(self.capacity, self.tokens + max(0.0, now - self.updated_at) * self.per_second)
        if tokens < 1 - _EPSILON:
            return replace(self, tokens=tokens, updated_at=now), (1 - tokens) / self.per_second
        return replace(self, tokens=tokens - 1, updated_at=now), 0.0

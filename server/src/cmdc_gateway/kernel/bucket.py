"""A token bucket that is only numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

# What sums of floats may lose of a token: who waits as long as they were told is not sent away once more.
_LOST = 1e-6


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket, by any clock that does not run backwards. Times are seconds."""

    capacity: float
    per_second: float
    tokens: float
    at: float

    def take(self, now: float) -> tuple[Bucket, float]:
        """Spend one token, or say how many seconds are missing."""
        tokens = min(self.capacity, self.tokens + max(0.0, now - self.at) * self.per_second)
        if tokens < 1 - _LOST:
            return replace(self, tokens=tokens, at=now), (1 - tokens) / self.per_second
        return replace(self, tokens=tokens - 1, at=now), 0.0

"""One timer for each approval that can expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cmdc_gateway.sessions.state import LiveState


class ApprovalTimers:
    """Tells, once for each, which approvals nobody has decided about in time."""

    def __init__(self) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, now: LiveState, at: int, expired: Callable[[str], None]) -> None:
        """Have a timer for each approval that waits at `at` (ms) and can expire, and for no other."""
        for approval_id in [name for name in self._timers if name not in now.approvals]:
            self._timers.pop(approval_id).cancel()
        for approval_id, row in now.approvals.items():
            if row.expires_at is not None and approval_id not in self._timers and now.turn is not None:
                delay = max(0.0, (row.expires_at - at) / 1000)
                self._timers[approval_id] = asyncio.get_running_loop().call_later(delay, expired, approval_id)

    def cancel(self) -> None:
        """Have no timer at all."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

"""Timers for the time limits of approvals (APP-2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cmdc_gateway.sessions.state import LiveState


class ApprovalTimers:
    """One timer for each pending approval that has a time limit."""

    def __init__(self) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, live: LiveState, now: int, on_expired: Callable[[str], None]) -> None:
        """Start missing timers and cancel those of resolved approvals; `now` is in ms.

        `on_expired` is called once with each approvalId whose time limit passes.
        """
        for approval_id in [name for name in self._timers if name not in live.approvals]:
            self._timers.pop(approval_id).cancel()
        for approval_id, row in live.approvals.items():
            if row.expires_at is not None and approval_id not in self._timers and live.turn is not None:
                delay = max(0.0, (row.expires_at - now) / 1000)
                self._timers[approval_id] = asyncio.get_running_loop().call_later(delay, on_expired, approval_id)

    def cancel(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

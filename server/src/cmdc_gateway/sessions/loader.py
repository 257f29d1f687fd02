"""Loads a session from the store, and reconstructs the run that an earlier process left unfinished."""

from __future__ import annotations

from functools import partial

import structlog

from cmdc_gateway.errors import SessionDead, SessionNotFound
from cmdc_gateway.kernel.recovery import recover_run
from cmdc_gateway.kernel.signals import Aborted
from cmdc_gateway.kernel.turn import Rules, Turn
from cmdc_gateway.protocol.frames import LoggedEvent
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.chat import estimated_usage
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import NewerSettings
from cmdc_gateway.sessions.state import LiveState, restore
from cmdc_gateway.store.errors import StoredStateDamaged
from cmdc_gateway.store.rows import SessionKey, StoredSession

_PAGE_EVENTS = 5_000

_log = structlog.get_logger(__name__)


class SessionLoader:
    """Reads one session from the store; writes nothing."""

    def __init__(self, key: SessionKey, services: Services) -> None:
        self._key = key
        self._services = services

    async def load(self) -> tuple[StoredSession, LiveState]:
        """Load the session; its active run has no turn yet.

        Raises:
            SessionNotFound: the session does not exist.
            SessionDead: its stored state is damaged, or was written by a newer version.
            StoreUnavailable: the store cannot be read.
        """
        try:
            stored = await self._services.store.load(self._key)
            if stored is None:
                raise SessionNotFound(self._key.session_id)
            return stored, restore(stored, self._services)
        except (StoredStateDamaged, NewerSettings, ValueError, KeyError, TypeError):
            _log.exception("session_dead", session_id=self._key.session_id)
            raise SessionDead(self._key.session_id) from None

    def open_log(self, stored: StoredSession) -> EventLog:
        """A log that holds no events in memory yet."""
        return EventLog(
            stored.row.epoch,
            first_seq=stored.first_seq,
            last_seq=stored.last_seq,
            stored=partial(self._services.store.events, self._key),
        )

    async def events_since(self, seq: int) -> list[LoggedEvent]:
        """All stored events from `seq` on."""
        events: list[LoggedEvent] = []
        after = seq - 1
        while page := await self._services.store.events(self._key, after, _PAGE_EVENTS):
            events += page
            after = page[-1].seq
        return events

    async def recover_turn(self, live: LiveState, rules: Rules, reason: str, error: str) -> Aborted | None:
        """Set `live.turn` to the active run as it was left.

        Return None if it can resume waiting for the user; otherwise the signal, with `reason` and `error`, that ends it
        (DUR-2).
        """
        active = live.active
        if active is None:
            return None
        run = recover_run(
            live.history,
            await self.events_since(active.first_seq),
            undecided={row.call_id for row in live.approvals.values()},
            unanswered={row.call_id for row in live.questions.values()},
        )
        live.turn = Turn(
            active.request_id,
            rules,
            history_length=len(live.history),
            steps=active.steps,
            calls=active.calls,
            usage=active.usage,
            cost_usd=active.cost_usd,
            open_calls=run.open_calls,
            text=run.text,
        )
        if run.blocked_on_user:
            return None
        # With open calls the model call was complete, and its usage is counted already.
        received_bytes = len(run.text.encode())
        usage = TokenUsage() if run.open_calls else estimated_usage(live.model_request(), received_bytes)
        return Aborted(reason, error=error, usage=usage)

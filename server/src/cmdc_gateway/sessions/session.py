"""A session as the registry hands it out: its actor, its commands, and what can be read of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cmdc_gateway.sessions.actor import SessionActor
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.log import EventLog
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import SessionSettings
from cmdc_gateway.sessions.state import SessionSnapshot
from cmdc_gateway.sessions.toolset import Toolset
from cmdc_gateway.sessions.view import SessionView
from cmdc_gateway.store.rows import RequestRow, SessionKey


class Session:
    """A session that this process owns. Created by `open`; usable from any task of the event loop.

    `view` reads committed state and `commands` change it. The accessors here are shorthands for those of `view`.
    """

    def __init__(self, actor: SessionActor, services: Services) -> None:
        self._actor = actor
        self.key: SessionKey = actor.key
        self.view: SessionView = actor.view
        self.commands = SessionCommands(actor, services)
        self.rendered: tuple[SessionSnapshot, int, bytes] | None = None
        """A cache for the serializer: snapshot, last seq of the log, and their JSON."""

    @classmethod
    async def open(cls, key: SessionKey, services: Services, on_closed: Callable[[Session], None]) -> Session:
        """Acquire and load a session. `on_closed` is called when it is deleted or owned by another gateway.

        Raises:
            SessionNotFound, SessionDead, StoreUnavailable, OwnedElsewhere.
        """
        actor = await SessionActor.open(key, services)
        session = cls(actor, services)
        actor.start(partial(on_closed, session))
        return session

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def log(self) -> EventLog:
        return self.view.log

    @property
    def snapshot(self) -> SessionSnapshot:
        return self.view.snapshot

    @property
    def settings(self) -> SessionSettings:
        return self.view.snapshot.settings

    @property
    def toolset(self) -> Toolset:
        return self.view.snapshot.toolset

    def start_position(self) -> int:
        return self.view.start_position()

    def mark_delivered(self, seq: int) -> None:
        self.view.mark_delivered(seq)

    async def request(self, request_id: str) -> RequestRow | None:
        return await self.view.request(request_id)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return self._actor.idle

    @property
    def delays_exit(self) -> bool:
        return self._actor.delays_exit

    @property
    def last_used_at(self) -> int:
        return self._actor.last_used_at

    def touch(self) -> None:
        self._actor.touch()

    async def stop(self) -> None:
        await self._actor.stop()

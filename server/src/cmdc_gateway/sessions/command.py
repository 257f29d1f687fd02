"""What an actor's mailbox holds: commands from outside, and signals from the session's own effects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cmdc_gateway.kernel.signals import Signal
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.wire import AnswerBody
from cmdc_gateway.sessions.state import LiveState
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.rows import StoredResponseRow
from cmdc_gateway.store.writes import PutResponse

F = TypeVar("F", bound="asyncio.Future[Any]")


def unattended(future: F) -> F:
    """Mark a future's exception as retrieved, so that asyncio does not log it when the waiting client is gone."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to a command: the body and its HTTP status."""

    body: AnswerBody
    status: int = 200


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The Idempotency-Key under which a response is stored, in the transaction of its effect (HTTP-11)."""

    tenant: str
    route: str
    idempotency_key: str
    fingerprint: str

    def write(self, reply: Reply, at: int) -> PutResponse:
        return PutResponse(
            StoredResponseRow(
                tenant=self.tenant,
                route=self.route,
                idempotency_key=self.idempotency_key,
                fingerprint=self.fingerprint,
                status=reply.status,
                body=reply.body.encode(),
                at=at,
            )
        )


Decide = Callable[[LiveState, UnitOfWork], Reply]
"""Changes the live state and the unit of work and returns the reply; or raises, having changed nothing."""


@dataclass(slots=True)
class Command:
    """A request to a session, processed in order with everything else that happens to it.

    `answer` is resolved once the unit of work is committed. `key_id` is the API key of the request, empty for commands
    of the session itself.
    """

    decide: Decide
    key_id: str = ""
    idempotency: IdempotencyRecord | None = None
    answer: asyncio.Future[Reply] = field(
        default_factory=lambda: unattended(asyncio.get_running_loop().create_future())
    )
    reply: Reply | None = None
    failure: Exception | None = None

    @property
    def executed(self) -> bool:
        return self.reply is not None or self.failure is not None

    def execute(self, live: LiveState, unit: UnitOfWork) -> None:
        """Run `decide` and keep its reply, or the exception it raised, until `respond`."""
        unit.key_id = self.key_id
        try:
            self.reply = self.decide(live, unit)
        except Exception as failure:  # noqa: BLE001 - raised where the command was posted
            self.failure = failure
        else:
            if self.idempotency is not None:
                unit.write(self.idempotency.write(self.reply, unit.now))
        finally:
            unit.key_id = ""

    def respond(self) -> None:
        """Resolve `answer`; no effect if it was cancelled or resolved before."""
        if self.answer.done():
            return
        if self.reply is not None:
            self.answer.set_result(self.reply)
        else:
            self.answer.set_exception(self.failure or AssertionError("respond() was called before execute()"))

    def fail(self, failure: Exception) -> None:
        """Respond with `failure`, whatever `decide` returned."""
        self.reply, self.failure = None, failure
        self.respond()


@dataclass(slots=True)
class RunSignal:
    """A signal for a run, posted at `at` (ms) by one of its effects. Treated as immutable."""

    turn: Turn
    signal: Signal
    at: int

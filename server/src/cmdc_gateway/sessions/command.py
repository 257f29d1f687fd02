"""What is asked of a session, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cmdc_gateway.protocol.wire import AnswerBody
from cmdc_gateway.sessions.unit_of_work import UnitOfWork
from cmdc_gateway.store.store import PutResponse, StoredResponseRow

F = TypeVar("F", bound="asyncio.Future[Any]")


def unattended(future: F) -> F:
    """A future that may fail when whoever waited for it has gone: asyncio is not to call that a mistake."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the body, and the status it has over HTTP."""

    body: AnswerBody
    status: int = 200


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """Under which Idempotency-Key the answer is to be kept, in the transaction of its effect (HTTP-11)."""

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


@dataclass(slots=True)
class Command:
    """Something asked of a session, decided in its turn among all that happens to it.

    `key_id` is the key it was asked with, empty where the session asks it of itself. `decide` either says what changes
    and what the answer is, or raises and has changed nothing. The answer is given once the change is committed. Nobody
    need wait for it.
    """

    decide: Callable[[UnitOfWork], Reply]
    key_id: str = ""
    idempotency: IdempotencyRecord | None = None
    answer: asyncio.Future[Reply] = field(
        default_factory=lambda: unattended(asyncio.get_running_loop().create_future())
    )
    reply: Reply | None = None
    failure: Exception | None = None

    def execute(self, draft: UnitOfWork) -> None:
        draft.key_id = self.key_id
        try:
            self.reply = self.decide(draft)
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever asked
            self.failure = failure
        else:
            if self.idempotency is not None:
                draft.write(self.idempotency.write(self.reply, draft.now))
        finally:
            draft.key_id = ""

    def respond(self) -> None:
        """Let the asker know, unless they have gone."""
        if self.answer.done():
            return
        if self.reply is not None:
            self.answer.set_result(self.reply)
        else:
            self.answer.set_exception(self.failure or AssertionError("a command was given before it was taken"))

    def refuse(self, failure: Exception) -> None:
        """Nothing came of it."""
        self.reply, self.failure = None, failure
        self.respond()

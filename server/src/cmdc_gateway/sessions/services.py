"""What every session needs from outside: where things are kept, who answers, what time it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cmdc_gateway.sessions.settings import SessionPolicy
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.meter import Meter
from cmdc_gateway.tools.callbacks.client import CallbackClient


@dataclass(slots=True)
class Services:
    """`clock` gives ms since 1970, `new_id` 16 random hex digits; `owner` is this process' name in the store.

    `replay_events` is how many events of a session are kept at least, None for all. While `draining` no new run begins.
    """

    store: Store
    policy: SessionPolicy
    callbacks: CallbackClient
    meter: Meter
    clock: Callable[[], int]
    new_id: Callable[[], str]
    owner: str
    queued_prompts: int = 100
    parallel_tools: int = 8
    replay_events: int | None = None
    draining: bool = False

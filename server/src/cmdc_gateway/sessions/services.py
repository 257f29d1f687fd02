"""The services that every session shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cmdc_gateway.sessions.settings import SessionPolicy
from cmdc_gateway.store.store import Store
from cmdc_gateway.tenancy.meter import Meter
from cmdc_gateway.tools.callbacks.client import CallbackClient


@dataclass(slots=True)
class Services:
    """`clock` returns ms since 1970, `new_id` 16 random hex digits; `owner` names this process in the store's leases.

    `replay_events` is the minimum number of events kept per session, None for all. `parallel_tools` and
    `queued_prompts` are limits per session. While `draining`, no run starts.
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

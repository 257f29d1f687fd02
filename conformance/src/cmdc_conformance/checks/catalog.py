"""All checks. A module registers its checks when it is imported, and this module imports every one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cmdc_conformance.checks.agent import callback_tools, human_input, model_calls, usage
from cmdc_conformance.checks.durability import crashes, shutdown
from cmdc_conformance.checks.http import (
    auth,
    create,
    history,
    hostile_input,
    idempotency,
    prompts,
    rate_limit,
    service,
    sessions,
    tickets,
    validation,
)
from cmdc_conformance.checks.properties import properties
from cmdc_conformance.checks.registry import Check, registered
from cmdc_conformance.checks.streams import cursors, runs, sse, websockets, ws_close

MODULES: Final = (
    *(auth, create, history, hostile_input, idempotency, prompts, rate_limit, service, sessions, tickets, validation),
    *(cursors, runs, sse, websockets, ws_close),
    *(callback_tools, human_input, model_calls, usage),
    *(crashes, shutdown),
    properties,
)
"""Every module with checks."""


def checks() -> Mapping[tuple[str, str], Check]:
    """Every check, by its requirement and name."""
    return registered()

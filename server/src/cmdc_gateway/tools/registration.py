"""From what a client sends to a callback tool: what must hold beyond types (CB-1)."""

from __future__ import annotations

import re
import secrets

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.protocol.tools import RegisterToolBody
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.callback import CallbackDefinition, check_secret, new_secret
from cmdc_gateway.tools.schema import InvalidSchema, Parameters

MAX_TIMEOUT_MS = 300_000
MAX_DESCRIPTION = 16_384

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def define(body: RegisterToolBody, addresses: AddressPolicy) -> CallbackDefinition:
    """The tool that this registration describes; it gets a secret if it came without one.

    Raises:
        RegistrationFailed: a name, schema, address, secret or range does not hold.
    """
    if not _NAME.fullmatch(body.name):
        raise RegistrationFailed("name: it must be 1 to 64 letters, digits, _ or -")
    if not 1 <= body.timeout_ms <= MAX_TIMEOUT_MS:
        raise RegistrationFailed(f"timeoutMs: it must be from 1 to {MAX_TIMEOUT_MS}")
    if len(body.description) > MAX_DESCRIPTION:
        raise RegistrationFailed(f"description: it must be at most {MAX_DESCRIPTION} characters")
    if body.secret is not None:
        check_secret(body.secret)
    try:
        Parameters(body.parameters)
    except InvalidSchema as flaw:
        raise RegistrationFailed(f"parameters: {flaw}") from None
    addresses.check_url(body.callback_url)
    return CallbackDefinition(
        name=body.name,
        description=body.description,
        parameters=body.parameters,
        url=body.callback_url,
        timeout_ms=body.timeout_ms,
        requires_approval=body.requires_approval,
        idempotent=body.idempotent,
        secret=body.secret or new_secret(secrets.token_bytes),
    )

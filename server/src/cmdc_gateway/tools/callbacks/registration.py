"""Validation of a registration, beyond the types of its fields (CB-1)."""

from __future__ import annotations

import re
import secrets

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.protocol.tools import RegisterToolBody
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.callbacks.secret import check_secret, new_secret
from cmdc_gateway.tools.schema import InvalidSchema, Parameters

MAX_TIMEOUT_MS = 300_000
MAX_DESCRIPTION = 16_384

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def define(body: RegisterToolBody, addresses: AddressPolicy) -> CallbackDefinition:
    """The tool that a registration defines, with a new secret if the registration has none.

    Raises:
        RegistrationFailed: the name, description, schema, URL, timeout or secret is invalid.
    """
    _check(body)
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


def _check(body: RegisterToolBody) -> None:
    if not _NAME.fullmatch(body.name):
        raise RegistrationFailed(f"name: {body.name[:100]!r} is invalid; it must be 1 to 64 letters, digits, _ or -")
    if not 1 <= body.timeout_ms <= MAX_TIMEOUT_MS:
        raise RegistrationFailed(f"timeoutMs: {body.timeout_ms} is out of range; it must be from 1 to {MAX_TIMEOUT_MS}")
    if len(body.description) > MAX_DESCRIPTION:
        raise RegistrationFailed(
            f"description: it has {len(body.description)} characters; the maximum is {MAX_DESCRIPTION}"
        )
    if body.secret is not None:
        check_secret(body.secret)
    try:
        Parameters(body.parameters)
    except InvalidSchema as error:
        raise RegistrationFailed(f"parameters: {error}") from None

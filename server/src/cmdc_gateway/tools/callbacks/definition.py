"""A callback tool as it was registered, and as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.tools.callbacks.url import CallbackUrl


@dataclass(frozen=True)
class CallbackDefinition:
    """A registered callback tool (CB-1)."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    url: str
    timeout_ms: int = 30_000
    requires_approval: bool = False
    idempotent: bool = False
    secret: str = field(kw_only=True, repr=False)

    def to_json(self) -> bytes:
        """The stored form. It contains the secret."""
        return _DEFINITION.dump_json(self)

    @staticmethod
    def from_json(raw: bytes) -> CallbackDefinition:
        """Parse the stored form. Raises ValueError."""
        try:
            return _DEFINITION.validate_json(raw, strict=True)
        except ValidationError:
            # Without its cause, which would contain the secret.
            raise ValueError("the stored definition of a callback tool is invalid") from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the definition without the secret. It identifies the definition in the audit log."""
        return sha256(_DEFINITION.dump_json(self, exclude={"secret"})).hexdigest()

    @property
    def origin(self) -> str:
        """The origin of the URL. The rest of the URL may be secret."""
        return CallbackUrl.parse(self.url).origin

    @cached_property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            self.name,
            self.description,
            self.parameters,
            kind="callback",
            requires_approval=self.requires_approval,
            idempotent=self.idempotent,
        )


_DEFINITION: Final = TypeAdapter(CallbackDefinition)

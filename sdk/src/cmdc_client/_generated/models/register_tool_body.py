from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.register_tool_body_parameters import RegisterToolBodyParameters


T = TypeVar("T", bound="RegisterToolBody")


@_attrs_define
class RegisterToolBody:
    """A tool called over HTTP. A field of the right type with an invalid value returns 422.

    Attributes:
        name (str): `[A-Za-z0-9_-]{1,64}`
        description (str):
        parameters (RegisterToolBodyParameters): JSON Schema of type `object`.
        callback_url (str):
        timeout_ms (int | Unset): 1 – 300000 ms, for the whole call including retries. Default: 30000.
        requires_approval (bool | Unset):  Default: False.
        idempotent (bool | Unset): Whether a call may be retried after it may have arrived. Default: False.
        secret (str | Unset): `whsec_` and 24 – 64 bytes in base64; default: generated.
    """

    name: str
    description: str
    parameters: RegisterToolBodyParameters
    callback_url: str
    timeout_ms: int | Unset = 30000
    requires_approval: bool | Unset = False
    idempotent: bool | Unset = False
    secret: str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        name = self.name

        description = self.description

        parameters = self.parameters.to_dict()

        callback_url = self.callback_url

        timeout_ms = self.timeout_ms

        requires_approval = self.requires_approval

        idempotent = self.idempotent

        secret = self.secret

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "name": name,
                "description": description,
                "parameters": parameters,
                "callbackUrl": callback_url,
            }
        )
        if timeout_ms is not UNSET:
            field_dict["timeoutMs"] = timeout_ms
        if requires_approval is not UNSET:
            field_dict["requiresApproval"] = requires_approval
        if idempotent is not UNSET:
            field_dict["idempotent"] = idempotent
        if secret is not UNSET:
            field_dict["secret"] = secret

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.register_tool_body_parameters import RegisterToolBodyParameters

        d = dict(src_dict)
        name = d.pop("name")

        description = d.pop("description")

        parameters = RegisterToolBodyParameters.from_dict(d.pop("parameters"))

        callback_url = d.pop("callbackUrl")

        timeout_ms = d.pop("timeoutMs", UNSET)

        requires_approval = d.pop("requiresApproval", UNSET)

        idempotent = d.pop("idempotent", UNSET)

        secret = d.pop("secret", UNSET)

        register_tool_body = cls(
            name=name,
            description=description,
            parameters=parameters,
            callback_url=callback_url,
            timeout_ms=timeout_ms,
            requires_approval=requires_approval,
            idempotent=idempotent,
            secret=secret,
        )

        return register_tool_body

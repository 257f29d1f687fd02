from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

from ..models.ticket_body_scope import TicketBodyScope, check_ticket_body_scope
from ..types import UNSET, Unset

T = TypeVar("T", bound="TicketBody")


@_attrs_define
class TicketBody:
    """Scope of a new ticket.

    Attributes:
        scope (TicketBodyScope | Unset): `read`: events only. `control`: also WebSocket actions. Default: 'read'.
    """

    scope: TicketBodyScope | Unset = "read"

    def to_dict(self) -> dict[str, Any]:
        scope: str | Unset = UNSET
        if not isinstance(self.scope, Unset):
            scope = self.scope

        field_dict: dict[str, Any] = {}

        field_dict.update({})
        if scope is not UNSET:
            field_dict["scope"] = scope

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        _scope = d.pop("scope", UNSET)
        scope: TicketBodyScope | Unset
        if isinstance(_scope, Unset):
            scope = UNSET
        else:
            scope = check_ticket_body_scope(_scope)

        ticket_body = cls(
            scope=scope,
        )

        return ticket_body

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="TicketIssued")


@_attrs_define
class TicketIssued:
    """A single-use credential for one connection to one session.

    Attributes:
        ticket (str):
        expires_at (int): Milliseconds since the Unix epoch.
    """

    ticket: str
    expires_at: int

    def to_dict(self) -> dict[str, Any]:
        ticket = self.ticket

        expires_at = self.expires_at

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "ticket": ticket,
                "expiresAt": expires_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        ticket = d.pop("ticket")

        expires_at = d.pop("expiresAt")

        ticket_issued = cls(
            ticket=ticket,
            expires_at=expires_at,
        )

        return ticket_issued

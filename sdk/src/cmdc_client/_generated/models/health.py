from __future__ import annotations

from collections.abc import Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Self,
    TypeVar,
    cast,
)

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.active_sessions import ActiveSessions
    from ..models.tracked_keys import TrackedKeys


T = TypeVar("T", bound="Health")


@_attrs_define
class Health:
    """The server is alive.

    Attributes:
        status (Literal['ok']):
        version (str):
        sessions (ActiveSessions): Number of sessions in memory.
        meter (TrackedKeys): Number of API keys with recorded usage.
        timestamp (str): ISO 8601 in UTC, with microseconds and `Z`.
    """

    status: Literal["ok"]
    version: str
    sessions: ActiveSessions
    meter: TrackedKeys
    timestamp: str

    def to_dict(self) -> dict[str, Any]:
        status = self.status

        version = self.version

        sessions = self.sessions.to_dict()

        meter = self.meter.to_dict()

        timestamp = self.timestamp

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "status": status,
                "version": version,
                "sessions": sessions,
                "meter": meter,
                "timestamp": timestamp,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.active_sessions import ActiveSessions
        from ..models.tracked_keys import TrackedKeys

        d = dict(src_dict)
        status = cast(Literal["ok"], d.pop("status"))
        if status != "ok":
            raise ValueError(f"status must match const 'ok', got '{status}'")

        version = d.pop("version")

        sessions = ActiveSessions.from_dict(d.pop("sessions"))

        meter = TrackedKeys.from_dict(d.pop("meter"))

        timestamp = d.pop("timestamp")

        health = cls(
            status=status,
            version=version,
            sessions=sessions,
            meter=meter,
            timestamp=timestamp,
        )

        return health

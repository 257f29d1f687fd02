from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="Limits")


@_attrs_define
class Limits:
    """Limits of this server. Sizes are in bytes, times in milliseconds.

    Attributes:
        body_bytes (int):
        header_bytes (int):
        queued_prompts (int):
        ws_message_bytes (int):
        replay_events (int | None): Minimum number of events kept per session; null: all.
        heartbeat_ms (int):
        grace_ms (int):
        rpm (int): Requests per minute and API key; 0: no limit.
    """

    body_bytes: int
    header_bytes: int
    queued_prompts: int
    ws_message_bytes: int
    replay_events: int | None
    heartbeat_ms: int
    grace_ms: int
    rpm: int

    def to_dict(self) -> dict[str, Any]:
        body_bytes = self.body_bytes

        header_bytes = self.header_bytes

        queued_prompts = self.queued_prompts

        ws_message_bytes = self.ws_message_bytes

        replay_events: int | None
        replay_events = self.replay_events

        heartbeat_ms = self.heartbeat_ms

        grace_ms = self.grace_ms

        rpm = self.rpm

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "bodyBytes": body_bytes,
                "headerBytes": header_bytes,
                "queuedPrompts": queued_prompts,
                "wsMessageBytes": ws_message_bytes,
                "replayEvents": replay_events,
                "heartbeatMs": heartbeat_ms,
                "graceMs": grace_ms,
                "rpm": rpm,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        body_bytes = d.pop("bodyBytes")

        header_bytes = d.pop("headerBytes")

        queued_prompts = d.pop("queuedPrompts")

        ws_message_bytes = d.pop("wsMessageBytes")

        def _parse_replay_events(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        replay_events = _parse_replay_events(d.pop("replayEvents"))

        heartbeat_ms = d.pop("heartbeatMs")

        grace_ms = d.pop("graceMs")

        rpm = d.pop("rpm")

        limits = cls(
            body_bytes=body_bytes,
            header_bytes=header_bytes,
            queued_prompts=queued_prompts,
            ws_message_bytes=ws_message_bytes,
            replay_events=replay_events,
            heartbeat_ms=heartbeat_ms,
            grace_ms=grace_ms,
            rpm=rpm,
        )

        return limits

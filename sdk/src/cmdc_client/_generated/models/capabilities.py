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

from ..models.capabilities_durability import (
    CapabilitiesDurability,
    check_capabilities_durability,
)

if TYPE_CHECKING:
    from ..models.limits import Limits


T = TypeVar("T", bound="Capabilities")


@_attrs_define
class Capabilities:
    """Features, models, tools, and limits that a client may rely on.

    Attributes:
        protocol (Literal['0.1']):
        extended (list[str]):
        models (list[str]):
        tools (list[str]):
        plugins (list[str]):
        durability (CapabilitiesDurability):
        limits (Limits): Limits of this server. Sizes are in bytes, times in milliseconds.
    """

    protocol: Literal["0.1"]
    extended: list[str]
    models: list[str]
    tools: list[str]
    plugins: list[str]
    durability: CapabilitiesDurability
    limits: Limits

    def to_dict(self) -> dict[str, Any]:
        protocol = self.protocol

        extended = self.extended

        models = self.models

        tools = self.tools

        plugins = self.plugins

        durability: str = self.durability

        limits = self.limits.to_dict()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "protocol": protocol,
                "extended": extended,
                "models": models,
                "tools": tools,
                "plugins": plugins,
                "durability": durability,
                "limits": limits,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.limits import Limits

        d = dict(src_dict)
        protocol = cast(Literal["0.1"], d.pop("protocol"))
        if protocol != "0.1":
            raise ValueError(f"protocol must match const '0.1', got '{protocol}'")

        extended = cast(list[str], d.pop("extended"))

        models = cast(list[str], d.pop("models"))

        tools = cast(list[str], d.pop("tools"))

        plugins = cast(list[str], d.pop("plugins"))

        durability = check_capabilities_durability(d.pop("durability"))

        limits = Limits.from_dict(d.pop("limits"))

        capabilities = cls(
            protocol=protocol,
            extended=extended,
            models=models,
            tools=tools,
            plugins=plugins,
            durability=durability,
            limits=limits,
        )

        return capabilities

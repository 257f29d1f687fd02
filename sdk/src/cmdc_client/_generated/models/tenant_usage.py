from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.key_usage import KeyUsage
    from ..models.usage_figures import UsageFigures


T = TypeVar("T", bound="TenantUsage")


@_attrs_define
class TenantUsage:
    """Usage of a tenant, in total and per API key.

    Attributes:
        tenant (str):
        total (UsageFigures): Usage figures.
        keys (list[KeyUsage]):
    """

    tenant: str
    total: UsageFigures
    keys: list[KeyUsage]

    def to_dict(self) -> dict[str, Any]:
        tenant = self.tenant

        total = self.total.to_dict()

        keys = []
        for keys_item_data in self.keys:
            keys_item = keys_item_data.to_dict()
            keys.append(keys_item)

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "tenant": tenant,
                "total": total,
                "keys": keys,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.key_usage import KeyUsage
        from ..models.usage_figures import UsageFigures

        d = dict(src_dict)
        tenant = d.pop("tenant")

        total = UsageFigures.from_dict(d.pop("total"))

        keys = []
        _keys = d.pop("keys")
        for keys_item_data in _keys:
            keys_item = KeyUsage.from_dict(keys_item_data)

            keys.append(keys_item)

        tenant_usage = cls(
            tenant=tenant,
            total=total,
            keys=keys,
        )

        return tenant_usage

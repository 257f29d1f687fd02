from typing import Literal

CapabilitiesDurability = Literal["disk", "memory", "process"]

CAPABILITIES_DURABILITY_VALUES: set[CapabilitiesDurability] = {
    "disk",
    "memory",
    "process",
}


def check_capabilities_durability(value: str) -> CapabilitiesDurability:
    if value in CAPABILITIES_DURABILITY_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {CAPABILITIES_DURABILITY_VALUES!r}")

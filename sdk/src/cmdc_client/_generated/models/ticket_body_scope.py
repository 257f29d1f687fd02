from typing import Literal

TicketBodyScope = Literal["control", "read"]

TICKET_BODY_SCOPE_VALUES: set[TicketBodyScope] = {
    "control",
    "read",
}


def check_ticket_body_scope(value: str) -> TicketBodyScope:
    if value in TICKET_BODY_SCOPE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {TICKET_BODY_SCOPE_VALUES!r}")

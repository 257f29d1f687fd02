from typing import Literal

DecisionTakenAction = Literal["approve", "reject"]

DECISION_TAKEN_ACTION_VALUES: set[DecisionTakenAction] = {
    "approve",
    "reject",
}


def check_decision_taken_action(value: str) -> DecisionTakenAction:
    if value in DECISION_TAKEN_ACTION_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {DECISION_TAKEN_ACTION_VALUES!r}")

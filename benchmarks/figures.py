"""What was measured, what it is to be, and how both are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_SLACK = 1.5
"""A figure that misses its bound by more than this fails a run that guards against regressions."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    `value` is judged against `bound`, as at most or `at_least` that. `detail` says what it was computed from. A `steady`
    figure is one that a busy machine does not change much: a ratio of CPU times, or memory.
    """

    workload: int
    what: str
    value: float
    bound: float
    unit: str = "×"
    at_least: bool = False
    detail: str = ""
    steady: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def better(self, other: Figure | None) -> Figure:
        """The better of two measurements of the same."""
        if other is None:
            return self
        return other if (other.value > self.value) == self.at_least else self

    @property
    def regressed(self) -> bool:
        """Worse than the bound by half."""
        worse = self.value < self.bound / _SLACK if self.at_least else self.value > self.bound * _SLACK
        return self.steady and worse


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown."""
    lines = ["| # | workload | measured | to reach | | from |", "|---|---|---|---|---|---|"]
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        value, bound = (f"{_short(number)} {figure.unit}" for number in (figure.value, figure.bound))
        mark = "reached" if figure.reached else "**missed**"
        lines.append(f"| {figure.workload} | {figure.what} | {value} | {sign} {bound} | {mark} | {figure.detail} |")
    return "\n".join(lines)


def document(figures: Sequence[Figure], machine: dict[str, str], *, full: bool) -> str:
    """The figures in JSON."""
    listed = [{**asdict(figure), "reached": figure.reached} for figure in figures]
    return json.dumps({"machine": machine, "full": full, "figures": listed}, indent=2, ensure_ascii=False) + "\n"


def _short(number: float) -> str:
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"

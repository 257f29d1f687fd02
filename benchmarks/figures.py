"""Measured figures, their targets, and the reports of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_SLACK = 1.5
"""Factor by which a figure may miss its target before `--check` fails."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    A figure passes if `value` is at most `bound`, or at least `bound` where `at_least` is set. `detail` lists the numbers
    it was computed from. A `steady` figure hardly depends on the load of the machine: a ratio of CPU times, or memory.
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
    def passed(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def better(self, other: Figure | None) -> Figure:
        """The better of two measurements of the same figure."""
        if other is None:
            return self
        return other if (other.value > self.value) == self.at_least else self

    @property
    def regressed(self) -> bool:
        """Whether the figure misses its bound by more than `_SLACK`."""
        worse = self.value < self.bound / _SLACK if self.at_least else self.value > self.bound * _SLACK
        return self.steady and worse


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| # | workload | measured | target | result | computed from |", "|---|---|---|---|---|---|"]
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        value, bound = (f"{_short(number)} {figure.unit}" for number in (figure.value, figure.bound))
        mark = "pass" if figure.passed else "**fail**"
        lines.append(f"| {figure.workload} | {figure.what} | {value} | {sign} {bound} | {mark} | {figure.detail} |")
    return "\n".join(lines)


def document(figures: Sequence[Figure], machine: dict[str, str], *, full: bool) -> str:
    """The figures as JSON."""
    listed = [{**asdict(figure), "passed": figure.passed} for figure in figures]
    return json.dumps({"machine": machine, "full": full, "figures": listed}, indent=2, ensure_ascii=False) + "\n"


def _short(number: float) -> str:
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"

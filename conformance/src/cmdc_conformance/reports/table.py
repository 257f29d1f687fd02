"""Terminal output: progress while checks run, then the results as a table."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from time import monotonic
from types import TracebackType
from typing import Final, Self, TextIO

from cmdc_conformance import schemas
from cmdc_conformance.findings import STREAM_VARIANTS, Outcome
from cmdc_conformance.reports.report import Report
from cmdc_conformance.reports.verdict import Result

_COLORS: Final = {
    "PASS": "32",
    "FAIL": "1;31",
    "WARN": "33",
    "KNOWN": "33",
    "NOT_APPLICABLE": "2",
    "NOT_EXERCISED": "35",
    "HARNESS_ERROR": "1;31",
}
_SHORT: Final = {
    "PASS": "pass",
    "FAIL": "FAIL",
    "WARN": "warn",
    "KNOWN": "known",
    "NOT_APPLICABLE": "n/a",
    "NOT_EXERCISED": "not exercised",
    "HARNESS_ERROR": "harness error",
}
Paint = Callable[[str, str], str]

_TERMINAL_SECONDS: Final = 0.1
_LOG_SECONDS: Final = 15.0


class LiveTable:
    """Shows progress in one line of a terminal, or as a log line every 15 seconds if the output is not a terminal."""

    def __init__(self, out: TextIO, quiet: bool) -> None:
        self._out = out
        self._quiet = quiet
        self._terminal = out.isatty() and not quiet
        self._counts: Counter[str] = Counter()
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._shown = monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal:
            self._out.write("\r\x1b[K")

    def progress(self, done: int, total: int, outcome: Outcome) -> None:
        """Count a finished check and update the display."""
        self._counts[outcome.status] += 1
        interval = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        if self._quiet or (monotonic() - self._shown <= interval and done < total):
            return
        self._shown = monotonic()
        counts = "  ".join(f"{_SHORT[name]} {number}" for name, number in sorted(self._counts.items()))
        if self._terminal:
            width = max(10, shutil.get_terminal_size().columns - 60)
            bar = "█" * round(20 * done / total)
            self._out.write(f"\r\x1b[K{bar:░<20} {done}/{total}  {counts}  {outcome.requirement[:width]}")
        else:
            self._out.write(f"{done}/{total}  {counts}\n")
        self._out.flush()

    def show(self, report: Report) -> None:
        """Print the report."""
        lines: list[str] = [*_head(report)]
        if not self._quiet:
            lines += _table(report.results, self._color)
        lines += _problems(report, self._color)
        if not self._quiet:
            lines += _events(report)
        self._out.write("\n".join([*lines, *_verdict(report, self._color)]) + "\n")

    def _color(self, text: str, status: str) -> str:
        return f"\x1b[{_COLORS[status]}m{text}\x1b[0m" if self._terminal else text


def _head(report: Report) -> Iterator[str]:
    yield (
        f"{report.address}: profile {report.profile}, via {report.via}, transport {report.transport}, driver"
        f" {report.server.driver}, seed {report.seed}"
    )
    yield ""


def _table(results: Sequence[Result], color: Paint) -> Iterator[str]:
    for rule, group in groupby(results, lambda result: result.requirement.rule):
        parts = [
            color(f"{result.id.removeprefix(rule).lstrip('.') or '·'}: {_SHORT[result.status]}", result.status)
            for result in group
        ]
        yield f"  {rule:16} " + "  ".join(parts)
    yield ""


def _problems(report: Report, color: Paint) -> Iterator[str]:
    for result in report.results:
        if result.status not in ("PASS", "NOT_APPLICABLE"):
            yield f"{color(_SHORT[result.status], result.status)}  {result.id}  {result.requirement.sentence}"
            yield f"    {result.message}"
            yield f"    {result.requirement.link}"


def _events(report: Report) -> Iterator[str]:
    yield ""
    yield f"  {'events seen':22}" + "".join(f"{variant:>9}" for variant in STREAM_VARIANTS)
    for event in schemas.EVENTS:
        counts = report.coverage.get(event, {})
        yield f"  {event:22}" + "".join(f"{counts.get(variant, 0) or '–':>9}" for variant in STREAM_VARIANTS)


def _verdict(report: Report, color: Paint) -> Iterator[str]:
    yield ""
    counts = ", ".join(f"{number} {_SHORT[name]}" for name, number in sorted(report.counts.items()))
    waited = f"; {report.waited:.0f} s of it waiting for the rate limit" if report.waited else ""
    yield f"{counts}; {len(report.hidden)} not observable; {report.seconds:.0f} s{waited}"
    yield (color(f"{report.address} {report.claim}", "PASS" if report.passed else "FAIL"))

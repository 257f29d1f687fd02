"""The terminal: progress while checks are made, then a table of what came out."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from time import monotonic
from types import TracebackType
from typing import Final, Self, TextIO

from cmdc_conformance import schemas
from cmdc_conformance.findings import Outcome
from cmdc_conformance.report import Report
from cmdc_conformance.verdict import Result

_COLOURS: Final = {
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
_FACES: Final = ("raw/sse", "raw/ws", "sdk/sse", "sdk/ws")


class LiveTable:
    """Shows progress: in one line of a terminal, or in a line now and then where there is none."""

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
        """One more check was made."""
        self._counts[outcome.status] += 1
        pause = _TERMINAL_SECONDS if self._terminal else _LOG_SECONDS
        if self._quiet or (monotonic() - self._shown <= pause and done < total):
            return
        self._shown = monotonic()
        said = "  ".join(f"{_SHORT[name]} {number}" for name, number in sorted(self._counts.items()))
        if self._terminal:
            width = max(10, shutil.get_terminal_size().columns - 60)
            bar = "█" * round(20 * done / total)
            self._out.write(f"\r\x1b[K{bar:░<20} {done}/{total}  {said}  {outcome.requirement[:width]}")
        else:
            self._out.write(f"{done}/{total}  {said}\n")
        self._out.flush()

    def show(self, report: Report) -> None:
        """Show the report."""
        lines: list[str] = [*_head(report)]
        if not self._quiet:
            lines += _table(report.results, self._colour)
        lines += _wrong(report, self._colour)
        if not self._quiet:
            lines += _events(report)
        self._out.write("\n".join([*lines, *_verdict(report, self._colour)]) + "\n")

    def _colour(self, text: str, status: str) -> str:
        return f"\x1b[{_COLOURS[status]}m{text}\x1b[0m" if self._terminal else text


def _head(report: Report) -> Iterator[str]:
    yield (
        f"{report.address}: profile {report.profile}, via {report.via}, transport {report.transport}, driver"
        f" {report.server.driver}, seed {report.seed}"
    )
    yield ""


def _table(results: Sequence[Result], colour: Paint) -> Iterator[str]:
    for rule, group in groupby(results, lambda result: result.requirement.rule):
        parts = [
            colour(f"{result.id.removeprefix(rule).lstrip('.') or '·'}: {_SHORT[result.status]}", result.status)
            for result in group
        ]
        yield f"  {rule:16} " + "  ".join(parts)
    yield ""


def _wrong(report: Report, colour: Paint) -> Iterator[str]:
    for result in report.results:
        if result.status not in ("PASS", "NOT_APPLICABLE"):
            yield f"{colour(_SHORT[result.status], result.status)}  {result.id}  {result.requirement.sentence}"
            yield f"    {result.message}"
            yield f"    {result.requirement.link}"


def _events(report: Report) -> Iterator[str]:
    yield ""
    yield f"  {'events seen':22}" + "".join(f"{face:>9}" for face in _FACES)
    for event in schemas.EVENTS:
        counts = report.coverage.get(event, {})
        yield f"  {event:22}" + "".join(f"{counts.get(face, 0) or '–':>9}" for face in _FACES)


def _verdict(report: Report, colour: Paint) -> Iterator[str]:
    yield ""
    counts = ", ".join(f"{number} {_SHORT[name]}" for name, number in sorted(report.counts.items()))
    waited = f"; waited {report.waited:.0f} s for the rate limit" if report.waited else ""
    yield f"{counts}; {len(report.hidden)} cannot be observed; {report.seconds:.0f} s{waited}"
    yield (colour(f"{report.address} {report.claim}", "PASS" if report.passed else "FAIL"))

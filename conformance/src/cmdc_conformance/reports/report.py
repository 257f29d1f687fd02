"""The result of a suite run, as data and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from cmdc_conformance import schemas
from cmdc_conformance.reports.verdict import Result, is_pass
from cmdc_conformance.target import ServerInfo, Target


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a suite run.

    `hidden` maps requirements that could not be observed to the reason, `coverage` each event to how often each variant
    received it. `waited` is the time spent on rate limits, `seconds` the duration of the run.
    """

    target: Target
    server: ServerInfo
    profile: str
    via: str
    transport: str
    only: tuple[str, ...]
    seed: int
    results: Sequence[Result]
    hidden: Mapping[str, str]
    coverage: Mapping[str, Mapping[str, int]]
    waited: float
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every MUST passed and was exercised."""
        return is_pass(self.results)

    @property
    def has_failures(self) -> bool:
        """Whether a MUST failed, rather than not being exercised."""
        return any(result.status == "FAIL" for result in self.results)

    @property
    def claim(self) -> str:
        """The conclusion about the server, as the predicate of a sentence."""
        tested = f"{self.profile}{' (a part of it)' if self.only else ''}"
        if self.passed:
            return f"conforms to {tested}"
        return f"{'does not' if self.has_failures else 'is not shown to'} conform to {tested}"

    @property
    def counts(self) -> Counter[str]:
        """The number of requirements by status."""
        return Counter(result.status for result in self.results)

    def result(self, requirement: str) -> Result:
        """The result of one requirement. Raises KeyError."""
        for result in self.results:
            if result.id == requirement:
                return result
        raise KeyError(requirement)

    def failed(self) -> set[str]:
        """The requirements that the server violates."""
        return {result.id for result in self.results if result.status in ("FAIL", "WARN")}

    @property
    def address(self) -> str:
        """The URL of the server, without anything secret."""
        parts = urlsplit(self.target.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def as_json(self) -> dict[str, Any]:
        """The report as `report.schema.json` describes it. It contains no times and no secrets."""
        return {
            "protocol": "0.1",
            "server": self.address,
            "profile": self.profile,
            "only": [*self.only],
            "driver": self.server.driver,
            "via": self.via,
            "transport": self.transport,
            "seed": self.seed,
            "passed": self.passed,
            "claim": self.claim,
            "counts": dict(sorted(self.counts.items())),
            "results": [_result(result) for result in self.results],
            "unobservable": [{"id": id_, "reason": reason} for id_, reason in self.hidden.items()],
            "events": {name: sorted(self.coverage.get(name, {})) for name in schemas.EVENTS},
        }


def schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    return json.loads(files("cmdc_conformance.reports").joinpath("report.schema.json").read_text(encoding="utf-8"))


def _result(result: Result) -> dict[str, Any]:
    requirement = result.requirement
    outcomes = [
        {"check": each.check, "face": each.variant, "status": each.status, "message": each.message}
        for each in sorted(result.outcomes, key=lambda each: (each.check, each.variant))
    ]
    return {
        "id": result.id,
        "status": result.status,
        "level": requirement.level,
        "layer": requirement.layer,
        "area": requirement.area,
        "sentence": requirement.sentence,
        "link": requirement.link,
        "message": result.message,
        "checks": outcomes,
        "evidence": [*result.evidence],
    }

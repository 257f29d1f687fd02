"""What a run has come to: the report, as data and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cmdc_conformance import schemas
from cmdc_conformance.case import Server
from cmdc_conformance.evidence import REPLAY
from cmdc_conformance.target import Target
from cmdc_conformance.verdict import Result, is_honest_pass


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known after a run.

    `hidden` says of the requirements that could not be observed why; `coverage` how often each event came on each face.
    """

    target: Target
    server: Server
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
        """Whether this is an honest pass: every MUST passed and was exercised."""
        return is_honest_pass(self.results)

    @property
    def broken(self) -> bool:
        """Whether a MUST failed, and was not merely left open."""
        return any(result.status == "FAIL" for result in self.results)

    @property
    def claim(self) -> str:
        """What may be said of the server."""
        judged = f"{self.profile}{' (a part of it)' if self.only else ''}"
        if self.passed:
            return f"conforms to {judged}"
        return f"{'does not' if self.broken else 'is not shown to'} conform to {judged}"

    @property
    def counts(self) -> Counter[str]:
        """How many requirements have which status."""
        return Counter(result.status for result in self.results)

    def result(self, requirement: str) -> Result:
        """The result of one requirement. Raises KeyError."""
        for result in self.results:
            if result.id == requirement:
                return result
        raise KeyError(requirement)

    def failed(self) -> set[str]:
        """The requirements that the server breaks."""
        return {result.id for result in self.results if result.status in ("FAIL", "WARN")}

    @property
    def address(self) -> str:
        """Where the server is, without anything secret."""
        parts = urlsplit(self.target.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def as_json(self) -> dict[str, Any]:
        """The report as `report.schema.json` describes it. It holds no times and no secrets."""
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

    def write(self, folder: Path) -> None:
        """Write report.json, junit.xml, report.html, badge.svg, and a file to be played again for what was found at random."""
        from cmdc_conformance import html, junit  # noqa: PLC0415 - they draw what this module holds

        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), ensure_ascii=False, indent=2)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        (folder / "junit.xml").write_text(junit.xml(self), encoding="utf-8")
        (folder / "report.html").write_text(html.page(self), encoding="utf-8")
        (folder / "badge.svg").write_text(html.badge(self), encoding="utf-8")
        for result in self.results:
            for line in result.evidence:
                if line.startswith(REPLAY):
                    (folder / f"replay-{result.id}.json").write_text(line.removeprefix(REPLAY) + "\n", encoding="utf-8")


def schema() -> dict[str, Any]:
    """The schema of report.json."""
    return json.loads(files("cmdc_conformance").joinpath("report.schema.json").read_text(encoding="utf-8"))


def _result(result: Result) -> dict[str, Any]:
    requirement = result.requirement
    outcomes = [
        {"check": each.check, "face": each.face, "status": each.status, "message": each.message}
        for each in sorted(result.outcomes, key=lambda each: (each.check, each.face))
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

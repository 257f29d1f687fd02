"""Does a dependency that is pinned have a known vulnerability?

pip-audit asks the vulnerability services, for every pin of the constraints. Three outcomes, told apart in plain words: a
vulnerability is known (exit status 1); every pin was looked up and none is known (0); or some pins could not be looked
up, because a service is out of reach or does not know them. Then nothing was found out about those, which is said, and
with `--must` is a failure too (2).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONSTRAINTS = (
    "requirements/development.txt",
    "requirements/interop.txt",
    "requirements/real-model.txt",
    "requirements/audit.txt",
)
# The package index's own service, which pip-audit asks by default; then the one that gathers them all.
SERVICES: tuple[tuple[str, ...], ...] = ((), ("--vulnerability-service=osv",))


@dataclass(slots=True)
class Findings:
    """What is known of the pins: `audited` were looked up, `unknown` were not, `vulnerable` have a known flaw."""

    audited: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])
    vulnerable: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def take(self, dependencies: Iterable[dict[str, Any]]) -> None:
        """Take in one report of pip-audit."""
        for dependency in dependencies:
            pin = f"{dependency['name']} {dependency.get('version', '')}".strip()
            if "skip_reason" in dependency:
                name = dependency["name"]
                if not any(known.split(" ")[0] == name for known in self.audited):
                    self.unknown.add(name)
                continue
            self.audited.add(pin)
            self.unknown.discard(dependency["name"])
            flaws = [
                f"{flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'nothing yet'}"
                for flaw in dependency["vulns"]
            ]
            if flaws:
                self.vulnerable[pin] = flaws

    def report(self) -> list[str]:
        """What a person is told."""
        lines = [f"VULNERABLE: {pin}: {flaw}" for pin, flaws in sorted(self.vulnerable.items()) for flaw in flaws]
        if self.unknown and not self.audited:
            lines.append(f"NOT AUDITED: no vulnerability service answered for any of {len(self.unknown)} dependencies.")
        elif self.unknown:
            lines.append(
                f"NOT AUDITED: {len(self.unknown)} dependencies are unknown to it: {', '.join(sorted(self.unknown))}"
            )
        lines.append(f"{len(self.audited)} dependencies looked up, {len(self.vulnerable)} of them vulnerable.")
        return lines

    def status(self, *, must: bool) -> int:
        """The exit status."""
        if self.vulnerable:
            return 1
        return 2 if must and (self.unknown or not self.audited) else 0


def names(constraints: str) -> set[str]:
    """The names that are pinned in a file of constraints."""
    return {
        line.partition("==")[0] for line in constraints.splitlines() if "==" in line and not line.startswith((" ", "#"))
    }


def asked(file: str, service: Iterable[str]) -> list[dict[str, Any]] | None:
    """What pip-audit reports of a file; None if the service gave no answer."""
    options = ("--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off", *service)
    command = [sys.executable, "-m", "pip_audit", f"--requirement={file}", *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(answer.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None


def main() -> int:
    """Audit every file of constraints, by the second service only what the first does not know."""
    findings = Findings()
    for file in CONSTRAINTS:
        findings.unknown |= names(Path(file).read_text())
    for service in SERVICES:
        for file in CONSTRAINTS if findings.unknown else ():
            report = asked(file, service)
            if report is None:
                print(f"A vulnerability service is out of reach ({' '.join(service) or 'the index'}).", file=sys.stderr)
                break
            findings.take(report)
    print("\n".join(findings.report()))
    return findings.status(must="--must" in sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())

"""Look up known vulnerabilities of all pinned dependencies.

pip-audit queries vulnerability services for every pin in the constraints. There are three outcomes: a dependency has a
known vulnerability (exit status 1); all were looked up and none has one (0); or some could not be looked up, because no
service is reachable or knows them. These are reported, and with `--must` the exit status is 2.
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
# The package index's service, which is pip-audit's default, and OSV, which aggregates all databases.
SERVICES: tuple[tuple[str, ...], ...] = ((), ("--vulnerability-service=osv",))


@dataclass(slots=True)
class Findings:
    """Results per pin: `audited` were looked up, `unknown` could not be, `vulnerable` have known vulnerabilities."""

    audited: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])
    vulnerable: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def add(self, dependencies: Iterable[dict[str, Any]]) -> None:
        """Add one report of pip-audit."""
        for dependency in dependencies:
            pin = f"{dependency['name']} {dependency.get('version', '')}".strip()
            if "skip_reason" in dependency:
                name = dependency["name"]
                if not any(known.split(" ")[0] == name for known in self.audited):
                    self.unknown.add(name)
                continue
            self.audited.add(pin)
            self.unknown.discard(dependency["name"])
            vulnerabilities = [
                f"{entry['id']}, fixed in {', '.join(entry['fix_versions']) or 'no version yet'}"
                for entry in dependency["vulns"]
            ]
            if vulnerabilities:
                self.vulnerable[pin] = vulnerabilities

    def report(self) -> list[str]:
        """The lines to print."""
        lines = [f"VULNERABLE: {pin}: {entry}" for pin, entries in sorted(self.vulnerable.items()) for entry in entries]
        if self.unknown and not self.audited:
            lines.append(
                f"NOT AUDITED: no vulnerability service could look up any of {len(self.unknown)} dependencies."
            )
        elif self.unknown:
            lines.append(
                f"NOT AUDITED: {len(self.unknown)} dependencies could not be looked up: {', '.join(sorted(self.unknown))}"
            )
        lines.append(f"{len(self.audited)} dependencies looked up, {len(self.vulnerable)} of them vulnerable.")
        return lines

    def status(self, *, must: bool) -> int:
        """The exit status."""
        if self.vulnerable:
            return 1
        return 2 if must and (self.unknown or not self.audited) else 0


def names(constraints: str) -> set[str]:
    """Names of the packages that a constraints file pins."""
    return {
        line.partition("==")[0] for line in constraints.splitlines() if "==" in line and not line.startswith((" ", "#"))
    }


def audit(file: str, service: Iterable[str]) -> list[dict[str, Any]] | None:
    """Run pip-audit on a constraints file; return its report, or None if the service is not reachable."""
    options = ("--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off", *service)
    command = [sys.executable, "-m", "pip_audit", f"--requirement={file}", *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(process.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None


def main() -> int:
    """Audit every constraints file; query the second service only if the first left unknown pins."""
    findings = Findings()
    for file in CONSTRAINTS:
        findings.unknown |= names(Path(file).read_text())
    for service in SERVICES:
        for file in CONSTRAINTS if findings.unknown else ():
            report = audit(file, service)
            if report is None:
                print(f"cannot reach vulnerability service: {' '.join(service) or 'package index'}", file=sys.stderr)
                break
            findings.add(report)
    print("\n".join(findings.report()))
    return findings.status(must="--must" in sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())

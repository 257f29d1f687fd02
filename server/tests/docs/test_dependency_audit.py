"""The dependency audit reports vulnerabilities, and the dependencies that it could not check."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "audit_dependencies.py"
FINE: dict[str, Any] = {"name": "fine", "version": "1.0", "vulns": []}
VULNERABLE: dict[str, Any] = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
NOTHING: list[dict[str, Any]] = []
SKIPPED: dict[str, Any] = {"name": "odd", "skip_reason": "not found"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("audit_dependencies", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "audit_dependencies", module)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("reports", "status", "must", "lines"),
    [
        ([[FINE]], 0, 0, ["1 dependencies looked up, 0 of them vulnerable."]),
        ([[FINE, VULNERABLE]], 1, 1, ["VULNERABLE: bad 2.0: CVE-1, fixed in 2.1"]),
        (
            [[VULNERABLE, SKIPPED]],
            1,
            1,
            ["VULNERABLE: bad 2.0: CVE-1, fixed in 2.1", "NOT AUDITED: 1 dependencies could not be looked up"],
        ),
        ([[SKIPPED]], 0, 2, ["NOT AUDITED: no vulnerability service could look up any of 1 dependencies."]),
        ([[FINE, SKIPPED]], 0, 2, ["NOT AUDITED: 1 dependencies could not be looked up: odd"]),
        ([[SKIPPED], [{**VULNERABLE, "name": "odd"}]], 1, 1, ["VULNERABLE: odd 2.0: CVE-1, fixed in 2.1"]),
        ([[FINE], [{"name": "fine", "skip_reason": "no answer"}]], 0, 0, ["1 dependencies looked up"]),
        ([NOTHING], 0, 2, ["0 dependencies looked up"]),
    ],
)
def test_a_vulnerability_fails_and_an_unchecked_dependency_is_reported(
    script: ModuleType, reports: list[list[dict[str, Any]]], status: int, must: int, lines: list[str]
) -> None:
    findings = script.Findings()
    for report in reports:
        findings.add(report)

    assert (findings.status(must=False), findings.status(must=True)) == (status, must)
    for line, expected in zip(findings.report(), lines, strict=False):
        assert line.startswith(expected)


def test_the_names_of_pinned_dependencies_are_read(script: ModuleType) -> None:
    text = "a==1 \\\n    --hash=sha256:00\nb-c==2 ; sys_platform == 'win32' \\\n    --hash=sha256:11\n# d==3\n"

    assert script.names(text) == {"a", "b-c"}


def test_every_requirements_file_is_audited(script: ModuleType) -> None:
    """server.txt is a subset of development.txt."""
    root = SCRIPT.parents[1]
    files = {path.relative_to(root).as_posix() for path in root.glob("requirements/*.txt")}

    assert set(script.CONSTRAINTS) == files - {"requirements/server.txt"}

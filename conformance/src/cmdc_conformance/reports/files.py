"""Writes a report to a folder, in every format."""

from __future__ import annotations

import json
from pathlib import Path

from cmdc_conformance.evidence import REPLAY
from cmdc_conformance.reports import html, junit
from cmdc_conformance.reports.report import Report


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.html, junit.xml, badge.svg, and a replay file for each failure of a random check."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.as_json(), ensure_ascii=False, indent=2)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "junit.xml").write_text(junit.xml(report), encoding="utf-8")
    (folder / "report.html").write_text(html.page(report), encoding="utf-8")
    (folder / "badge.svg").write_text(html.badge(report), encoding="utf-8")
    for result in report.results:
        for line in result.evidence:
            if line.startswith(REPLAY):
                (folder / f"replay-{result.id}.json").write_text(line.removeprefix(REPLAY) + "\n", encoding="utf-8")

"""The page and the badge."""

from __future__ import annotations

from cmdc_conformance.report import Report


def page(report: Report) -> str:
    """One page that needs nothing else."""
    return f"<!doctype html><title>{report.claim}</title>"


def badge(report: Report) -> str:
    """An SVG for a README."""
    return f"<svg>{report.claim}</svg>"

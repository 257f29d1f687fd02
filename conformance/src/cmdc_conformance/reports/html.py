"""The HTML page and the SVG badge of a report. Both are self-contained."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import Final

from cmdc_conformance import schemas
from cmdc_conformance.findings import STREAM_VARIANTS
from cmdc_conformance.reports.report import Report
from cmdc_conformance.reports.verdict import Result

_LABELS: Final = {
    "PASS": "pass",
    "FAIL": "fail",
    "WARN": "warning",
    "KNOWN": "known failure",
    "NOT_APPLICABLE": "not applicable",
    "NOT_EXERCISED": "not exercised",
    "HARNESS_ERROR": "harness error",
}
_VIA: Final = {"raw": "raw HTTP", "sdk": "the Python client", "both": "raw HTTP and the Python client"}
_TRANSPORT: Final = {"sse": "SSE", "ws": "WebSocket", "both": "SSE and WebSocket"}
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fbfaf7; --line: #ddd8cc; --soft: #6b7280; --card: #fff;
  --PASS: #2e7d4f; --FAIL: #b3261e; --WARN: #a86500; --KNOWN: #a86500; --NOT_APPLICABLE: #8a8f98;
  --NOT_EXERCISED: #7a4fa3; --HARNESS_ERROR: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e5df; --paper: #15171c; --line: #333842; --soft: #9aa1ad;
  --card: #1c1f26; --PASS: #6cc08b; --FAIL: #ff8a80; --WARN: #f0b35a; --KNOWN: #f0b35a; --NOT_EXERCISED: #c6a2ec;
  --HARNESS_ERROR: #ff8a80; } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 68rem; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem } h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem }
.verdict { border-left: .5rem solid var(--color); padding: .25rem 0 .25rem 1.25rem }
.soft { color: var(--soft) } a { color: inherit }
.bar { display: flex; height: .8rem; border-radius: .4rem; overflow: hidden; margin: 1.25rem 0 .5rem }
.bar span { background: var(--color) }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; margin: 0 }
.legend li::before { content: "■ "; color: var(--color) }
.rules { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .5rem }
.rule { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem }
.rule b { display: block } .dot { display: inline-block; width: .8rem; height: .8rem; border-radius: 50%;
  background: var(--color); margin: .15rem .2rem 0 0; text-decoration: none }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); vertical-align: top } td.n, th.n { text-align: right }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
  margin: .75rem 0; border-left: .4rem solid var(--color) }
summary { cursor: pointer } summary b { color: var(--color) }
pre { overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; border-top: 1px solid var(--line); padding-top: .75rem;
  white-space: pre-wrap; overflow-wrap: anywhere }
.tag { font-size: .8rem; border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; margin-left: .35rem }
"""


def page(report: Report) -> str:
    """Return a self-contained page."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(report.address)} {escape(report.claim)}</title><style>{_STYLE}</style></head><body>",
            *_head(report),
            *_problems(report),
            *_rules(report),
            *_events(report),
            *_all(report),
            "</body></html>\n",
        ]
    )


def _qualifier(report: Report) -> str:
    if report.passed:
        return ""
    return ": not conformant" if report.has_failures else ": not shown"


def badge(report: Report) -> str:
    """Return an SVG badge for a README."""
    left, right = "CMDC Gateway 0.1", f"{report.profile}{_qualifier(report)}"
    widths = [round(6.6 * len(text)) + 16 for text in (left, right)]
    color = "#2e7d4f" if report.passed else "#b3261e"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sum(widths)}" height="20" role="img"'
        f' aria-label="{escape(left)}: {escape(right)}"><title>{escape(left)}: {escape(right)}</title>'
        f'<rect width="{sum(widths)}" height="20" rx="3" fill="#444"/>'
        f'<path d="M{widths[0]} 0h{widths[1] - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{widths[1] - 3}z" fill="{color}"/>'
        f'<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{widths[0] / 2}" y="14">{escape(left)}</text>'
        f'<text x="{widths[0] + widths[1] / 2}" y="14">{escape(right)}</text></g></svg>\n'
    )


def _color(status: str) -> str:
    return f'style="--color: var(--{status})"'


def _head(report: Report) -> Iterator[str]:
    yield f'<header class="verdict" {_color("PASS" if report.passed else "FAIL")}>'
    yield f"<h1>{escape(report.address)} {escape(report.claim)}</h1>"
    yield (
        f'<p class="soft">CMDC Gateway protocol 0.1 · profile {escape(report.profile)} · via'
        f" {_VIA[report.via]}, over {_TRANSPORT[report.transport]} · model driver: {report.server.driver} · seed {report.seed}</p></header>"
    )
    yield '<div class="bar" role="img" aria-label="Requirements by verdict">'
    counts = [(status, report.counts[status]) for status in _LABELS if report.counts[status]]
    for status, number in counts:
        yield f'<span style="--color: var(--{status}); flex: {number}" title="{number} {_LABELS[status]}"></span>'
    yield '</div><ul class="legend">'
    yield from (f"<li {_color(status)}>{number} {_LABELS[status]}</li>" for status, number in counts)
    yield f"</ul><p>{len(report.hidden)} requirements cannot be observed from outside. They are listed at the end.</p>"


def _problems(report: Report) -> Iterator[str]:
    problems = [result for result in report.results if result.status not in ("PASS", "NOT_APPLICABLE")]
    if not problems:
        return
    yield "<h2>Problems</h2>"
    for result in problems:
        is_open = " open" if result is problems[0] else ""
        yield f'<details id="{escape(result.id)}" {_color(result.status)}{is_open}><summary><b>{_LABELS[result.status]}</b> '
        yield f"<code>{escape(result.id)}</code>{_tags(result)}<br>{escape(result.requirement.sentence)}</summary>"
        yield f'<p>{escape(result.message)}</p><p class="soft">{escape(result.requirement.link)}</p>'
        if result.evidence:
            yield f"<pre>{escape(chr(10).join(result.evidence))}</pre>"
        yield "</details>"


def _tags(result: Result) -> str:
    requirement = result.requirement
    return "".join(
        f'<span class="tag">{escape(each)}</span>' for each in (requirement.level, requirement.layer, requirement.area)
    )


def _rules(report: Report) -> Iterator[str]:
    yield '<h2>Requirements by rule</h2><div class="rules">'
    for rule, group in groupby(report.results, lambda result: result.requirement.rule):
        yield f'<div class="rule"><b>{escape(rule)}</b>'
        for result in group:
            title = f"{result.id}: {_LABELS[result.status]}. {result.requirement.sentence}"
            yield f'<a class="dot" href="#all-{escape(result.id)}" {_color(result.status)} title="{escape(title)}"></a>'
        yield "</div>"
    yield "</div>"


def _events(report: Report) -> Iterator[str]:
    yield "<h2>Events received</h2><table><tr><th>Event</th>"
    yield "".join(f'<th class="n">{variant}</th>' for variant in STREAM_VARIANTS) + "</tr>"
    for name in schemas.EVENTS:
        seen = report.coverage.get(name, {})
        cells = "".join(f'<td class="n">{"seen" if seen.get(variant) else "–"}</td>' for variant in STREAM_VARIANTS)
        yield f"<tr><td><code>{name}</code></td>{cells}</tr>"
    yield "</table>"


def _all(report: Report) -> Iterator[str]:
    yield "<h2>All requirements</h2><table>"
    for result in report.results:
        message = f'<br><span class="soft">{escape(result.message)}</span>' if result.message else ""
        yield f'<tr id="all-{escape(result.id)}"><td><span class="dot" {_color(result.status)}></span></td>'
        yield f"<td><code>{escape(result.id)}</code></td><td>{escape(result.requirement.sentence)}{message}</td>"
        yield f"<td>{_LABELS[result.status]}</td></tr>"
    yield "</table>"
    if report.hidden:
        yield "<h2>Not observable from outside</h2><ul>"
        yield from (f"<li><code>{escape(id_)}</code>: {escape(why)}</li>" for id_, why in report.hidden.items())
        yield "</ul>"

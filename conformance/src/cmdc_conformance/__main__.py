"""The command `cmdc-conformance`: test a server, print the results, and exit with 0 only if the server conforms."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cmdc_conformance.reports.files import write_report
from cmdc_conformance.reports.report import Report
from cmdc_conformance.reports.table import LiveTable
from cmdc_conformance.requirements import requirements
from cmdc_conformance.run.arguments import add_options, options_of, target_of
from cmdc_conformance.run.runner import run_suite
from cmdc_conformance.target import TargetError

_EPILOG = (
    "exit status: 0 every MUST of the profile passed and was exercised; 1 not so; 2 the server could not be tested"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    return run_command(arguments)[0]


def run_command(arguments: list[str] | None = None) -> tuple[int, Report | None]:
    """Run the command; return the exit status, and the report unless the server could not be tested."""
    parsed = _parser().parse_args(arguments)
    try:
        target, options = target_of(parsed), options_of(parsed)
        with LiveTable(sys.stdout, parsed.quiet) as table:
            report = run_suite(target, options, table.progress, _notice)
        table.show(report)
        if parsed.report is not None:
            _write(report, parsed.report)
    except TargetError as error:
        sys.stderr.write(f"cmdc-conformance: {error}\n")
        return 2, None
    except KeyboardInterrupt:
        sys.stderr.write("cmdc-conformance: interrupted\n")
        return 2, None
    return (0 if report.passed else 1), report


def _notice(sentence: str) -> None:
    sys.stderr.write(f"cmdc-conformance: {sentence}\n")
    sys.stderr.flush()


def _write(report: Report, folder: Path) -> None:
    try:
        write_report(report, folder)
    except OSError as failure:
        raise TargetError(f"cannot write the report to {folder}: {failure.strerror}") from None
    sys.stdout.write(f"Report written to {folder}: report.html, report.json, junit.xml, badge.svg\n")


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for each in requirements().values():
            sys.stdout.write(f"{each.id:28} {each.level:6} {each.layer:8} {each.area:11} {each.sentence}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "cmdc-conformance", description="Test whether a server conforms to the CMDC Gateway protocol.", epilog=_EPILOG
    )
    parser.add_argument("--url", help="URL of the server, such as http://127.0.0.1:4000")
    add_options(parser.add_argument)
    parser.add_argument("--quiet", action="store_true", help="print only problems and the verdict")
    parser.add_argument("--list", action=_List, nargs=0, help="list all requirements and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())

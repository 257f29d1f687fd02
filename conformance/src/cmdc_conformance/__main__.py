"""The command `cmdc-conformance`: judge a server, show what came out, and exit 0 only for an honest pass."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

from cmdc_conformance.report import Report
from cmdc_conformance.requirements import PROFILES, requirements
from cmdc_conformance.runner import Options, run
from cmdc_conformance.table import LiveTable
from cmdc_conformance.target import Target, TargetError

_EPILOG = """exit status: 0 every MUST of the profile passed and was exercised; 1 it did not; 2 the server could not be judged"""


def main(arguments: list[str] | None = None) -> int:
    """Judge a server; return the exit status."""
    return judged(arguments)[0]


def judged(arguments: list[str] | None = None) -> tuple[int, Report | None]:
    """Judge a server; return the exit status, and the report if there is one."""
    wanted = _parser().parse_args(arguments)
    try:
        target, options = target_of(wanted), options_of(wanted)
        with LiveTable(sys.stdout, wanted.quiet) as table:
            report = run(target, options, table.progress, _notice)
        table.show(report)
        if wanted.report is not None:
            _write(report, wanted.report)
    except TargetError as flaw:
        sys.stderr.write(f"cmdc-conformance: {flaw}\n")
        return 2, None
    except KeyboardInterrupt:
        sys.stderr.write("cmdc-conformance: stopped\n")
        return 2, None
    return (0 if report.passed else 1), report


def _notice(sentence: str) -> None:
    sys.stderr.write(f"cmdc-conformance: {sentence}\n")
    sys.stderr.flush()


def _write(report: Report, folder: Path) -> None:
    try:
        report.write(folder)
    except OSError as failure:
        raise TargetError(f"the report cannot be written to {folder}: {failure.strerror}") from None
    sys.stdout.write(f"The report is in {folder}: report.html, report.json, junit.xml, badge.svg\n")


def target_of(wanted: argparse.Namespace) -> Target:
    """The target that these arguments name. Raises TargetError."""
    base = Target.read(wanted.target) if wanted.target is not None else Target(url="")
    return base.with_options(url=wanted.url, key=wanted.key, second_key=wanted.second_key)


def options_of(wanted: argparse.Namespace) -> Options:
    """What these arguments ask for. Raises TargetError."""
    known = requirements()
    rules = {each.rule for each in known.values()}
    for name in wanted.only:
        if name not in known and name not in rules:
            raise TargetError(f"there is no requirement {name!r}: --list names them all")
    if wanted.replay is not None:
        transcript = _transcript(wanted.replay)
        return Options(
            profile="full", via="raw", only=(transcript["requirement"],), seed=wanted.seed, replay=transcript
        )
    options = Options(
        profile=wanted.profile,
        via=wanted.via,
        transport=wanted.transport,
        only=tuple(wanted.only),
        seed=wanted.seed,
        examples=wanted.examples,
        baseline=_baseline(wanted.baseline) if wanted.baseline is not None else {},
    )
    _ = options.profiles  # said at once, not when they are needed
    return options


def _baseline(path: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as flaw:
        raise TargetError(f"the baseline {path} cannot be read: {flaw}") from None
    known = table.get("known")
    if not isinstance(known, dict):
        raise TargetError(f'the baseline {path} has no section [known] of requirement = "reason"')
    entries = cast("dict[str, Any]", known)
    for name, reason in entries.items():
        if name not in requirements() or not isinstance(reason, str):
            raise TargetError(f"the baseline {path}: {name!r} is no requirement with a reason")
    return entries


def _transcript(path: Path) -> dict[str, Any]:
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as flaw:
        raise TargetError(f"{path} cannot be played again: {flaw}") from None
    names = ("requirement", "steps")
    if (
        not isinstance(kept, dict)
        or not all(name in kept for name in names)
        or kept["requirement"] not in requirements()
    ):
        raise TargetError(f"{path} cannot be played again: it is no replay-….json of a report")
    return cast("dict[str, Any]", kept)


class _List(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for each in requirements().values():
            sys.stdout.write(f"{each.id:28} {each.level:6} {each.layer:8} {each.area:11} {each.sentence}\n")
        parser.exit()


def add_options(parser: Any) -> None:
    """The options that the command and the pytest plugin share."""
    parser("--key", help="the API key of the first tenant")
    parser("--second-key", help="the key of another tenant")
    parser("--target", type=Path, metavar="FILE", help="a TOML file that describes the server; see SERVERS.md")
    parser(
        "--profile",
        default="core",
        metavar="P",
        help=f"{', '.join(PROFILES)}, or several of them by commas (default: core)",
    )
    parser("--via", choices=("raw", "sdk", "both"), help="how (default: both, where the Python client is installed)")
    parser("--transport", choices=("sse", "ws", "both"), default="both", help="over what (default: both)")
    parser("--only", action="append", default=[], metavar="ID", help="judge this requirement or rule alone; repeatable")
    parser("--seed", type=int, default=0, help="of all that is random (default: 0)")
    parser("--examples", type=int, default=10, help="random sessions, scripts and requests of each kind (default: 10)")
    parser("--baseline", type=Path, metavar="FILE", help="TOML: failures that are known, each with its reason")
    parser("--replay", type=Path, metavar="FILE", help="play a replay-….json of a report again, and nothing else")
    parser("--report", type=Path, metavar="DIR", help="write report.html, report.json, junit.xml and badge.svg")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cmdc-conformance", description="Judge a CMDC gateway.", epilog=_EPILOG)
    parser.add_argument("--url", help="where the server is, such as http://127.0.0.1:4000")
    add_options(parser.add_argument)
    parser.add_argument("--quiet", action="store_true", help="show the verdict and what is wrong, nothing else")
    parser.add_argument("--list", action=_List, nargs=0, help="name every requirement, and exit")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The options that the command line and the pytest plugin share, and the target and the run that they describe."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any, cast

from cmdc_conformance.requirements import PROFILES, requirements
from cmdc_conformance.run.options import Options
from cmdc_conformance.target import Target, TargetError


def add_options(add: Any) -> None:
    """Add the shared options with `add`, which has the signature of `ArgumentParser.add_argument`."""
    add("--key", help="API key of the first tenant")
    add("--second-key", help="API key of another tenant")
    add("--target", type=Path, metavar="FILE", help="TOML file that describes the server; see README.md")
    add(
        "--profile",
        default="core",
        metavar="P",
        help=f"{', '.join(PROFILES)}, or several separated by commas (default: core)",
    )
    add(
        "--via",
        choices=("raw", "sdk", "both"),
        help="raw requests, the Python client, or both (default: both if the client is installed)",
    )
    add("--transport", choices=("sse", "ws", "both"), default="both", help="transport of events (default: both)")
    add("--only", action="append", default=[], metavar="ID", help="test only this requirement or rule; repeatable")
    add("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    add("--examples", type=int, default=10, help="examples of each property-based check (default: 10)")
    add("--baseline", type=Path, metavar="FILE", help="TOML file that lists known failures, each with a reason")
    add("--replay", type=Path, metavar="FILE", help="execute only the steps of a replay-….json file from a report")
    add("--report", type=Path, metavar="DIR", help="write report.html, report.json, junit.xml and badge.svg")


def target_of(arguments: argparse.Namespace) -> Target:
    """The target that the arguments describe. Raises TargetError."""
    base = Target.read(arguments.target) if arguments.target is not None else Target(url="")
    return base.with_options(url=arguments.url, key=arguments.key, second_key=arguments.second_key)


def options_of(arguments: argparse.Namespace) -> Options:
    """The run that the arguments describe. Raises TargetError."""
    known = requirements()
    rules = {each.rule for each in known.values()}
    for name in arguments.only:
        if name not in known and name not in rules:
            raise TargetError(f"unknown requirement {name!r}; --list shows all requirements")
    if arguments.replay is not None:
        replay = _replay(arguments.replay)
        return Options(profile="full", via="raw", only=(replay["requirement"],), seed=arguments.seed, replay=replay)
    options = Options(
        profile=arguments.profile,
        via=arguments.via,
        transport=arguments.transport,
        only=tuple(arguments.only),
        seed=arguments.seed,
        examples=arguments.examples,
        baseline=_baseline(arguments.baseline) if arguments.baseline is not None else {},
    )
    _ = options.profiles  # reports an unknown profile before the run starts
    return options


def _baseline(path: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"cannot read the baseline {path}: {error}") from None
    known = table.get("known")
    if not isinstance(known, dict):
        raise TargetError(f'the baseline {path} has no section [known] with entries requirement = "reason"')
    entries = cast("dict[str, Any]", known)
    for name, reason in entries.items():
        if name not in requirements() or not isinstance(reason, str):
            raise TargetError(f"the baseline {path}: {name!r} is not a requirement with a reason")
    return entries


def _replay(path: Path) -> dict[str, Any]:
    try:
        replay: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"cannot replay {path}: {error}") from None
    if (
        not isinstance(replay, dict)
        or not all(name in replay for name in ("requirement", "steps"))
        or replay["requirement"] not in requirements()
    ):
        raise TargetError(f"cannot replay {path}: it is not a replay-….json file of a report")
    return cast("dict[str, Any]", replay)

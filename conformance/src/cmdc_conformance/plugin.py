"""The pytest plugin: `pytest --pyargs cmdc_conformance --cmdc-url URL --cmdc-key KEY` has one test per requirement.

The whole suite runs once, when the first test starts. Each test then reports the result of its requirement.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

_PREFIX = "cmdc_"
_OPTIONS = (
    "url",
    "key",
    "second_key",
    "target",
    "profile",
    "via",
    "transport",
    "only",
    "seed",
    "examples",
    "baseline",
    "replay",
    "report",
)

# Every pytest run loads this module, so it imports the rest of the package only where it is needed.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command, with the prefix `--cmdc-`."""
    group = parser.getgroup("cmdc", "conformance to the CMDC Gateway protocol")
    group.addoption("--cmdc-url", help="URL of the server; without it no requirement is tested")

    def add(name: str, **options: Any) -> None:
        options.pop("metavar", None)
        options["dest"] = f"{_PREFIX}{name.removeprefix('--').replace('-', '_')}"
        group.addoption(f"--cmdc-{name.removeprefix('--')}", **options)

    from cmdc_conformance.run.arguments import add_options  # noqa: PLC0415

    add_options(add)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of pytest-timeout, which may not be installed."""
    config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout")


@pytest.fixture(scope="session", name="cmdc_report")
def report(request: pytest.FixtureRequest) -> Any:
    """The report of one suite run against the server."""
    from cmdc_conformance.reports.files import write_report  # noqa: PLC0415
    from cmdc_conformance.run.arguments import options_of, target_of  # noqa: PLC0415
    from cmdc_conformance.run.runner import run_suite  # noqa: PLC0415
    from cmdc_conformance.target import TargetError  # noqa: PLC0415

    arguments = _arguments(request.config)
    try:
        made = run_suite(target_of(arguments), options_of(arguments))
        if arguments.report is not None:
            write_report(made, Path(arguments.report))
    except TargetError as error:
        pytest.exit(f"cmdc-conformance: {error}", returncode=2)
    return made


def has_target(config: pytest.Config) -> bool:
    """Whether the command line names a server."""
    return bool(config.getoption("cmdc_url") or config.getoption("cmdc_target"))


def _arguments(config: pytest.Config) -> argparse.Namespace:
    return argparse.Namespace(**{name: config.getoption(f"{_PREFIX}{name}") for name in _OPTIONS})


def requirement_ids(config: pytest.Config) -> list[str]:
    """The ids of the requirements to test."""
    from cmdc_conformance.run.arguments import options_of  # noqa: PLC0415
    from cmdc_conformance.target import TargetError  # noqa: PLC0415

    try:
        selected = options_of(_arguments(config)).requirements()
    except TargetError as error:
        raise pytest.UsageError(f"cmdc-conformance: {error}") from None
    return [each.id for each in selected if not each.unobservable]

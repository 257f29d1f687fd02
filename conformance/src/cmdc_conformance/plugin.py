"""The pytest plugin: `pytest --pyargs cmdc_conformance --cmdc-url URL --cmdc-key KEY` has one test for each requirement.

The checks are made once, all together, when the first test runs; each test then says what came of its requirement.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

_ADDED = "cmdc_report"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command, each with `--cmdc-` before its name."""
    group = parser.getgroup("cmdc", "judging a CMDC gateway")
    group.addoption("--cmdc-url", help="where the server is; without it no requirement is judged")

    def add(name: str, **options: Any) -> None:
        options.pop("metavar", None)
        options["dest"] = f"cmdc_{name.removeprefix('--').replace('-', '_')}"
        group.addoption(f"--cmdc-{name.removeprefix('--')}", **options)

    from cmdc_conformance.__main__ import add_options  # noqa: PLC0415 - every pytest loads this module: keep it light

    add_options(add)


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark of pytest-timeout, where that is not installed: a run takes as long as it takes."""
    config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout")


@pytest.fixture(scope="session", name=_ADDED)
def report(request: pytest.FixtureRequest) -> Any:
    """What a run against the server has come to."""
    from cmdc_conformance.__main__ import options_of, target_of  # noqa: PLC0415
    from cmdc_conformance.runner import run  # noqa: PLC0415
    from cmdc_conformance.target import TargetError  # noqa: PLC0415

    wanted = _wanted(request.config)
    try:
        judged = run(target_of(wanted), options_of(wanted))
        if wanted.report is not None:
            judged.write(Path(wanted.report))
    except TargetError as flaw:
        pytest.exit(f"cmdc-conformance: {flaw}", returncode=2)
    return judged


def is_wanted(config: pytest.Config) -> bool:
    """Whether a server is named."""
    return bool(config.getoption("cmdc_url") or config.getoption("cmdc_target"))


def _wanted(config: pytest.Config) -> argparse.Namespace:
    names = (
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
    return argparse.Namespace(**{name: config.getoption(f"cmdc_{name}") for name in names})


def requirements_of(config: pytest.Config) -> list[str]:
    """The ids of the requirements that are judged."""
    from cmdc_conformance.__main__ import options_of  # noqa: PLC0415
    from cmdc_conformance.requirements import requirements  # noqa: PLC0415
    from cmdc_conformance.target import TargetError  # noqa: PLC0415

    try:
        options = options_of(_wanted(config))
        profiles = options.profiles
    except TargetError as flaw:
        raise pytest.UsageError(f"cmdc-conformance: {flaw}") from None
    only = options.only
    return [
        each.id
        for each in requirements().values()
        if each.is_in(*profiles) and not each.unobservable and (not only or each.id in only or each.rule in only)
    ]

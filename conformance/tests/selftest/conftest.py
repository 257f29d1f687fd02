"""Self-tests of the suite. All tests of a session share one fork server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from broken_gateways.forkserver import ForkServer
from broken_gateways.harness import Harness


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options. pytest reads this only if the command line names these tests."""
    parser.addoption("--runs", type=int, default=3, help="runs against the unpatched gateway (test_stability.py)")


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with ForkServer(tmp_path_factory.mktemp("forkserver")) as forkserver:
        yield Harness(forkserver, tmp_path_factory.mktemp("harness"))

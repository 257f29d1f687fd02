"""The judge is judged: a bench with a nursery, for all tests in here together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from broken_gateways.bench import Bench
from broken_gateways.nursery import Nursery


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only seen where these tests are named on the command line."""
    parser.addoption("--runs", type=int, default=3, help="how often the gateway as it is is judged (test_flips.py)")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield Bench(nursery, tmp_path_factory.mktemp("bench"))

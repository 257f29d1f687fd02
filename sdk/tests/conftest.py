"""Fixtures and import path shared by the client's tests."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not add the directory of the tests


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[InProcessGateway]:
    """A gateway for this test alone."""
    async with in_process_gateway(tmp_path) as served:
        yield served

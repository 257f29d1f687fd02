"""What the client's tests share: a gateway, and the modules beside them that make servers and lines go wrong."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cmdc_testkit.gateways import Served, serving

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves the folder of the tests out


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Served]:
    """A gateway of this test's own."""
    async with serving(tmp_path) as served:
        yield served

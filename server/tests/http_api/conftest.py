"""What the tests of the HTTP API share: a gateway of its own for each test, and clients for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cmdc_gateway.testing.gateways import OTHER_KEY, Served, serving
from cmdc_gateway.testing.receivers import Receiver

pytest.register_assert_rewrite("cmdc_gateway.testing.conversations")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the first tenant's key."""
    async with served.client() as client:
        yield client


@pytest.fixture
async def stranger(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of another tenant."""
    async with served.client(OTHER_KEY) as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A callback tool that answers `done`."""
    async with Receiver() as receiver:
        yield receiver

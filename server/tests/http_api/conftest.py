"""Fixtures of the HTTP API tests: a gateway, clients for it, and a callback tool.

Tests that look only at sessions of their own share one gateway a module (`shared`); the others get one each (`served`).
All of it lives in the event loop of the module: each says so in its `pytestmark`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from cmdc_testkit.gateways import OTHER_KEY, InProcessGateway, in_process_gateway
from cmdc_testkit.receivers import Receiver


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcessGateway]:
    """A gateway that the tests of a module share."""
    async with in_process_gateway(tmp_path_factory.mktemp("gateway")) as shared:
        yield shared


@pytest_asyncio.fixture(loop_scope="module")
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway for one test."""
    async with in_process_gateway(tmp_path) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the first tenant's key."""
    async with served.client() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(served: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of another tenant."""
    async with served.client(OTHER_KEY) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """A callback tool that responds with `done`."""
    async with Receiver() as receiver:
        yield receiver

"""Tool plugins are found through the entry points of installed packages."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
import tomllib
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cmdc_gateway import extensions
from cmdc_gateway.app import create_app
from cmdc_gateway.cli import main
from cmdc_gateway.protocol.history import ToolCall
from cmdc_gateway.settings import ConfigFile, Settings, ToolsSection
from cmdc_gateway.tools.builtin import NAMES
from cmdc_gateway.tools.plugin import canonical_name, find_tool, tool_names
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.tools.workspace import Workspace
from cmdc_testkit.distributions import write_distribution

ROLL_DICE = """
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.tools.tool import ToolResult


class RollDice:
    spec = ToolSpec("roll_dice", "Roll dice.", {"type": "object", "properties": {"count": {"type": "integer"}}})

    def create(self, workspace):
        return self

    async def run(self, call):
        return ToolResult("ok", "4 " * call.args["count"])


PLUGIN = RollDice()
"""


@pytest.fixture(autouse=True)
def dice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with the tool `roll_dice`."""
    packages = tmp_path / "packages"
    packages.mkdir()
    write_distribution(
        packages, "cmdc-dice", {"cmdc_gateway.tools": {"roll_dice": "cmdc_dice:PLUGIN"}}, cmdc_dice=ROLL_DICE
    )
    monkeypatch.setattr(sys, "path", [str(packages), *sys.path])
    monkeypatch.delitem(sys.modules, "cmdc_dice", raising=False)
    extensions._entries.cache_clear()
    yield
    extensions._entries.cache_clear()


@asynccontextmanager
async def gateway(tools: ToolsSection, workspace: Path) -> AsyncGenerator[httpx.AsyncClient]:
    given: dict[str, Any] = {"store": "memory:", "workspace": workspace, "api_keys": ["key"]}
    app = create_app(Settings(**given).with_file(ConfigFile(tools=tools)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway", headers={"X-API-Key": "key"}
        ) as client,
    ):
        yield client


async def test_a_package_adds_a_tool(workspace: Workspace) -> None:
    plugin = find_tool("roll_dice")

    assert plugin is not None
    tool = plugin.create(workspace)
    assert tool is not None
    assert await tool.run(ToolCall("c1", "roll_dice", {"count": 2})) == ToolResult("ok", "4 4 ")
    assert canonical_name("roll_dice") == "roll_dice"


async def test_a_session_can_use_a_tool_that_the_operator_offers(root: Path) -> None:
    async with gateway(ToolsSection(offered=["roll_dice"]), root) as client:
        created = await client.post("/v1/sessions", json={"model": "scripted:x", "tools": ["roll_dice"]})
        listed = await client.get(f"/v1/sessions/{created.json()['sessionId']}/tools")

    assert created.status_code == 201
    assert [(tool["name"], tool["description"]) for tool in listed.json()["tools"]] == [("roll_dice", "Roll dice.")]


async def test_an_installed_tool_is_not_available_unless_the_operator_offers_it(root: Path) -> None:
    async with gateway(ToolsSection(), root) as client:
        rejected = await client.post("/v1/sessions", json={"model": "scripted:x", "tools": ["roll_dice"]})

    assert rejected.status_code == 422
    assert "unknown tool 'roll_dice'" in rejected.json()["message"]


def test_the_operator_cannot_offer_a_tool_that_is_not_installed() -> None:
    with pytest.raises(ValueError, match=r"unknown tool 'roll_coins'; installed tools: ask_user, .*, roll_dice, "):
        ToolsSection(offered=["roll_coins"])


def test_finding_the_names_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "packages" / "cmdc_dice.py").write_text("raise AssertionError")

    assert "roll_dice" in tool_names()
    assert ToolsSection(offered=["roll_dice"]).offered == ["roll_dice"]


def test_an_unknown_tool_is_not_found() -> None:
    assert find_tool("roll_coins") is None


def test_every_built_in_tool_is_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    assert set(project["entry-points"]["cmdc_gateway.tools"]) == set(NAMES)
    assert set(NAMES) < set(tool_names())


def test_a_package_cannot_replace_a_tool_of_another_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = tmp_path / "packages"
    write_distribution(packages, "cmdc-shell", {"cmdc_gateway.tools": {"shell": "cmdc_dice:PLUGIN"}})
    extensions._entries.cache_clear()

    with pytest.raises(extensions.DuplicateExtension) as raised:
        tool_names()

    conflict = "cmdc_gateway.tools: 'shell' is registered by cmdc-gateway and cmdc-shell; uninstall one of them"
    assert str(raised.value) == conflict
    assert main(["keys", "list"]) == 2  # it loads the settings as `serve` does
    assert conflict in capsys.readouterr().err

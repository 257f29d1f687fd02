"""What README.md tells of this client is so: its Python blocks are one program, which prints what stands beside."""

import asyncio
import inspect
import re
import sys
from pathlib import Path

import pytest
from cmdc_client import AsyncClient, Client
from cmdc_client.config import DEFAULT_URL
from cmdc_testkit.gateways import KEY, Served

PACKAGE = Path(__file__).resolve().parents[1]
PAGES = {"sdk": PACKAGE / "README.md", "repository": PACKAGE.parent / "README.md"}


def program(page: Path) -> str:
    """The Python blocks that use this client, in their order."""
    blocks: list[str] = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return "\n".join(block for block in blocks if "from cmdc import" not in block)


def promised(source: str) -> list[str]:
    """What the lines that print say they print; lines that print several times have a bar between."""
    shown = re.findall(r"^ *print\(.*\)  # (.*)$", source, re.MULTILINE)
    return [line for text in shown for line in text.split(" | ")]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
async def test_the_page_is_a_program_that_prints_what_it_says(gateway: Served, tmp_path: Path, page: Path) -> None:
    source = program(page)
    file = tmp_path / "page.py"
    file.write_text(source.replace("http://127.0.0.1:4000", gateway.url).replace("sk-abc123", KEY), encoding="utf-8")
    environ = {"CMDC_BASE_URL": gateway.url, "CMDC_API_KEY": KEY, "PYTHONIOENCODING": "utf-8"}

    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", file),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        out, failed = await running.communicate()

    assert running.returncode == 0, failed.decode()
    assert promised(source)
    assert sorted(out.decode().splitlines()) == sorted(promised(source))


def test_every_argument_of_a_client_is_told_with_its_default() -> None:
    told = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGES["sdk"].read_text(encoding="utf-8"), re.MULTILINE)
    parameters = inspect.signature(Client).parameters

    assert {name for name, _ in told if name in parameters} == parameters.keys()
    for name, default in told:
        if isinstance(parameter := parameters.get(name, None), inspect.Parameter) and parameter.default is not None:
            assert float(default) == parameter.default, name
    assert f"or `{DEFAULT_URL}`" in dict(told)["base_url"]
    assert inspect.signature(AsyncClient).parameters.keys() == parameters.keys()

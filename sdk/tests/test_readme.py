"""The Python blocks of a README are one program, which prints what its comments say."""

import asyncio
import inspect
import re
import sys
from pathlib import Path

import pytest
from cmdc_client import AsyncClient, Client
from cmdc_client.config import DEFAULT_URL
from cmdc_testkit.gateways import KEY, InProcessGateway

PACKAGE = Path(__file__).resolve().parents[1]
PAGES = {"sdk": PACKAGE / "README.md", "repository": PACKAGE.parent / "README.md"}


def program(page: Path) -> str:
    """Return the Python blocks that use this client, in their order."""
    blocks: list[str] = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return "\n".join(block for block in blocks if "from cmdc import" not in block)


def documented_output(source: str) -> list[str]:
    """Return the output in the comments beside `print`; several outputs of one line are separated by a bar."""
    shown = re.findall(r"^ *print\(.*\)  # (.*)$", source, re.MULTILINE)
    return [line for text in shown for line in text.split(" | ")]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
async def test_the_examples_of_the_readme_print_their_documented_output(
    gateway: InProcessGateway, tmp_path: Path, page: Path
) -> None:
    source = program(page)
    file = tmp_path / "page.py"
    file.write_text(source.replace("http://127.0.0.1:4000", gateway.url).replace("sk-abc123", KEY), encoding="utf-8")
    environ = {"CMDC_BASE_URL": gateway.url, "CMDC_API_KEY": KEY, "PYTHONIOENCODING": "utf-8"}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", file),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(50):
        out, failed = await process.communicate()

    assert process.returncode == 0, failed.decode()
    assert documented_output(source)
    assert sorted(out.decode().splitlines()) == sorted(documented_output(source))


def test_every_argument_of_the_client_is_documented_with_its_default() -> None:
    documented = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGES["sdk"].read_text(encoding="utf-8"), re.MULTILINE)
    parameters = inspect.signature(Client).parameters

    assert {name for name, _ in documented if name in parameters} == parameters.keys()
    for name, default in documented:
        if isinstance(parameter := parameters.get(name, None), inspect.Parameter) and parameter.default is not None:
            assert float(default) == parameter.default, name
    assert f"or `{DEFAULT_URL}`" in dict(documented)["base_url"]
    assert inspect.signature(AsyncClient).parameters.keys() == parameters.keys()

"""Each example runs against a gateway as a user would run it, and prints what it claims."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cmdc_testkit.gateways import KEY, InProcessGateway
from programs import EXAMPLES, command, environ, run

EVERY = sorted(EXAMPLES.glob("[0-9][0-9]_*"))
PROGRAMS = [example for example in EVERY if not example.is_dir()]  # the browser page is tested in test_page.py
TYPED = {"08_websocket_chat.py": "Hello!\nAre you still there?\n\n"}
PRINTED = {
    "01_first_conversation.py": "You said: And goodbye!",
    "02_live_text.py": "Splash! Silence again.",
    "03_approve_a_tool.py": "→ rejected",
    "04_answer_a_question.py": "answered blue: It is painted.",
    "05_callback_tool.py": "18 °C and light rain in Oslo",
    "06_reconnect.py": "44 events in order",
    "07_many_sessions.py": "(enough)",
    "08_websocket_chat.py": "You said: Are you still there?",
    "10_node.mjs": "Here you are.",
}
MAX_LINES = 60

each = pytest.mark.parametrize("example", PROGRAMS, ids=lambda example: example.name)


def node_for(example: Path) -> str:
    """Path of Node if the example needs it; skips the test if Node is not installed."""
    node = shutil.which("node")
    if example.suffix == ".mjs" and node is None:
        pytest.skip("Node is not installed")
    return node or ""


@each
async def test_an_example_prints_what_it_claims(example: Path, gateway: InProcessGateway) -> None:
    program = command(example, node_for(example))

    status, printed = await run(program, environ(gateway.url, KEY), TYPED.get(example.name, ""))

    assert status == 0, printed
    assert PRINTED[example.name] in printed


@each
async def test_an_example_with_a_wrong_key_exits_with_status_1_and_the_error(
    example: Path, gateway: InProcessGateway
) -> None:
    program = command(example, node_for(example))

    status, printed = await run(program, environ(gateway.url, "wrong-key"), TYPED.get(example.name, ""))

    assert status == 1
    assert "unauthorized" in printed
    assert "wrong-key" not in printed


@each
def test_an_example_is_short_and_asserts_its_results(example: Path) -> None:
    lines = example.read_text(encoding="utf-8").splitlines()

    assert len(lines) <= MAX_LINES
    assert [line for line in lines if re.match(r"\s*assert\b", line)]


def test_the_readme_lists_every_example_in_order() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    listed = re.findall(r"^\| \[(\w[\w.]*)\]\(([^)]+)\) \|", readme, re.MULTILINE)

    assert [name for name, _ in listed] == [example.name for example in EVERY]
    assert [target.rstrip("/") for _, target in listed] == [example.name for example in EVERY]

"""Every example does what it says, against a gateway, as a user would run it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cmdc_testkit.gateways import KEY, Served
from programs import EXAMPLES, command, environ, run

EVERY = sorted(EXAMPLES.glob("[0-9][0-9]_*"))
PROGRAMS = [example for example in EVERY if not example.is_dir()]  # the page lives in a browser: see test_page.py
TYPED = {"08_websocket_chat.py": "Hello!\nAre you still there?\n\n"}
PRINTED = {
    "01_first_conversation.py": "You said: And good bye!",
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
    """Node, where the example is for Node; a machine without it says so in the summary of the run."""
    node = shutil.which("node")
    if example.suffix == ".mjs" and node is None:
        pytest.skip("this example is for Node, and there is no `node` on the PATH of this machine")
    return node or ""


@each
async def test_an_example_does_what_it_says(example: Path, gateway: Served) -> None:
    called = command(example, node_for(example))

    status, printed = await run(called, environ(gateway.url, KEY), TYPED.get(example.name, ""))

    assert status == 0, printed
    assert PRINTED[example.name] in printed


@each
async def test_an_example_that_fails_says_why_and_exits_with_another_status(example: Path, gateway: Served) -> None:
    called = command(example, node_for(example))

    status, printed = await run(called, environ(gateway.url, "wrong-key"), TYPED.get(example.name, ""))

    assert status == 1
    assert "unauthorized" in printed
    assert "wrong-key" not in printed


@each
def test_an_example_asserts_and_is_read_in_one_go(example: Path) -> None:
    lines = example.read_text(encoding="utf-8").splitlines()

    assert len(lines) <= MAX_LINES
    assert [line for line in lines if re.match(r"\s*assert\b", line)]


def test_the_readme_lists_every_example_in_order() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")

    listed = re.findall(r"^\| \[(\w[\w.]*)\]\(([^)]+)\) \|", readme, re.MULTILINE)

    assert [name for name, _ in listed] == [example.name for example in EVERY]
    assert [target.rstrip("/") for _, target in listed] == [example.name for example in EVERY]

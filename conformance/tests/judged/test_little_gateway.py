"""The suite judges the protocol and not the one server it grew up with: another one passes too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import little_gateway
import pytest
from cmdc_conformance.runner import Options, run
from cmdc_conformance.target import Approval, Keys, Target

_APPROVAL = Approval(
    session={"tools": ["write_file"], "plugins": ["human_approval"]},
    tool="write_file",
    args={"path": "greeting.txt", "content": "hello"},
)


@pytest.fixture
def little(tmp_path: Path) -> Iterator[str]:
    """The URL of the little gateway, in a process that has the standard library alone."""
    here = Path(little_gateway.__file__).parent.parent
    arguments = [str(tmp_path), "key-one=a", "key-two=b", "--rpm", "0", "--callback-allow", "127.0.0.0/8"]
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "little_gateway", *arguments, "--heartbeat", "0.5"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(here)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None, "it was opened with a pipe"
    yield process.stdout.readline().split()[-1]
    process.terminate()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


@pytest.mark.timeout(300)
def test_a_gateway_that_shares_nothing_with_ours_passes_the_base_profile(little: str) -> None:
    target = Target(url=little, keys=Keys("key-one", "key-two", "key-three"), driver="scripted", approval=_APPROVAL)

    report = run(target, Options(profile="base", via="raw"))

    assert {result.id: f"{result.status}: {result.message}" for result in report.results if result.is_red} == {}
    assert report.passed

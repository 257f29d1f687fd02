"""The suite tests the protocol and not one implementation: an independent gateway passes too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import minimal_gateway
import pytest
from cmdc_conformance.run.options import Options
from cmdc_conformance.run.runner import run_suite
from cmdc_conformance.target import Approval, Keys, Target

_APPROVAL = Approval(
    session={"tools": ["write_file"], "plugins": ["human_approval"]},
    tool="write_file",
    args={"path": "greeting.txt", "content": "hello"},
)


@pytest.fixture
def minimal_url(tmp_path: Path) -> Iterator[str]:
    """The URL of the minimal gateway, in a process that has only the standard library."""
    tests = Path(minimal_gateway.__file__).parent.parent
    arguments = [str(tmp_path), "key-one=a", "key-two=b", "--rpm", "0", "--callback-allow", "127.0.0.0/8"]
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "minimal_gateway", *arguments, "--heartbeat", "0.5"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tests)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None, "it was opened with a pipe"
    yield process.stdout.readline().split()[-1]
    process.terminate()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


@pytest.mark.timeout(300)
def test_an_independent_gateway_passes_the_base_profile(minimal_url: str) -> None:
    keys = Keys("key-one", "key-two", "key-three")
    target = Target(url=minimal_url, keys=keys, driver="scripted", approval=_APPROVAL)

    report = run_suite(target, Options(profile="base", via="raw", examples=5))

    assert {result.id: f"{result.status}: {result.message}" for result in report.results if result.blocks_claim} == {}
    assert report.passed

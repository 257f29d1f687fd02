"""Repeated runs against the same server have the same verdicts."""

import pytest
from broken_gateways.harness import Harness
from cmdc_conformance.run.options import Options


@pytest.mark.long
@pytest.mark.timeout(0)
def test_no_verdict_changes_between_runs(harness: Harness, pytestconfig: pytest.Config) -> None:
    runs = int(pytestconfig.getoption("--runs", default=3) or 3)
    first = harness.run(None, Options(profile="full"))
    verdicts = {result.id: result.status for result in first.results}

    for seed in range(1, runs):
        report = harness.run(None, Options(profile="full", seed=seed))
        repeated = {result.id: result.status for result in report.results}
        changed = {name: (status, repeated[name]) for name, status in verdicts.items() if status != repeated[name]}
        assert changed == {}, f"run {seed + 1}"

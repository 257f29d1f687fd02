"""The same server gets the same verdict, however often it is judged."""

import pytest
from broken_gateways.bench import Bench
from cmdc_conformance.runner import Options


@pytest.mark.long
@pytest.mark.timeout(0)
def test_no_verdict_flips(bench: Bench, pytestconfig: pytest.Config) -> None:
    runs = int(pytestconfig.getoption("--runs", default=3) or 3)
    first = bench.judge(None, Options(profile="full"))
    verdicts = {result.id: result.status for result in first.results}

    for seed in range(1, runs):
        report = bench.judge(None, Options(profile="full", seed=seed))
        again = {result.id: result.status for result in report.results}
        changed = {name: (status, again[name]) for name, status in verdicts.items() if status != again[name]}
        assert changed == {}, f"run {seed + 1}"

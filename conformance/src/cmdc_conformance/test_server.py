"""One test per requirement, for `pytest --pyargs cmdc_conformance`."""

from __future__ import annotations

from typing import Any

import pytest

from cmdc_conformance import plugin


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the test with the requirements of the profile, if the command line names a server."""
    selected = plugin.requirement_ids(metafunc.config) if plugin.has_target(metafunc.config) else []
    metafunc.parametrize("requirement", selected)


@pytest.mark.timeout(0)
def test_requirement(requirement: str, cmdc_report: Any) -> None:
    """The server fulfills this requirement."""
    if requirement in cmdc_report.hidden:
        pytest.skip(cmdc_report.hidden[requirement])
    result = cmdc_report.result(requirement)
    if result.status in ("NOT_APPLICABLE", "KNOWN"):
        pytest.skip(result.message)
    if result.blocks_claim:
        evidence = "\n".join(["", *result.evidence])
        pytest.fail(
            f"{result.status} {result.id}: {result.requirement.sentence}\n{result.message}{evidence}", pytrace=False
        )

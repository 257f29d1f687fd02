"""One test for each requirement, for `pytest --pyargs cmdc_conformance`."""

from __future__ import annotations

from typing import Any

import pytest

from cmdc_conformance import plugin


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each requirement of the profile, if a server is named."""
    wanted = plugin.requirements_of(metafunc.config) if plugin.is_wanted(metafunc.config) else []
    metafunc.parametrize("requirement", wanted)


@pytest.mark.timeout(0)
def test_requirement(requirement: str, cmdc_report: Any) -> None:
    """The server fulfils this requirement."""
    if requirement in cmdc_report.hidden:
        pytest.skip(cmdc_report.hidden[requirement])
    result = cmdc_report.result(requirement)
    if result.status in ("NOT_APPLICABLE", "KNOWN"):
        pytest.skip(result.message)
    if result.is_red:
        said = "\n".join(["", *result.evidence])
        pytest.fail(
            f"{result.status} {result.id}: {result.requirement.sentence}\n{result.message}{said}", pytrace=False
        )

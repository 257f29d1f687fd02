"""A server that is not a gateway passes no requirement."""

import gc

import pytest
from cmdc_conformance.run.options import Options
from cmdc_conformance.run.runner import run_suite_async
from cmdc_conformance.target import Keys, Target, TargetError, Timing
from null_servers import NULL_SERVERS, serving


def _target(url: str) -> Target:
    return Target(
        url=url, keys=Keys("key-1", "key-2", "key-3", "key-4"), driver="scripted", timing=Timing(deadline=0.1)
    )


@pytest.mark.parametrize("name", NULL_SERVERS)
async def test_a_null_server_cannot_be_tested(name: str) -> None:
    async with serving(NULL_SERVERS[name]) as url:
        with pytest.raises(TargetError, match=r"127\.0\.0\.1"):
            await run_suite_async(_target(url), Options(profile="full"))


@pytest.mark.timeout(180)
# A connection attempt that is cancelled at the moment at which it succeeds is only closed by the garbage collector. With
# a deadline of a tenth of a second, this happens on a busy machine.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NULL_SERVERS)
async def test_a_null_server_passes_no_requirement_if_it_is_tested_regardless(name: str) -> None:
    async with serving(NULL_SERVERS[name]) as url:
        report = await run_suite_async(_target(url), Options(profile="full", via="raw", probe=False))
    gc.collect()

    assert [result.id for result in report.results if result.status == "PASS"] == []
    assert not report.passed

"""A server that is none passes nothing."""

import gc

import pytest
from cmdc_conformance.runner import Options, judge
from cmdc_conformance.target import Keys, Target, TargetError, Timing
from null_servers import NULL_SERVERS, serving


def _target(url: str) -> Target:
    return Target(
        url=url, keys=Keys("key-1", "key-2", "key-3", "key-4"), driver="scripted", timing=Timing(deadline=0.1)
    )


@pytest.mark.parametrize("name", NULL_SERVERS)
async def test_a_null_server_is_no_gateway_and_cannot_be_judged(name: str) -> None:
    async with serving(NULL_SERVERS[name]) as url:
        with pytest.raises(TargetError, match=r"127\.0\.0\.1"):
            await judge(_target(url), Options(profile="full"))


@pytest.mark.timeout(180)
# A connection that is given up in the moment in which it is made is closed when its memory is freed, and a tenth of a
# second for each check brings many such moments on a busy machine.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NULL_SERVERS)
async def test_a_null_server_that_is_judged_all_the_same_passes_nothing(name: str) -> None:
    async with serving(NULL_SERVERS[name]) as url:
        report = await judge(_target(url), Options(profile="full", via="raw", probe=False))
    gc.collect()

    assert [result.id for result in report.results if result.status == "PASS"] == []
    assert not report.passed

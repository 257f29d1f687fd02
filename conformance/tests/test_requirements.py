"""Every requirement is tested, and every test belongs to a requirement."""

import re
from pathlib import Path

import pytest
from cmdc_conformance.checks.catalog import checks
from cmdc_conformance.checks.registry import add
from cmdc_conformance.requirements import PROFILES, requirements
from cmdc_conformance.wire.monitors import MONITORED

API = Path(__file__).parents[2] / "API.md"


async def do_nothing(_: object) -> None:
    """A check that does nothing."""


def test_every_requirement_has_a_check_or_a_monitor_or_a_reason() -> None:
    covered = {check.requirement for check in checks().values()} | set(MONITORED)

    missing = [each.id for each in requirements().values() if each.id not in covered and each.unobservable is None]

    assert not missing


def test_a_requirement_that_cannot_be_observed_has_no_check() -> None:
    covered = {check.requirement for check in checks().values()} | set(MONITORED)

    assert not [each.id for each in requirements().values() if each.unobservable and each.id in covered]


def test_every_monitor_is_for_a_requirement() -> None:
    assert set(MONITORED) <= set(requirements())


def test_a_check_of_an_unknown_requirement_is_rejected() -> None:
    with pytest.raises(ValueError, match="unknown requirement"):
        add("HTTP-99", "do_nothing", do_nothing)


def test_two_checks_with_one_name_are_rejected() -> None:
    taken = next(iter(checks().values()))

    with pytest.raises(ValueError, match="duplicate check"):
        add(taken.requirement, taken.name, do_nothing)


def test_every_check_has_a_sentence() -> None:
    assert not [check.name for check in checks().values() if not check.sentence.endswith((".", "!", "?", ":"))]


def test_every_requirement_is_a_sentence_with_a_link_to_a_section_of_the_api() -> None:
    headings = re.findall(r"^#+ (.+)$", API.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert not [each.id for each in requirements().values() if not each.sentence.endswith(".")]
    assert not [each.link for each in requirements().values() if each.link.removeprefix("API.md#") not in anchors]


def test_every_feature_of_a_requirement_is_documented() -> None:
    section = API.read_text(encoding="utf-8").partition("| In `extended` | Means |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    assert {each.feature for each in requirements().values() if each.feature} <= named


def test_only_extended_requirements_need_a_feature() -> None:
    assert not [each.id for each in requirements().values() if each.feature and each.layer == "base"]
    assert not [
        each.id
        for each in requirements().values()
        if not each.feature and each.layer == "extended" and each.id not in WITHOUT_FEATURE
    ]


# Extended requirements that every server is tested for, because they are only recommended.
WITHOUT_FEATURE = {"HTTP-9.headers"}


def test_the_profile_full_covers_everything_and_every_profile_but_base_covers_the_core() -> None:
    core = {each.id for each in requirements().values() if each.is_in("core")}

    assert all(each.is_in("full") for each in requirements().values())
    for profile in PROFILES:
        covered = {each.id for each in requirements().values() if each.is_in(profile)}
        assert profile == "base" or core <= covered


def test_the_profile_base_has_nothing_extended() -> None:
    assert {each.layer for each in requirements().values() if each.is_in("base")} == {"base"}


def test_no_requirement_is_removed() -> None:
    """Requirements may be added until 0.1 is released. None is removed, because reports and baselines refer to them."""
    frozen = (Path(__file__).parent / "requirements_0_1.txt").read_text(encoding="utf-8").split()

    assert not set(frozen) - set(requirements())

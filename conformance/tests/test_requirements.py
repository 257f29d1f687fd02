"""The requirements, and that nothing is demanded that is not judged, and nothing judged that is not demanded."""

import re
from pathlib import Path

import pytest
from cmdc_conformance.check import add, checks
from cmdc_conformance.monitors import MONITORED
from cmdc_conformance.requirements import PROFILES, requirements

API = Path(__file__).parents[2] / "API.md"


async def nothing(_: object) -> None:
    """A check that does nothing."""


def test_every_requirement_has_a_check_or_a_monitor_or_a_reason() -> None:
    judged = {check.requirement for check in checks().values()} | set(MONITORED)

    unjudged = [each.id for each in requirements().values() if each.id not in judged and each.unobservable is None]

    assert not unjudged


def test_a_requirement_that_cannot_be_observed_has_no_check() -> None:
    judged = {check.requirement for check in checks().values()} | set(MONITORED)

    assert not [each.id for each in requirements().values() if each.unobservable and each.id in judged]


def test_every_monitor_is_for_a_requirement() -> None:
    assert set(MONITORED) <= set(requirements())


def test_a_check_of_no_requirement_is_refused() -> None:
    with pytest.raises(ValueError, match="no requirement"):
        add("HTTP-99", "nothing", nothing)


def test_two_checks_of_one_name_are_refused() -> None:
    taken = next(iter(checks().values()))

    with pytest.raises(ValueError, match="there is a check"):
        add(taken.requirement, taken.name, nothing)


def test_every_check_says_in_a_sentence_what_it_does() -> None:
    assert not [check.name for check in checks().values() if not check.sentence.endswith((".", "!", "?", ":"))]


def test_every_requirement_is_a_sentence_with_a_link_to_a_section_of_the_api() -> None:
    headings = re.findall(r"^#+ (.+)$", API.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert not [each.id for each in requirements().values() if not each.sentence.endswith(".")]
    assert not [each.link for each in requirements().values() if each.link.removeprefix("API.md#") not in anchors]


def test_a_feature_that_a_requirement_needs_is_one_that_the_api_names() -> None:
    section = API.read_text(encoding="utf-8").partition("| In `extended` | Means |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    assert {each.feature for each in requirements().values() if each.feature} <= named


def test_only_extended_requirements_need_a_feature() -> None:
    assert not [each.id for each in requirements().values() if each.feature and each.layer == "base"]
    assert not [
        each.id
        for each in requirements().values()
        if not each.feature and each.layer == "extended" and each.id not in WITHOUT
    ]


# What every server of the extended layer shows, without declaring it: a header, which is only recommended.
WITHOUT = {"HTTP-9.headers"}


def test_the_profile_full_judges_everything_and_every_profile_but_base_judges_the_core() -> None:
    core = {each.id for each in requirements().values() if each.is_in("core")}

    assert all(each.is_in("full") for each in requirements().values())
    for profile in PROFILES:
        judged = {each.id for each in requirements().values() if each.is_in(profile)}
        assert profile == "base" or core <= judged


def test_the_profile_base_has_nothing_extended() -> None:
    assert {each.layer for each in requirements().values() if each.is_in("base")} == {"base"}


def test_a_published_version_of_the_requirements_is_not_changed() -> None:
    """Requirements may be added until 0.1 is released; none may vanish, for reports and baselines name them."""
    frozen = (Path(__file__).parent / "requirements_0_1.txt").read_text(encoding="utf-8").split()

    assert not set(frozen) - set(requirements())

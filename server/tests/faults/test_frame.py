"""Experiments have two forms, parts that add up, chances that come back, and a table of what they measured."""

import pytest
from cmdc_testkit.experiments import Experiment, Part
from hypothesis import given
from hypothesis import strategies as st

pytest_plugins = ["pytester"]

MODULE = '''"""Experiment 7: what it does, said in a line."""


def test_it_holds(experiment):
    experiment.figure("trials", experiment.trials(short=50, long=20_000))


def test_it_does_not_hold(experiment):
    experiment.figure("lost", 3)
    assert False


def test_something_else():
    pass
'''


@given(total=st.integers(0, 10_000), of=st.integers(1, 40))
def test_the_parts_of_a_long_form_are_all_of_it(total: int, of: int) -> None:
    experiments = [Experiment(1, "", long=True, part=Part(index, of)) for index in range(1, of + 1)]

    assert sum(experiment.trials(short=1, long=total) for experiment in experiments) == total


@pytest.mark.parametrize("text", ["0/1", "2/1", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - what argparse asks of a type
        Part.parse(text)


def test_chance_comes_back_with_its_seed_and_differs_from_part_to_part() -> None:
    first = Experiment(1, "", seed=4).random.random()

    assert Experiment(1, "", seed=4).random.random() == first
    assert Experiment(1, "", seed=5).random.random() != first
    assert Experiment(1, "", seed=4, part=Part(2, 3)).random.random() != first
    assert Experiment(2, "", seed=4).random.random() != first


@pytest.mark.parametrize(
    ("options", "trials", "heading"),
    [
        ((), "50", "experiments, short form, part 1/1, seed 1"),
        (("--long",), "20,000", "experiments, long form, part 1/1, seed 1"),
        (("--long", "--part", "2/10", "--seed", "5"), "2,000", "experiments, long form, part 2/10, seed 5"),
        (("-p", "xdist", "-n", "1"), "50", "experiments, short form, part 1/1, seed 1"),
    ],
)
def test_the_table_says_what_was_tried_and_what_came_of_it(
    pytester: pytest.Pytester, options: tuple[str, ...], trials: str, heading: str
) -> None:
    pytester.makepyfile(MODULE)

    result = pytester.runpytest("-p", "cmdc_testkit.experiments", "-m", "experiment", "-p", "no:asyncio", *options)

    result.assert_outcomes(passed=1, failed=1)  # and the one that is none was left out
    result.stdout.fnmatch_lines(
        [
            f"*{heading}*",
            f"  7  reached  what it does, said in a line: trials {trials}",
            "  7  FAILED   what it does, said in a line: lost 3",
        ]
    )


def test_a_module_that_does_not_say_which_experiment_it_is_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(experiment): pass")

    result = pytester.runpytest("-p", "cmdc_testkit.experiments", "-p", "no:asyncio")

    result.assert_outcomes(errors=1)

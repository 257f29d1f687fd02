"""Experiments have two forms, parts that add up, reproducible random values, and a table of measurements."""

import pytest
from cmdc_testkit.experiments import Experiment, Part
from hypothesis import given
from hypothesis import strategies as st

pytest_plugins = ["pytester"]

MODULE = '''"""Experiment 7: what it does, in one line."""


def test_it_holds(experiment):
    experiment.record("trials", experiment.trials(short=50, long=20_000))


def test_it_does_not_hold(experiment):
    experiment.record("lost", 3)
    assert False


def test_something_else():
    pass
'''


@given(total=st.integers(0, 10_000), of=st.integers(1, 40))
def test_the_parts_of_a_long_form_add_up_to_it(total: int, of: int) -> None:
    experiments = [Experiment(1, "", long=True, part=Part(index, of)) for index in range(1, of + 1)]

    assert sum(experiment.trials(short=1, long=total) for experiment in experiments) == total


@pytest.mark.parametrize("text", ["0/1", "2/1", "1", "a/b", "1/0", "-1/2"])
def test_an_invalid_part_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - argparse reports it
        Part.parse(text)


def test_random_values_depend_on_the_seed_the_part_and_the_experiment() -> None:
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
def test_the_table_shows_the_measurements_and_the_outcome(
    pytester: pytest.Pytester, options: tuple[str, ...], trials: str, heading: str
) -> None:
    pytester.makepyfile(MODULE)

    result = pytester.runpytest("-p", "cmdc_testkit.experiments", "-m", "experiment", "-p", "no:asyncio", *options)

    result.assert_outcomes(passed=1, failed=1)  # without the test that is not an experiment
    result.stdout.fnmatch_lines(
        [
            f"*{heading}*",
            f"  7  pass  what it does, in one line: trials {trials}",
            "  7  FAIL  what it does, in one line: lost 3",
        ]
    )


def test_a_module_without_an_experiment_in_its_docstring_is_rejected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(experiment): pass")

    result = pytester.runpytest("-p", "cmdc_testkit.experiments", "-p", "no:asyncio")

    result.assert_outcomes(errors=1)

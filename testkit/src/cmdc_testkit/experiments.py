"""A pytest plugin for experiments: tests with a short form for every run, a long form, and measurements.

The docstring of an experiment's module begins with `Experiment N: what it does`; its tests use the fixture `experiment`.
`--long` selects the long form, `--part 2/10` the second tenth of it, `--seed` other random values. The measurements are
printed as a table at the end of the session.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Generator
from dataclasses import dataclass, field
from operator import itemgetter

import pytest

_NAMED = re.compile(r"experiment (\d+): (.+)", re.IGNORECASE)
# Experiments have their own timeouts. This one ends an experiment that hangs nevertheless.
_LONG_SECONDS = 4 * 60 * 60
_PROPERTY = "experiment"


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` of `of` equal parts of a long form, counted from 1."""

    index: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse `2/10`. Raises ValueError."""
        index, _, of = text.partition("/")
        part = cls(int(index), int(of))
        if not 1 <= part.index <= part.of:
            raise ValueError(text)
        return part

    def share(self, total: int) -> int:
        """The part's share of `total`. The shares of all parts add up to `total`."""
        return total * self.index // self.of - total * (self.index - 1) // self.of


@dataclass(slots=True)
class Experiment:
    """The form and the seed of an experiment, and its measurements."""

    number: int
    title: str
    long: bool = False
    part: Part = field(default_factory=Part)
    seed: int = 1
    measurements: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.title}: {', '.join(f'{name} {value}' for name, value in self.measurements.items())}"

    @property
    def random(self) -> random.Random:
        """A new random generator, always in the same state for this seed and part."""
        return random.Random(f"{self.number} {self.seed} {self.part.index}")  # noqa: S311

    def trials(self, *, short: int, long: int) -> int:
        """The number of trials: `short`, or this part's share of `long`."""
        return self.part.share(long) if self.long else short

    def record(self, name: str, value: object) -> None:
        """Add a measurement to the table."""
        self.measurements[name] = f"{value:,}" if isinstance(value, int) else f"{value}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of experiments."""
    group = parser.getgroup("experiments")
    group.addoption("--long", action="store_true", help="experiments in their long form")
    group.addoption("--part", type=Part.parse, default=Part(), metavar="I/N", help="one part of the long form: 2/10")
    group.addoption("--seed", type=int, default=1, help="seed of the random values in experiments (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `experiment`, for `-m experiment`."""
    config.addinivalue_line("markers", "experiment: a test of faults with a short and a long form (nox -s faults)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark experiments, and raise the timeout of long ones."""
    for item in items:
        if isinstance(item, pytest.Function) and "experiment" in item.fixturenames:
            item.add_marker("experiment")
            if config.option.long:
                item.add_marker(pytest.mark.timeout(_LONG_SECONDS), append=False)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Experiment:
    """The form, the seed, and the measurements of the current test."""
    docstring = inspect.getdoc(inspect.getmodule(request.function)) or ""
    named = _NAMED.match(docstring)
    assert named is not None, "the module's docstring has to begin with `Experiment N: what it does`"
    option = request.config.option
    return Experiment(int(named[1]), named[2].rstrip("."), option.long, option.part, option.seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the measurements to the report, which may come from another process."""
    report = yield
    found = item.funcargs.get("experiment") if isinstance(item, pytest.Function) else None
    if call.when == "call" and isinstance(found, Experiment):
        report.user_properties.append((_PROPERTY, [found.number, f"{found}"]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of measurements."""
    found: list[tuple[int, str, str]] = [
        (*measured, report.outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, measured in report.user_properties
        if name == _PROPERTY
    ]
    if not found:
        return
    form = "long form" if config.option.long else "short form"
    part: Part = config.option.part
    terminalreporter.section(f"experiments, {form}, part {part.index}/{part.of}, seed {config.option.seed}")
    for number, text, outcome in sorted(found, key=itemgetter(0)):
        terminalreporter.write_line(f"{number:>3}  {'pass' if outcome == 'passed' else 'FAIL'}  {text}")

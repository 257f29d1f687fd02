"""A pytest plugin for experiments: tests with a short form for every day, a long one for the record, and figures.

A module is an experiment when its docstring begins with `Experiment N: what it does`; a test is part of it when it takes
the fixture `experiment`. `--long` asks for the long form, `--part 2/10` for the second tenth of it, `--seed` for other
chances. What the tests measured stands in a table at the end of the session.
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
# Each experiment bounds what it waits for itself; this only ends one that hangs all the same.
_LONG_SECONDS = 4 * 60 * 60
_PROPERTY = "experiment"


@dataclass(frozen=True, slots=True)
class Part:
    """The `index`th of `of` equal parts of a long form, counted from 1."""

    index: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `2/10`. Raises ValueError."""
        index, _, of = text.partition("/")
        part = cls(int(index), int(of))
        if not 1 <= part.index <= part.of:
            raise ValueError(text)
        return part

    def share(self, total: int) -> int:
        """How many of `total` fall to this part; all parts together have all."""
        return total * self.index // self.of - total * (self.index - 1) // self.of


@dataclass(slots=True)
class Experiment:
    """One test's way to say how often it tries, what chance does, and what came of it."""

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
        """Chance as it is for this seed and part: the same every time it is asked for."""
        return random.Random(f"{self.number} {self.seed} {self.part.index}")  # noqa: S311

    def trials(self, *, short: int, long: int) -> int:
        """How many trials to make now: `short`, or this part's share of `long`."""
        return self.part.share(long) if self.long else short

    def record(self, name: str, value: object) -> None:
        """Note something measured, for the table."""
        self.measurements[name] = f"{value:,}" if isinstance(value, int) else f"{value}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of an experiment."""
    group = parser.getgroup("experiments")
    group.addoption("--long", action="store_true", help="experiments in their long form")
    group.addoption("--part", type=Part.parse, default=Part(), metavar="I/N", help="one part of the long form: 2/10")
    group.addoption("--seed", type=int, default=1, help="what chance does in experiments (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    """A marker for what takes the fixture, so that it can be selected: `-m experiment`."""
    config.addinivalue_line("markers", "experiment: a test of faults with a short and a long form (nox -s faults)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark experiments; give long ones their time."""
    for item in items:
        if isinstance(item, pytest.Function) and "experiment" in item.fixturenames:
            item.add_marker("experiment")
            if config.option.long:
                item.add_marker(pytest.mark.timeout(_LONG_SECONDS), append=False)


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Experiment:
    """What the test asks for its trials and tells its figures."""
    said = inspect.getdoc(inspect.getmodule(request.function)) or ""
    named = _NAMED.match(said)
    assert named is not None, "the module's docstring begins with `Experiment N: what it does`"
    option = request.config.option
    return Experiment(int(named[1]), named[2].rstrip("."), option.long, option.part, option.seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the figures along with the report: it may come from another process."""
    report = yield
    found = item.funcargs.get("experiment") if isinstance(item, pytest.Function) else None
    if call.when == "call" and isinstance(found, Experiment):
        report.user_properties.append((_PROPERTY, [found.number, f"{found}"]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of figures."""
    found: list[tuple[int, str, str]] = [
        (*told, report.outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, told in report.user_properties
        if name == _PROPERTY
    ]
    if not found:
        return
    form = "long form" if config.option.long else "short form"
    part: Part = config.option.part
    terminalreporter.section(f"experiments, {form}, part {part.index}/{part.of}, seed {config.option.seed}")
    for number, said, outcome in sorted(found, key=itemgetter(0)):
        terminalreporter.write_line(f"{number:>3}  {'reached' if outcome == 'passed' else 'FAILED '}  {said}")

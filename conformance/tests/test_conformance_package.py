"""The contents of the installed package."""

from importlib.metadata import entry_points, version
from importlib.resources import files

import cmdc_conformance


def test_the_package_has_the_version_of_its_distribution() -> None:
    assert cmdc_conformance.__version__ == version("cmdc-conformance")


def test_the_package_is_marked_as_typed() -> None:
    assert files(cmdc_conformance).joinpath("py.typed").is_file()


def test_the_package_installs_a_command_and_a_pytest_plugin() -> None:
    assert "cmdc-conformance" in entry_points(group="console_scripts").names
    assert "cmdc_conformance" in entry_points(group="pytest11").names

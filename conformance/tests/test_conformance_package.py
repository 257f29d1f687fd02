"""What anyone who installs cmdc-conformance relies on."""

from importlib.metadata import entry_points, version
from importlib.resources import files

import cmdc_conformance


def test_the_package_tells_the_version_it_was_installed_as() -> None:
    assert cmdc_conformance.__version__ == version("cmdc-conformance")


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert files(cmdc_conformance).joinpath("py.typed").is_file()


def test_the_package_brings_its_command_and_its_pytest_plugin() -> None:
    assert "cmdc-conformance" in entry_points(group="console_scripts").names
    assert "cmdc_conformance" in entry_points(group="pytest11").names

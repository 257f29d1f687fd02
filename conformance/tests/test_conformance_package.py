"""What anyone who installs cmdc-conformance relies on."""

from importlib.metadata import version
from importlib.resources import files

import cmdc_conformance


def test_the_package_tells_the_version_it_was_installed_as() -> None:
    assert cmdc_conformance.__version__ == version("cmdc-conformance")


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert files(cmdc_conformance).joinpath("py.typed").is_file()

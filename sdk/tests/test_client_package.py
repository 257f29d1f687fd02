"""What anyone who installs cmdc-client relies on."""

from importlib.metadata import version
from importlib.resources import files

import cmdc_client


def test_the_package_tells_the_version_it_was_installed_as() -> None:
    assert cmdc_client.__version__ == version("cmdc-client")


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert files(cmdc_client).joinpath("py.typed").is_file()

import os
import subprocess
import sys
from pathlib import Path

import pytest

PINS = Path(__file__).parents[3] / "requirements/interop.txt"


@pytest.fixture(scope="session")
def sdk_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the pinned published client, and without this project's packages.

    `nox -s tests` prepares one, with its path in CMDC_SDK_PYTHON. Without that variable, one is created here.
    """
    given = os.environ.get("CMDC_SDK_PYTHON")
    if given:
        return Path(given)
    venv = tmp_path_factory.mktemp("cmdc-sdk") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([python, *install, "--requirement", PINS], check=True)
    return python

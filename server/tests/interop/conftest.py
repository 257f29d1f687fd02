import os
import subprocess
import sys
from pathlib import Path

import pytest

PINS = Path(__file__).parents[3] / "requirements/interop.txt"


@pytest.fixture(scope="session")
def sdk_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the published client, as it is pinned, and nothing of ours.

    `nox -s tests` prepares one and says where in CMDC_SDK_PYTHON; without it one is made here.
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

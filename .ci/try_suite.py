"""Run the conformance suite's wheel, in this environment, against the gateway's wheel, in another one.

    SUITE_ENVIRONMENT/bin/python -I .ci/try_suite.py GATEWAY_ENVIRONMENT/bin/cmdc-gateway

The environment must not contain the other packages. Of this repository, only the launcher of servers is imported.
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "testkit" / "src"))

from cmdc_testkit.launcher import gateway_environment, running_server

KEYS = {"first-key": "one", "second-key": "two"}
NOT_INSTALLED = ("cmdc_client", "cmdc_gateway", "fastapi", "litellm")


def main() -> int:
    """Run the profile core; return the exit status."""
    installed = [name for name in NOT_INSTALLED if find_spec(name) is not None]
    if installed:
        print(f"this environment must not contain {', '.join(installed)}")
        return 1
    suite = Path(sys.executable).with_name("cmdc-conformance")
    first, second = KEYS
    with tempfile.TemporaryDirectory() as folder:
        environ = gateway_environment(Path(folder), KEYS, GATEWAY_STORE="memory:", GATEWAY_WORKSPACE=folder)
        with running_server([sys.argv[1], "serve"], environ) as gateway:
            options = ["--url", gateway.url, "--key", first, "--second-key", second, "--examples", "2", "--quiet"]
            return subprocess.run([suite, *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

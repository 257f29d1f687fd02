"""The properties of the installed package."""

import inspect
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import cmdc_client
import pytest
from cmdc_client import callbacks, models
from cmdc_client.errors import ERRORS_BY_CODE

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_that_of_the_installed_package() -> None:
    assert cmdc_client.__version__ == version("cmdc-client")


def test_the_package_is_marked_as_typed() -> None:
    assert files(cmdc_client).joinpath("py.typed").is_file()


# Without click: httpx imports its command line if click is installed, which it is not with this client alone.
_IMPORT = """
import sys, time
sys.modules["click"] = None
started = time.process_time()
import cmdc_client
print(time.process_time() - started, *sys.modules)
"""


def test_importing_the_package_is_fast_and_imports_no_heavy_dependency() -> None:
    runs = [subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True) for _ in range(3)]
    outputs = [run.stdout.decode().split() for run in runs]

    assert min(float(seconds) for seconds, *_ in outputs) < 0.5
    heavy = {"cmdc_gateway", "fastapi", "litellm", "pydantic", "starlette", "uvicorn", "websockets"}
    assert heavy.isdisjoint(outputs[0])


@pytest.mark.parametrize("missing", ["h11", "pydantic"])
def test_callbacks_without_the_extra_raise_an_error_that_names_it(missing: str) -> None:
    program = f"import sys\nsys.modules[{missing!r}] = None\nimport cmdc_client\nimport cmdc_client.callbacks"
    # With httpx, which needs h11 itself, already imported.
    run = subprocess.run(
        [sys.executable, "-c", f"import httpx\n{program}"], check=False, capture_output=True, text=True
    )

    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"ImportError: cmdc_client.callbacks needs {missing}, which is not installed; install the extra with:"
        " python3 -m pip install 'cmdc-client[callbacks]'"
    )


def test_every_public_class_has_a_docstring() -> None:
    for module in (cmdc_client, callbacks, models):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            public = getattr(module, name)
            assert not inspect.isclass(public) or public.__doc__ or module is models, name


def test_every_published_error_code_has_a_class() -> None:
    document = json.loads((ROOT / "openapi" / "openapi.json").read_bytes())
    examples = document["components"]["examples"]
    published = [
        (examples[reference["$ref"].rpartition("/")[2]]["value"]["error"], int(status))
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status >= "400"
        for reference in response["content"]["application/json"]["examples"].values()
    ]

    assert {(code, error_class.expected_status) for code, error_class in ERRORS_BY_CODE.items()} == {
        *published,
        ("method_not_allowed", 405),
    }
    for code, error_class in ERRORS_BY_CODE.items():
        assert error_class.__name__ == code.title().replace("_", "")
        assert getattr(cmdc_client, error_class.__name__) is error_class


def test_the_sync_client_is_generated_from_the_async_one() -> None:
    assert derive_sync(ROOT / "sdk", "--check") == (0, "")


def test_a_manual_change_of_the_sync_client_is_detected_and_reverted(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sdk" / "derive_sync.py", tmp_path)
    for name in ("_async", "_sync"):
        shutil.copytree(ROOT / "sdk/src/cmdc_client" / name, tmp_path / "src/cmdc_client" / name)
    changed = tmp_path / "src/cmdc_client/_sync/stream.py"
    original = changed.read_text()
    changed.write_text(original.replace("def close(self)", "def shut(self)"))
    (changed.parent / "left_over.py").write_text("left = 1\n")

    status, output = derive_sync(tmp_path, "--check")

    assert status == 1
    assert "-    def shut(self) -> None:\n+    def close(self) -> None:\n" in output
    assert "-left = 1" in output
    assert derive_sync(tmp_path) == (0, "")
    assert changed.read_text() == original
    assert not (changed.parent / "left_over.py").exists()


def derive_sync(package: Path, *arguments: str) -> tuple[int, str]:
    program = [sys.executable, package / "derive_sync.py", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout

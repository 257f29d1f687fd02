"""What anyone who installs cmdc-client relies on."""

import inspect
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import cmdc_client
from cmdc_client import callbacks, models
from cmdc_client.errors import BY_CODE

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_tells_the_version_it_was_installed_as() -> None:
    assert cmdc_client.__version__ == version("cmdc-client")


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert files(cmdc_client).joinpath("py.typed").is_file()


# Without click, as where nothing but this client is installed: httpx brings its command line along where it finds it.
_IMPORT = """
import sys, time
sys.modules["click"] = None
begun = time.process_time()
import cmdc_client, cmdc_client.callbacks
print(time.process_time() - begun, *sys.modules)
"""


def test_the_package_is_imported_quickly_and_brings_nothing_heavy_along() -> None:
    tries = [subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True) for _ in range(3)]
    told = [each.stdout.decode().split() for each in tries]

    assert min(float(seconds) for seconds, *_ in told) < 0.5
    heavy = {"cmdc_gateway", "fastapi", "litellm", "pydantic", "starlette", "uvicorn", "websockets"}
    assert heavy.isdisjoint(told[0])


def test_every_public_name_is_there_and_told_what_it_is_for() -> None:
    for module in (cmdc_client, callbacks, models):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            public = getattr(module, name)
            assert not inspect.isclass(public) or public.__doc__ or module is models, name


def test_every_code_of_the_published_protocol_has_its_error() -> None:
    document = json.loads((ROOT / "openapi" / "openapi.json").read_bytes())
    examples = document["components"]["examples"]
    refusals = [
        (examples[reference["$ref"].rpartition("/")[2]]["value"]["error"], int(status))
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if status >= "400"
        for reference in answer["content"]["application/json"]["examples"].values()
    ]

    assert {(code, kind.expected_status) for code, kind in BY_CODE.items()} == {*refusals, ("method_not_allowed", 405)}
    for code, kind in BY_CODE.items():
        assert kind.__name__ == code.title().replace("_", "")
        assert getattr(cmdc_client, kind.__name__) is kind


def test_the_sync_client_is_the_async_one_without_await() -> None:
    assert derive_sync(ROOT / "sdk", "--check") == (0, "")


def test_a_change_of_the_sync_client_that_is_not_one_of_the_async_one_is_noticed_and_undone(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sdk" / "derive_sync.py", tmp_path)
    for name in ("_async", "_sync"):
        shutil.copytree(ROOT / "sdk/src/cmdc_client" / name, tmp_path / "src/cmdc_client" / name)
    written = tmp_path / "src/cmdc_client/_sync/stream.py"
    whole = written.read_text()
    written.write_text(whole.replace("def close(self)", "def shut(self)"))
    (written.parent / "left_over.py").write_text("left = 1\n")

    status, told = derive_sync(tmp_path, "--check")

    assert status == 1
    assert "-    def shut(self) -> None:\n+    def close(self) -> None:\n" in told
    assert "-left = 1" in told
    assert derive_sync(tmp_path) == (0, "")
    assert written.read_text() == whole
    assert not (written.parent / "left_over.py").exists()


def derive_sync(package: Path, *arguments: str) -> tuple[int, str]:
    program = [sys.executable, package / "derive_sync.py", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout

"""`contract --check` finds a change of any derived file, prints it, and writes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GENERATED = Path("sdk/src/cmdc_client/_generated")
SUITE = Path("conformance/src/cmdc_conformance/contract")
REQUIREMENTS = Path("conformance/src/cmdc_conformance/requirements")
DERIVED = ("openapi", GENERATED, SUITE)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all derived files and of the program."""
    for folder in (*DERIVED, REQUIREMENTS):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    tables = "".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in ("endpoints", "errors", "events"))
    (tmp_path / "API.md").write_text(f"# Protocol\n\n{tables}")
    return tmp_path


def contract(checkout: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, checkout / "openapi" / "contract.py", *arguments], capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.timeout(240)  # the generator runs five times
def test_a_change_of_any_derived_file_fails_the_check_until_it_is_written_again(checkout: Path) -> None:
    contract(checkout)
    whole = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert contract(checkout, "--check")[0] == 0

    changed = {
        Path("openapi/openapi.json"): (b'"openapi": "3.1.0"', b'"openapi": "3.1.1"'),
        Path("openapi/asyncapi.json"): (b"\n", b"\r\n"),
        Path("openapi/events.schema.json"): (b"}\n", b"}"),
        SUITE / "events.schema.json": (b'"ask_user"', b'"askUser"'),
        GENERATED / "events.py": (b"seq: int", b"seq: str"),
        GENERATED / "client.py": (b"\n", b"\n# a change\n"),
        Path("API.md"): (b"429", b"503"),
        Path("docs/requirements.md"): (b"| MUST |", b"| MAY |"),
    }
    for path, (old, new) in changed.items():
        (checkout / path).write_bytes((checkout / path).read_bytes().replace(old, new))
    (checkout / GENERATED / "types.py").unlink()
    (checkout / GENERATED / "models" / "left_over.py").write_text("")
    seeded = {path: path.read_bytes() for path in whole if path.is_file()}

    status, told = contract(checkout, "--check")

    assert status == 1
    for path in changed:
        assert f"--- {path}\n" in told
    assert '-  "openapi": "3.1.1",\n+  "openapi": "3.1.0",' in told
    assert "-{\\r" in told
    assert f"--- {GENERATED / 'types.py'} is missing" in told
    assert f"--- {GENERATED / 'models' / 'left_over.py'} is there, and nothing derives it" in told
    assert {path: path.read_bytes() for path in seeded} == seeded

    assert contract(checkout)[0] == 0
    assert {path: path.read_bytes() for path in whole} == whole
    assert not (checkout / GENERATED / "models" / "left_over.py").exists()


def test_a_table_that_does_not_exist_is_named(checkout: Path) -> None:
    (checkout / "API.md").write_text("<!-- generated: colours -->\n<!-- end -->\n")

    done = subprocess.run(
        [sys.executable, checkout / "openapi" / "contract.py"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "unknown table 'colours'; known tables: endpoints, errors, events, settings" in done.stderr

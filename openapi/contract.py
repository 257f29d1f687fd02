"""Write every file that is derived from the server's models; with `--check`, compare instead.

    python openapi/contract.py            write them
    python openapi/contract.py --check    print what differs; exit 1 if anything does

Derived are the published documents beside this program, their copy in the conformance suite, the generated part of the
client, the tables of API.md between `<!-- generated: NAME -->` and `<!-- end -->`, and docs/requirements.md, from the
requirement file of the conformance suite. `nox -s contract` runs this with the pinned tools it needs.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api_tables import UnknownTable, with_tables
from cmdc_gateway.app import create_app
from cmdc_gateway.protocol.schema import events_schema
from cmdc_gateway.settings import Settings
from cmdc_gateway.web.schema.asyncapi import asyncapi
from cmdc_gateway.web.schema.openapi import openapi
from error_classes import error_classes
from event_classes import event_classes
from requirements_page import requirements_page

ROOT = Path(__file__).resolve().parent.parent
CLIENT = Path("sdk/src/cmdc_client/_generated")
SUITE = Path("conformance/src/cmdc_conformance/contract")
PAGE = Path("API.md")
REQUIREMENTS = Path("conformance/src/cmdc_conformance/requirements/v0_1.toml")
REQUIREMENTS_PAGE = Path("docs/requirements.md")
WHOLE = (CLIENT, SUITE)  # folders that hold nothing but derived files

_LINES_SHOWN = 40

Schema = dict[str, Any]
Files = dict[Path, str]


def main() -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; print what differs")
    checking = parser.parse_args().check
    found, wanted = files_there(), derived_files()
    differing = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
    for path in differing:
        if checking:
            print(difference(path, found.get(path), wanted.get(path)))
        else:
            write(path, wanted.get(path))
    if not differing:
        print(f"contract: {len(wanted)} files are as the models say")
    elif checking:
        print(f"contract: {len(differing)} of {len(wanted)} files differ; `nox -s contract` writes them")
    else:
        print(f"contract: {len(differing)} of {len(wanted)} files written anew")
    return 1 if checking and differing else 0


def derived_files() -> Files:
    """Every derived file as it should be, by its path in the repository."""
    documents = published()
    files = {Path("openapi") / name: pretty(document) for name, document in documents.items()}
    files |= {SUITE / name: pretty(document) for name, document in documents.items()}
    files |= {CLIENT / path: text for path, text in client(documents).items()}
    page = ROOT / PAGE
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        try:
            files[PAGE] = with_tables(text, documents["openapi.json"], documents["events.schema.json"])
        except UnknownTable as error:
            raise SystemExit(f"contract: {PAGE}: {error}") from None
    files[REQUIREMENTS_PAGE] = requirements_page((ROOT / REQUIREMENTS).read_text(encoding="utf-8"))
    return files


def files_there() -> Files:
    """The derived files as they are, and whatever else lies in the folders that are theirs."""
    paths = [Path("openapi") / name for name in ("openapi.json", "asyncapi.json", "events.schema.json")]
    paths += [path.relative_to(ROOT) for folder in WHOLE for path in (ROOT / folder).rglob("*") if _counts(path)]
    return {
        path: (ROOT / path).read_bytes().decode()
        for path in [*paths, PAGE, REQUIREMENTS_PAGE]
        if (ROOT / path).is_file()
    }


def published() -> dict[str, Schema]:
    """The documents that a gateway serves, by name."""
    with tempfile.TemporaryDirectory() as workspace:
        given: dict[str, Any] = {"store": "memory:", "workspace": Path(workspace)}
        app = create_app(Settings(**given), environ={})
    return {
        "openapi.json": openapi(app),
        "asyncapi.json": asyncapi(app.version),
        "events.schema.json": events_schema(app.version),
    }


def pretty(document: Schema) -> str:
    """A document as it is committed: to be read, and to be compared line by line."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def client(documents: Mapping[str, Schema]) -> Files:
    """Return the generated code of the client: that of openapi-python-client, the event and the error classes."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        schema, output = work / "openapi.json", work / "generated"
        schema.write_text(pretty(for_the_generator(documents["openapi.json"])), encoding="utf-8")
        _run(
            *("openapi_python_client", "generate", "--path", schema, "--output-path", output, "--meta", "none"),
            *("--config", ROOT / "openapi" / "client.yaml", "--fail-on-warning"),
        )
        (output / "events.py").write_text(event_classes(documents["events.schema.json"]), encoding="utf-8")
        (output / "api_errors.py").write_text(error_classes(documents["openapi.json"]), encoding="utf-8")
        # Isolated: the settings of the folder in which this happens to run must not matter.
        _run("ruff", "check", "--isolated", "--no-cache", "--quiet", "--fix-only", "--extend-select=I", output)
        _run("ruff", "format", "--isolated", "--no-cache", "--quiet", "--line-length=120", output)
        return {
            path.relative_to(output): path.read_text(encoding="utf-8") for path in output.rglob("*") if _counts(path)
        }


def for_the_generator(document: Schema) -> Schema:
    """Return a copy without the parts for which openapi-python-client generates unusable code.

    For a stream it generates a function that never returns, and for a union one that tries each class in turn; the
    hand-written part of the client implements both. The operations that return the published documents are not needed.
    """
    trimmed = copy.deepcopy(document)
    events = trimmed["components"]["schemas"].pop("Event")
    for reference in events["oneOf"]:
        del trimmed["components"]["schemas"][reference["$ref"].rpartition("/")[2]]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not _answers_a_model(operation):
                del trimmed["paths"][path][method]
    return trimmed


def difference(path: Path, found: str | None, wanted: str | None) -> str:
    """A short unified diff, from what is there to what should be."""
    if found is None:
        return f"--- {path} is missing\n"
    if wanted is None:
        return f"--- {path} is there, and nothing derives it\n"
    lines = list(difflib.unified_diff(_lines(found), _lines(wanted), f"{path}", f"{path} (derived)", n=2, lineterm=""))
    more = [f"... and {len(lines) - _LINES_SHOWN} lines more"] if len(lines) > _LINES_SHOWN else []
    return "\n".join([*lines[:_LINES_SHOWN], *more, ""])


def write(path: Path, text: str | None) -> None:
    """Make a file of the repository hold this text; None takes it away."""
    place = ROOT / path
    if text is None:
        place.unlink()
        if not any(place.parent.iterdir()):
            place.parent.rmdir()
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode())
    print(path)


def _answers_a_model(operation: Schema) -> bool:
    contents = [answer["content"] for status, answer in operation["responses"].items() if status.startswith("2")]
    return bool(contents) and all(
        list(content) == ["application/json"] and "$ref" in content["application/json"]["schema"]
        for content in contents
    )


def _counts(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _lines(text: str) -> list[str]:
    """Lines with their ends shown where these are not the usual ones."""
    return [line if line.isprintable() else ascii(line)[1:-1] for line in text.split("\n")]


def _run(module: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"contract: {module} failed\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())

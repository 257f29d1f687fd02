"""Read every published example with the classes that datamodel-code-generator made: `nox -s generators`.

    python program.py OPENAPI_JSON EVENTS_SCHEMA_JSON

The modules `made_openapi` and `made_events` are those classes. Exits with an error at the first example that they do
not take, or do not give back as it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Schema = dict[str, Any]


def main(openapi: Path, events: Path) -> None:
    """Read the examples of both documents."""
    union = import_module("made_events").Event
    shown = [
        example for kind in json.loads(events.read_bytes())["$defs"].values() for example in kind.get("examples", ())
    ]
    for example in shown:
        read(union, example)
    models = import_module("made_openapi")
    bodies = [*body_examples(json.loads(openapi.read_bytes()))]
    for name, example in bodies:
        read(getattr(models, name), example)
    if len(shown) < 15 or not bodies:
        raise SystemExit("generators: examples are missing")
    print(f"generators: {len(shown)} events and {len(bodies)} bodies were read as they are")


def read(kind: Any, example: Any) -> None:
    """Read an example into a class, and compare what it holds."""
    held = kind.model_validate(example).model_dump(mode="json", by_alias=True, exclude_unset=True)
    if held != example:
        raise SystemExit(f"generators: {kind.__name__} made {held} of {example}")


def body_examples(document: Schema) -> Iterator[tuple[str, Any]]:
    """Each example of a body that has a class, with the name of the class."""
    for operation in (operation for methods in document["paths"].values() for operation in methods.values()):
        for described in (operation.get("requestBody", {}), *operation["responses"].values()):
            content = described.get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            for reference in content.get("examples", {}).values() if name else ():
                yield name, document["components"]["examples"][reference["$ref"].rpartition("/")[2]]["value"]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""References to rules and documents resolve, everywhere in the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "conformance" / "src" / "cmdc_conformance" / "requirements"

# Rule ids of the protocol: HTTP-3, HTTP-3.range, EP-prompt.queue-full, MODEL-retry.at-once.
FAMILIES = ("HTTP", "EVT", "SSE", "WS", "APP", "ASK", "CB", "MTR", "DUR")
NUMBERED = re.compile(rf"\b(?:{'|'.join(FAMILIES)})-\d+(?:\.[a-z][a-z0-9-]*[a-z0-9])?")
NAMED = re.compile(r"\b(?:EP|MODEL)-[a-z]+(?:\.[a-z][a-z0-9-]*[a-z0-9])?")
# The brackets keep each pattern from finding itself.
UNRESOLVABLE = re.compile(r"[§]\s?\d|\b[P]ROTOCOL(?:\.md|,?\s+[§\d])|\b[D]ESIGN\.md\b")
# Ids that tests make up to show that they are unknown.
UNKNOWN = {"HTTP-99"}
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".ts", ".sh", ".txt", ""}


@cache
def known_ids() -> frozenset[str]:
    """The ids of all requirements and of their rules."""
    ids: set[str] = set()
    for path in REQUIREMENTS.glob("*.toml"):
        for rule in tomllib.loads(path.read_text(encoding="utf-8"))["rules"]:
            ids.add(rule["rule"])
            ids |= {f"{rule['rule']}.{part['id']}" for part in rule["parts"] if part["id"]}
    return frozenset(ids)


def lines() -> Iterator[tuple[str, str]]:
    """Every line of every text file in the repository, with its place."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in sorted({name for name in listed.split("\0") if name}):
        path = ROOT / name
        if path.suffix in SUFFIXES and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            yield from ((f"{name}:{number}", line) for number, line in enumerate(text.splitlines(), start=1))


def test_every_rule_id_is_a_requirement() -> None:
    unknown = [
        f"{place}: {id_}"
        for place, line in lines()
        for pattern in (NUMBERED, NAMED)
        for id_ in pattern.findall(line)
        if id_ not in known_ids() | UNKNOWN
    ]

    assert unknown == []


def test_no_reference_is_to_a_document_outside_the_repository() -> None:
    assert [f"{place}: {line.strip()}" for place, line in lines() if UNRESOLVABLE.search(line)] == []


def test_the_patterns_find_ids_and_references() -> None:
    assert NUMBERED.findall("(SSE-2, HTTP-3.range). See WS-6.ping, and EVT-9.") == [
        "SSE-2",
        "HTTP-3.range",
        "WS-6.ping",
        "EVT-9",
    ]
    assert NAMED.findall("EP-prompt.queue-full, MODEL-retry.at-once") == ["EP-prompt.queue-full", "MODEL-retry.at-once"]
    assert UNRESOLVABLE.search("(" + chr(167) + "3.11)")
    assert not UNRESOLVABLE.search("the protocol 0.1")

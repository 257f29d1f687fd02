"""The names that mutants patch or use exist in the server, so that a renamed one is found without running the suite."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tokenize
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import broken_gateways
import cmdc_gateway
import pytest

MUTANTS = Path(broken_gateways.__file__).parent
SERVER = Path(cmdc_gateway.__file__).parent
TESTS = Path(__file__).parent
# Attributes of any instance, of named tuples and of pydantic models.
LIBRARIES = frozenset({"__dict__", "_replace", "model_rebuild"})
STANDARD: Final[tuple[Any, ...]] = (str, bytes, dict, list, set, int, tuple, object, property, deque, os, re)


@cache
def known_names() -> frozenset[str]:
    """Identifiers of the server's source, attributes of standard types, and what the mutants define themselves."""
    names = set(LIBRARIES).union(*map(dir, STANDARD))
    for path in SERVER.rglob("*.py"):
        with tokenize.open(path) as source:
            names |= {
                token.string for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.NAME
            }
    for path in MUTANTS.rglob("*.py"):
        names |= set(definitions(ast.parse(path.read_text())))
    return frozenset(names)


def definitions(tree: ast.AST) -> Iterator[str]:
    """The functions, classes, fields and assigned attributes of a module."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


@pytest.mark.parametrize("module", sorted((MUTANTS / "mutants").glob("*.py")), ids=lambda path: path.stem)
def test_every_attribute_that_a_mutant_uses_exists(module: Path) -> None:
    used = {node.attr for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Attribute)}

    assert used - known_names() == set()


def test_every_mutant_can_be_applied() -> None:
    """`wrap` raises AttributeError for a name that does not exist. Each mutant is applied in a fork of its own."""
    command = [sys.executable, "-m", "broken_gateways.apply_all"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-3000:]

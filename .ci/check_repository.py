"""Fail when a file of this repository names something that only one machine has.

Looked for: hosts of package registries, absolute paths into somebody's folders, and copies of the LICENSE that differ
from it (each package carries one, so that its sdist has it).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The brackets keep each pattern from finding itself.
MACHINE_BOUND = {
    "a package registry's host": re.compile(r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|deb[.]debian[.]org"),
    "a path on one machine": re.compile(r"(?<![\w.:~$})*-])/(?:[r]oot|[h]ome|[U]sers|[t]mp|[w]ork|[o]pt/pypi)/\w"),
}


def main() -> int:
    """Print every finding; return the exit code."""
    findings = [*machine_bound_lines(), *licence_copies_that_differ()]
    for finding in findings:
        print(finding)
    print(f"repository: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
    return 1 if findings else 0


def machine_bound_lines() -> Iterator[str]:
    """Each line of a text file that names what only one machine has."""
    for path in files_of_the_repository():
        for number, line in enumerate(lines_of(path), start=1):
            for what, pattern in MACHINE_BOUND.items():
                if found := pattern.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: {what}: {found.group()}"


def licence_copies_that_differ() -> Iterator[str]:
    """Each package whose LICENSE is not the one of the repository."""
    licence = (ROOT / "LICENSE").read_bytes()
    for package in ("server", "sdk", "conformance"):
        copy = ROOT / package / "LICENSE"
        if not copy.is_file() or copy.read_bytes() != licence:
            yield f"{package}/LICENSE: is not a copy of LICENSE"


def files_of_the_repository() -> list[Path]:
    """Every file that is committed, or would be if everything were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(path for name in set(listed.split("\0")) if name and (path := ROOT / name).is_file())


def lines_of(path: Path) -> list[str]:
    """The lines of a text file; none of one that is not text."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


if __name__ == "__main__":
    sys.exit(main())

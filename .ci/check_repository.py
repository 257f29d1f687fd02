"""Check that no file of the repository depends on one machine, and that the copies of LICENSE are identical.

Machine-dependent are host names of package registries and absolute paths in user folders. Each package has a copy of
LICENSE, so that its sdist contains it.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The brackets prevent each pattern from matching itself.
MACHINE_BOUND = {
    "a package registry's host": re.compile(r"pypi[.]org|pythonhosted[.]org|npmjs[.](?:org|com)|deb[.]debian[.]org"),
    "a path on one machine": re.compile(r"(?<![\w.:~$})*-])/(?:[r]oot|[h]ome|[U]sers|[t]mp|[w]ork|[o]pt/pypi)/\w"),
}


def main() -> int:
    """Print all findings; return the exit status."""
    findings = [*machine_bound_lines(), *licence_copies_that_differ()]
    for finding in findings:
        print(finding)
    print(f"repository: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
    return 1 if findings else 0


def machine_bound_lines() -> Iterator[str]:
    """Yield each line of a text file that depends on one machine."""
    for path in files_of_the_repository():
        for number, line in enumerate(lines_of(path), start=1):
            for what, pattern in MACHINE_BOUND.items():
                if found := pattern.search(line):
                    yield f"{path.relative_to(ROOT)}:{number}: {what}: {found.group()}"


def licence_copies_that_differ() -> Iterator[str]:
    """Yield each package whose LICENSE differs from that of the repository."""
    licence = (ROOT / "LICENSE").read_bytes()
    for package in ("server", "sdk", "conformance"):
        copy = ROOT / package / "LICENSE"
        if not copy.is_file() or copy.read_bytes() != licence:
            yield f"{package}/LICENSE: differs from LICENSE"


def files_of_the_repository() -> list[Path]:
    """All files that are tracked or not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(path for name in set(listed.split("\0")) if name and (path := ROOT / name).is_file())


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, or none for a binary file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


if __name__ == "__main__":
    sys.exit(main())

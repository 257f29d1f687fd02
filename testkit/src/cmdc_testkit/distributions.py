"""Installed packages for tests of entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_distribution(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], **modules: str) -> None:
    """Write what an installer writes for a package: its modules, by name, and its metadata with the entry points."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{entry} = {target}\n" for entry, target in entries.items())
        for group, entries in entry_points.items()
    )
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)

"""The built-in tools, one module each. They are registered as entry points, like those of other packages."""

from __future__ import annotations

from typing import Final

NAMES: Final = ("read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user")
"""The built-in tools, in the order in which they are documented."""

READ_ONLY: Final = ("read_file", "list_dir", "glob", "grep")
"""The built-in tools without side effects."""

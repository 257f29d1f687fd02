"""Generate `_sync/` from `_async/`: the same code without `async` and `await`.

    python sdk/derive_sync.py            write the files
    python sdk/derive_sync.py --check    print what differs; exit with 1 if anything does

The prefixes `Async` and `async_` are removed from names; `NAMES` lists the names that change in another way. Code that
differs by more than that is written twice, in `backends.py` or `policies.py`.
"""

from __future__ import annotations

import difflib
import io
import re
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parent / "src" / "cmdc_client"
SOURCE, TARGET = PACKAGE / "_async", PACKAGE / "_sync"

NAMES = {
    "AbstractAsyncContextManager": "AbstractContextManager",
    "StopAsyncIteration": "StopIteration",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__anext__": "__next__",
    "_async": "_sync",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
}
DROPPED = {"async", "await"}
FORBIDDEN = {"anyio", "asyncio"}

_PREFIX = re.compile(r"async_(?=[a-z])|Async(?=[A-Z])")
_IN_TEXT = re.compile(r"\b(?:async|await) (?=\w)|\b_async\b|\baclose\b|\b(?:async_(?=[a-z])|Async(?=[A-Z]))")
_HEAD = "# Generated from {source} by derive_sync.py; edit that file instead.\n"


def main(*, check: bool) -> int:
    """Write the files, or compare them. Returns the exit status."""
    wanted = {TARGET / source.name: derived(source) for source in sorted(SOURCE.glob("*.py"))}
    found = {path: path.read_text() for path in TARGET.glob("*.py")}
    if not check:
        TARGET.mkdir(exist_ok=True)
        for path in found.keys() - wanted.keys():
            path.unlink()
        for path, text in wanted.items():
            path.write_text(text)
        return 0
    differing = [path for path in sorted(wanted.keys() | found.keys()) if wanted.get(path) != found.get(path)]
    for path in differing:
        name = str(path.relative_to(PACKAGE.parent))
        before, after = (text.get(path, "").splitlines(keepends=True) for text in (found, wanted))
        sys.stdout.writelines(difflib.unified_diff(before, after, name, f"{name} (derived)"))
    return 1 if differing else 0


def derived(source: Path) -> str:
    """Return the synchronous form of a module."""
    text = source.read_text()
    if not text:
        return text
    return _HEAD.format(source=f"_async/{source.name}") + _translated(text)


def _translated(text: str) -> str:
    lines = text.splitlines(keepends=True)
    parts: list[str] = []
    row, column = 1, 0

    def text_until(end_row: int, end_column: int) -> str:
        """Return the text between the last token and this position."""
        if end_row == row:
            return lines[row - 1][column:end_column]
        between = lines[row - 1][column:], *lines[row : end_row - 1], lines[end_row - 1][:end_column]
        return "".join(between)

    dropped = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        gap = text_until(*token.start)
        parts.append("" if dropped else gap)
        dropped = token.type == tokenize.NAME and token.string in DROPPED
        parts.append("" if dropped else _word(token))
        row, column = token.end
    return "".join(parts)


def _word(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        if token.string in FORBIDDEN:
            raise SystemExit(f"{token.string} in line {token.start[0]}: move it to backends.py")
        return NAMES.get(token.string) or _PREFIX.sub("", token.string)
    if token.type in (tokenize.STRING, tokenize.COMMENT):
        return _IN_TEXT.sub(lambda found: NAMES.get(found[0], ""), token.string)
    return token.string


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))

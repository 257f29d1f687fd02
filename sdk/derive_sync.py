"""Write `_sync/` from `_async/`: the same program without `await`.

    python sdk/derive_sync.py            writes
    python sdk/derive_sync.py --check    says what differs, and exits with 1 if anything does

A name loses its `Async` or `async_`; the few that are called otherwise stand in `NAMES`. What is not the same but for
that belongs into `platform.py` or `policies.py`, where it stands twice, by hand.
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
_HEAD = "# Derived from {source} by derive_sync.py: change that, and run this again.\n"


def main(*, check: bool) -> int:
    """Write the files, or only compare them. Returns the exit status."""
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
    """The synchronous form of a module."""
    text = source.read_text()
    if not text:
        return text
    return _HEAD.format(source=f"_async/{source.name}") + _translated(text)


def _translated(text: str) -> str:
    lines = text.splitlines(keepends=True)
    pieces: list[str] = []
    row, column = 1, 0

    def upto(end_row: int, end_column: int) -> str:
        """What stands between the last token and this place."""
        if end_row == row:
            return lines[row - 1][column:end_column]
        between = lines[row - 1][column:], *lines[row : end_row - 1], lines[end_row - 1][:end_column]
        return "".join(between)

    dropped = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        gap = upto(*token.start)
        pieces.append("" if dropped else gap)
        dropped = token.type == tokenize.NAME and token.string in DROPPED
        pieces.append("" if dropped else _word(token))
        row, column = token.end
    return "".join(pieces)


def _word(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        if token.string in FORBIDDEN:
            raise SystemExit(f"{token.string} in line {token.start[0]}: that belongs into platform.py")
        return NAMES.get(token.string) or _PREFIX.sub("", token.string)
    if token.type in (tokenize.STRING, tokenize.COMMENT):
        return _IN_TEXT.sub(lambda found: NAMES.get(found[0], ""), token.string)
    return token.string


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
